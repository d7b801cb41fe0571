"""The bottleneck of a KL autoencoder: a diagonal Gaussian over latents."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.models.bottlenecks.base import Bottleneck, BottleneckOutput, GaussianPosterior, sample_generators
from omnitok.models.config import Size

LATENT_BITS = 16  # latents are stored in bfloat16 or float16

INITIAL_LOGVAR = -6.0
"""A standard deviation of 0.05: where a quantizer is replaced, the decoder starts from all but its latents."""


@checked
class KLConfig:
    """A diagonal Gaussian over `latent_channels` channels."""

    is_discrete: ClassVar[bool] = False
    losses: ClassVar[tuple[str, ...]] = ("kl",)
    learning: ClassVar[tuple[str, ...]] = ()

    type: Literal["kl"] = "kl"
    latent_channels: Size = 8


class DiagonalGaussian(Bottleneck):
    """The bottleneck of a KL autoencoder (Kingma & Welling, 2014): mean and clamped log-variance per latent channel.

    Args:
        width: channels of the features.
    """

    LOGVAR_RANGE = (-30.0, 20.0)

    config: KLConfig

    def __init__(self, width: int, config: KLConfig = KLConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.config, self.latent_channels = config, config.latent_channels
        self.bits_per_token = float(LATENT_BITS * config.latent_channels)
        self.project_in = nn.Linear(width, 2 * config.latent_channels)
        self.project_out = nn.Linear(config.latent_channels, width)

    def encode(self, features: Tensor) -> BottleneckOutput:
        """features (b, t, h, w, width) -> the posterior and its mode as latents."""
        with torch.autocast(features.device.type, enabled=False):
            posterior = self._posterior(features)
        return BottleneckOutput(latents=posterior.mode(), posterior=posterior)

    def _posterior(self, features: Tensor) -> GaussianPosterior:
        mean, logvar = self.project_in(features.float()).chunk(2, dim=-1)
        return GaussianPosterior(mean, logvar.clamp(*self.LOGVAR_RANGE))

    def forward(
        self,
        features: Tensor,
        quantize: bool = True,
        seeds: Sequence[int] | None = None,
        kept: Mapping[int, Tensor] = {},
    ) -> BottleneckOutput:
        """features (b, t, h, w, width) -> latents (a sample in training mode, the mode otherwise), posterior, KL loss.

        The loss is the KL divergence summed over latents and averaged over the batch, in nats. `quantize` and
        `kept` change nothing.

        Raises:
            ValueError: not one of `seeds` a sample.
        """
        with torch.autocast(features.device.type, enabled=False):
            posterior = self._posterior(features)
            if self.training:
                latents = posterior.sample(sample_generators(seeds, len(features)))
            else:
                latents = posterior.mode()
            losses = {"kl": posterior.kl().mean()}
        statistics = {"posterior_std": (0.5 * posterior.logvar.detach()).exp().mean()}
        return BottleneckOutput(latents=latents, posterior=posterior, losses=losses, statistics=statistics)

    @torch.no_grad()
    def take_projections(self, other: Bottleneck) -> None:
        """As of every bottleneck, with a small variance everywhere to begin with."""
        nn.init.zeros_(self.project_in.weight[self.latent_channels :])
        nn.init.constant_(self.project_in.bias[self.latent_channels :], INITIAL_LOGVAR)
        super().take_projections(other)
