"""A KL tokenizer as an autoencoder of diffusers, for its pipelines, training scripts and folders (extra `hf`)."""

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from omnitok.errors import MissingExtraError, OmnitokError, reason
from omnitok.models.bottlenecks import DiagonalGaussian, KLConfig
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.models.transformer import Block, recompute

try:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.utils.accelerate_utils import apply_forward_hook
except ImportError as error:
    raise MissingExtraError.of("diffusers") from error

__all__ = ["AutoencoderOmni"]

TILE = 512
"""Pixels of the sides of tiles, where nothing else is said."""


class AutoencoderOmni(ModelMixin, AutoencoderMixin, ConfigMixin):
    """An `OmniTokenizer` with Gaussian latents as diffusers' `AutoencoderKL` is used, for images and videos alike.

    Diffusion models of diffusers see ``latents * config.scaling_factor``, or ``(latents - latents_mean) / latents_std``
    where the pipeline knows of these; `from_tokenizer` makes one whose latents suit both.

    Args:
        architecture: fields of `TokenizerConfig`; None is its default with Gaussian latents.
        scaling_factor, latents_mean, latents_std: what pipelines are to do with the latents.
        shift_factor: None; some pipelines ask for it.
        latent_channels, in_channels, out_channels, block_out_channels, temporal_compression_ratio: for pipelines to
            read. They follow from `architecture`; of `block_out_channels` only the number counts, one more than the
            halvings of the resolution.

    Raises:
        ValueError: no such architecture, one without Gaussian latents, or another number than the architecture's.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)

    @register_to_config
    def __init__(
        self,
        architecture: dict[str, Any] | None = None,
        scaling_factor: float = 1.0,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        shift_factor: float | None = None,
        latent_channels: int | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        block_out_channels: Sequence[int] | None = None,
        temporal_compression_ratio: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < scaling_factor < float("inf"):
            raise ValueError(f"scaling_factor must be positive and finite, found {scaling_factor}")
        try:
            config = TokenizerConfig(**architecture) if architecture else TokenizerConfig(bottleneck=KLConfig())
        except (ValueError, TypeError) as error:
            raise ValueError(f"architecture: {reason(error)}") from error
        self.tokenizer = OmniTokenizer.from_config(config)
        if not isinstance(self.tokenizer.bottleneck, DiagonalGaussian):
            raise ValueError(f"architecture: the bottleneck must be kl, found {config.bottleneck.type}")
        follows = {
            "architecture": dataclasses.asdict(config),
            "latent_channels": self.tokenizer.latent_channels,
            "in_channels": config.channels,
            "out_channels": config.channels,
            "block_out_channels": [config.width] * (1 + round(math.log2(config.patch_size))),
            "temporal_compression_ratio": config.temporal_patch_size,
        }
        for name, value in follows.items():
            given = self.config[name]
            given = [*given] if isinstance(given, tuple) else given
            if name != "architecture" and given not in (None, value):
                raise ValueError(f"{name} must be {value}, as the architecture says, found {given}")
        self.register_to_config(**follows)
        self.use_tiling = self.use_slicing = self.gradient_checkpointing = False
        self.tile_sample_min_size = TILE

    @classmethod
    def from_tokenizer(cls, tokenizer: OmniTokenizer, scaling_factor: float | None = None) -> Self:
        """The autoencoder of a trained tokenizer, whose weights are copied.

        Args:
            tokenizer: with a Gaussian bottleneck.
            scaling_factor: give out the latents as they are, for a diffusion model that saw them times this factor
                (0.18215 for models released with it). None normalises them per channel by the tokenizer's statistics,
                as diffusion models of ours see them: that becomes part of the weights of the bottleneck, so any
                pipeline gets them so, and `scaling_factor` is 1, `latents_mean` 0 and `latents_std` 1.

        Raises:
            ValueError: a scaling factor that is not positive.
            OmnitokError: a quantizer, or a tokenizer without latent statistics and no scaling factor.
        """
        if tokenizer.is_discrete:
            raise OmnitokError("the tokenizer is a quantizer; diffusers' autoencoders have Gaussian latents, as a VAE")
        if scaling_factor is None and tokenizer.latent_statistics is None:
            raise OmnitokError(
                "the tokenizer's config.json has no latent_statistics to normalise with; say scaling_factor="
            )
        channels = tokenizer.latent_channels
        normal = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
        said: dict[str, Any] = normal if scaling_factor is None else {"scaling_factor": scaling_factor}
        with torch.device("meta"):
            made = cls(architecture=dataclasses.asdict(tokenizer.config), **said)
        made.tokenizer = copy.deepcopy(tokenizer)
        if scaling_factor is None:
            assert tokenizer.latent_statistics is not None
            _normalise(made.tokenizer.bottleneck, tokenizer.latent_statistics)
            made.tokenizer.latent_statistics = LatentStatistics((0.0,) * channels, (1.0,) * channels)
        return made.train(tokenizer.training)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **how: Any) -> Self:
        """As of every model of diffusers; the bottleneck stays in float32, whatever `dtype` the rest is to have."""
        dtypes = (how.pop("torch_dtype", None), how.pop("dtype", None))  # two spellings
        loaded = super().from_pretrained(pretrained_model_name_or_path, torch_dtype=torch.float32, **how)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        for dtype in filter(None, dtypes):
            model.tokenizer.to(dtype)
        return loaded

    def enable_tiling(self, tile_sample_min_size: int = TILE) -> None:
        """Work in tiles from now on: square ones of so many pixels, which are rounded down to whole attention windows.

        Raises:
            ValueError: less than one window.
        """
        if tile_sample_min_size < self.tokenizer.tile_unit:
            raise ValueError(
                f"tile_sample_min_size must be at least {self.tokenizer.tile_unit}, found {tile_sample_min_size}"
            )
        self.use_tiling, self.tile_sample_min_size = True, tile_sample_min_size

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Pixels (b, 3, H, W) or (b, 3, T, H, W) in [-1, 1] -> `.latent_dist` over (b, c, h, w) or (b, c, t, h, w)."""
        moments = torch.cat([self._moments(part) for part in self._slices(x)])
        distribution = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def _moments(self, x: Tensor) -> Tensor:
        posterior = self.tokenizer.encode(x, self._tile, check_range=False).posterior
        assert posterior is not None
        return torch.cat([posterior.mean, posterior.logvar], dim=1).to(self.dtype)

    @apply_forward_hook
    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Latents (b, c, h, w) or (b, c, t, h, w) -> `.sample`, pixels, not clamped; `generator` is not needed."""
        pixels = torch.cat([self.tokenizer.decode(part, tile=self._tile) for part in self._slices(z)])
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """The reconstruction of pixels, of their own shape, from the mode of their posterior or a sample of it."""
        (posterior,) = self.encode(sample, return_dict=False)
        (pixels,) = self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), False)
        pixels = pixels[..., : sample.shape[-2], : sample.shape[-1]]  # what was padded to whole patches
        pixels = pixels[:, :, : sample.shape[2]] if sample.ndim == 5 else pixels
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)

    @property
    def _tile(self) -> int | None:
        return self.tile_sample_min_size if self.use_tiling else None

    def _slices(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(1) if self.use_slicing else (x,)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] | None = None
    ) -> None:
        self.gradient_checkpointing = enable
        for module in self.tokenizer.modules():
            if isinstance(module, Block):
                recompute(module, enable)


@torch.no_grad()
def _normalise(bottleneck: DiagonalGaussian, statistics: LatentStatistics) -> None:
    """Let latents be (latents - mean) / std from now on, which is linear, as the projections around them are."""
    weight = bottleneck.project_in.weight
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (statistics.mean, statistics.std))
    mean, std, c = mean.to(weight.device), std.to(weight.device).clamp(min=1e-12), len(mean)
    into, bias = weight.double(), bottleneck.project_in.bias.double()
    into[:c] /= std[:, None]
    bias[:c] = (bias[:c] - mean) / std
    bias[c:] -= 2 * std.log()
    out, shift = bottleneck.project_out.weight.double(), bottleneck.project_out.bias.double()
    bottleneck.project_in.weight.copy_(into)
    bottleneck.project_in.bias.copy_(bias)
    bottleneck.project_out.bias.copy_(shift + out @ mean)
    bottleneck.project_out.weight.copy_(out * std)
