"""What every bottleneck is: features -> latents (and codes) -> features, with projections of its own, in float32.

A new bottleneck is one file: a configuration with a `type` of its own, a subclass of `Quantizer` or `Bottleneck`, a
row in `bottlenecks/__init__.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
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
        code_bases: of the digits that a code is made of, the first one counting 1 (see `digits`); one where a code is
            no more than a number, none without codes.
        bits_per_token: of one latent position, as it is stored.
    """

    config: Any
    project_in: nn.Linear
    project_out: nn.Linear
    latent_channels: int
    vocab_size: int | None = None
    code_bases: tuple[int, ...] = ()
    bits_per_token: float

    def encode(self, features: Tensor) -> BottleneckOutput:
        """The plain result, no state changed."""
        raise NotImplementedError

    def forward(
        self,
        features: Tensor,
        quantize: bool = True,
        seeds: Sequence[int] | None = None,
        kept: Mapping[int, Tensor] = {},
    ) -> BottleneckOutput:
        """The same with losses; in training mode noise, codebook updates and statistics too.

        Args:
            quantize: False lets the latents of a quantizer pass unrounded, for the first steps of a training.
            seeds: one per sample, from which everything random about it follows: with them a batch gives the same
                however processes share it. None draws them from torch's global generator.
            kept: codes (t, h, w) of some samples of a quantizer, by their places, in place of the nearest ones: the
                decoder is given them, and the commitment draws the latents to them.

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

    def similarities(self, z: Tensor) -> list[Tensor]:
        """What the loss "entropy" compares: negative squared distances of unquantized z (n, c) to all codes, (n, K).

        A matrix for each of the independent choices that make up a code, where it is made up of several: their
        entropies are added, and no matrix need be as wide as `vocab_size`.
        """
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


class Quantizer(Bottleneck):
    """A bottleneck with codes. A kind of quantizer says how features become z, which codes z has, and how it learns.

    Latents are the code vectors; in training they equal them too, with the gradient of z (straight through: Bengio et
    al., 2013). The loss "commitment", where the configuration has it, draws z towards its code vectors.

    Args:
        width: channels of the features.
        config: has `latent_channels`.
        vocab_size: number of codes.
    """

    vocab_size: int

    def __init__(self, width: int, config: Any, vocab_size: int) -> None:
        super().__init__()
        self.config, self.latent_channels, self.vocab_size = config, config.latent_channels, vocab_size
        self.code_bases, self.bits_per_token = (vocab_size,), math.log2(vocab_size)
        self.project_in = nn.Linear(width, config.latent_channels)
        self.project_out = nn.Linear(config.latent_channels, width)

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> z (b, t, h, w, c), which is to be quantized; float32, with gradients."""
        raise NotImplementedError

    def codes_of(self, z: Tensor) -> Tensor:
        """Codes (...) of z (..., c), int64; no state changed."""
        raise NotImplementedError

    def assign(self, z: Tensor, seeds: Sequence[int] | None) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Codes of detached z (b, t, h, w, c), ever closer approximations of it, statistics.

        The last approximation is the code vectors. In training mode this is where a codebook learns.

        Raises:
            ValueError: not one of `seeds` per sample, where something is drawn.
        """
        codes = self.codes_of(z)
        return codes, [self.lookup(codes)], {}

    def encode(self, features: Tensor) -> BottleneckOutput:
        """features (b, t, h, w, width) -> codes and their code vectors as latents. Changes no state."""
        with torch.autocast(features.device.type, enabled=False):
            codes = self.codes_of(self.project(features))
            return BottleneckOutput(latents=self.lookup(codes), codes=codes)

    def forward(
        self,
        features: Tensor,
        quantize: bool = True,
        seeds: Sequence[int] | None = None,
        kept: Mapping[int, Tensor] = {},
    ) -> BottleneckOutput:
        """The same with losses and, in training mode, gradients straight through, learning and statistics."""
        with torch.autocast(features.device.type, enabled=False):
            z = self.project(features)
            if not quantize:
                return BottleneckOutput(latents=z, losses=self._losses(z, []))
            codes, approximations, statistics = self.assign(z.detach(), seeds)
            through = z
            if kept:
                codes = torch.stack([kept.get(place, own) for place, own in enumerate(codes)])
                approximations = [self.lookup(codes).detach()]
                through = torch.stack([own.detach() if place in kept else own for place, own in enumerate(z)])
            quantized = approximations[-1]
            return BottleneckOutput(
                latents=through + (quantized - through).detach() if self.training else quantized,
                codes=codes,
                losses=self._losses(z, approximations),
                statistics=statistics,
                unquantized=z,
            )

    def commitment(self, z: Tensor, approximations: Sequence[Tensor]) -> Tensor:
        """The loss "commitment": mean squared differences of z and its approximations, summed over them."""
        return sum((F.mse_loss(z, closer) for closer in approximations), start=z.new_zeros(()))

    def _losses(self, z: Tensor, approximations: Sequence[Tensor]) -> dict[str, Tensor]:
        if "commitment" not in self.config.losses:
            return {}
        return {"commitment": self.commitment(z, approximations) if approximations else z.new_zeros(())}


def digits(codes: Tensor, bases: Sequence[int]) -> Tensor:
    """Codes (...) as numbers of the mixed base `bases`, the first digit counting 1: (..., len(bases)), int64.

    >>> digits(torch.tensor([0, 1, 8, 39]), (8, 5)).tolist()
    [[0, 0], [1, 0], [0, 1], [7, 4]]
    """
    places = torch.tensor([math.prod(bases[:i]) for i in range(len(bases))], device=codes.device)
    return codes[..., None] // places % torch.tensor(bases, device=codes.device)


def from_digits(values: Tensor, bases: Sequence[int]) -> Tensor:
    """The inverse of `digits`: values (..., len(bases)), whole -> codes (...), int64."""
    places = torch.tensor([math.prod(bases[:i]) for i in range(len(bases))], device=values.device)
    return (values.long() * places).sum(dim=-1)


def group_bases(bases: Sequence[int], most: int) -> tuple[int, ...]:
    """Neighbouring digits put together: as few as can be of bases of at most `most`, the largest as small as can be.

    >>> group_bases([2] * 18, 2**14)
    (512, 512)
    >>> group_bases((8, 8, 8, 5, 5, 5), 2**12)
    (512, 125)
    """

    def grouped(limit: int) -> tuple[int, ...]:
        groups = [1]
        for base in bases:
            if groups[-1] * base <= limit or groups[-1] == 1:
                groups[-1] *= base
            else:
                groups.append(base)
        return tuple(groups)

    fewest = len(grouped(most))
    runs = {math.prod(bases[i:j]) for i in range(len(bases)) for j in range(i + 1, len(bases) + 1)}
    return next(found for limit in sorted(runs) if len(found := grouped(limit)) == fewest)


def check_code_count(bases: Sequence[int], name: str) -> None:
    """See that a code made of several digits is an index that generators and token files can hold.

    Raises:
        ValueError: the product is 2^31 or more.
    """
    if math.prod(bases) >= 2**31:
        raise ValueError(f"{name} must have a product below 2147483648, found {math.prod(bases)}")


def sample_generators(seeds: Sequence[int] | None, samples: int) -> list[torch.Generator]:
    """A generator of the CPU for each sample; seeds None draws some."""
    if seeds is None:
        seeds = torch.randint(2**62, (samples,)).tolist()
    if len(seeds) != samples:
        raise ValueError(f"a batch of {samples} needs as many seeds, found {len(seeds)}")
    return [torch.Generator().manual_seed(seed) for seed in seeds]
