"""Lookup-free quantization (Yu et al., 2023, MAGVIT-v2, arXiv 2310.05737): the code is the signs of the channels."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from omnitok.checked import checked
from omnitok.models.bottlenecks.base import Quantizer, digits, from_digits

Bits = Annotated[int, Field(ge=1, le=30, strict=True)]
GroupBits = Annotated[int, Field(ge=1, le=16, strict=True)]


@checked
class SignsConfig:
    """What the quantizers configure alike whose codes are the signs of `bits` channels: 2^bits codes.

    Attributes:
        group_bits: the loss "entropy" takes at most so many channels together, at a cost of 2^group_bits scores for
            each position. The entropy of a position is exact all the same, because its bits are independent given z;
            the entropy of their mean, which is to be large, is replaced by the sum over groups, its upper bound.
    """

    is_discrete: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("commitment", "entropy")
    learning: ClassVar[tuple[str, ...]] = ("group_bits",)

    bits: Bits = 13
    group_bits: GroupBits = 9

    @property
    def latent_channels(self) -> int:
        """One per bit."""
        return self.bits


@checked
class LFQConfig(SignsConfig):
    """`bits` channels, each of which becomes -1 or 1. The paper has 18."""

    type: Literal["lfq"] = "lfq"


class LookupFreeQuantizer(Quantizer):
    """Each channel of z becomes its sign: 1 where it is positive, -1 elsewhere (eq. 3 of the paper).

    Bit i of a code says whether channel i is positive, the first one counting 1 (eq. 4). There is no codebook to keep
    or to search; without the loss "entropy" (eq. 5) few of the codes come into use.

    Args:
        width: channels of the features.
    """

    def __init__(self, width: int, config: SignsConfig = LFQConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__(width, config, 2**config.bits)
        self.code_bases = (2,) * config.bits

    @property
    def scale(self) -> float:
        """Absolute value of each channel of a code vector."""
        return 1.0

    def project(self, features: Tensor) -> Tensor:
        """features (b, t, h, w, width) -> z (b, t, h, w, bits), of any value."""
        return self.project_in(features.float())

    def codes_of(self, z: Tensor) -> Tensor:
        """The signs of z (..., bits) as a number: (...)."""
        return from_digits(z > 0, self.code_bases)

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents of codes (...) -> (..., bits)."""
        return (2 * digits(codes, self.code_bases) - 1).float() * self.scale

    def similarities(self, z: Tensor) -> list[Tensor]:
        """Negative squared distances of each group of channels of z (n, bits) to its sign patterns: (n, 2^group)."""
        groups = z.tensor_split(-(-self.latent_channels // self.config.group_bits), dim=-1)
        return [self._distances(group) for group in groups]

    def _distances(self, group: Tensor) -> Tensor:
        bits = group.shape[1]
        patterns = (2 * digits(torch.arange(2**bits, device=group.device), [2] * bits) - 1).float() * self.scale
        return 2 * group @ patterns.t() - group.square().sum(dim=-1, keepdim=True) - bits * self.scale**2
