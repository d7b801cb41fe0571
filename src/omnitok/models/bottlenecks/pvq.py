"""Product quantization (Jégou et al., 2011): groups of channels, each with a codebook of its own.

As the bottleneck of an autoencoder: Baevski et al., 2020 (vq-wav2vec, arXiv 1910.05453).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from omnitok.checked import checked
from omnitok.models.bottlenecks.codebook import Codebook, random_directions
from omnitok.models.bottlenecks.several import SeveralCodebooks, SeveralCodebooksConfig


@checked
class PVQConfig(SeveralCodebooksConfig):
    """As many groups as `codebook_sizes` has entries; `latent_channels` are shared out among them equally."""

    type: Literal["pvq"] = "pvq"

    @model_validator(mode="after")
    def _check_groups(self) -> "PVQConfig":
        groups = len(self.codebook_sizes)
        if self.latent_channels % groups:
            raise ValueError(
                f"latent_channels must be a multiple of the {groups} groups of codebook_sizes, found "
                f"{self.latent_channels}"
            )
        return self


class ProductQuantizer(SeveralCodebooks):
    """Each group of channels is put on its unit sphere and replaced by the nearest code of its codebook.

    With one group this is `VectorQuantizer`. Codes are combined as `SeveralCodebooks` says.
    """

    config: PVQConfig

    def __init__(self, width: int, config: PVQConfig = PVQConfig()) -> None:  # noqa: B008 (frozen)
        def make_book(number: int, size: int) -> Codebook:
            table = random_directions(size, config.latent_channels // len(config.codebook_sizes))
            return Codebook(table, is_spherical=True, normalize_codes=True)

        super().__init__(width, config, make_book)

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> (b, t, h, w, c), each group of channels of length 1."""
        z = self.project_in(features.float()).unflatten(-1, (len(self.books), -1))
        return F.normalize(z, dim=-1).flatten(-2)

    def part(self, z: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """The channels of the next group."""
        return z.chunk(len(self.books), dim=-1)[len(rows)]

    def joined(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """The groups in a row."""
        return [torch.cat(list(rows), dim=-1)]
