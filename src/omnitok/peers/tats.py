"""TATS (arXiv 2204.03638; github.com/SongweiGe/TATS): a VQGAN of 3-D convolutions whose border is the last pixels.

Attributes have the released names, so that weights need no renaming.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.errors import CheckpointError
from omnitok.hub.architectures import shape_of
from omnitok.models.bottlenecks.codebook import nearest_rows
from omnitok.models.config import Size
from omnitok.peers.base import Coded, PeerTokenizer, Traits
from omnitok.peers.blocks import ResidualBlock
from omnitok.peers.family import Family, Shapes

Padding = Literal["replicate", "reflect", "circular", "constant"]


@checked
class TATSConfig:
    """The network's shape; the defaults are the released ones, but for the width.

    Attributes:
        width: channels after the first convolution; each halving doubles them.
        downsample: frames, height and width per latent position, powers of two.
        norm: "batch" (statistics of the training) or "group" (32 groups).
        padding: the border of the convolutions that halve, and of the encoder's first; everywhere else it is the last
            pixel again.
    """

    width: Size = 32
    downsample: tuple[Size, Size, Size] = (4, 8, 8)
    latent_channels: Size = 256
    codebook_size: Size = 16384
    norm: Literal["batch", "group"] = "batch"
    padding: Padding = "replicate"

    @model_validator(mode="after")
    def _check(self) -> "TATSConfig":
        if any(size & (size - 1) for size in self.downsample) or max(self.downsample) == 1:
            raise ValueError(f"downsample must be powers of two, found {self.downsample}")
        return self

    @property
    def strides(self) -> list[tuple[int, int, int]]:
        """Of each step: 2 along the axes that are still to be halved."""
        halvings = [size.bit_length() - 1 for size in self.downsample]
        return [tuple(2 if step < n else 1 for n in halvings) for step in range(max(halvings))]  # type: ignore[misc]

    def normalisation(self, channels: int) -> nn.Module:
        """One for features of that many channels."""
        return nn.BatchNorm3d(channels) if self.norm == "batch" else nn.GroupNorm(32, channels, eps=1e-6)


def _borders(kernel: int, stride: tuple[int, int, int]) -> list[int]:
    """What F.pad adds so that a convolution gives size / stride; the odd one of an even kernel comes before."""
    borders = []
    for step in reversed(stride):
        missing = kernel - step
        borders += [missing // 2 + missing % 2, missing // 2]
    return borders


class Convolution(nn.Module):
    """A convolution that divides the size by `stride`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: Padding = "replicate",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride)
        self.borders, self.mode = _borders(kernel, stride), padding

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, t, h, w) -> (b, outputs, t', h', w')."""
        return self.conv(F.pad(x, self.borders, self.mode) if any(self.borders) else x)


class TransposedConvolution(nn.Module):
    """A convolution that multiplies the size by `stride`, over a border that the input has around it."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.convt = nn.ConvTranspose3d(inputs, outputs, 4, stride, padding=3)
        self.borders = _borders(4, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, t, h, w) -> (b, outputs, t', h', w')."""
        return self.convt(F.pad(x, self.borders, "replicate"))


def residual(config: TATSConfig, channels: int) -> ResidualBlock:
    """A residual block that keeps the width."""
    return ResidualBlock(channels, channels, config.normalisation, Convolution)


class EncoderStep(nn.Module):
    """One halving, to twice the channels."""

    def __init__(self, config: TATSConfig, channels: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.down = Convolution(channels, 2 * channels, 4, stride, config.padding)
        self.res = residual(config, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) -> (b, 2c, t', h', w')."""
        return self.res(self.down(x))


class DecoderStep(nn.Module):
    """One doubling."""

    def __init__(self, config: TATSConfig, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.up = TransposedConvolution(inputs, outputs, stride)
        self.res1, self.res2 = residual(config, outputs), residual(config, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, t, h, w) -> (b, outputs, t', h', w')."""
        return self.res2(self.res1(self.up(x)))


class Encoder(nn.Module):
    """Pixels (b, 3, T, H, W) in [-0.5, 0.5] -> features (b, width * 2^steps, t, h, w)."""

    def __init__(self, config: TATSConfig) -> None:
        super().__init__()
        width, strides = config.width, config.strides
        self.conv_first = Convolution(3, width, 3, padding=config.padding)
        self.conv_blocks = nn.Sequential(*(EncoderStep(config, width * 2**i, s) for i, s in enumerate(strides)))
        self.final_block = nn.Sequential(config.normalisation(width * 2 ** len(strides)), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """Sizes are multiples of `downsample`."""
        return self.final_block(self.conv_blocks(self.conv_first(x)))


class Decoder(nn.Module):
    """Features (b, width * 2^steps, t, h, w) -> pixels (b, 3, T, H, W) about [-0.5, 0.5]."""

    def __init__(self, config: TATSConfig) -> None:
        super().__init__()
        strides, widest = config.strides, config.width * 2 ** len(config.strides)
        widths = [widest, *(widest // 2**i for i in range(len(strides)))]  # the first step keeps the width
        self.final_block = nn.Sequential(config.normalisation(widest), nn.SiLU())
        steps = zip(widths, widths[1:], strides, strict=False)
        self.conv_blocks = nn.Sequential(*(DecoderStep(config, i, o, stride) for i, o, stride in steps))
        self.conv_last = Convolution(widths[-1], 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Any size."""
        return self.conv_last(self.conv_blocks(self.final_block(x)))


class Codebook(nn.Module):
    """A table of codes."""

    embeddings: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.empty(size, channels))

    def forward(self, z: Tensor) -> Tensor:
        """The nearest rows (n,) of z (n, c)."""
        return nearest_rows(z.float(), self.embeddings.float())


class TATS(PeerTokenizer):
    """A released TATS tokenizer of videos. `config` holds the fields of `TATSConfig`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        shape = TATSConfig(**config)
        channels, widest = shape.latent_channels, shape.width * 2 ** len(shape.strides)
        traits = Traits(
            "TATS", channels, shape.downsample, shape.codebook_size, is_video_model=True, first_frame_alone=False
        )
        super().__init__(config, traits)
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.pre_vq_conv, self.post_vq_conv = Convolution(widest, channels, 1), Convolution(channels, widest, 1)
        self.codebook = Codebook(shape.codebook_size, channels)

    def encode_pixels(self, pixels: Tensor) -> Coded:
        """The code of each latent is the nearest row of the table."""
        z = self.pre_vq_conv(self.encoder(pixels / 2)).movedim(1, -1)
        codes = self.codebook(z.flatten(0, 3)).reshape(z.shape[:-1])
        return Coded(self.lookup(codes).movedim(-1, 1), codes)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels, not clamped."""
        return 2 * self.decoder(self.post_vq_conv(latents))

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the table."""
        return self.codebook.embeddings[codes]


_TRAINING = ("image_discriminator.", "video_discriminator.", "perceptual_model.", "codebook.N", "codebook.z_avg")


def recognises(shapes: Shapes) -> bool:
    """Whether weights of these names are those of a TATS tokenizer."""
    return "encoder.conv_first.conv.weight" in shapes or "decoder.conv_blocks.0.up.convt.weight" in shapes


def convert(state_dict: dict[str, Tensor], flags: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a released file. The weights tell all but the strides and the padding.

    Raises:
        CheckpointError: flags that are missing, or that the weights contradict.
    """
    weights = {name: tensor for name, tensor in state_dict.items() if not name.startswith(_TRAINING)}
    steps = len({name.split(".")[2] for name in weights if name.startswith("encoder.conv_blocks.")})
    downsample = flags.get("downsample", TATSConfig.downsample)
    if not isinstance(downsample, list | tuple) or len(downsample) != 3:
        raise CheckpointError(f"flag downsample must be three whole numbers, found {downsample!r}")
    codes, channels = shape_of(weights, "codebook.embeddings", 2)
    config = TATSConfig(
        width=shape_of(weights, "encoder.conv_first.conv.weight", 5)[0],
        downsample=tuple(downsample),
        latent_channels=channels,
        codebook_size=codes,
        norm="batch" if any(name.endswith(".running_mean") for name in weights) else "group",
        padding=flags.get("padding_type", "replicate"),  # type: ignore[arg-type]  # checked there
    )
    if len(config.strides) != steps:
        raise CheckpointError(f"flag downsample is {list(downsample)}, but the weights have {steps} steps")
    return dataclasses.asdict(config), weights


FAMILY = Family("tats", TATS, recognises, convert)
