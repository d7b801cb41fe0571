from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omnitok.errors import OmnitokError
from omnitok.metrics import (
    FrechetAccumulator,
    GaussianStatistics,
    frechet_distance,
    gaussian_statistics,
    load_statistics,
    save_statistics,
)


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n: int, d: int, seed: int = 0) -> Tensor:
    return normal(n, d, seed) @ normal(d, d, seed + 100) + normal(1, d, seed + 200)


def test_statistics_are_numpys() -> None:
    x = correlated(300, 7)
    statistics = gaussian_statistics(x)
    np.testing.assert_allclose(statistics.mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-9)
    assert statistics.n == 300


def test_closed_form_of_diagonal_gaussians() -> None:
    """d² = Σ (μ_a − μ_b)² + (σ_a − σ_b)²."""
    g = torch.Generator().manual_seed(0)
    mean_a, mean_b, sigma_a, sigma_b = torch.rand(4, 50, generator=g, dtype=torch.float64)
    a, b = GaussianStatistics(mean_a, sigma_a.square().diag()), GaussianStatistics(mean_b, sigma_b.square().diag())
    expected = ((mean_a - mean_b).square() + (sigma_a - sigma_b).square()).sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)


def test_closed_form_of_commuting_and_singular_covariances() -> None:
    rotation = torch.linalg.qr(normal(20, 20)).Q
    sigma_a = torch.cat([torch.linspace(1, 2, 10), torch.zeros(10)]).double()
    sigma_b = torch.cat([torch.zeros(5), torch.linspace(1, 3, 15)]).double()
    zero = torch.zeros(20, dtype=torch.float64)
    a = GaussianStatistics(zero, rotation @ sigma_a.square().diag() @ rotation.T)
    b = GaussianStatistics(zero, rotation @ sigma_b.square().diag() @ rotation.T)
    assert frechet_distance(a, b) == pytest.approx((sigma_a - sigma_b).square().sum().item(), rel=1e-9)
    nothing = GaussianStatistics(zero, torch.zeros(20, 20, dtype=torch.float64))
    assert frechet_distance(a, nothing) == pytest.approx(sigma_a.square().sum().item(), rel=1e-12)
    assert frechet_distance(nothing, nothing) == 0


def test_agrees_with_the_matrix_square_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = gaussian_statistics(correlated(500, 30)), gaussian_statistics(correlated(400, 30, seed=1))
    root = linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = (a.mean - b.mean).square().sum() + np.trace((a.covariance + b.covariance).numpy() - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize("n", [20, 500])  # fewer and more samples than dimensions
def test_a_set_is_at_distance_zero_from_itself_in_any_order(n: int) -> None:
    x = correlated(n, 40)
    statistics = gaussian_statistics(x)
    assert frechet_distance(statistics, statistics) < 1e-8
    assert frechet_distance(statistics, gaussian_statistics(x.flip(0))) < 1e-8
    assert frechet_distance(statistics, gaussian_statistics(x + 1)) == pytest.approx(40, rel=1e-6)


def test_batches_and_merges_equal_the_whole() -> None:
    x = correlated(1500, 12).float()
    whole = gaussian_statistics(x)
    parts = [FrechetAccumulator(12) for _ in range(3)]
    for part, rows in zip(parts, x.split([1, 700, 799]), strict=True):
        for batch in rows.split(64):
            part.update(batch)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    merged = parts[0].compute()
    assert merged.n == 1500
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12)
    assert frechet_distance(merged, whole) < 1e-8


def test_a_run_continues_from_its_state() -> None:
    x = correlated(100, 5)
    first, second = FrechetAccumulator(5), FrechetAccumulator(5)
    first.update(x[:60])
    second.load_state_dict(first.state_dict())
    first.update(x[60:])
    second.update(x[60:])
    assert torch.equal(first.compute().covariance, second.compute().covariance)
    with pytest.raises(ValueError, match="saved with the shape"):
        FrechetAccumulator(6).load_state_dict(first.state_dict())


def test_the_accumulator_is_small_and_does_not_grow() -> None:
    accumulator = FrechetAccumulator(2048)
    accumulator.update(torch.rand(3, 2048))
    assert sum(value.nbytes for value in accumulator.state_dict().values()) < 40e6


