import pytest
import torch
from torch import Tensor

from omnitok.metrics import precision_recall


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def brute_force(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    def inside(manifold: Tensor, points: Tensor) -> float:
        radii = torch.cdist(manifold, manifold).kthvalue(k + 1, dim=1).values  # the nearest is the point itself
        return (torch.cdist(points, manifold) <= radii).any(1).double().mean().item()

    return inside(real.double(), fake.double()), inside(fake.double(), real.double())


@pytest.mark.parametrize("n, m, k", [(40, 60, 3), (600, 1100, 3), (513, 512, 1)])  # within and beyond one tile
def test_equals_brute_force(n: int, m: int, k: int) -> None:
    real, fake = normal(n, 6), 0.7 * normal(m, 6, seed=1) + 0.3
    measured = precision_recall(real, fake, k)
    assert (measured.precision, measured.recall) == pytest.approx(brute_force(real, fake, k), abs=1e-12)
    assert 0 < measured.recall < 1


def test_constructed_sets() -> None:
    real = torch.cat([normal(50, 8), normal(50, 8, seed=1) + 100])  # two far modes
    one_mode = normal(50, 8)
    both = precision_recall(real, real.flip(0))
    assert (both.precision, both.recall) == (1, 1)
    far = precision_recall(real, real - 1000)
    assert (far.precision, far.recall) == (0, 0)
    dropped = precision_recall(real, one_mode)
    assert (dropped.precision, dropped.recall) == (1, 0.5)
    invented = precision_recall(one_mode, real)
    assert (invented.precision, invented.recall) == (0.5, 1)


def test_order_changes_nothing_and_swapping_swaps() -> None:
    real, fake = normal(700, 5), normal(600, 5, seed=1) + 0.5
    measured = precision_recall(real, fake)
    assert precision_recall(real.flip(0), fake.roll(100, 0)) == measured
    swapped = precision_recall(fake, real)
    assert (swapped.precision, swapped.recall) == (measured.recall, measured.precision)


def test_duplicates_far_from_the_origin_are_within_reach_of_one_another() -> None:
    """k + 1 equal samples reach 0 far: a distance that is only rounding would put even their copies outside."""
    points = normal(10, 2048) + 1e3
    real = points.repeat_interleave(5, dim=0)
    measured = precision_recall(real, points.repeat_interleave(4, dim=0))
    assert (measured.precision, measured.recall) == (1, 1)


def test_collapsed_sets_are_decided_as_a_whole() -> None:
    """All distances are equal or 0: no bound decides anything, and nothing may slow down or tip over."""
    real = normal(300, 64) + 50
    frozen = real[:1].expand(300, -1) + 0
    measured = precision_recall(real, frozen)
    assert measured.precision == 1
    assert measured.recall == 1 / 300
    nudged = frozen + 1e-4 * normal(300, 64, seed=1)
    assert precision_recall(nudged, nudged + 5).precision == 0
    assert precision_recall(nudged, nudged.flip(0)).recall == 1


@pytest.mark.parametrize("dtype, offset", [(torch.float32, 0.0), (torch.float32, 300.0), (torch.float64, 300.0)])
def test_bounds_change_no_decision_in_many_dimensions(dtype: torch.dtype, offset: float) -> None:
    real, fake = normal(700, 512).to(dtype) + offset, 0.97 * normal(600, 512, seed=1).to(dtype) + offset
    measured = precision_recall(real, fake)
    assert (measured.precision, measured.recall) == pytest.approx(brute_force(real, fake, 3), abs=1e-12)
    assert 0 < measured.precision < 1


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="more than k samples"):
        precision_recall(normal(3, 4), normal(9, 4))
    with pytest.raises(ValueError, match="k ≥ 1"):
        precision_recall(normal(9, 4), normal(9, 4), k=0)
    with pytest.raises(ValueError, match="real features hold NaN"):
        precision_recall(torch.full((9, 4), torch.nan), normal(9, 4))
