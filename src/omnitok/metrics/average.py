"""The mean of a number per sample or per frame (PSNR, SSIM, LPIPS) over a whole set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.metrics.distributed import all_reduce_sum


@dataclass(frozen=True)
class Average:
    """`mean`, its standard error (NaN for a single value), and the number of values."""

    mean: float
    standard_error: float
    n: int


class AverageAccumulator:
    """Streaming mean in float64; every value counts the same, so a clip of T frames weighs T values."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)  # count, sum, sum of squares

    def update(self, values: Tensor) -> None:
        """Add values of any shape; NaN is a ValueError, inf (PSNR of equal frames) is kept."""
        x = values.detach().to("cpu", torch.float64).flatten()
        if torch.isnan(x).any():
            raise ValueError("an average got a NaN value")
        self.sums += torch.stack([torch.tensor(float(len(x)), dtype=torch.float64), x.sum(), x.square().sum()])

    def merge(self, other: "AverageAccumulator") -> None:
        self.sums += other.sums

    def all_reduce(self) -> None:
        """Every process gets the sums over all processes; call once, before `compute`."""
        self.sums = all_reduce_sum(self.sums)

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, for a run that continues later."""
        return {"sums": self.sums.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.sums.copy_(state["sums"])

    def compute(self) -> Average:
        n, total, squares = self.sums.tolist()
        if n < 1:
            raise ValueError("an average needs at least 1 value, but got none")
        mean = total / n
        if n < 2 or math.isinf(mean):
            return Average(mean, math.nan, int(n))
        variance = max(squares - n * mean * mean, 0.0) / (n - 1)
        return Average(mean, math.sqrt(variance / n), int(n))
