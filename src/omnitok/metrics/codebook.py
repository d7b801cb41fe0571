"""How a quantizer uses its codebook over a whole set: share of codes in use, entropy and perplexity."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.metrics.accumulator import Accumulator
from omnitok.metrics.results import Gathered, Result


@dataclass(frozen=True)
class CodebookStatistics:
    """`usage`: share of the codes seen at least once, in [0, 1]; `entropy` in bits, at most log2(size);
    `perplexity` = 2 ^ entropy, the size of an evenly used codebook of that entropy; `tokens` counted, and
    the codebook's `size`."""

    usage: float
    entropy: float
    perplexity: float
    tokens: int
    size: int


class CodebookAccumulator(Accumulator):
    """Counts codes 0 … size - 1 over a set; int64 counts, so merges and processes are exact."""

    SUMS = ("counts",)

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        if size < 1:
            raise ValueError(f"a codebook has at least 1 code, but size is {size}")
        self.counts = torch.zeros(size, dtype=torch.long, device=device)
        self.what = f"a codebook of {size} codes"

    def update(self, codes: Tensor) -> None:
        """Add codes of any shape and integer type; codes outside the codebook are a ValueError."""
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise ValueError(f"codes must be integers, but are {codes.dtype}")
        if codes.numel() == 0:
            return
        flat = codes.detach().to(self.counts.device, torch.long).flatten()
        low, high = int(flat.min()), int(flat.max())
        if low < 0 or high >= len(self.counts):
            raise ValueError(f"codes must be in 0 … {len(self.counts) - 1}, but reach from {low} to {high}")
        self.counts += torch.bincount(flat, minlength=len(self.counts))

    def compute(self) -> CodebookStatistics:
        tokens = int(self.counts.sum())
        if tokens == 0:
            raise ValueError("codebook statistics need at least 1 code, but got none")
        p = self.counts.double() / tokens
        entropy = max(-torch.xlogy(p, p).sum().item() / math.log(2), 0.0)  # not -0.0
        usage = (self.counts > 0).double().mean().item()
        return CodebookStatistics(usage, entropy, 2.0**entropy, tokens, len(self.counts))


def codebook_statistics(codes: Tensor, size: int) -> CodebookStatistics:
    """Usage, entropy and perplexity of one tensor of codes in 0 … size - 1."""
    accumulator = CodebookAccumulator(size, codes.device)
    accumulator.update(codes)
    return accumulator.compute()


def codebook_rows(gathered: Gathered) -> list[Result]:
    """Usage, perplexity and entropy."""
    codes: CodebookStatistics = gathered.fake
    warning = None
    if codes.tokens < 10 * codes.size:
        warning = f"{codes.tokens} tokens are few for {codes.size} codes: usage grows with more data"
    return [
        gathered.result(codes.usage, warning=warning),
        gathered.result(codes.perplexity, metric="perplexity"),
        gathered.result(codes.entropy, metric="entropy"),
    ]
