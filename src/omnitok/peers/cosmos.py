"""Cosmos video tokenizers (arXiv 2501.03575; github.com/NVIDIA/Cosmos-Tokenizer): wavelets, then convolutions and
attention over space and over past frames in turn; continuous (CV) or with FSQ (DV).

Attributes have the released names, so that weights need no renaming.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.errors import CheckpointError
from omnitok.hub.architectures import shape_of
from omnitok.hub.released.flags import Flags
from omnitok.models.config import Count, Depth, Size, Widths
from omnitok.peers.blocks import Attention, each_frame
from omnitok.peers.causal import CausalBlock, CausalPeer, Memory, after_past, check_levels
from omnitok.peers.family import Family, Shapes, count

PATCH = 4
"""Pixels along each axis that the wavelets gather."""


@checked
class CosmosConfig:
    """The network's shape; the defaults are Cosmos-1.0-Tokenizer-CV8x8x8.

    Attributes:
        width: channels after the first convolution.
        widths, decoder_widths: channels of each level of the encoder and of the decoder, both finest first.
        blocks: of each level of the encoder; the decoder has one more.
        downsample_time, downsample_space: frames, and height and width, per latent position.
        fsq_levels: of each latent channel; None for continuous latents.
    """

    width: Size = 128
    widths: Widths = (256, 512, 512)
    decoder_widths: Widths = (256, 512, 512)
    blocks: Depth = 2
    z_channels: Size = 16
    latent_channels: Size = 16
    downsample_time: Literal[4, 8, 16] = 8
    downsample_space: Literal[4, 8, 16] = 8
    fsq_levels: tuple[Count, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> "CosmosConfig":
        check_levels(self.fsq_levels, self.latent_channels)
        return self

    @property
    def halvings(self) -> tuple[int, int]:
        """Of time and of space, after the wavelets."""
        return (self.downsample_time // PATCH).bit_length() - 1, (self.downsample_space // PATCH).bit_length() - 1

    def halves(self, level: int) -> tuple[bool, bool]:
        """Whether the step after a level of the encoder halves time, and space."""
        time, space = self.halvings
        return level < time, level < space

    def doubles(self, level: int) -> tuple[bool, bool]:
        """Whether the step after a level of the decoder doubles time, and space."""
        time, space = self.halvings
        turn = len(self.decoder_widths) - 1 - level
        doubles_time = 0 < turn <= time
        return doubles_time, doubles_time or (turn < space and space > time)


# ------------------------------------------------------------------------------------------------------------ wavelets


def to_wavelets(x: Tensor, begins: bool = True) -> Tensor:
    """Pixels (b, 3, 1 + 4k, H, W) -> (b, 192, 1 + k, H / 4, W / 4): twice sums and differences of neighbours.

    The first frame of a video stands four times; a later piece has 4k frames. Bands are sums and differences over time,
    height and width, time outermost.
    """
    if begins:
        x = torch.cat([x[:, :, :1].expand(-1, -1, PATCH - 1, -1, -1), x], dim=2)
    for _ in range(2):
        for axis in (4, 3, 2):  # the innermost band first
            pairs = x.unflatten(axis, (-1, 2))
            first, second = pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)
            x = torch.cat([first + second, first - second], dim=1)
        x = x / 8
    return x


def from_wavelets(x: Tensor, begins: bool = True) -> Tensor:
    """The pixels of wavelets: the inverse of `to_wavelets`."""
    for _ in range(2):
        for axis in (2, 3, 4):
            total, difference = x.chunk(2, dim=1)
            x = torch.stack([total + difference, total - difference], dim=axis + 1).flatten(axis, axis + 1)
    return x[:, :, PATCH - 1 :] if begins else x


# -------------------------------------------------------------------------------------------------------------- layers


def begins(layer: nn.Module, memory: Memory | None) -> bool:
    """Whether a layer is given the beginning of a video."""
    return memory is None or layer not in memory


class FrameNorm(nn.Module):
    """Normalisation over all of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) -> (b, c, t, h, w)."""
        return each_frame(self.norm, x)


class Convolution(nn.Module):
    """Over time, the first frame standing before itself, or over space; `halves` takes every second position."""

    def __init__(self, inputs: int, outputs: int, time: int = 1, space: int = 1, halves: bool = False) -> None:
        super().__init__()
        stride = 2 if halves else 1
        steps = (stride, 1, 1) if time > 1 else (1, stride, stride)
        border = 0 if halves else space // 2
        self.conv3d = nn.Conv3d(inputs, outputs, (time, space, space), steps, (0, border, border))
        self.past = time - stride if time > 1 else 0

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(b, inputs, t, h, w) -> (b, outputs, t', h', w')."""
        return self.conv3d(after_past(self, x, self.past, memory) if self.past else x)


