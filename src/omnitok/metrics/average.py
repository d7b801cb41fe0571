"""The mean of a number per sample or per frame (PSNR, SSIM, LPIPS) over a whole set."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.metrics.accumulator import Accumulator
from omnitok.metrics.results import Gathered, Result


@dataclass(frozen=True)
class Average:
    """`mean`, its standard error (NaN for a single value), and the number of values."""

    mean: float
    standard_error: float
    n: int


class AverageAccumulator(Accumulator):
    """Streaming mean in float64; every value counts the same, so a video of T frames weighs T values."""

    SUMS = ("sums",)
    what = "an average"

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)  # count, sum, sum of squares

    def update(self, values: Tensor) -> None:
        """Add values of any shape; NaN is a ValueError, inf (PSNR of equal frames) is kept."""
        x = values.detach().to("cpu", torch.float64).flatten()
        if torch.isnan(x).any():
            raise ValueError("an average got a NaN value")
        self.sums += torch.stack([torch.tensor(float(len(x)), dtype=torch.float64), x.sum(), x.square().sum()])

    def compute(self) -> Average:
        n, total, squares = self.sums.tolist()
        if n < 1:
            raise ValueError("an average needs at least 1 value, but got none")
        mean = total / n
        if n < 2 or math.isinf(mean):
            return Average(mean, math.nan, int(n))
        variance = max(squares - n * mean * mean, 0.0) / (n - 1)
        return Average(mean, math.sqrt(variance / n), int(n))


def average_rows(gathered: Gathered) -> list[Result]:
    """The mean with its standard error, over the samples that have a score, which need not be all."""
    average: Average = gathered.fake
    spread = {"spread": average.standard_error, "spread_is": "standard error over samples"}
    return [gathered.result(average.mean, n=average.n, **spread)]
