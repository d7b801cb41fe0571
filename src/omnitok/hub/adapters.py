"""Our models in the shapes that other libraries expect."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omnitok.errors import OmnitokError
from omnitok.models.bottlenecks import GaussianPosterior
from omnitok.models.tokenizer import OmniTokenizer


@dataclass(frozen=True)
class AutoencoderConfig:
    """What pipelines of diffusers read of an autoencoder's configuration."""

    scaling_factor: float
    latent_channels: int
    block_out_channels: tuple[int, ...]  # only their number counts: one more than the halvings of the resolution
    in_channels: int = 3
    out_channels: int = 3
    shift_factor: float | None = None


@dataclass(frozen=True)
class LatentDistribution(GaussianPosterior):
    """A posterior with the names of diffusers' `DiagonalGaussianDistribution`; `sample` and `mode` are ours."""

    @property
    def std(self) -> Tensor:
        """Standard deviation."""
        return (0.5 * self.logvar).exp()

    @property
    def var(self) -> Tensor:
        """Variance."""
        return self.logvar.exp()


@dataclass(frozen=True)
class EncoderOutput:
    """What `encode` gives."""

    latent_dist: LatentDistribution


@dataclass(frozen=True)
class DecoderOutput:
    """What `decode` gives: pixels, not clamped."""

    sample: Tensor


class DiffusersAutoencoder(nn.Module):
    """A KL tokenizer with the interface of diffusers' `AutoencoderKL`, for its pipelines and training scripts.

    Their convention is that a diffusion model sees ``latents * config.scaling_factor``. Where the tokenizer has
    statistics, the latents given out and taken in here are normalised per channel, with a scaling factor of 1.

    Args:
        tokenizer: with a Gaussian bottleneck; shared, not copied.
        scaling_factor: give out the latents as they are, with this factor (0.18215 for models released with it); None
            normalises them per channel.

    Raises:
        ValueError: a scaling factor that is not positive.
        OmnitokError: a quantizer, or a tokenizer without latent statistics and no scaling factor.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, tokenizer: OmniTokenizer, scaling_factor: float | None = None) -> None:
        super().__init__()
        config = tokenizer.config
        if tokenizer.is_discrete:
            raise OmnitokError("the tokenizer is a quantizer; diffusers' autoencoders have Gaussian latents, as a VAE")
        if scaling_factor is None and tokenizer.latent_statistics is None:
            raise OmnitokError(
                "the tokenizer's config.json has no latent_statistics to normalise with; say scaling_factor="
            )
        if scaling_factor is not None and not 0 < scaling_factor < float("inf"):
            raise ValueError(f"scaling_factor must be positive and finite, found {scaling_factor}")
        self.tokenizer = tokenizer
        channels = tokenizer.latent_channels
        known = None if scaling_factor is not None else tokenizer.latent_statistics
        mean = torch.zeros(channels) if known is None else torch.tensor(known.mean)
        std = torch.ones(channels) if known is None else torch.tensor(known.std)
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self.config = AutoencoderConfig(
            scaling_factor=1.0 if scaling_factor is None else scaling_factor,
            latent_channels=channels,
            block_out_channels=(config.width,) * (1 + round(math.log2(config.patch_size))),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokenizer.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the encoder and decoder."""
        return self.tokenizer.dtype

    def encode(self, x: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[LatentDistribution]:
        """Pixels (b, 3, H, W) or (b, 3, T, H, W) in [-1, 1] -> `.latent_dist` over (b, c, h, w) or (b, c, t, h, w)."""
        posterior = self.tokenizer.encode(x, check_range=False).posterior
        assert posterior is not None
        mean, std = self._statistics(posterior.mean)
        distribution = LatentDistribution((posterior.mean - mean) / std, posterior.logvar - 2 * std.log())
        return EncoderOutput(distribution) if return_dict else (distribution,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Latents (b, c, h, w) or (b, c, t, h, w) -> `.sample`, pixels; `generator` is not needed."""
        mean, std = self._statistics(z)
        pixels = self.tokenizer.decode(z * std + mean)
        return DecoderOutput(pixels) if return_dict else (pixels,)

    def forward(self, x: Tensor) -> DecoderOutput | tuple[Tensor]:
        """The reconstruction of pixels from the mode of their posterior."""
        encoded = self.encode(x)
        assert isinstance(encoded, EncoderOutput)
        return self.decode(encoded.latent_dist.mode())

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (like.ndim - 2))
        return self._mean.to(like).reshape(shape), self._std.to(like).reshape(shape)
