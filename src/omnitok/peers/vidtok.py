"""VidTok 1.1 (arXiv 2412.13061; github.com/microsoft/VidTok): frames and time in turn, causal, with KL or FSQ.

Attributes have the released names, so that weights need no renaming.
"""

import dataclasses
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.errors import CheckpointError, describe
from omnitok.hub.architectures import shape_of
from omnitok.hub.released.flags import Flags
from omnitok.models.config import Count, Depth, Size, Widths
from omnitok.peers.blocks import Attention, Downsample, ResidualBlock, Upsample, each_frame
from omnitok.peers.causal import CausalBlock, CausalPeer, Memory, after_past, check_levels
from omnitok.peers.family import Family, Shapes, count

Levels = tuple[Count, ...]


@checked
class VidTokConfig:
    """The network's shape; the defaults are vidtok_fsq_causal_488_32768_v1_1.

    Attributes:
        widths: channels of each level.
        blocks: of each level of the encoder; the decoder has one more.
        halve_space, halve_time: levels of the encoder that end in a halving.
        double_space, double_time: levels of the decoder that end in a doubling; they are numbered as the encoder's.
        fsq_levels: of each latent channel; None for a Gaussian.
    """

    widths: Widths = (128, 256, 512, 512)
    blocks: Depth = 2
    halve_space: Levels = (0, 1, 2)
    halve_time: Levels = (1, 2)
    double_space: Levels = (1, 2, 3)
    double_time: Levels = (1, 2)
    latent_channels: Size = 5
    fsq_levels: tuple[Annotated[int, Field(ge=3, le=1000)], ...] | None = (8, 8, 8, 8, 8)

    @model_validator(mode="after")
    def _check(self) -> "VidTokConfig":
        check_levels(self.fsq_levels, self.latent_channels)
        return self


