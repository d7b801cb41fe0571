"""Bottlenecks: features -> latents (and codes) -> features. Each owns its projections and computes in float32.

A bottleneck is an `nn.Module` with

- ``encode(features) -> BottleneckOutput`` for (b, t, h, w, width) features: the plain result, no state changed,
- ``forward(features, quantize, seeds) -> BottleneckOutput``: the same with losses; in training mode noise, codebook
  updates, statistics. ``seeds`` are one number a sample, from which everything random about it follows: with them a
  batch gives the same whatever way processes share it. Without them torch's global generator draws,
- ``decode(latents) -> features`` for (b, t, h, w, channels) latents,
- ``config_fields()``: the fields of `TokenizerConfig` that describe it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GaussianPosterior:
    """A diagonal Gaussian over latents; `mean` and `logvar` have the shape of the latents."""

    mean: Tensor
    logvar: Tensor

    def mode(self) -> Tensor:
        """The most likely latents: the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> Tensor:
        """Latents drawn from the posterior, by one generator or by one (of the CPU) a sample."""
        mean = self.mean
        if generator is None or isinstance(generator, torch.Generator):
            noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        else:
            noise = torch.stack([torch.randn(mean.shape[1:], generator=g, dtype=mean.dtype) for g in generator])
            noise = noise.to(mean.device)
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal in nats, summed over all but the batch: (b,)."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(dim=1)


@dataclass(frozen=True)
class BottleneckOutput:
    """What a bottleneck makes of features (b, t, h, w, width)."""

    latents: Tensor  # (b, t, h, w, c): what the decoder is given
    codes: Tensor | None = None  # (b, t, h, w) int64, for quantizers
    posterior: GaussianPosterior | None = None  # channels last, for Gaussians
    losses: dict[str, Tensor] = field(default_factory=dict)  # unweighted scalars
    statistics: dict[str, Tensor] = field(default_factory=dict)  # detached scalars
    unquantized: Tensor | None = None  # (b, t, h, w, c): what a quantizer in training rounds to its codes


class Float32Module(nn.Module):
    """Keeps its parameters and buffers in float32 whatever `.to(dtype)` asks of the model around it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float32Module":
        def move_only(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move_only, recurse)


def sample_generators(seeds: Sequence[int] | None, samples: int) -> list[torch.Generator]:
    """A generator of the CPU for each sample; seeds None draws some."""
    if seeds is None:
        seeds = torch.randint(2**62, (samples,)).tolist()
    if len(seeds) != samples:
        raise ValueError(f"a batch of {samples} needs as many seeds, found {len(seeds)}")
    return [torch.Generator().manual_seed(seed) for seed in seeds]