class InTurn(nn.Sequential):
    """Layers one after another."""

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(b, inputs, t, h, w) -> (b, outputs, t', h', w')."""
        for layer in self:
            x = layer(x, memory)
        return x


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """Kernel 3 is one over space, then one over time."""
    if kernel == 1:
        return Convolution(inputs, outputs)
    return InTurn(Convolution(inputs, outputs, space=kernel), Convolution(outputs, outputs, time=kernel))


def block(inputs: int, outputs: int) -> CausalBlock:
    """A residual block."""
    return CausalBlock(inputs, outputs, FrameNorm, convolution)


class SpaceAttention(Attention):
    """Over the places of each frame."""

    def __init__(self, width: int) -> None:
        super().__init__(width, FrameNorm, convolution, "b c t h w", "(b t) (h w) c")

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Features -> features of the same shape."""
        return super().forward(x)


class TimeAttention(Attention):
    """Over the frames up to each one, at its place. A stream keeps the keys and values of all frames."""

    def __init__(self, width: int) -> None:
        super().__init__(width, FrameNorm, convolution, "b c t h w", "(b h w) t c", causal=True)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Features -> features of the same shape."""
        if memory is None:
            return super().forward(x)
        q, k, v = self.queries_keys_values(x)
        for part, new in ((self.k, k), (self.v, v)):
            memory[part] = torch.cat([memory[part], new], dim=2) if part in memory else new
        k, v = memory[self.k], memory[self.v]
        given, seen = q.shape[2], k.shape[2]
        past = torch.ones(given, seen, dtype=torch.bool, device=x.device).tril(seen - given)
        return self.attend(x, q, k, v, past)


class Middle(nn.Module):
    """A block, attention over space and over time, a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = block(width, width), block(width, width)
        self.attn_1 = InTurn(SpaceAttention(width), TimeAttention(width))

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """(b, c, t, h, w) -> (b, c, t, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x, memory), memory), memory)


class Halving(nn.Module):
    """Half of space, then of time: each a convolution plus the average of neighbours. A step of neither does nothing,
    though its layers are in the files.
    """

    def __init__(self, width: int, time: bool, space: bool) -> None:
        super().__init__()
        self.time, self.space = time, space
        self.conv1 = Convolution(width, width, space=3, halves=True)
        self.conv2 = Convolution(width, width, time=3, halves=True)
        self.conv3 = Convolution(width, width)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """(b, c, t, h, w) -> (b, c, t', h', w'), where 1 + 2k frames become 1 + k, and later ones half as many."""
        if not (self.time or self.space):
            return x
        if self.space:
            average = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).mean((4, 6))
            x = self.conv1(F.pad(x, (0, 1, 0, 1))) + average
        if self.time:
            if begins(self.conv2, memory):
                x = torch.cat([x[:, :, :1], x], dim=2)
            x = self.conv2(x, memory) + x.unflatten(2, (-1, 2)).mean(3)
        return self.conv3(x)


class Doubling(nn.Module):
    """Twice the time, then space: each neighbours repeated, plus a convolution of them. A step of neither does nothing,
    though its layers are in the files.
    """

    def __init__(self, width: int, time: bool, space: bool) -> None:
        super().__init__()
        self.time, self.space = time, space
        self.conv1 = Convolution(width, width, time=3)
        self.conv2 = Convolution(width, width, space=3)
        self.conv3 = Convolution(width, width)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """(b, c, t, h, w) -> (b, c, t', h', w'), where 1 + k frames become 1 + 2k, and later ones twice as many."""
        if not (self.time or self.space):
            return x
        if self.time:
            x = x.repeat_interleave(2, dim=2)[:, :, int(begins(self.conv1, memory)) :]
            x = x + self.conv1(x, memory)
        if self.space:
            x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
            x = x + self.conv2(x)
        return self.conv3(x)