class ChannelNorm(nn.Module):
    """Normalisation over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, ...) -> (b, c, ...)."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class CausalConvolution(nn.Module):
    """Kernel 3 over time, or space and time, or kernel 1: the first frame stands before itself, zeros around each."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, space: bool = True, stride: int = 1) -> None:
        super().__init__()
        self.past = kernel - stride
        if space:
            border = (0, kernel // 2, kernel // 2)
            self.conv: nn.Conv3d | nn.Conv1d = nn.Conv3d(inputs, outputs, kernel, (stride, 1, 1), border)
        else:
            self.conv = nn.Conv1d(inputs, outputs, kernel)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(b, c, t, ...) -> (b, c', t / stride, ...)."""
        if x.shape[2] == 0:  # a stream's end may bring nothing to the layers before the first doubling
            return x.new_empty(len(x), self.conv.out_channels, *x.shape[2:])
        return self.conv(after_past(self, x, self.past, memory) if self.past else x)


def block(width: int, space: bool) -> CausalBlock:
    """A residual block over the past, of each place apart or of the places around it too."""
    return CausalBlock(width, width, ChannelNorm, lambda i, o, kernel: CausalConvolution(i, o, kernel, space))


class HalveTime(nn.Module):
    """Half the frames: a mixture of averages over three frames and of a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = CausalConvolution(width, width, stride=2)
        self.mix_factor = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, memory: Memory | None, ends: bool) -> Tensor:
        """(b, c, t, h, w), t even -> (b, c, t / 2, h, w)."""
        share = self.mix_factor.sigmoid()
        before = after_past(self, x, 1, memory)
        average = (before[:, :, :-2:2] + before[:, :, 1:-1:2] + before[:, :, 2::2]) / 3
        return share * average + (1 - share) * self.conv(x, memory)


class DoubleTime(nn.Module):
    """Twice the frames: linear interpolation, then a mixture with a convolution.

    A frame is doubled with its neighbours, so that its second half waits for the next frame. The frames of the first
    latent frame have no neighbours among the others.

    Args:
        first: how many frames the first latent frame has become.
    """

    def __init__(self, width: int, first: int) -> None:
        super().__init__()
        self.conv = CausalConvolution(width, width)
        self.mix_factor = nn.Parameter(torch.empty(1))
        self.first = first

    def forward(self, x: Tensor, memory: Memory | None, ends: bool) -> Tensor:
        """(b, c, t, h, w) -> (b, c, 2t, h, w), less the half frame that waits unless the video `ends`."""
        share = self.mix_factor.sigmoid()
        x = self._double(x, memory, ends)
        return share * x + (1 - share) * self.conv(x, memory)

    def _double(self, x: Tensor, memory: Memory | None, ends: bool) -> Tensor:
        waiting = None if memory is None else memory.get(self)
        if waiting is None:  # the beginning of the video
            first, x = x[:, :, : self.first], x[:, :, self.first :]
            doubled = [_interpolate(first)]
            waiting = x[:, :, :0]
        else:
            doubled = [x[:, :, :0]]
        x = torch.cat([waiting, x], dim=2)
        if memory is not None:
            memory[self] = x[:, :, -1:].clone()
        if x.shape[2]:
            halves = _interpolate(x)
            doubled.append(halves[:, :, waiting.shape[2] : halves.shape[2] - (not ends)])
        return torch.cat(doubled, dim=2)


def _interpolate(x: Tensor) -> Tensor:
    """Each frame (b, c, t, h, w) twice, three parts of it and one of the frame that is nearer."""
    before = torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2)
    after = torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    return torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], dim=3).flatten(2, 3)


def each_place(layer: nn.Module, x: Tensor, memory: Memory | None) -> Tensor:
    """A layer of sequences over the frames at each place of (b, c, t, h, w)."""
    b, _, _, h, w = x.shape
    y = layer(rearrange(x, "b c t h w -> (b h w) c t"), memory)
    return rearrange(y, "(b h w) c t -> b c t h w", b=b, h=h, w=w)


class Middle(nn.Module):
    """A block, attention over the places of each frame, a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = block(width, space=True), block(width, space=True)
        self.attn_1 = Attention(width, ChannelNorm, CausalConvolution, axes="b c t h w", sequences="(b t) (h w) c")

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """(b, c, t, h, w) -> (b, c, t, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x, memory)), memory)


class Blocks(nn.Module):
    """Of one level, over space or over time, and the step after them: `downsample`, `upsample` or none."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None


def blocks_of_level(inputs: int, outputs: int, blocks: int) -> tuple[Blocks, Blocks]:
    """Over space and over time."""
    space = (ResidualBlock(inputs if j == 0 else outputs, outputs, ChannelNorm) for j in range(blocks))
    return Blocks(space), Blocks(block(outputs, space=False) for _ in range(blocks))


def run_level(space: Any, time: Any, x: Tensor, memory: Memory | None, ends: bool = True) -> Tensor:
    """Blocks over space and over time in turn, then the steps: (b, inputs, t, h, w) -> (b, outputs, t', h', w')."""
    for over_space, over_time in zip(space.block, time.block, strict=True):
        x = each_place(over_time, each_frame(over_space, x), memory)
    space_step, time_step = space.downsample or space.upsample, time.downsample or time.upsample
    x = x if space_step is None else each_frame(space_step, x)
    return x if time_step is None else time_step(x, memory, ends)


class Encoder(nn.Module):
    """Pixels (b, 3, T, H, W) -> latents (b, c, t, h, w), mean and log-variance for a Gaussian."""

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConvolution(3, widths[0])
        self.down, self.down_temporal = nn.ModuleList(), nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            space, time = blocks_of_level(inputs, outputs, config.blocks)
            space.downsample = Downsample(outputs) if i in config.halve_space else None
            time.downsample = HalveTime(outputs) if i in config.halve_time else None
            self.down.append(space)
            self.down_temporal.append(time)
        self.mid = Middle(widths[-1])
        self.norm_out = ChannelNorm(widths[-1])
        channels = config.latent_channels * (1 if config.fsq_levels else 2)
        self.conv_out = CausalConvolution(widths[-1], channels)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """Sizes are multiples of the halvings; the first latent frame is of the first frames."""
        x = self.conv_in(x, memory)
        for space, time in zip(self.down, self.down_temporal, strict=True):
            x = run_level(space, time, x, memory)
        return self.conv_out(F.silu(self.norm_out(self.mid(x, memory))), memory)


class Decoder(nn.Module):
    """Latents (b, c, t, h, w) -> pixels (b, 3, T, H, W), not clamped. Levels are numbered as the encoder's."""

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConvolution(config.latent_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up, self.up_temporal = nn.ModuleList(), nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True)):
            space, time = blocks_of_level(inputs, outputs, config.blocks + 1)
            space.upsample = Upsample(outputs) if i in config.double_space else None
            doublings = sum(level > i for level in config.double_time)  # before this level, as the last level is first
            time.upsample = DoubleTime(outputs, 2**doublings) if i in config.double_time else None
            self.up.append(space)
            self.up_temporal.append(time)
        self.norm_out = ChannelNorm(widths[0])
        self.conv_out = CausalConvolution(widths[0], 3)

    def forward(self, z: Tensor, memory: Memory | None, ends: bool) -> Tensor:
        """All frames of the latent frames; of a video that does not end here, all that need no later latent frame."""
        x = self.mid(self.conv_in(z, memory), memory)
        for space, time in zip(reversed(self.up), reversed(self.up_temporal), strict=True):
            x = run_level(space, time, x, memory, ends)
        return self.conv_out(F.silu(self.norm_out(x)), memory)


class VidTok(CausalPeer):
    """A released VidTok 1.1 tokenizer. `config` holds the fields of `VidTokConfig`.

    A video of 1 + f k frames goes as the authors' code takes it: the first frame stands f times. They pad any other
    before its first frame; here the last frame is repeated, so that streams need not know how long a video is.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        shape = VidTokConfig(**config)
        time, space = 2 ** len(shape.halve_time), 2 ** len(shape.halve_space)
        levels = shape.fsq_levels
        super().__init__(
            config, "VidTok", shape.latent_channels, (time, space, space), levels, is_gaussian=levels is None
        )
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.unseen = time - 1  # frames that the first latent frame stands for beside the first frame

    def encode_piece(self, pixels: Tensor, memory: Memory | None) -> Tensor:
        """Latents, mean and log-variance for a Gaussian."""
        if not memory:
            pixels = torch.cat([pixels[:, :, :1].expand(-1, -1, self.unseen, -1, -1), pixels], dim=2)
        return self.encoder(pixels, memory)

    def decode_piece(self, latents: Tensor, memory: Memory | None, ends: bool) -> Tensor:
        """Pixels, not clamped."""
        unseen = 0 if memory else self.unseen
        return self.decoder(latents, memory, ends)[:, :, unseen:]


# --------------------------------------------------------------------------------------------------------------- files

V1_0 = (
    "VidTok 1.0 pads its convolutions otherwise than 1.1, under the same names, and would be decoded wrongly; accepted "
    "are causal models of VidTok 1.1"
)
_ONLY_VALUE = {
    "in_channels": 3,
    "out_ch": 3,
    "norm_type": "layernorm",
    "init_pad_mode": "replicate",
    "interpolation_mode": "trilinear",
}


def recognises(shapes: Shapes) -> bool:
    """Whether weights of these names are those of a VidTok tokenizer, of whichever version."""
    return any(name.startswith(("encoder.down_temporal.", "decoder.up_temporal.")) for name in shapes)


def version_in(*names: str) -> str | None:
    """The version that the first name which says one says: of causal weights, published, only 1.1 has its number."""
    for name in (re.sub(r"[\W_]+", "_", name.lower()) for name in names):
        if re.search(r"v1_1(?!\d)|vidtok\w*(?<!\d)1_1(?!\d)", name):
            return "1.1"
        if re.search(r"vidtok_\w*(?<!non)(?<!non_)causal|vidtok_1_0|vidtok_v1_0", name):
            return "1.0"
    return None


def check_version(version: object, name: object) -> None:
    """Refuse causal weights of 1.0, and warn of those that may be: nothing in them tells the versions apart.

    Args:
        version: "1.0" or "1.1"; anything else says nothing.
        name: of the file or folder, for the warning.

    Raises:
        CheckpointError: weights of 1.0.
    """
    if version == "1.0":
        raise CheckpointError(
            f"{V1_0}, whose files have v1_1 in their name or their folder's, or in the YAML file beside them"
        )
    if version != "1.1":
        warnings.warn(f"{name}: nothing says if this is VidTok 1.1, so it is taken for it; {V1_0}", stacklevel=2)


def hints(path: Path) -> dict[str, object]:
    """What tells 1.1 from 1.0 outside of a file without flags: the YAML of the same name beside it, its name, or that
    of its folder."""
    beside, text = path.with_suffix(".yaml"), ""
    if beside.is_file():
        with beside.open(encoding="utf-8", errors="replace") as file:
            text = file.read(2**20)
    version = version_in(path.stem, path.absolute().parent.name)
    if "model_3dcausal" in text:
        version = "1.1" if "model_3dcausal_v1_1." in text else "1.0"
    return {"version": version, "file": str(path)}


def convert(state_dict: dict[str, Tensor], flags: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a released file. The weights tell all but the version and the levels of FSQ.

    Raises:
        CheckpointError: weights of another version, flags of no release, or missing weights.
    """
    weights = {name: tensor for name, tensor in state_dict.items() if not name.startswith("loss.")}
    _check_version(weights, flags)
    levels = max(1, count(weights, "encoder.down."))
    channels = shape_of(weights, "decoder.conv_in.conv.weight", 5)[1]
    config = VidTokConfig(
        widths=tuple(shape_of(weights, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)),
        blocks=count(weights, "encoder.down.0.block."),
        halve_space=_steps(weights, "encoder.down.{}.downsample.", levels),
        halve_time=_steps(weights, "encoder.down_temporal.{}.downsample.", levels),
        double_space=_steps(weights, "decoder.up.{}.upsample.", levels),
        double_time=_steps(weights, "decoder.up_temporal.{}.upsample.", levels),
        latent_channels=channels,
        fsq_levels=_fsq_levels(flags, channels, shape_of(weights, "encoder.conv_out.conv.weight", 5)[0]),
    )
    return dataclasses.asdict(config), weights


def _check_version(weights: Mapping[str, Tensor], flags: Mapping[str, object]) -> None:
    """Refuse what is not causal or of version 1.0."""
    if "encoder.conv_in.weight" in weights:
        raise CheckpointError(
            "is a VidTok model that is not causal; accepted are causal models of VidTok 1.1 (diffusers has the others: "
            "AutoencoderVidTok, --model diffusers:FOLDER)"
        )
    for part in ("encoder_config", "decoder_config"):
        given = flags.get(part)
        if not isinstance(given, dict):
            continue
        if "_v1_1." not in str(given.get("target")):
            raise CheckpointError(f"{V1_0}, and {part} names {describe(given.get('target'))}")
        Flags(given.get("params", {})).only(_ONLY_VALUE)
    if "encoder_config" not in flags:
        check_version(flags.get("version"), describe(flags.get("file", "the file")))


def _steps(weights: Mapping[str, Tensor], pattern: str, levels: int) -> Levels:
    return tuple(i for i in range(levels) if any(name.startswith(pattern.format(i)) for name in weights))


def _fsq_levels(flags: Mapping[str, object], channels: int, outputs: int) -> tuple[int, ...] | None:
    """The flags' levels, or else 8 of each channel, as all releases have; None for a Gaussian."""
    if outputs == 2 * channels:
        return None
    regularizer = flags.get("regularizer_config")
    params = regularizer.get("params") if isinstance(regularizer, dict) else None
    return (params if isinstance(params, dict) else {}).get("levels", (8,) * channels)


FAMILY = Family("vidtok", VidTok, recognises, convert, hints)
