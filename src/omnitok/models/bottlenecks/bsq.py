"""Binary spherical quantization (Zhao et al., 2024, arXiv 2406.07548): signs of a point of the unit sphere."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from omnitok.checked import checked
from omnitok.models.bottlenecks.lfq import LookupFreeQuantizer, SignsConfig


@checked
class BSQConfig(SignsConfig):
    """`bits` channels, each of which becomes -1 or 1 over the square root of `bits`. The paper has 18, and takes the
    bits of the mean for independent (eq. 12), which is `group_bits` = 1.
    """

    type: Literal["bsq"] = "bsq"


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """Lookup-free quantization on the unit sphere: z is normalised first, and code vectors have length 1.

    The error of quantization is bounded then, so that no commitment is needed; the loss is there for comparisons.
    """

    def __init__(self, width: int, config: BSQConfig = BSQConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__(width, config)

    @property
    def scale(self) -> float:
        """Absolute value of each channel of a code vector."""
        return self.latent_channels**-0.5

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> points of the unit sphere, (b, t, h, w, bits)."""
        return F.normalize(super().project(features), dim=-1)
