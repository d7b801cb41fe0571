"""Are samples of their class? Logistic regression on features of real samples, and where it goes wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.metrics.accumulator import Accumulator
from omnitok.metrics.pixels import to_float_pixels
from omnitok.metrics.results import Gathered, Result

HELD_OUT = 5
"""Every such real sample of a class is not trained on, and tells what can be reached."""


def gradient_features(images: Tensor) -> Tensor:
    """Images (n, 3, H, W), uint8 or float in [-1, 1] → (n, 64 * 12), without a network.

    Of 8 x 8 cells the histograms of 9 orientations of gradients (Dalal and Triggs, "Histograms of Oriented Gradients
    for Human Detection", 2005), as square roots of shares, and the mean colours.
    """
    x = to_float_pixels(images, "a histogram of gradients").double()
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    dx, dy = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2], grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
    bins = (torch.atan2(dy, dx).remainder(torch.pi) * (9 / torch.pi)).long().clamp(max=8)
    votes = x.new_zeros(len(x), 9, *x.shape[2:]).scatter_(1, bins, torch.hypot(dx, dy))
    histograms = F.adaptive_avg_pool2d(votes, 8)
    histograms = (histograms / (histograms.sum(1, keepdim=True) + 0.02)).sqrt()
    return torch.cat([histograms, F.adaptive_avg_pool2d(x, 8)], dim=1).flatten(1)


class LinearClassifier:
    """Logistic regression on standardised features, with a little weight decay.

    Args:
        features: (n, d) of real samples.
        labels: (n,) their classes, 0 … classes - 1.
        classes: how many there are.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int, decay: float = 1e-3) -> None:
        x = features.double()
        self.mean, self.std = x.mean(0), x.std(0).clamp_min(1e-6)
        x = (x - self.mean) / self.std
        self.weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
        self.bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weight, self.bias], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ self.weight + self.bias, labels) + decay * self.weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        self.weight, self.bias = self.weight.detach(), self.bias.detach()

    def predict(self, features: Tensor) -> Tensor:
        """The most probable class of each row, (n,) int64."""
        return (((features.double() - self.mean) / self.std) @ self.weight + self.bias).argmax(1)


@dataclass(frozen=True)
class Confusion:
    """Counts of samples by what they were asked to be (rows) and what they are told to be (columns)."""

    names: tuple[str, ...]
    counts: Tensor  # (k, k) int64

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        return float(self.counts.diagonal().sum()) / self.n

    @property
    def chance(self) -> float:
        """What the same samples would reach had they been asked for in a random order."""
        shares = [self.counts.sum(axis).double() / self.n for axis in (0, 1)]
        return float(shares[0] @ shares[1])

    @property
    def by_name(self) -> dict[str, dict[str, float]]:
        """Accuracy and number of each name that was asked for."""
        rows = zip(self.names, self.counts, range(len(self.names)), strict=True)
        asked = ((name, int(row[index]), int(row.sum())) for name, row, index in rows)
        return {name: {"value": right / n, "n": n} for name, right, n in asked if n}


class ConfusionAccumulator(Accumulator):
    """Counts of pairs (asked, told) among these names; int64, so merges and processes are exact."""

    SUMS = ("counts",)

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.counts = torch.zeros(len(names), len(names), dtype=torch.long)
        self.what = f"confusions among {', '.join(names)}"

    def update(self, asked: Tensor, told: Tensor) -> None:
        """Add samples (n,), (n,) of indices of names; those asked for nothing, -1, do not count."""
        size = len(self.names)
        pairs = (asked * size + told)[asked >= 0]
        self.counts += torch.bincount(pairs, minlength=size * size).reshape(size, size)

    def compute(self) -> Confusion:
        if not self.counts.sum():
            raise ValueError("confusions need at least 1 sample, but got none")
        return Confusion(self.names, self.counts)


def confusion_rows(gathered: Gathered) -> list[Result]:
    """The accuracy with its standard error, beside chance and the accuracies by name."""
    confusion: Confusion = gathered.fake
    value, n = confusion.accuracy, confusion.n
    spread = (value * (1 - value) / n) ** 0.5
    told = {"chance": confusion.chance, "by": confusion.by_name, "spread_is": "binomial standard error"}
    return [gathered.result(value, n=n, spread=spread, **told)]
