"""Kernel inception distance: the unbiased squared MMD with a polynomial kernel (Bińkowski et al., arXiv 1801.01401)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omnitok.metrics.features import canonical_order, check_features
from omnitok.metrics.results import Gathered, Result


@dataclass(frozen=True)
class KernelDistance:
    """`mean` and `std` over the subsets; `subset_size` is what was used, less than asked for where a set is small."""

    mean: float
    std: float
    subset_size: int


def kid(a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> KernelDistance:
    """KID between feature sets (n, d) and (m, d), n, m ≥ 2, with the kernel (x·y / d + 1)³.

    Subsets are drawn without replacement, by `seed`, from the canonically ordered sets, so that the reading order does
    not matter. Unbiased: the value of two equal distributions scatters around 0 and may be negative.
    """
    check_features(a, what="the first features")
    check_features(b, a.shape[1], what="the second features")
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise ValueError(
            f"KID needs at least 2 samples in each set and subset, but got {len(a)}, {len(b)}, {subset_size}"
        )
    rows_a, rows_b = canonical_order(a), canonical_order(b)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x = rows_a[random.choice(len(rows_a), size, replace=False)].to(a.device, torch.float64)  # (size, d)
        y = rows_b[random.choice(len(rows_b), size, replace=False)].to(a.device, torch.float64)
        values.append(_squared_mmd(x, y))
    return KernelDistance(float(np.mean(values)), float(np.std(values)), size)


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    n, d = x.shape

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / d + 1) ** 3

    within = sum((k.sum() - k.trace()) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y)))
    return float(within - 2 * kernel(x, y).mean())


def kid_rows(gathered: Gathered) -> list[Result]:
    """KID over the protocol's number of subsets."""
    subsets = gathered.protocol.kid_subsets
    distance = kid(gathered.real, gathered.fake, subsets=subsets, seed=gathered.row.seed)
    spread_is = f"deviation over {subsets} subsets of {distance.subset_size}"
    return [gathered.result(distance.mean, spread=distance.std, spread_is=spread_is)]
