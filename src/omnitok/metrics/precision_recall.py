"""Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991): nearest-neighbour manifolds of feature sets.

Precision: the share of generated samples within reach of a real one; recall: the share of real samples within reach of
a generated one. A sample reaches as far as its k-th nearest neighbour in its own set. ADM, DiT and the paper take the
features from pool3 of FID's Inception and k = 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.metrics.features import check_features

_TILE = 512  # rows of either set in float64 at a time: some 50 MB of working memory at 2048 dimensions


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Precision and recall of `fake` (m, d) against `real` (n, d), both with more than k samples.

    Distances are float64, and equal vectors are at distance 0, so that duplicates count as within reach.
    """
    check_features(real, what="real features")
    check_features(fake, real.shape[1], what="fake features")
    if k < 1 or min(len(real), len(fake)) <= k:
        raise ValueError(
            f"k = {k} needs k ≥ 1 and more than k samples in each set, but got {len(real)} and {len(fake)}"
        )
    fake = fake.to(real.device)
    # Moving both sets' origin to the real mean keeps the distances and most of float64's digits.
    centre = torch.stack([rows.sum(0, dtype=torch.float64) for rows in real.split(_TILE)]).sum(0) / len(real)  # (d,)
    reach_real = _reach(real, centre, k)  # (n,)
    reach_fake = _reach(fake, centre, k)  # (m,)
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    fake_inside = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    for i in range(0, len(real), _TILE):
        rows = slice(i, i + _TILE)
        x = real[rows].double() - centre
        for j in range(0, len(fake), _TILE):
            columns = slice(j, j + _TILE)
            squared = _squared_distances(x, fake[columns].double() - centre)  # (≤ tile, ≤ tile)
            fake_inside[columns] |= (squared <= reach_real[rows, None]).any(0)
            real_inside[rows] |= (squared <= reach_fake[None, columns]).any(1)
    return PrecisionRecall(fake_inside.double().mean().item(), real_inside.double().mean().item())


def _reach(features: Tensor, centre: Tensor, k: int) -> Tensor:
    """The squared distance of every sample to its k-th nearest neighbour in `features`, itself not counted: (n,)."""
    nearest = torch.full((len(features), k), torch.inf, dtype=torch.float64, device=features.device)

    def update(rows: slice, squared: Tensor) -> None:
        nearest[rows] = torch.cat([nearest[rows], squared], dim=1).topk(k, dim=1, largest=False).values

    for i in range(0, len(features), _TILE):
        rows = slice(i, i + _TILE)
        x = features[rows].double() - centre
        update(rows, _squared_distances(x, x).fill_diagonal_(torch.inf))
        for j in range(i + _TILE, len(features), _TILE):  # the distances are symmetric
            columns = slice(j, j + _TILE)
            squared = _squared_distances(x, features[columns].double() - centre)
            update(rows, squared)
            update(columns, squared.T)
    return nearest.amax(1)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i − y_j|² (n, m) of float64 vectors; differences that are rounding are 0."""
    norms = torch.linalg.vector_norm(x, dim=1).square()[:, None] + torch.linalg.vector_norm(y, dim=1).square()  # (n, m)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    # |x|² + |y|² − 2 x·y of equal vectors is some units in the last place of |x|² + |y|².
    return squared.masked_fill_(squared < norms.mul_(64 * torch.finfo(torch.float64).eps), 0)
