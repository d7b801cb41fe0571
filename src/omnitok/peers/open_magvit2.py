"""Open-MAGVIT2 (arXiv 2409.04410, github.com/TencentARC/SEED-Voken): codes are the signs of the latent channels."""

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.errors import OmnitokError
from omnitok.hub.architectures import shape_of
from omnitok.hub.released.flags import Flags
from omnitok.models.bottlenecks.base import digits, from_digits
from omnitok.models.config import Depth, Size, Widths
from omnitok.models.encoding import FEATURES_WHY, check_finite
from omnitok.peers.base import Coded, PeerTokenizer, Traits
from omnitok.peers.blocks import ResidualBlock
from omnitok.peers.family import Family, Shapes, averaged, count


@checked
class OpenMAGVIT2Config:
    """The network's shape; the defaults are imagenet_256_L.

    Attributes:
        video: convolutions over time too; levels wider than `width` halve or double the frames as well.
        width: channels after the first convolution.
        widths: channels of each level, of which each but the last halves height and width.
        blocks: residual blocks of each level.
        latent_channels: bits of a code.
        groups: of the group normalisation.
    """

    video: bool = False
    width: Size = 128
    widths: Widths = (128, 128, 256, 256, 512)
    blocks: Depth = 4
    latent_channels: Annotated[int, Field(ge=1, le=62, strict=True)] = 18
    groups: Size = 32

    def halves_time(self, level: int) -> bool:
        """Whether the step between a level and the next is one over time too."""
        return self.video and self.widths[level] != self.width

    def norm(self, channels: int, affine: bool = True) -> nn.GroupNorm:
        """The normalisation."""
        return nn.GroupNorm(self.groups, channels, eps=1e-6, affine=affine)

    def convolution(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> nn.Module:
        """One that keeps the size."""
        if self.video:
            return CausalConv3d(inputs, outputs, kernel, bias=bias)
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def stack(self, inputs: int, outputs: int) -> nn.Sequential:
        """Residual blocks, whose convolutions have no bias."""

        def convolution(inputs: int, outputs: int, kernel: int) -> nn.Module:
            return self.convolution(inputs, outputs, kernel, bias=False)

        widths = pairwise((inputs, *[outputs] * self.blocks))
        return nn.Sequential(*(ResidualBlock(i, o, self.norm, convolution) for i, o in widths))


class CausalConv3d(nn.Module):
    """A convolution whose border is zeros: in space on both sides, in time before the first frame."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: tuple[int, int, int] = (1, 1, 1), bias: bool = True
    ) -> None:
        super().__init__()
        self.conv_1 = nn.Conv3d(inputs, outputs, kernel, stride, padding=(0, kernel // 2, kernel // 2), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) -> (b, c', t', h', w')."""
        return self.conv_1(F.pad(x, (0, 0, 0, 0, self.conv_1.kernel_size[0] - 1, 0)))


class Level(nn.Module):
    """The blocks of one resolution and the step to the next; a level has one of the two steps, or none."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, [t,] h, w) -> (b, c', [t',] h', w')."""
        return self.upsample(self.downsample(self.block(x)))


class Encoder(nn.Module):
    """Pixels (b, 3, [T,] H, W) -> latents (b, c, [t,] h, w)."""

    def __init__(self, config: OpenMAGVIT2Config) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = config.convolution(3, config.width, 3, bias=False)
        self.down = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((config.width, *widths), widths, strict=False)):
            level = Level(config.stack(inputs, outputs))
            if i < last:
                level.downsample = self._halving(config, i)
            self.down.append(level)
        self.mid_block = config.stack(widths[-1], widths[-1])
        self.norm_out = config.norm(widths[-1])
        self.conv_out = config.convolution(widths[-1], config.latent_channels, 1)

    @staticmethod
    def _halving(config: OpenMAGVIT2Config, level: int) -> nn.Module:
        channels = config.widths[level]
        if config.video:
            return CausalConv3d(channels, channels, 3, stride=(2 if config.halves_time(level) else 1, 2, 2))
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Height and width are multiples of the halvings, frames are one more."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


