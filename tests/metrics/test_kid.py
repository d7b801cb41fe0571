import numpy as np
import pytest
import torch
from torch import Tensor

from omnitok.metrics import kid


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_one_subset_of_everything_is_the_unbiased_mmd() -> None:
    a, b = normal(30, 5, 0), 1.3 * normal(30, 5, 1) + 0.2
    x, y = a.double().numpy(), b.double().numpy()
    expected = 0.0
    for i in range(30):
        for j in range(30):
            if i != j:
                expected += ((x[i] @ x[j] / 5 + 1) ** 3 + (y[i] @ y[j] / 5 + 1) ** 3) / (30 * 29)
            expected -= 2 * (x[i] @ y[j] / 5 + 1) ** 3 / 900
    measured = kid(a, b, subsets=2, subset_size=1000)
    assert measured.mean == pytest.approx(expected, rel=1e-9)
    assert measured.std == pytest.approx(0, abs=1e-9)
    assert measured.subset_size == 30


def test_near_zero_for_one_distribution_and_larger_for_two() -> None:
    a, b = normal(600, 16, 0), normal(600, 16, 1)
    same, other = kid(a, b, subset_size=200), kid(a, b + 0.3, subset_size=200)
    assert abs(same.mean) < 0.01
    assert other.mean > 10 * abs(same.mean)


def test_order_changes_nothing_and_the_seed_something() -> None:
    a, b = normal(100, 4, 0), normal(80, 4, 1)
    permutation = torch.from_numpy(np.random.default_rng(0).permutation(100))
    measured = kid(a, b, subsets=5, subset_size=20)
    assert kid(a[permutation], b.flip(0), subsets=5, subset_size=20) == measured
    assert kid(a, b, subsets=5, subset_size=20, seed=1) != measured


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        kid(normal(1, 4, 0), normal(5, 4, 0))
    with pytest.raises(ValueError, match="5 dimensions, but 4"):
        kid(normal(5, 4, 0), normal(5, 5, 0))
    with pytest.raises(ValueError, match="NaN"):
        kid(normal(5, 4, 0), torch.full((5, 4), torch.nan))
