"""Finite scalar quantization (Mentzer et al., 2023, arXiv 2309.15505): each channel is rounded to one of a few levels.

There is no codebook to learn, so there is nothing to collapse, and no auxiliary loss.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from omnitok.checked import checked
from omnitok.models.bottlenecks.base import Quantizer, check_code_count, digits, from_digits

EPSILON = 1e-3  # widens the bound a little, so that the outermost levels are reached before tanh saturates


@checked
class FSQConfig:
    """Levels of each latent channel; their product is the number of codes.

    The paper's for about 2^8, 2^10, 2^12, 2^14 and 2^16 codes are (8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5),
    (8, 8, 8, 6, 5) and (8, 8, 8, 5, 5, 5).
    """

    is_discrete: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ()
    learning: ClassVar[tuple[str, ...]] = ()

    type: Literal["fsq"] = "fsq"
    levels: Annotated[tuple[Annotated[int, Field(ge=3, le=1000)], ...], Field(min_length=1, max_length=16)] = (
        8,
        5,
        5,
        5,
    )

    @model_validator(mode="after")
    def _check(self) -> "FSQConfig":
        check_code_count(self.levels, "levels")
        return self

    @property
    def latent_channels(self) -> int:
        """One for each entry of `levels`."""
        return len(self.levels)


class FiniteScalarQuantizer(Quantizer):
    """Channel i is bounded to an interval that holds `levels[i]` whole numbers, and rounded to the nearest.

    The bound is (L - 1) / 2 * tanh(z + shift) - offset, where an even L has an offset of half a level, so that there
    are as many levels on either side, and a shift that maps 0 to 0. Latents are the whole numbers over floor(L / 2),
    which lie in [-1, 1]. The gradient passes straight through the rounding.

    A code is the number whose digits in the mixed base `levels` are the channels' levels, the first one counting 1.

    Args:
        width: channels of the features.
    """

    config: FSQConfig

    def __init__(self, width: int, config: FSQConfig = FSQConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__(width, config, math.prod(config.levels))
        self.code_bases = config.levels

    def _levels(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.levels, device=like.device)  # (c,); no state, so no buffer

    def bound(self, z: Tensor) -> Tensor:
        """z (..., c), any value -> (..., c) in the interval of each channel's levels, not yet rounded."""
        levels = self._levels(z)
        half = (levels - 1) * (1 + EPSILON) / 2
        offset = 0.5 * (levels % 2 == 0)
        return (z + (offset / half).atanh()).tanh() * half - offset

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> bounded channels in [-1, 1] or a little beyond."""
        bounded = self.bound(self.project_in(features.float()))
        return bounded / (self._levels(bounded) // 2)

    def codes_of(self, z: Tensor) -> Tensor:
        """The nearest level of each channel of bounded z (..., c): (...)."""
        half_width = self._levels(z) // 2
        return from_digits((z * half_width).round() + half_width, self.code_bases)

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents of codes (...) -> (..., c)."""
        half_width = self._levels(codes) // 2
        return (digits(codes, self.code_bases) - half_width).float() / half_width
