"""Choosing codes: temperature, top-k, top-p, guidance."""

from functools import partial

import pytest
import torch

from omnitok.generation.autoregressive import choose, guide
from omnitok.generation.random import hashed_gumbel, item_keys
from omnitok.models.sampling import TokenSampling


def frequencies(logits: torch.Tensor, sampling: TokenSampling, n: int = 20_000) -> torch.Tensor:
    noise = partial(hashed_gumbel, item_keys(0, range(n)), 5)
    codes = choose(logits.expand(n, -1), noise, sampling)
    return torch.bincount(codes, minlength=len(logits)) / n


LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.05, 0.25]).log() + 3


@pytest.mark.parametrize(
    "sampling, expected",
    [
        (TokenSampling(), [0.1, 0.4, 0.2, 0.05, 0.25]),
        (TokenSampling(temperature=0.5), [0.01, 0.16, 0.04, 0.0025, 0.0625]),
        (TokenSampling(top_k=2), [0, 0.4, 0, 0, 0.25]),
        (TokenSampling(top_k=99), [0.1, 0.4, 0.2, 0.05, 0.25]),
        (TokenSampling(top_p=0.6), [0, 0.4, 0, 0, 0.25]),
        (TokenSampling(top_p=0.3), [0, 0.4, 0, 0, 0]),
        (TokenSampling(top_k=3, top_p=0.7), [0, 0.4, 0, 0, 0.25]),
        (TokenSampling(top_k=1), [0, 1, 0, 0, 0]),
    ],
)
def test_frequencies(sampling: TokenSampling, expected: list[float]):
    wanted = torch.tensor(expected) / sum(expected)
    found = frequencies(LOGITS, sampling)
    assert torch.equal(found > 0, wanted > 0)
    assert float((found - wanted).abs().max()) < 0.015


def test_top_p_counts_after_top_k():
    """0.4 and 0.25 of the three kept (0.85) are 0.76 > 0.7: the third goes."""
    assert frequencies(LOGITS, TokenSampling(top_k=3, top_p=0.7))[2] == 0
    assert frequencies(LOGITS, TokenSampling(top_p=0.7))[2] > 0


def test_without_noise_the_likeliest():
    assert choose(LOGITS[None], None, TokenSampling(temperature=0)).tolist() == [1]


def test_guidance():
    both = torch.tensor([[1.0, 2.0], [0.5, 3.0]])
    assert torch.equal(guide(both, 0.0), both[1:])
    torch.testing.assert_close(guide(both, 1.0), both[:1])
    assert guide(both, 2.0).tolist() == [[1.5, 1.0]]
    assert not TokenSampling(guidance_scale=1.0).is_guided
    assert not TokenSampling(guidance_scale=3.0, guidance_interval=(0.5, 0.5)).is_guided
    half = TokenSampling(guidance_scale=3.0, guidance_interval=(0.0, 0.5))
    assert [half.guides(i, 4) for i in range(4)] == [True, True, False, False]
