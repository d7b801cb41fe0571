"""Inception score: exp E KL(p(y|x) ‖ p(y)), over consecutive splits of the set (Salimans et al., arXiv 1606.03498)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.metrics.accumulator import Accumulator
from omnitok.metrics.features import check_features
from omnitok.metrics.results import Gathered, Result


@dataclass(frozen=True)
class InceptionScore:
    """`mean` and `std` over the splits."""

    mean: float
    std: float


class InceptionScoreAccumulator(Accumulator):
    """Streaming Inception score of a set of `n` samples whose order is fixed beforehand.

    The score depends on which samples share a split, so every sample comes with its index in the set; the processes may
    then take any indices in any order. Memory: splits x classes float64, and n counts that catch a sample given twice.
    """

    SUMS = ("times_seen", "probabilities", "negative_entropies")

    def __init__(self, n: int, classes: int = 1008, splits: int = 10, device: torch.device | str = "cpu") -> None:
        if not 1 <= splits <= n:
            raise ValueError(f"an Inception score over {splits} splits needs at least as many samples, but n is {n}")
        self.n, self.splits, self.classes = n, splits, classes
        self.what = f"an Inception score of {n} samples in {splits} splits, {classes} classes"
        self.times_seen = torch.zeros(n, dtype=torch.long, device=device)
        self.probabilities = torch.zeros(splits, classes, dtype=torch.float64, device=device)  # sum of p
        self.negative_entropies = torch.zeros(splits, dtype=torch.float64, device=device)  # sum of p · log p

    def update(self, logits: Tensor, indices: Tensor) -> None:
        """Add logits (m, classes) of the samples with the `indices` (m,) in the set."""
        check_features(logits, self.classes, "logits")
        if tuple(indices.shape) != (len(logits),):
            raise ValueError(f"{len(logits)} logits need as many indices, but got the shape {tuple(indices.shape)}")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.n:
            raise ValueError(f"indices must be in 0 … {self.n - 1}, but reach from {indices.min()} to {indices.max()}")
        log_p = logits.detach().to(self.probabilities.device, torch.float64).log_softmax(1)  # (m, classes)
        p = log_p.exp()
        indices = indices.to(self.times_seen.device)
        # Split i holds the indices n i // splits … n (i + 1) // splits - 1.
        starts = torch.tensor([self.n * i // self.splits for i in range(1, self.splits)], device=indices.device)
        split = torch.bucketize(indices, starts, right=True)
        self.times_seen.index_add_(0, indices, torch.ones_like(indices))
        self.probabilities.index_add_(0, split, p)
        self.negative_entropies.index_add_(0, split, (p * log_p).sum(1))

    def compute(self) -> InceptionScore:
        """The score; ValueError unless every sample was seen exactly once."""
        wrong = (self.times_seen != 1).nonzero().flatten()
        if len(wrong):
            first = int(wrong[0])
            raise ValueError(
                f"every sample must be seen once, but {len(wrong)} of {self.n} were not: "
                f"sample {first} was seen {int(self.times_seen[first])} times"
            )
        sizes = [self.n * (i + 1) // self.splits - self.n * i // self.splits for i in range(self.splits)]
        size = torch.tensor(sizes, dtype=torch.float64, device=self.probabilities.device)
        marginal = self.probabilities / size[:, None]  # (splits, classes)
        # mean KL(p ‖ marginal) = mean Σ p log p − Σ marginal log marginal
        divergence = self.negative_entropies / size - torch.xlogy(marginal, marginal).sum(1)
        scores = divergence.exp()
        return InceptionScore(scores.mean().item(), scores.std(correction=0).item())


def inception_score(logits: Tensor, splits: int = 10) -> InceptionScore:
    """The Inception score of logits (n, classes) in the order of the set, over `splits` consecutive splits.

    Published scores use the unbiased logits of FID's Inception (`InceptionOutput.logits_unbiased`).
    """
    check_features(logits, what="logits")
    accumulator = InceptionScoreAccumulator(len(logits), logits.shape[1], splits, logits.device)
    accumulator.update(logits, torch.arange(len(logits)))
    return accumulator.compute()


def inception_score_rows(gathered: Gathered) -> list[Result]:
    """The score with its deviation."""
    score: InceptionScore = gathered.fake
    spread_is = f"deviation over {gathered.protocol.splits} splits"
    return [gathered.result(score.mean, spread=score.std, spread_is=spread_is)]
