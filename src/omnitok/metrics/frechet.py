"""Fréchet distance between Gaussians fitted to two sets of features (FID, FVD, fd_mobilenet_v2).

d² = |μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½   (Dowson and Landau 1982; Heusel et al., arXiv 1706.08500)

With Σ = L Lᵀ the last trace is the sum of the singular values of L_aᵀ L_b: no square root of a matrix, no imaginary
part, no epsilon on the diagonal. All sums are float64.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.errors import OmnitokError, reading
from omnitok.metrics.accumulator import Accumulator
from omnitok.metrics.features import check_features
from omnitok.metrics.results import Gathered, Result

_ARRAYS = ("mu", "sigma", "n", "network")
_LARGEST = 2**30  # bytes of them in a file: enough for 11 000 dimensions
_ROWS = 256  # converted to float64 at a time, to bound the working memory


@dataclass(frozen=True)
class GaussianStatistics:
    """Mean (d,) and unbiased covariance (d, d) of a set of features, float64.

    `n` is the number of samples, 0 where a foreign statistics file does not tell. `network` says what made the features
    (name, resizing, hash); statistics of two different networks are never compared.
    """

    mean: Tensor
    covariance: Tensor
    n: int = 0
    network: str = ""

    def __post_init__(self) -> None:
        d = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if d < 1 or tuple(self.covariance.shape) != (d, d):
            raise ValueError(
                "statistics need a mean (d,) and a covariance (d, d), but have "
                f"{tuple(self.mean.shape)} and {tuple(self.covariance.shape)}"
            )
        if not torch.isfinite(self.mean.sum() + self.covariance.sum()):  # sums need no memory
            raise ValueError("statistics hold NaN or infinite values")


class FrechetAccumulator(Accumulator):
    """Streaming statistics of features (n, d): count, sum and outer product in float64, 8 d² bytes whatever n is.

    `update` with batches, `merge` with another accumulator or `all_reduce` over the processes, then `compute`.
    """

    SUMS = ("count", "sum", "outer")

    def __init__(self, dimension: int, network: str = "", device: torch.device | str = "cpu") -> None:
        self.dimension = dimension
        self.network = network
        self.what = f"statistics of {network or 'unnamed features'} ({dimension} dimensions)"
        self.count = torch.zeros((), dtype=torch.long)
        self.sum = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.outer = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)

    @property
    def n(self) -> int:
        """How many samples there are."""
        return int(self.count)

    def update(self, features: Tensor) -> None:
        """Add features (n, d) of any float type; NaN, infinite values or another d are a ValueError."""
        check_features(features, self.dimension)
        for rows in features.detach().split(_ROWS):
            x = rows.to(self.sum.device, torch.float64)
            self.sum += x.sum(0)
            self.outer.addmm_(x.T, x)
        self.count += len(features)

    def compute(self) -> GaussianStatistics:
        """The statistics of all samples so far; fewer than two are a ValueError."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, but there are {self.n}")
        mean = self.sum / self.n
        # (S − n μ μᵀ) / (n − 1), in one buffer
        covariance = torch.outer(mean, mean).mul_(-self.n).add_(self.outer).div_(self.n - 1)
        return GaussianStatistics(mean.cpu(), covariance.cpu(), self.n, self.network)


def gaussian_statistics(features: Tensor, network: str = "") -> GaussianStatistics:
    """The statistics of one tensor of features (n, d), n ≥ 2."""
    check_features(features)
    accumulator = FrechetAccumulator(features.shape[1], network, features.device)
    accumulator.update(features)
    return accumulator.compute()


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics, float32_compat: bool = False) -> float:
    """The squared Fréchet distance d² of the formula above, as FID and FVD are reported.

    float32_compat: as OmniTokenizer's code computes rFVD, in float32 through symmetric square roots by SVD in which
    singular values below 1e-10 stay as they are. Slightly off (and not exactly 0 for equal sets); only for comparison
    with numbers made that way.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the features have {a.mean.shape[0]} and {b.mean.shape[0]} dimensions: two different networks"
        )
    if a.network and b.network and a.network != b.network:
        raise ValueError(f"the statistics are of two different networks: {a.network} and {b.network}")
    if float32_compat:
        return _float32_distance(a, b)
    means = (a.mean - b.mean).square().sum()
    mixed = torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum()
    distance = means + a.covariance.trace() + b.covariance.trace() - 2 * mixed
    return max(distance.item(), 0.0)  # below zero only by rounding


def frechet_rows(gathered: Gathered, float32: bool = False) -> list[Result]:
    """The distance, with a warning where there are too few samples or other ones than the protocol asks for."""
    a: GaussianStatistics = gathered.real
    b: GaussianStatistics = gathered.fake
    row, dimension, fewest = gathered.row, len(a.mean), min((n for n in (a.n, b.n) if n), default=None)
    warning = None
    if fewest is not None and fewest <= dimension:
        warning = (
            f"{row.metric} over {fewest} samples is biased upwards: the features have {dimension} dimensions, so "
            f"compare it only with numbers over the same {fewest} samples"
        )
    elif gathered.expected is not None and b.n not in (0, gathered.expected):
        warning = f"{row.metric} of the {row.protocol} protocol is over {gathered.expected} samples, not {b.n}"
    n_reference = a.n or row.n_reference if row.reference is not None else None
    return [gathered.result(frechet_distance(a, b, float32), warning=warning, n=b.n, n_reference=n_reference)]


def fvd_rows(gathered: Gathered) -> list[Result]:
    """`frechet_rows` by the authors' float32 formula where the protocol says so."""
    return frechet_rows(gathered, gathered.protocol.float32_fvd)