class Level(nn.Module):
    """Blocks, and the step after them: `downsample`, `upsample` or none."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.block = InTurn(*(block(inputs if j == 0 else outputs, outputs) for j in range(blocks)))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """(b, inputs, t, h, w) -> (b, outputs, t', h', w')."""
        x, step = self.block(x, memory), self.downsample or self.upsample
        return x if step is None else step(x, memory)


class Encoder(nn.Module):
    """Pixels (b, 3, T, H, W) -> features (b, z_channels, t, h, w)."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = convolution(3 * PATCH**3, config.width, 3)
        self.down = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((config.width, *widths), widths, strict=False)):
            level = Level(inputs, outputs, config.blocks)
            level.downsample = Halving(outputs, *config.halves(i)) if i < last else None
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = FrameNorm(widths[-1])
        self.conv_out = convolution(widths[-1], config.z_channels, 3)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """Sizes are multiples of the downsampling, but that there is one frame more at the beginning."""
        x = self.conv_in(to_wavelets(x, not memory), memory)
        for level in self.down:
            x = level(x, memory)
        return self.conv_out(F.silu(self.norm_out(self.mid(x, memory))), memory)


class Decoder(nn.Module):
    """Features (b, z_channels, t, h, w) -> pixels (b, 3, T, H, W), not clamped. Level 0 is the finest."""

    def __init__(self, config: CosmosConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.conv_in = convolution(config.z_channels, widths[-1], 3)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True)):
            level = Level(inputs, outputs, config.blocks + 1)
            level.upsample = Doubling(outputs, *config.doubles(i)) if i > 0 else None
            self.up.append(level)
        self.norm_out = FrameNorm(widths[0])
        self.conv_out = convolution(widths[0], 3 * PATCH**3, 3)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """Any size."""
        begins = not memory
        x = self.mid(self.conv_in(x, memory), memory)
        for level in reversed(self.up):
            x = level(x, memory)
        return from_wavelets(self.conv_out(F.silu(self.norm_out(x)), memory), begins)


class Cosmos(CausalPeer):
    """A released Cosmos tokenizer of videos. `config` holds the fields of `CosmosConfig`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        shape = CosmosConfig(**config)
        space, channels = shape.downsample_space, shape.latent_channels
        super().__init__(config, "Cosmos", channels, (shape.downsample_time, space, space), shape.fsq_levels)
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.quant_conv = Convolution(shape.z_channels, channels)
        self.post_quant_conv = Convolution(channels, shape.z_channels)

    def encode_piece(self, pixels: Tensor, memory: Memory | None) -> Tensor:
        """Latents, before FSQ where there is one."""
        return self.quant_conv(self.encoder(pixels, memory))

    def decode_piece(self, latents: Tensor, memory: Memory | None, ends: bool) -> Tensor:
        """Pixels, not clamped."""
        if latents.shape[2] == 0:
            return latents.new_empty(len(latents), 3, 0, *(s * self.downsample[1] for s in latents.shape[3:]))
        return self.decoder(self.post_quant_conv(latents), memory)


# --------------------------------------------------------------------------------------------------------------- files

_ONLY_VALUE = {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": PATCH,
    "patch_method": "haar",
    "num_groups": 1,
    "legacy_mode": False,
    "formulation": "AE",
    "quantizer": "FSQ",
    "encoder": "FACTORIZED",
    "decoder": "FACTORIZED",
}
_FSQ_LEVELS = (8, 8, 8, 5, 5, 5)
_NOT_WEIGHTS = re.compile(r"(inv_quant\.)?quantizer\..*|.*\.(wavelets|_arange|patch_size_buffer)")
_NAME = re.compile(r"[CD]V(4|8|16)x(4|8|16)x\2(?!\d)")


def recognises(shapes: Shapes) -> bool:
    """Whether weights of these names are those of a Cosmos tokenizer of videos."""
    return any(f"{part}.conv_in.0.conv3d.weight" in shapes for part in ("encoder", "decoder"))


def hints(path: Path) -> dict[str, object]:
    """The compression, which neither the weights nor the archive tell: it is in the published names."""
    for name in (path.name, path.absolute().parent.name):
        if match := _NAME.search(name):
            return {"temporal_compression": int(match[1]), "spatial_compression": int(match[2])}
    return {}


def convert(state_dict: dict[str, Tensor], flags: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a released file. The weights tell all but the compression and the levels of FSQ.

    Raises:
        CheckpointError: an unknown compression, flags of no release, or missing weights.
    """
    Flags(flags).only(_ONLY_VALUE)
    weights = {name: tensor for name, tensor in state_dict.items() if not _NOT_WEIGHTS.fullmatch(name)}
    compression = [flags.get("temporal_compression"), flags.get("spatial_compression")]
    if None in compression:
        raise CheckpointError(
            "Cosmos weights do not say how much they compress: keep the published name (such as "
            "Cosmos-1.0-Tokenizer-CV8x8x8) in the name of the file or of its folder"
        )
    widths = {
        part: tuple(
            shape_of(weights, f"{part}.{i}.block.0.conv1.0.conv3d.weight", 5)[0]
            for i in range(max(1, count(weights, f"{part}.")))
        )
        for part in ("encoder.down", "decoder.up")
    }
    channels, z_channels = shape_of(weights, "quant_conv.conv3d.weight", 5)[:2]
    levels = flags.get("levels", _FSQ_LEVELS if channels == len(_FSQ_LEVELS) else None)
    config = CosmosConfig(
        width=shape_of(weights, "encoder.conv_in.0.conv3d.weight", 5)[0],
        widths=widths["encoder.down"],
        decoder_widths=widths["decoder.up"],
        blocks=count(weights, "encoder.down.0.block."),
        z_channels=z_channels,
        latent_channels=channels,
        downsample_time=compression[0],  # type: ignore[arg-type]  # checked there
        downsample_space=compression[1],  # type: ignore[arg-type]
        fsq_levels=levels,  # type: ignore[arg-type]
    )
    return dataclasses.asdict(config), weights


FAMILY = Family("cosmos-video", Cosmos, recognises, convert, hints)
