"""Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991): nearest-neighbour manifolds of feature sets.

Precision: the share of generated samples within reach of a real one; recall: the share of real samples within reach of
a generated one. A sample reaches as far as its k-th nearest neighbour in its own set. ADM, DiT and the paper take the
features from pool3 of FID's Inception and k = 3.

Every comparison is decided in float64. Matrix products in float32 bound the distances first, with a proven error, and
only the pairs that the bounds leave open (a few a sample) are computed again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.metrics.features import check_features

_ROWS = 512  # samples of one set at a time
_COLUMNS = 1024  # samples of the other at a time
_BLOCK = 2_500_000  # bounds held at a time: 10 MB
_EXACT_PAIRS = 256  # pairs computed exactly at a time
_MOST_OPEN = 64  # pairs a row that are computed one by one; where more are open, as in collapsed sets, all are
_UNIT = 2.0**-24  # rounding of float32


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
    # Moving both sets' origin to the real mean keeps the distances and tightens the bounds.
    sums = [rows.sum(0, dtype=torch.float64) for rows in real.split(_ROWS)]
    centre = (torch.stack(sums).sum(0) / len(real)).float()  # (d,)
    a, b = _Points(real, centre), _Points(fake, centre)
    reach_real, reach_fake = _reach(a, k), _reach(b, k)  # (n,), (m,)
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    fake_inside = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    for rows in a.blocks(len(fake)):
        block = _bounds(a, rows, b)
        fake_inside |= _covered(block, a, b, reach_real[rows, None], fake_inside, axis=0)
        real_inside[rows] |= _covered(block, a, b, reach_fake[None, :], real_inside[rows], axis=1)
    return PrecisionRecall(fake_inside.double().mean().item(), real_inside.double().mean().item())


class _Points:
    """A set of vectors (n, d), the origin that bounds are computed from, and squared lengths (n,) from there."""

    def __init__(self, features: Tensor, centre: Tensor) -> None:
        self.features, self.centre = features, centre
        self.squares = torch.cat(
            [torch.linalg.vector_norm(self.centred(rows), dim=1, dtype=torch.float64) for rows in self.tiles()]
        ).square()

    def __len__(self) -> int:
        return len(self.features)

    def centred(self, rows: slice) -> Tensor:
        """Vectors from the centre, float32: rounding the centre moves all alike and changes no distance."""
        return (self.features[rows] - self.centre).float()

    def tiles(self) -> list[slice]:
        return [slice(i, min(i + _COLUMNS, len(self))) for i in range(0, len(self), _COLUMNS)]

    def blocks(self, columns: int) -> list[slice]:
        step = max(1, min(_ROWS, _BLOCK // columns))
        return [slice(i, min(i + step, len(self))) for i in range(0, len(self), step)]


@dataclass(frozen=True)
class _Bounds:
    """Squared distances of some rows to all columns lie in [lower, lower + slack]: (r, m) float32 each, slack as sums.

    `rows` says which samples the rows are.
    """

    rows: slice
    lower: Tensor
    row_slack: Tensor  # (r, 1)
    column_slack: Tensor  # (1, m)

    def upper(self) -> Tensor:
        return (self.lower + self.column_slack).add_(self.row_slack)


def _bounds(a: _Points, rows: slice, b: _Points) -> _Bounds:
    """Bounds between the samples `rows` of `a` and all of `b`.

    |x|² + |y|² − 2 x·y in float32 is off by no more than d u (|x|² + |y|²) from the product (Higham, section 3.1) and
    some u (|x|² + |y|²) from the other roundings; doubled, because products of float32 may be accumulated in any order.
    """
    precise = a.features.device.type != "cpu" or torch.get_float32_matmul_precision() != "highest"
    # Elsewhere, or where the user allows products in fewer bits, float64 products keep the bounds true.
    dtype = torch.float64 if precise else torch.float32
    x = a.centred(rows).to(dtype)
    error = _UNIT * (2 * a.features.shape[1] + 64)
    row_squares = a.squares[rows, None]
    lower = torch.empty(len(x), len(b), device=x.device)
    for columns in b.tiles():
        product = torch.mm(x, b.centred(columns).to(dtype).T)  # (r, c)
        lower[:, columns] = product.mul_(-2)
    lower += (row_squares * (1 - error)).float()
    lower += (b.squares[None] * (1 - error)).float()
    return _Bounds(rows, lower, (2 * error * row_squares).float(), (2 * error * b.squares[None]).float())


def _reach(points: _Points, k: int) -> Tensor:
    """The squared distance of every sample to its k-th nearest neighbour in the set, itself not counted: (n,)."""
    reaches = []
    for rows in points.blocks(len(points)):
        block = _bounds(points, rows, points)
        n = len(block.lower)
        block.lower[torch.arange(n), torch.arange(rows.start, rows.stop)] = torch.inf
        # No more than k samples are needed to bound the k-th nearest from above.
        nearest, columns = block.lower.topk(k, dim=1, largest=False)  # (r, k)
        ceiling = (nearest + block.row_slack + block.column_slack[0, columns]).amax(1, keepdim=True)
        is_open = block.lower <= ceiling
        if is_open.sum() > _MOST_OPEN * n:
            distances = _all_distances(points, rows, points)
            distances[torch.arange(n), torch.arange(rows.start, rows.stop)] = torch.inf
            reaches.append(distances.topk(k, dim=1, largest=False).values.amax(1))
            continue
        candidates = is_open.nonzero()  # (p, 2)
        exact = _exact(points, points, candidates[:, 0] + rows.start, candidates[:, 1])
        # The candidates of a row side by side, padded with infinity, at most as many as the fullest row has.
        counts = torch.bincount(candidates[:, 0], minlength=n)
        first = counts.cumsum(0) - counts
        table = torch.full((n, int(counts.max())), torch.inf, dtype=torch.float64, device=exact.device)
        table[candidates[:, 0], torch.arange(len(candidates), device=exact.device) - first[candidates[:, 0]]] = exact
        reaches.append(table.topk(k, dim=1, largest=False).values.amax(1))
    return torch.cat(reaches)


def _covered(block: _Bounds, a: _Points, b: _Points, reach: Tensor, known: Tensor, axis: int) -> Tensor:
    """Whether any distance along `axis` is within `reach`, which spans the other axis of the block or broadcasts."""
    limit = reach.float()
    # Rounding the reach itself to float32 is covered by the doubled error of the bounds.
    covered = (block.upper() <= limit).any(axis)
    undecided = ~(covered | known)
    open_pairs = block.lower <= limit
    open_pairs &= undecided[None, :] if axis == 0 else undecided[:, None]
    count = int(open_pairs.sum())
    if not count:
        return covered
    if count > _MOST_OPEN * len(block.lower):
        return (_all_distances(a, block.rows, b) <= reach).any(axis)
    pairs = open_pairs.nonzero()  # (p, 2)
    exact = _exact(a, b, pairs[:, 0] + block.rows.start, pairs[:, 1])
    limits = reach.expand(block.lower.shape)[pairs[:, 0], pairs[:, 1]]
    covered[pairs[:, 1 - axis][exact <= limits]] = True
    return covered


def _exact(a: _Points, b: _Points, rows: Tensor, columns: Tensor) -> Tensor:
    """|x_i − y_j|² in float64 of pairs (p,); exactly 0 for equal vectors."""
    distances = [
        (a.features[i].double() - b.features[j].double()).square_().sum(1)
        for i, j in zip(rows.split(_EXACT_PAIRS), columns.split(_EXACT_PAIRS), strict=True)
    ]
    return torch.cat(distances) if distances else torch.empty(0, dtype=torch.float64, device=a.features.device)


def _all_distances(a: _Points, rows: slice, b: _Points) -> Tensor:
    """|x_i − y_j|² (r, m) in float64 by products; differences that are rounding are 0."""
    x = (a.features[rows] - a.centre).double()
    distances = torch.empty(len(x), len(b), dtype=torch.float64, device=x.device)
    for columns in b.tiles():
        y = (b.features[columns] - b.centre).double()
        lengths = x.square().sum(1)[:, None] + y.square().sum(1)  # (r, c)
        squared = torch.addmm(lengths, x, y.T, alpha=-2)
        # |x|² + |y|² − 2 x·y of equal vectors is some units in the last place of |x|² + |y|².
        distances[:, columns] = squared.masked_fill_(squared < lengths.mul_(64 * torch.finfo(torch.float64).eps), 0)
    return distances