class AdaptiveNorm(nn.Module):
    """Normalisation whose gain and shift are linear in deviation and mean of each sample's code vectors."""

    def __init__(self, config: OpenMAGVIT2Config, channels: int) -> None:
        super().__init__()
        self.norm = config.norm(channels, affine=False)
        self.gamma = nn.Linear(config.latent_channels, channels)
        self.beta = nn.Linear(config.latent_channels, channels)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Features (b, c, ...) and code vectors (b, k, ...) -> features."""
        positions = z.flatten(2)
        gain = self.gamma((positions.var(dim=2) + 1e-6).sqrt())  # unbiased: a single position has none
        shift = self.beta(positions.mean(dim=2))
        gain, shift = (part.reshape(*part.shape, *[1] * (x.ndim - 2)) for part in (gain, shift))
        return gain * self.norm(x) + shift


class DepthToSpace(nn.Module):
    """Twice the height and width, and the frames where `time`, from so many times the channels."""

    def __init__(self, config: OpenMAGVIT2Config, channels: int, time: bool) -> None:
        super().__init__()
        self.video, self.frames = config.video, 2 if time else 1
        self.conv1 = config.convolution(channels, 4 * self.frames * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, [t,] h, w) -> (b, c, [t or 2t - 1,] 2h, 2w)."""
        x = self.conv1(x)
        if not self.video:
            return rearrange(x, "b (p q c) h w -> b c (h p) (w q)", p=2, q=2)
        x = rearrange(x, "b (s p q c) t h w -> b c (t s) (h p) (w q)", s=self.frames, p=2, q=2)
        return x if self.frames == 1 else torch.cat([x[:, :, :1], x[:, :, 2:]], dim=2)


class Decoder(nn.Module):
    """Code vectors (b, c, [t,] h, w) -> pixels (b, 3, [T,] H, W), not clamped. Levels are numbered as the encoder's."""

    def __init__(self, config: OpenMAGVIT2Config) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = config.convolution(config.latent_channels, widths[-1], 3)
        self.mid_block = config.stack(widths[-1], widths[-1])
        self.adaptive, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True)):
            level = Level(config.stack(inputs, outputs))
            if i > 0:
                level.upsample = DepthToSpace(config, outputs, config.halves_time(i - 1))
            self.adaptive.append(AdaptiveNorm(config, inputs))
            self.up.append(level)
        self.norm_out = config.norm(widths[0])
        self.conv_out = config.convolution(widths[0], 3, 3)

    def forward(self, z: Tensor) -> Tensor:
        """At least two positions."""
        x = self.mid_block(self.conv_in(z))
        for norm, level in zip(reversed(self.adaptive), reversed(self.up), strict=True):
            x = level(norm(x, z))
        return self.conv_out(F.silu(self.norm_out(x)))


class OpenMAGVIT2(PeerTokenizer):
    """A released tokenizer of images, or of videos and images. `config` holds the fields of `OpenMAGVIT2Config`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        shape = OpenMAGVIT2Config(**config)
        steps = range(len(shape.widths) - 1)
        side, time = 2 ** len(steps), 2 ** sum(shape.halves_time(i) for i in steps)
        bits = shape.latent_channels
        traits = Traits(
            "Open-MAGVIT2", bits, (time, side, side), 2**bits, code_bases=(2,) * bits, is_video_model=shape.video
        )
        super().__init__(config, traits)
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)

    def encode_pixels(self, pixels: Tensor) -> Coded:
        """Code vectors of -1 and 1; bit i of a code says whether channel i is positive."""
        z = self.encoder(pixels)
        check_finite(z, "features", FEATURES_WHY)
        codes = from_digits((z > 0).movedim(1, -1), self.code_bases)
        return Coded(self.lookup(codes).movedim(-1, 1), codes)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels, not clamped.

        Raises:
            OmnitokError: one position, over which code vectors have no deviation.
        """
        if latents[0, 0].numel() == 1:
            raise OmnitokError(
                f"Open-MAGVIT2 decodes no single latent position; give it more than {self.downsample[1]} pixels a side"
            )
        return self.decoder(latents)

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors of -1 and 1."""
        return digits(codes, self.code_bases).to(self.dtype) * 2 - 1


# ------------------------------------------------------------------------------------------------------ released files


def recognises(shapes: Shapes) -> bool:
    """Whether weights of these names are those of Open-MAGVIT2."""
    return any(name.startswith("decoder.adaptive.") for name in shapes)


def convert(state_dict: dict[str, Tensor], flags: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a released file, which names and shapes tell, but for `num_groups` where it is not 32.

    Raises:
        CheckpointError: weights that the config is read from are missing.
    """
    weights = averaged(state_dict)
    conv, dimensions = ("conv_1.weight", 5) if any(".conv_1." in name for name in weights) else ("weight", 4)
    levels = count(weights, "encoder.down.")
    first = (f"encoder.down.{i}.block.0.conv1.{conv}" for i in range(levels))
    config = OpenMAGVIT2Config(
        video=dimensions == 5,
        width=shape_of(weights, f"encoder.conv_in.{conv}", dimensions)[0],
        widths=tuple(shape_of(weights, name, dimensions)[0] for name in first),
        blocks=count(weights, "encoder.down.0.block."),
        latent_channels=shape_of(weights, f"encoder.conv_out.{conv}", dimensions)[0],
        groups=Flags(flags).integer("num_groups", 32, lowest=1),
    )
    return dataclasses.asdict(config), weights


FAMILY = Family("open-magvit2", OpenMAGVIT2, recognises, convert)
