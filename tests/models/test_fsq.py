"""Finite scalar quantization against another implementation; what all quantizers must hold is in test_quantizers."""

import math
import warnings

import pytest
import torch

from omnitok.models.bottlenecks import FiniteScalarQuantizer, FSQConfig

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
    assert not list(fsq.state_dict())[4:]  # two linear maps, and nothing that is measured
    assert fsq.bits_per_token == pytest.approx(math.log2(fsq.vocab_size))
    out = fsq.encode(100 * torch.randn(4, 3, 16, 16, 12))
    assert torch.equal(fsq.lookup(out.codes), out.latents)
    assert 0 <= out.codes.min() <= out.codes.max() < fsq.vocab_size
    assert out.latents.abs().max() <= 1
    for channel, count in enumerate(levels):
        assert len(out.latents[..., channel].unique()) == count
    assert torch.equal(fsq.eval()(torch.zeros(1, 1, 1, 1, 12)).latents, fsq.encode(torch.zeros(1, 1, 1, 1, 12)).latents)


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