def test_float32_compat_is_near_but_float32() -> None:
    a, b = gaussian_statistics(normal(2000, 30)), gaussian_statistics(1.5 * normal(2000, 30, seed=1) + 0.2)
    exact = frechet_distance(a, b)
    assert frechet_distance(a, b, float32_compat=True) == pytest.approx(exact, rel=1e-4)
    assert frechet_distance(a, b, float32_compat=True) != exact


def test_float32_compat_keeps_tiny_singular_values_as_they_are() -> None:
    """The authors' square root takes s instead of √s below 1e-10: Σ = 1e-12 then has the root 1e-12, not 1e-6."""
    zero, tiny = torch.zeros(2), 1e-12 * torch.eye(2)
    a = GaussianStatistics(zero.double(), tiny.double())
    one = GaussianStatistics(zero.double(), torch.eye(2).double())
    # 2 (1e-12 + 1) − 2 · 2 · root; the root of 1e-24 stays 1e-24
    assert frechet_distance(a, one, float32_compat=True) == pytest.approx(2.0, abs=1e-7)
    assert frechet_distance(a, one) == pytest.approx(2 * (1 - 1e-6) ** 2, rel=1e-9)


def test_files_keep_everything_and_read_pytorch_fids(tmp_path: Path) -> None:
    statistics = gaussian_statistics(correlated(50, 6), network="inception pytorch_fid 6726825d")
    save_statistics(tmp_path / "reference.npz", statistics)
    loaded = load_statistics(tmp_path / "reference.npz")
    assert torch.equal(loaded.mean, statistics.mean)
    assert torch.equal(loaded.covariance, statistics.covariance)
    assert (loaded.n, loaded.network) == (50, "inception pytorch_fid 6726825d")
    np.savez(tmp_path / "theirs.npz", mu=statistics.mean.float().numpy(), sigma=statistics.covariance.numpy())
    theirs = load_statistics(tmp_path / "theirs.npz")
    assert (theirs.n, theirs.network) == (0, "")
    assert frechet_distance(theirs, statistics) < 1e-8


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("mu and sigma")
    np.savez(tmp_path / "other.npz", arr_0=np.zeros(3))
    np.savez(tmp_path / "nan.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "pickle.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "empty.npz").touch()
    for name in ("text.npz", "other.npz", "nan.npz", "shape.npz", "pickle.npz", "plain.npy", "absent.npz", "empty.npz"):
        with pytest.raises(OmnitokError, match=name) as caught:
            load_statistics(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(OmnitokError, match=r"end in \.npz"):
        save_statistics(tmp_path / "reference.txt", gaussian_statistics(normal(9, 2)))


def test_bad_input_is_named() -> None:
    accumulator = FrechetAccumulator(4, network="one")
    for features, message in (
        (torch.full((2, 4), torch.nan), "NaN"),
        (torch.full((2, 4), torch.inf), "infinite"),
        (torch.zeros(2, 5), "5 dimensions"),
        (torch.zeros(4), r"\(n, d\)"),
        (torch.zeros(2, 4, dtype=torch.int32), "float"),
    ):
        with pytest.raises(ValueError, match=message):
            accumulator.update(features)
    assert accumulator.n == 0
    accumulator.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="at least 2 samples, but there are 1"):
        accumulator.compute()
    with pytest.raises(ValueError, match="cannot merge"):
        accumulator.merge(FrechetAccumulator(4, network="two"))
    a = gaussian_statistics(normal(9, 2), network="one")
    with pytest.raises(ValueError, match="one and two"):
        frechet_distance(a, gaussian_statistics(normal(9, 2), network="two"))
    with pytest.raises(ValueError, match="2 and 3 dimensions"):
        frechet_distance(a, gaussian_statistics(normal(9, 3)))
    indefinite = GaussianStatistics(torch.zeros(2).double(), torch.tensor([[1.0, 0], [0, -1]]).double())
    with pytest.raises(ValueError, match="positive semidefinite"):
        frechet_distance(indefinite, indefinite)


def test_statistics_rounded_to_float32_are_still_read() -> None:
    """The zero eigenvalues of a covariance of few samples, rounded, come out a little below zero."""
    statistics = gaussian_statistics(correlated(20, 40))
    rounded = GaussianStatistics(statistics.mean, statistics.covariance.float().double())
    assert torch.linalg.eigvalsh(rounded.covariance)[0] < -1e-7
    scale = statistics.covariance.trace().item()
    assert frechet_distance(statistics, rounded) < 1e-3 * scale
