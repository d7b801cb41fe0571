"""Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991): nearest-neighbour manifolds of feature sets.

Precision: the share of generated samples within reach of a real one; recall: the share of real samples within reach of
a generated one. A sample reaches as far as its k-th nearest neighbour in its own set. ADM, DiT and the paper take the
features from pool3 of FID's Inception and k = 3.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.metrics.features import check_features
from omnitok.metrics.results import Gathered, Result

_BLOCK = 2_500_000  # distances held at a time: 20 MB
_COLUMNS = 1024  # samples converted to float64 at a time


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
    reach_real, reach_fake = _reach(real, k), _reach(fake, k)  # (n,), (m,)
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    fake_inside = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    for rows, distances in _blocks(real, fake):
        fake_inside |= (distances <= reach_real[rows, None]).any(0)
        real_inside[rows] = (distances <= reach_fake).any(1)
    return PrecisionRecall(fake_inside.double().mean().item(), real_inside.double().mean().item())


def _reach(points: Tensor, k: int) -> Tensor:
    """The squared distance of every sample to its k-th nearest neighbour in the set, itself not counted: (n,)."""
    # The sample itself is the nearest, at distance 0.
    return torch.cat([d.topk(k + 1, dim=1, largest=False).values.amax(1) for _, d in _blocks(points, points)])


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of `a` at a time, with their squared distances (r, m) in float64 to all of `b`."""
    step = max(1, _BLOCK // len(b))
    # Distances are those from any origin; near the data, less is lost to rounding.
    centre = torch.stack([rows.sum(0, dtype=torch.float64) for rows in b.split(_COLUMNS)]).sum(0) / len(b)
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        x = a[rows].double() - centre
        distances = torch.empty(len(x), len(b), dtype=torch.float64, device=x.device)
        for first in range(0, len(b), _COLUMNS):
            y = b[first : first + _COLUMNS].double() - centre
            lengths = x.square().sum(1)[:, None] + y.square().sum(1)  # (r, c)
            squared = torch.addmm(lengths, x, y.T, alpha=-2)
            # |x|² + |y|² − 2 x·y of equal vectors is some units in the last place of |x|² + |y|².
            squared.masked_fill_(squared < lengths.mul_(64 * torch.finfo(torch.float64).eps), 0)
            distances[:, first : first + _COLUMNS] = squared
        yield rows, distances


def precision_recall_rows(gathered: Gathered) -> list[Result]:
    """The share of either, by the name of the metric: both come of one computation."""
    if (found := gathered.memory.get(precision_recall)) is None:
        found = precision_recall(gathered.real, gathered.fake, gathered.protocol.nearest)
        gathered.memory[precision_recall] = found
    share = getattr(found, gathered.row.metric)
    n = len(gathered.fake if gathered.row.metric == "precision" else gathered.real)
    spread = math.sqrt(share * (1 - share) / n)
    return [gathered.result(share, spread=spread, spread_is="binomial standard error")]
