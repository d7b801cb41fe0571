"""Finite scalar quantization: against another implementation, and the contracts of the tokenizer around it."""

import importlib
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omnitok.models.bottlenecks import FiniteScalarQuantizer, FSQConfig
from omnitok.models.tokenizer import OmniTokenizer

LEVELS = ((8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5))


def quantizer(levels: tuple[int, ...]) -> FiniteScalarQuantizer:
    return FiniteScalarQuantizer(12, FSQConfig(levels=levels))


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_latents_are_those_of_vector_quantize_pytorch(levels: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("vector_quantize_pytorch").FSQ(list(levels))
    fsq = quantizer(levels)
    z = 3 * torch.randn(1, 4000, len(levels))
    latents, codes = theirs(z)
    ours = fsq.codes_of(fsq.bound(z) / (torch.tensor(levels) // 2))
    assert torch.equal(ours, codes.long())
    assert torch.equal(fsq.lookup(ours), latents)
    every = torch.arange(fsq.vocab_size)
    assert torch.equal(fsq.lookup(every), theirs.indices_to_codes(every.int()))


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_is_its_latents_and_every_level_is_reached(levels: tuple[int, ...]) -> None:
    fsq = quantizer(levels)
    assert fsq.vocab_size == math.prod(levels)
    assert fsq.bits_per_token == pytest.approx(math.log2(fsq.vocab_size))
    out = fsq.encode(100 * torch.randn(4, 3, 16, 16, 12))
    assert torch.equal(fsq.lookup(out.codes), out.latents)
    assert 0 <= out.codes.min() <= out.codes.max() < fsq.vocab_size
    assert out.latents.abs().max() <= 1
    for channel, count in enumerate(levels):
        assert len(out.latents[..., channel].unique()) == count
    assert torch.equal(fsq.eval()(torch.zeros(1, 1, 1, 1, 12)).latents, fsq.encode(torch.zeros(1, 1, 1, 1, 12)).latents)


def test_gradient_passes_straight_through_and_there_are_no_losses() -> None:
    fsq = quantizer((8, 5, 5)).train()
    x, weight = torch.randn(2, 1, 3, 3, 12, requires_grad=True), torch.randn(2, 1, 3, 3, 3)
    out = fsq(x)
    (through,) = torch.autograd.grad((out.latents * weight).sum(), x)
    (plain,) = torch.autograd.grad((fsq(x, quantize=False).latents * weight).sum(), x)
    assert torch.allclose(through, plain, atol=1e-6)
    assert torch.allclose(out.latents, fsq.lookup(out.codes), atol=1e-6)
    assert out.losses == {}
    assert not list(fsq.state_dict())[4:]  # two linear maps, and nothing that is measured


@pytest.mark.parametrize(
    "levels, message",
    [
        ((), "at least 1 item"),
        ((2, 5), "at least 3, found 2"),
        ((1001,), "at most 1000"),
        ((1000,) * 4, "product below"),
    ],
)
def test_levels_that_make_no_sense(levels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FSQConfig(levels=levels)


def test_contracts_of_the_tokenizer(tiny: Callable[..., OmniTokenizer], pixels: Callable[..., Tensor]) -> None:
    tok = tiny(bottleneck="fsq")
    assert (tok.is_discrete, tok.vocab_size, tok.latent_channels) == (True, 1000, 4)
    video = pixels(2, 3, 7, 9, 6)
    whole = tok.encode(video)
    assert torch.equal(tok.lookup_codes(whole.codes).permute(0, 4, 1, 2, 3), whole.latents)
    assert torch.equal(tok.encode(video[:, :, 0]).codes, tok.encode(video[:, :, :1]).codes[:, 0])
    stream = tok.encoder_stream()
    parts = [stream.push(video[:, :, :2]), stream.push(video[:, :, 2:]), stream.flush()]
    agree = torch.cat([part.codes for part in parts], dim=1) == whole.codes
    assert agree.float().mean() > 0.97  # sums in another order may cross from one level to the next
    decoder = tok.decoder_stream(whole.size)
    frames = torch.cat([decoder.push(whole.codes[:, :2]), decoder.push(whole.codes[:, 2:]), decoder.flush()], dim=2)
    torch.testing.assert_close(frames, tok.decode_codes(whole.codes, whole.size), atol=1e-5, rtol=0)
    assert tok(video).shape == video.shape
    assert tok.code_vectors().shape == (1000, 4)
    assert importlib.import_module("omnitok.models.bottlenecks").BOTTLENECKS["fsq"][1] is FiniteScalarQuantizer
