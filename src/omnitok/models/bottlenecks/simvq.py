"""SimVQ (Zhu et al., 2024, arXiv 2411.02038): a random codebook that stays, seen through a linear map that learns."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.checked import NotNegative, checked
from omnitok.models.bottlenecks.base import Quantizer
from omnitok.models.bottlenecks.codebook import nearest_rows, negative_distances
from omnitok.models.config import Size


@checked
class SimVQConfig:
    """A codebook of `codebook_size` codes of `latent_channels` channels.

    Attributes:
        feature_share: how strongly features are drawn to their codes, where codes are drawn to features with 1.
    """

    is_discrete: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("commitment", "entropy")
    learning: ClassVar[tuple[str, ...]] = ("feature_share",)

    type: Literal["simvq"] = "simvq"
    latent_channels: Size = 8
    codebook_size: Size = 8192
    feature_share: NotNegative = 0.25


class SimpleVectorQuantizer(Quantizer):
    """Nearest neighbour among the rows of C W, of which C is drawn once and never changes and W learns by gradient.

    A step of W moves all codes, also those that nothing was assigned to, so that none falls out of use. The loss
    "commitment", which must have a weight, is `|sg(z) - e|^2 + feature_share |z - sg(e)|^2`, each a mean over numbers.

    Args:
        width: channels of the features.
    """

    config: SimVQConfig
    frozen_codebook: Tensor

    def __init__(self, width: int, config: SimVQConfig = SimVQConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__(width, config, config.codebook_size)
        self.code_map = nn.Linear(config.latent_channels, config.latent_channels, bias=False)
        deviation = config.latent_channels**-0.5
        self.register_buffer("frozen_codebook", torch.randn(config.codebook_size, config.latent_channels) * deviation)

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> z (b, t, h, w, c), of any value."""
        return self.project_in(features.float())

    def codes_of(self, z: Tensor) -> Tensor:
        """The nearest code of each z (..., c): (...)."""
        table = self.code_map(self.frozen_codebook).detach()
        return nearest_rows(z.detach().reshape(-1, self.latent_channels), table).reshape(z.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the mapped codebook: codes (...) -> (..., c), with gradients to the map."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.code_map(F.embedding(codes, self.frozen_codebook))

    def commitment(self, z: Tensor, approximations: Sequence[Tensor]) -> Tensor:
        """Both sides are drawn to one another, codes more strongly than features."""
        quantized = approximations[-1]
        return F.mse_loss(quantized, z.detach()) + self.config.feature_share * F.mse_loss(z, quantized.detach())

    def similarities(self, z: Tensor) -> list[Tensor]:
        """Negative squared distances of z (n, c) to all codes: (n, codes)."""
        return [negative_distances(z, self.code_map(self.frozen_codebook))]
