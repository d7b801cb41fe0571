"""What every bottleneck is: features -> latents (and codes) -> features, with projections of its own, in float32.

A new bottleneck is one file: a configuration with a `type` of its own, a subclass of `Bottleneck`, and a line in
`bottlenecks/__init__.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
        """Latents drawn from the posterior, by one generator or by one (of the CPU) per sample."""
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


class Bottleneck(nn.Module):
    """Features (b, t, h, w, width) -> latents (b, t, h, w, c), for quantizers with codes (b, t, h, w), and back.

    Parameters and buffers stay in float32 whatever `.to(dtype)` asks of the model around it, and state that must
    survive lives in buffers. `config.losses` names the losses that it can be trained with, `config.learning`
    the fields that say how it learns, which do not change its shape.

    Attributes:
        project_in, project_out: its own linear maps from and to the features; the first `latent_channels` outputs of
            `project_in` are the latents before they are rounded or drawn.
        latent_channels: c.
        vocab_size: number of codes; None without codes.
        bits_per_token: of one latent position, as it is stored.
    """

    config: Any
    project_in: nn.Linear
    project_out: nn.Linear
    latent_channels: int
    vocab_size: int | None = None
    bits_per_token: float

    def encode(self, features: Tensor) -> BottleneckOutput:
        """The plain result, no state changed."""
        raise NotImplementedError

    def forward(self, features: Tensor, quantize: bool = True, seeds: Sequence[int] | None = None) -> BottleneckOutput:
        """The same with losses; in training mode noise, codebook updates and statistics too.

        Args:
            quantize: False lets the latents of a quantizer pass unrounded, for the first steps of a training.
            seeds: one per sample, from which everything random about it follows: with them a batch gives the same
                however processes share it. None draws them from torch's global generator.

        Raises:
            ValueError: not one of `seeds` per sample.
        """
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """latents (b, t, h, w, c) -> features (b, t, h, w, width), float32."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.project_out(latents.float())

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents of codes (...) -> (..., c); quantizers only."""
        raise NotImplementedError

    def similarity(self, z: Tensor) -> Tensor:
        """Scores (n, vocab_size) of unquantized z (n, c) with all codes, for the loss "entropy"."""
        raise NotImplementedError

    @torch.no_grad()
    def take_projections(self, other: "Bottleneck") -> None:
        """Start from the projections of another bottleneck, where it has as many latent channels."""
        if other.latent_channels != self.latent_channels:
            return
        c = self.latent_channels
        self.project_in.weight[:c].copy_(other.project_in.weight[:c])
        self.project_in.bias[:c].copy_(other.project_in.bias[:c])
        self.project_out.load_state_dict(other.project_out.state_dict())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Bottleneck":
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
