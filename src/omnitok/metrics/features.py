"""Sets of feature vectors, collected for the metrics that need all of them at once (KID, precision, recall)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from omnitok.distributed import all_gather_rows
from omnitok.metrics.accumulator import Accumulator


def check_features(features: Tensor, dimension: int | None = None, what: str = "features") -> None:
    """Raise ValueError unless `features` is (n, d), finite and float, with d = `dimension` where that is given."""
    if features.ndim != 2:
        raise ValueError(f"{what} must be (n, d), but have the shape {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{what} must be float, but are {features.dtype}")
    if dimension is not None and features.shape[1] != dimension:
        raise ValueError(f"{what} have {features.shape[1]} dimensions, but {dimension} are expected")
    # A sum in float64 is finite exactly when every term is; in parts, because the conversion is a copy.
    if not all(torch.isfinite(rows.sum(dtype=torch.float64)) for rows in features.split(512)):
        raise ValueError(f"{what} hold NaN or infinite values")


class FeatureSet(Accumulator):
    """Collects features (n, d) batch by batch; `compute()` gives all of them as one float32 tensor on the CPU."""

    SUMS = ()

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.what = f"sets of features of {dimension} dimensions"
        self.batches: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Add features (n, d); NaN, infinite values or another d are a ValueError."""
        check_features(features, self.dimension)
        self.batches.append(features.detach().float().cpu())

    def merge(self, other: "FeatureSet") -> None:  # type: ignore[override]
        super().merge(other)
        self.batches.extend(other.batches)

    def all_reduce(self) -> None:
        """Every process gets the features of all processes."""
        self.batches = [all_gather_rows(self.compute())]

    def state_dict(self) -> dict[str, Tensor]:
        return {"features": self.compute()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.batches = [state["features"].clone()]

    def compute(self) -> Tensor:
        return torch.cat(self.batches) if self.batches else torch.empty(0, self.dimension)


def canonical_order(features: Tensor) -> Tensor:
    """The rows sorted by their bytes: the same set gives the same tensor, whatever order it was collected in.

    Seeded subsets of it are then a property of the set, not of the reading order or the number of processes.
    """
    # Adding 0 turns -0.0 into 0.0, which are equal but differ in their bytes.
    rows = np.ascontiguousarray(features.detach().float().cpu().numpy() + 0.0)
    order = np.argsort(rows.view(np.dtype((np.void, rows.strides[0]))).ravel(), kind="stable")
    return torch.from_numpy(rows[order])
