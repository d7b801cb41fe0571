"""Residual vector quantization: each codebook codes what the ones before it have left over.

Zeghidour et al., 2021 (SoundStream, arXiv 2107.03312, algorithm 1); Lee et al., 2022 (RQ-VAE, arXiv 2203.01941).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from omnitok.checked import checked
from omnitok.models.bottlenecks.codebook import Codebook, random_directions
from omnitok.models.bottlenecks.several import SeveralCodebooks, SeveralCodebooksConfig


@checked
class RVQConfig(SeveralCodebooksConfig):
    """Codebooks of `codebook_sizes` codes of `latent_channels` channels, from coarse to fine, and how they learn."""

    type: Literal["rvq"] = "rvq"


class ResidualVectorQuantizer(SeveralCodebooks):
    """Latents are the sum of a code of each codebook: the nearest to z, the nearest to what that leaves, and so on.

    z lies on the unit sphere, the codes need not. The loss "commitment" is summed over codebooks, each of which
    compares z with the sum up to it (RQ-VAE, eq. 8). Codes are combined as `SeveralCodebooks` says.
    """

    config: RVQConfig

    def __init__(self, width: int, config: RVQConfig = RVQConfig()) -> None:  # noqa: B008 (frozen)
        def make_book(number: int, size: int) -> Codebook:
            table = random_directions(size, config.latent_channels) / 2**number
            return Codebook(table, is_spherical=False, normalize_codes=False)

        super().__init__(width, config, make_book)

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> points of the unit sphere, (b, t, h, w, c)."""
        return F.normalize(self.project_in(features.float()), dim=-1)

    def part(self, z: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """What `rows` leave over of z."""
        for found in rows:
            z = z - found
        return z

    def joined(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """The sums up to each codebook."""
        return list(accumulate(rows))
