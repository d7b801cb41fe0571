"""Choosing the next code from logits: temperature, top-k, top-p, guidance, with noise that belongs to the item."""

from collections.abc import Callable

import torch
from torch import Tensor

from omnitok.models.sampling import TokenSampling

Noise = Callable[[int | Tensor], Tensor]
"""Standard Gumbel noise (b, n) of the codes (b, n), or of the first n codes."""


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022): logits (2b, n), conditional then unconditional -> (b, n)."""
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def choose(logits: Tensor, noise: Noise | None, sampling: TokenSampling) -> Tensor:
    """Codes (b,) for logits (b, n) and Gumbel noise; without noise the likeliest.

    The maximum of log-probabilities plus Gumbel noise is a draw from them. Unlike the inverse of the cumulative sum, it
    hardly ever changes when the logits' last bits do, as they do with the batch size.
    """
    if noise is None:
        return logits.argmax(dim=-1)
    n = logits.shape[-1]
    logits = logits / sampling.temperature
    k = min(sampling.top_k or n, n)
    if k == n and sampling.top_p == 1:
        return (logits + noise(n)).argmax(dim=-1)
    best, codes = logits.topk(k, sorted=sampling.top_p < 1)
    if sampling.top_p < 1:
        probabilities = best.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        best = best.masked_fill(before >= sampling.top_p, -torch.inf)
    winner = (best + noise(codes)).argmax(dim=-1, keepdim=True)
    return codes.gather(-1, winner).squeeze(-1)
