"""Tiny tokenizers with random weights: the contracts hold for any weights."""

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

TINY = TokenizerConfig(
    patch_size=4,
    temporal_patch_size=2,
    width=16,
    heads=2,
    head_dim=8,
    feedforward_multiple=2.0,
    encoder_blocks="tw",
    decoder_blocks="wt",
    encoder_temporal_blocks=1,
    decoder_temporal_blocks=1,
    window_size=2,
    temporal_window=3,
    latent_channels=4,
    codebook_size=64,
)


@functools.cache
def tiny_tokenizer(**changes: object) -> OmniTokenizer:
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(dataclasses.replace(TINY, **{"latent_channels": 4} | changes)).eval()
    torch.set_rng_state(generator_state)
    return tokenizer.requires_grad_(False)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., OmniTokenizer]:
    """`tiny(bottleneck="kl", ...)`: the tokenizer of that configuration; shared, so not to be changed."""
    return tiny_tokenizer


@pytest.fixture
def fresh() -> Callable[..., OmniTokenizer]:
    """The same, a new one at each call."""
    return tiny_tokenizer.__wrapped__


@pytest.fixture(scope="session")
def pixels() -> Callable[..., Tensor]:
    """`pixels(*shape, seed=0)`: noise in [-1, 1]."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1

    return make


@pytest.fixture(scope="session")
def assert_same_codes() -> Callable[[OmniTokenizer, Tensor, Tensor, Tensor], None]:
    """`assert_same_codes(tokenizer, video, a, b)`: codes a, b (b, t, h, w) of `video` agree, ties apart.

    Two orders of the same sums differ in the last digits, so a code may differ where its distance and the other's are
    within 1e-5 of one another.
    """

    def check(tokenizer: OmniTokenizer, video: Tensor, a: Tensor, b: Tensor) -> None:
        assert a.shape == b.shape
        assert a.dtype == b.dtype == torch.int64
        if torch.equal(a, b):
            return
        z = tokenizer.bottleneck.project(tokenizer.encoder(tokenizer._pad(video)))
        distances = torch.cdist(z.flatten(0, 3), tokenizer.bottleneck.codebook)
        gap = distances.gather(1, a.reshape(-1, 1)) - distances.gather(1, b.reshape(-1, 1))
        assert gap.abs().max() <= 1e-5

    return check


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
