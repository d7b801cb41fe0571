"""VQGAN and the tokenizers that share its network: taming-transformers (arXiv 2012.09841), its Gumbel variant, LlamaGen
(arXiv 2406.06525) and IBQ (arXiv 2412.02692). They differ in how a latent finds its code.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.errors import CheckpointError
from omnitok.hub.architectures import shape_of
from omnitok.hub.released.flags import Flags
from omnitok.models.bottlenecks.codebook import nearest_rows
from omnitok.models.config import Count, Depth, Size, Widths
from omnitok.models.encoding import FEATURES_WHY, check_finite
from omnitok.peers.base import Coded, PeerTokenizer, Traits
from omnitok.peers.blocks import (
    Attention,
    Downsample,
    ResidualBlock,
    Upsample,
    conv2d,
    group_norm,
)
from omnitok.peers.family import AVERAGES, Family, Shapes, averaged, count

Lookup = Literal["euclidean", "cosine", "inner product", "gumbel"]
NAMES: dict[Lookup, str] = {
    "euclidean": "VQGAN",
    "gumbel": "VQGAN (Gumbel)",
    "cosine": "LlamaGen",
    "inner product": "IBQ",
}


MOST_SCORES = 2**24
"""Scores of latents with codes that are held at once."""


@checked
class VQGANConfig:
    """The network's shape; the defaults are vqgan_imagenet_f16_16384.

    Attributes:
        width: channels after the first convolution.
        widths: channels of each level, of which each but the last halves height and width.
        blocks: residual blocks of each level of the encoder; the decoder has one more.
        attention: numbers of the levels whose blocks are followed by attention.
        z_channels: of the encoder's features, before they are mapped to `latent_channels`.
        lookup: a latent's code is the nearest ("euclidean"; "cosine": of the directions alone; LlamaGen), the one with
            the largest inner product (IBQ), or the one of the largest logit ("gumbel", without its noise).
    """

    width: Size = 128
    widths: Widths = (128, 128, 256, 256, 512)
    blocks: Depth = 2
    attention: tuple[Count, ...] = (4,)
    z_channels: Size = 256
    latent_channels: Size = 256
    codebook_size: Size = 16384
    lookup: Lookup = "euclidean"


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where `attention`, then the step to the next."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(inputs if j == 0 else outputs, outputs) for j in range(blocks))
        self.attn = nn.ModuleList(Attention(outputs) if attention else nn.Identity() for _ in range(blocks))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) -> (b, outputs, h', w')."""
        for block, attention in zip(self.block, self.attn, strict=True):
            x = attention(block(x))
        return self.upsample(self.downsample(x))


