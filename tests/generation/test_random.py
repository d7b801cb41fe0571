"""Random numbers of an item depend on the seed and its index alone."""

import math

import pytest
import torch

from omnitok.generation.random import (
    hashed_gumbel,
    item_generators,
    item_keys,
    item_noise,
    item_seed,
)


def test_an_item_does_not_see_its_batch():
    together = item_noise(item_generators(7, range(5)), (2, 3))
    alone = item_noise(item_generators(7, [3]), (2, 3))
    assert torch.equal(together[3:4], alone)
    assert not torch.equal(together[3], together[4])
    assert not torch.equal(item_noise(item_generators(8, [3]), (2, 3)), alone)


def test_seeds_of_items_differ_in_the_bits_the_cpu_uses():
    for seed in (0, 1, -5, 2**80):
        assert len({item_seed(seed, i) & 0xFFFFFFFF for i in range(20_000)}) == 20_000
    assert item_seed(0, 1) != item_seed(1, 0)


@pytest.mark.parametrize("index", (-1, 2**32))
def test_index_out_of_range(index: int):
    with pytest.raises(ValueError, match="index of an item"):
        item_generators(0, [index])


def test_no_items():
    with pytest.raises(ValueError, match="no items"):
        item_noise([], (2,))


def test_hashed_gumbel_depends_on_key_and_position_only():
    keys = item_keys(3, range(6))
    noise = hashed_gumbel(keys, 11, 100)
    assert torch.equal(noise[2:4], hashed_gumbel(keys[2:4], torch.tensor([11]), 100))
    assert torch.equal(noise[:, :50], hashed_gumbel(keys, 11, 50))
    numbers = torch.randint(100, (6, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise.gather(1, numbers), hashed_gumbel(keys, 11, numbers))
    assert not torch.equal(noise, hashed_gumbel(keys, 12, 100))


def test_hashed_gumbel_stays_what_it_is():
    """Or the same seed would give other samples than before."""
    noise = hashed_gumbel(item_keys(0, [0, 2**32 - 1]), 3, 4)
    expected = [[0.1742, -1.0613, 0.1385, 0.2274], [-1.8373, -0.2848, -0.7951, 0.2299]]
    torch.testing.assert_close(noise, torch.tensor(expected), atol=1e-4, rtol=0)


def test_hashed_gumbel_is_gumbel():
    """Mean, variance, independence of neighbours in each of the three coordinates, and the frequency of winners."""
    noise = torch.stack([hashed_gumbel(item_keys(0, range(32)), position, 256) for position in range(64)])
    assert noise.isfinite().all()
    n = noise.numel()
    assert abs(float(noise.mean()) - 0.5772156649) < 5 * (math.pi**2 / 6 / n) ** 0.5
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.02
    standard = (noise - noise.mean()) / noise.std()
    for dim in range(3):
        length = noise.shape[dim] - 1
        product = standard.narrow(dim, 0, length) * standard.narrow(dim, 1, length)
        assert abs(float(product.mean())) < 5 / n**0.5
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1])
    winners = (noise[..., :4] + probabilities.log()).argmax(-1).flatten()
    counts = torch.bincount(winners, minlength=4)
    expected = probabilities * winners.numel()
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # chi-square, 3 degrees of freedom, p = 0.001
