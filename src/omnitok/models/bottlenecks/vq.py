"""Vector quantization: the nearest code of a codebook learnt by moving averages."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.checked import NotNegative, Share, checked
from omnitok.models.bottlenecks.base import Quantizer, sample_generators
from omnitok.models.bottlenecks.codebook import Codebook, random_directions
from omnitok.models.config import Size


@checked
class VQConfig:
    """A codebook of `codebook_size` codes of `latent_channels` channels, and how it learns.

    Attributes:
        decay: of the moving averages.
        normalize_codes: keep the rows of the codebook on the unit sphere too (False: the released weights).
        restart_threshold: rows used less than this share of the mean use are restarted; 0 switches it off.
    """

    is_discrete: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("commitment", "entropy")
    learning: ClassVar[tuple[str, ...]] = ("decay", "restart_threshold")

    type: Literal["vq"] = "vq"
    latent_channels: Size = 8
    codebook_size: Size = 8192
    decay: Share = 0.99
    normalize_codes: bool = True
    restart_threshold: NotNegative = 0.1


class VectorQuantizer(Quantizer, Codebook):
    """Nearest neighbour in a codebook of low-dimensional, l2-normalised codes, learnt by moving averages.

    Features are projected to `latent_channels` channels, put on the unit sphere and replaced by the nearest row of the
    codebook in Euclidean distance (van den Oord et al., 2017; Yu et al., 2022 for the low dimension and the norm). The
    tables of `Codebook` are its own, beside its projections, as in the released weights.

    With `quantize=False` the points of the unit sphere pass as they are: a codebook initialised after some such steps
    finds features that use every channel, where one initialised at once mostly codes brightness.

    Args:
        width: channels of the features.
    """

    config: VQConfig

    def __init__(self, width: int, config: VQConfig = VQConfig()) -> None:  # noqa: B008 (frozen)
        project_in, project_out = nn.Linear(width, config.latent_channels), nn.Linear(config.latent_channels, width)
        table = random_directions(config.codebook_size, config.latent_channels)
        Codebook.__init__(self, table, is_spherical=True, normalize_codes=config.normalize_codes)
        self.config, self.latent_channels, self.vocab_size = config, config.latent_channels, config.codebook_size
        self.code_bases, self.bits_per_token = (config.codebook_size,), math.log2(config.codebook_size)
        self.project_in, self.project_out = project_in, project_out

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> points of the unit sphere, (b, t, h, w, c)."""
        return F.normalize(self.project_in(features.float()), dim=-1)

    def codes_of(self, z: Tensor) -> Tensor:
        """The nearest code of each z (..., c): (...)."""
        return self.nearest(z.reshape(-1, self.latent_channels)).reshape(z.shape[:-1])

    def assign(self, z: Tensor, seeds: Sequence[int] | None) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """As of every quantizer; in training mode the codebook is initialised (once), updated, restarted where dead."""
        if not self.training:
            return super().assign(z, seeds)
        flat, generators = z.reshape(-1, self.latent_channels), sample_generators(seeds, len(z))
        codes, rows, statistics = self.learn(flat, generators, self.config.decay, self.config.restart_threshold)
        return codes.reshape(z.shape[:-1]), [rows.reshape(z.shape)], statistics

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the codebook: codes (...) -> (..., c)."""
        return self.rows(codes)

    def similarities(self, z: Tensor) -> list[Tensor]:
        """Negative squared distances of z (n, c) to all codes: (n, codes)."""
        return [self.scores(z)]
