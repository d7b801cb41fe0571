"""Layers that several families of tokenizers share. Attributes have the released names, so weights need no renaming."""

from collections.abc import Callable

import torch.nn.functional as F
from einops import parse_shape, rearrange
from torch import Tensor, nn

from omnitok.models.bottlenecks import FiniteScalarQuantizer, FSQConfig

Norm = Callable[[int], nn.Module]
"""Channels -> a normalisation."""
Convolution = Callable[[int, int, int], nn.Module]
"""Channels in, channels out and kernel (3 or 1) -> a convolution that keeps height and width."""


def group_norm(channels: int) -> nn.GroupNorm:
    """The normalisation of VQGAN (arXiv 2012.09841) and what came of it: 32 groups, epsilon 1e-6."""
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv2d(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution with bias and a border of zeros."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class ResidualBlock(nn.Module):
    """Twice normalisation, swish and a convolution of kernel 3; plus the input (by kernel 1 where widths differ)."""

    def __init__(self, inputs: int, outputs: int, norm: Norm = group_norm, convolution: Convolution = conv2d) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = convolution(inputs, outputs, 3)
        self.norm2 = norm(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.nin_shortcut = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, ...) -> (b, outputs, ...)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """One head of attention over some axes, plus the input.

    Args:
        axes: of the features, as einops names them: "b c h w", "b c t h w".
        sequences: the same axes as (sequences) (positions of one sequence) c: "b (h w) c" attends over all positions of
            an image, "(b h w) t c" over the frames at each place.
        causal: whether a position sees only the ones before it and itself.
    """

    def __init__(
        self,
        channels: int,
        norm: Norm = group_norm,
        convolution: Convolution = conv2d,
        axes: str = "b c h w",
        sequences: str = "b (h w) c",
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (convolution(channels, channels, 1) for _ in range(4))
        self.axes, self.sequences, self.causal = axes, sequences, causal

    def forward(self, x: Tensor) -> Tensor:
        """Features -> features of the same shape."""
        return self.attend(x, *self.queries_keys_values(x), is_causal=self.causal)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features -> (sequences, 1, positions, c) each."""
        h = self.norm(x)
        q, k, v = (rearrange(part(h), f"{self.axes} -> {self.sequences}") for part in (self.q, self.k, self.v))
        # with an axis of heads and channels that lie together, the scores are never held at once
        return q.unsqueeze(1).contiguous(), k.unsqueeze(1).contiguous(), v.unsqueeze(1).contiguous()

    def attend(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Features, and what `queries_keys_values` gives for them and maybe for earlier ones -> features."""
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal).squeeze(1)  # scores * channels^-0.5
        return x + self.proj_out(rearrange(mixed, f"{self.sequences} -> {self.axes}", **parse_shape(x, self.axes)))


def each_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of images over the frames (b, c, t, h, w)."""
    return rearrange(layer(rearrange(x, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", b=len(x))


class Downsample(nn.Module):
    """Half of height and width: a row and a column of zeros at the bottom and right, then kernel 3 with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h / 2, w / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width: nearest neighbours, then kernel 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def scalar_quantizer(levels: tuple[int, ...]) -> FiniteScalarQuantizer:
    """FSQ of latents as they are: what maps features to them stands elsewhere in the network."""
    quantizer = FiniteScalarQuantizer(len(levels), FSQConfig(levels=levels))
    quantizer.project_in = quantizer.project_out = nn.Identity()  # type: ignore[assignment]
    return quantizer
