"""The bottleneck of a KL autoencoder: a diagonal Gaussian over latents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.models.bottlenecks.base import BottleneckOutput, Float32Module, GaussianPosterior, sample_generators


class DiagonalGaussian(Float32Module):
    """The bottleneck of a KL autoencoder (Kingma & Welling, 2014): mean and clamped log-variance per latent channel.

    Args:
        width: channels of the features.
        dim: channels of the latents.
    """

    LOGVAR_RANGE = (-30.0, 20.0)

    def __init__(self, width: int, dim: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.project_in = nn.Linear(width, 2 * dim)
        self.project_out = nn.Linear(dim, width)

    def config_fields(self) -> dict[str, Any]:
        """The fields of `TokenizerConfig` that describe this bottleneck."""
        return {"bottleneck": "kl", "latent_channels": self.dim}

    def encode(self, features: Tensor) -> BottleneckOutput:
        """features (b, t, h, w, width) -> the posterior and its mode as latents."""
        with torch.autocast(features.device.type, enabled=False):
            posterior = self._posterior(features)
        return BottleneckOutput(latents=posterior.mode(), posterior=posterior)

    def _posterior(self, features: Tensor) -> GaussianPosterior:
        mean, logvar = self.project_in(features.float()).chunk(2, dim=-1)
        return GaussianPosterior(mean, logvar.clamp(*self.LOGVAR_RANGE))

    def forward(self, features: Tensor, quantize: bool = True, seeds: Sequence[int] | None = None) -> BottleneckOutput:
        """features (b, t, h, w, width) -> latents (a sample in training mode, the mode otherwise), posterior, KL loss.

        The loss is the KL divergence summed over latents and averaged over the batch, in nats. `quantize` changes
        nothing.

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

    def decode(self, latents: Tensor) -> Tensor:
        """latents (b, t, h, w, dim) -> features (b, t, h, w, width), float32."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.project_out(latents.float())