def _factor(covariance: Tensor) -> Tensor:
    """L (d, r) with L Lᵀ = Σ; r is the numerical rank, so that few samples make small factors."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return lower
    factor = _pivoted_cholesky(covariance)
    if torch.linalg.matrix_norm(covariance - factor @ factor.T) <= 1e-10 * torch.linalg.matrix_norm(covariance):
        return factor
    # Rounded to float32 by whoever wrote it, say: only nearly semidefinite.
    values, vectors = torch.linalg.eigh(covariance)
    if values[0] < -1e-5 * values[-1].clamp(min=0):
        raise ValueError(f"the covariance is not positive semidefinite: it has the eigenvalue {values[0].item():.3g}")
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def _pivoted_cholesky(covariance: Tensor) -> Tensor:
    """L (d, r) with L Lᵀ = Σ for a semidefinite Σ of rank r, largest remaining variance first; O(d r²)."""
    rest = covariance.diagonal().clone()
    tolerance = rest.amax() * len(rest) * torch.finfo(rest.dtype).eps
    rows = torch.empty_like(covariance)  # (r, d), filled from the top
    rank = 0
    for rank in range(len(rest)):
        pivot = int(rest.argmax())
        if rest[pivot] <= tolerance:
            break
        row = (covariance[pivot] - rows[:rank, pivot] @ rows[:rank]) / rest[pivot].sqrt()
        rows[rank] = row
        rest -= row.square()
        rest[pivot] = 0
    else:
        rank = len(rest)
    return rows[:rank].T


def _float32_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    covariance_a, covariance_b = a.covariance.float(), b.covariance.float()
    root = _symmetric_root_float32(covariance_a)
    mixed = _symmetric_root_float32(root @ (covariance_b @ root)).trace()
    means = (a.mean.float() - b.mean.float()).square().sum()
    return ((covariance_a + covariance_b).trace() - 2.0 * mixed + means).item()


def _symmetric_root_float32(matrix: Tensor, epsilon: float = 1e-10) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix)
    return u @ torch.diag(torch.where(s < epsilon, s, s.sqrt())) @ vh


def save_statistics(path: str | os.PathLike[str], statistics: GaussianStatistics) -> None:
    """Write reference statistics as `.npz`: mu and sigma as pytorch-fid names them, and n and network beside them."""
    if Path(path).suffix != ".npz":
        raise OmnitokError(f"{os.fspath(path)}: statistics files end in .npz")
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            mu=statistics.mean.numpy(),
            sigma=statistics.covariance.numpy(),
            n=np.int64(statistics.n),
            network=np.str_(statistics.network),
        )


def load_statistics(path: str | os.PathLike[str]) -> GaussianStatistics:
    """Read statistics written by `save_statistics`, or any `.npz` with mu and sigma (pytorch-fid, ADM).

    OmnitokError where the file is absent, is no such file, or holds NaN. Pickled content is refused.
    """
    with reading(path, what="statistics file (.npz with mu and sigma)"), np.load(path, allow_pickle=False) as arrays:
        if "mu" not in arrays or "sigma" not in arrays:
            raise ValueError(f"it holds the arrays {', '.join(arrays.files) or 'none'}")
        stored = sum(arrays.zip.getinfo(f"{key}.npy").file_size for key in _ARRAYS if key in arrays)
        if stored > _LARGEST:
            raise ValueError(f"its arrays take {stored} bytes, and at most {_LARGEST} are read")
        mean, covariance = (torch.from_numpy(arrays[key].astype(np.float64)) for key in ("mu", "sigma"))
        n = int(arrays["n"]) if "n" in arrays else 0
        network = str(arrays["network"]) if "network" in arrays else ""
        return GaussianStatistics(mean, covariance, n, network)
