"""Choosing the next code from logits: temperature, top-k, top-p, guidance, with noise that belongs to the item."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

Noise = Callable[[int | Tensor], Tensor]
"""Standard Gumbel noise (b, n) of the codes (b, n), or of the first n codes."""


class TokenSamplingOptions(TypedDict, total=False):
    """The arguments that say how codes are sampled; None and absent ones are those of the settings."""

    guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    temperature: float | None
    top_k: int | None
    top_p: float | None


@dataclass(frozen=True)
class TokenSampling:
    """How the next code is drawn.

    Attributes:
        guidance_scale: s of unconditional + s * (conditional - unconditional) logits; 1 is none (the released code's
            `cfg_ratio` is s - 1).
        guidance_interval: part of each latent frame's codes that is guided, as fractions (from, to).
        temperature: logits are divided by it; 0 takes the likeliest code.
        top_k: only the k likeliest codes; 0 for all.
        top_p: only the likeliest codes that together have this probability, after top_k; 1 for all.
    """

    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale must be at least 0 (1 is none), found {self.guidance_scale}")
        if len(self.guidance_interval) != 2 or not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            raise ValueError(f"guidance_interval must be two fractions in order, found {self.guidance_interval}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0, found {self.temperature}")
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise ValueError(f"top_k must be a whole number of at least 1, or 0 for all codes, found {self.top_k}")
        object.__setattr__(self, "top_k", int(self.top_k))  # JSON may give 100.0
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], found {self.top_p}")

    @property
    def guided(self) -> bool:
        """Whether unconditional logits are needed at all."""
        return self.guidance_scale != 1 and self.guidance_interval[0] < self.guidance_interval[1]

    def guides(self, index: int, count: int) -> bool:
        """Whether code `index` of the `count` codes of a latent frame is guided."""
        return self.guidance_interval[0] * count <= index < self.guidance_interval[1] * count


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