class Middle(nn.Module):
    """A block, attention, a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = ResidualBlock(width, width), ResidualBlock(width, width)
        self.attn_1 = Attention(width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels (b, 3, H, W) -> features (b, z_channels, h, w)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = conv2d(3, config.width, 3)
        self.down = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((config.width, *widths), widths, strict=False)):
            level = Level(inputs, outputs, config.blocks, i in config.attention)
            level.downsample = Downsample(outputs) if i < last else nn.Identity()
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = conv2d(widths[-1], config.z_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Height and width are multiples of 2^(levels - 1)."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features (b, z_channels, h, w) -> pixels (b, 3, H, W), not clamped. The levels are numbered as the encoder's."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = conv2d(config.z_channels, widths[-1], 3)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True)):
            level = Level(inputs, outputs, config.blocks + 1, i in config.attention)
            level.upsample = Upsample(outputs) if i > 0 else nn.Identity()
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = conv2d(widths[0], 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Any height and width."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Codebook(nn.Module):
    """A table of codes, and the code of each latent. Weights have the names of the released `quantize`."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.lookup, size, channels = config.lookup, config.codebook_size, config.latent_channels
        if self.lookup == "gumbel":
            self.embed = nn.Embedding(size, channels)
            self.proj = nn.Conv2d(channels, size, 1)
        else:
            self.embedding = nn.Embedding(size, channels)

    def vectors(self) -> Tensor:
        """What the decoder is given for each code, (codebook_size, c)."""
        if self.lookup == "gumbel":
            return self.embed.weight
        table = self.embedding.weight
        return F.normalize(table, dim=1) if self.lookup == "cosine" else table

    def forward(self, z: Tensor) -> Tensor:
        """Latents (n, c) -> codes (n,)."""
        z, vectors = z.float(), self.vectors().float()
        if self.lookup in ("euclidean", "cosine"):
            return nearest_rows(F.normalize(z, dim=1) if self.lookup == "cosine" else z, vectors)
        pieces = z.split(max(1, MOST_SCORES // len(vectors)))
        return torch.cat([self._scores(piece, vectors).argmax(1) for piece in pieces])

    def _scores(self, z: Tensor, vectors: Tensor) -> Tensor:
        if self.lookup == "gumbel":
            return self.proj(z.to(self.proj.weight.dtype)[:, :, None, None]).flatten(1)
        return z @ vectors.T


class VQGAN(PeerTokenizer):
    """A released tokenizer of images. `config` holds the fields of `VQGANConfig`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        shape = VQGANConfig(**config)
        halved = 2 ** (len(shape.widths) - 1)
        traits = Traits(NAMES[shape.lookup], shape.latent_channels, (1, halved, halved), shape.codebook_size)
        super().__init__(config, traits)
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.quant_conv = conv2d(shape.z_channels, shape.latent_channels, 1)
        self.post_quant_conv = conv2d(shape.latent_channels, shape.z_channels, 1)
        self.quantize = Codebook(shape)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of the rule by which latents find their codes: IBQ's may have VQGAN's weights."""
        return hashlib.sha256(f"{super().fingerprint} {self.quantize.lookup}".encode()).hexdigest()

    def encode_pixels(self, pixels: Tensor) -> Coded:
        """Codes and their vectors."""
        z = self.quant_conv(self.encoder(pixels)).movedim(1, -1)  # b h w c
        check_finite(z, "features", FEATURES_WHY)
        codes = self.quantize(z.flatten(0, 2)).reshape(z.shape[:-1])
        return Coded(self.lookup(codes).movedim(-1, 1), codes)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels, not clamped."""
        return self.decoder(self.post_quant_conv(latents))

    def lookup(self, codes: Tensor) -> Tensor:
        """What the decoder is given for each code."""
        return self.quantize.vectors()[codes]


# ------------------------------------------------------------------------------------------------------ released files

_FIRST_STAGE = "first_stage_model."  # of a generator's file, which holds the tokenizer beside it
_IBQ_FLAGS = {"use_entropy_loss", "entropy_temperature", "l2_normalize"}
_LLAMAGEN = re.compile(r"(?P<part>(?:en|de)coder)\.(?P<stack>conv_blocks|mid)\.(?P<index>\d{1,4})\.(?P<rest>.+)")


def recognises(shapes: Shapes) -> bool:
    """Whether weights of these names are those of a VQGAN, or of a generator with a VQGAN beside it."""
    names = [name.removeprefix(_FIRST_STAGE) for name in shapes]
    has_encoder = any(name.startswith(("encoder.down.0.block.", "encoder.conv_blocks.0.res.")) for name in names)
    return has_encoder and any(name.startswith("quantize.embed") for name in names)


def hints(path: Path) -> Mapping[str, object]:
    """A file of IBQ may hold what one of VQGAN does; its name, or that of its folder, tells: IBQ-Tokenizer-16384."""
    return {"system": "IBQ"} if "ibq" in f"{path.parent.name} {path.name}".lower() else {}


def convert(state_dict: dict[str, Tensor], flags: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a released file, which names and shapes tell.

    IBQ's weights are VQGAN's; its files are known by their flags, their averaged weights, or their name (`hints`).

    Raises:
        CheckpointError: weights that the config is read from are missing; a remapped codebook; normalised latents.
    """
    Flags(flags).only({"l2_normalize": False, "double_z": False})
    inside = {
        name.removeprefix(_FIRST_STAGE): each for name, each in state_dict.items() if name.startswith(_FIRST_STAGE)
    }
    weights = averaged(inside or state_dict)
    lookup: Lookup = "euclidean"
    if any(".conv_blocks." in name for name in weights):
        lookup, weights = "cosine", _with_vqgan_names(weights)
    elif any(name.startswith("quantize.embed.") for name in weights):
        lookup = "gumbel"
    elif (
        any(name.startswith(AVERAGES) for name in state_dict)
        or _IBQ_FLAGS & flags.keys()
        or flags.get("system") == "IBQ"
    ):
        lookup = "inner product"
    if "quantize.used" in weights:
        raise CheckpointError(
            f"its codes are renumbered (quantize.used has {len(weights['quantize.used'])} of them), which cannot be "
            "converted; only a codebook without `remap` can"
        )
    levels = count(weights, "encoder.down.")
    table = "quantize.embed.weight" if lookup == "gumbel" else "quantize.embedding.weight"
    codes, channels = shape_of(weights, table, 2)
    config = VQGANConfig(
        width=shape_of(weights, "encoder.conv_in.weight", 4)[0],
        widths=tuple(shape_of(weights, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)),
        blocks=count(weights, "encoder.down.0.block."),
        attention=tuple(
            i for i in range(levels) if any(name.startswith(f"encoder.down.{i}.attn.") for name in weights)
        ),
        z_channels=shape_of(weights, "encoder.conv_out.weight", 4)[0],
        latent_channels=channels,
        codebook_size=codes,
        lookup=lookup,
    )
    return dataclasses.asdict(config), weights


def _with_vqgan_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LlamaGen's weights under VQGAN's names; the decoder's levels are numbered as they run, the coarsest first."""
    last = count(weights, "decoder.conv_blocks.") - 1
    renamed = {}
    for name, tensor in weights.items():
        match = _LLAMAGEN.fullmatch(name)
        if match is not None and match["stack"] == "mid":
            part = {"0": "block_1", "1": "attn_1", "2": "block_2"}.get(match["index"], match["index"])
            name = f"{match['part']}.mid.{part}.{match['rest']}"
        elif match is not None:
            rest = match["rest"].replace("res.", "block.", 1)
            if match["part"] == "encoder":
                name = f"encoder.down.{match['index']}.{rest}"
            else:
                name = f"decoder.up.{last - int(match['index'])}.{rest}"
        if name != "quantize.codebook_used":  # a statistic of the training
            renamed[name] = tensor
    return renamed


FAMILY = Family("vqgan", VQGAN, recognises, convert, hints)
