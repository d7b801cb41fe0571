"""VQGAN and the tokenizers that share its network: taming-transformers (arXiv 2012.09841), its Gumbel variant, LlamaGen
(arXiv 2406.06525) and IBQ (arXiv 2412.02692). They differ in how a latent finds its code.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.models.config import Count, Size
from omnitok.peers.blocks import Attention, Downsample, ResidualBlock, Upsample, conv2d, group_norm

Lookup = Literal["euclidean", "cosine", "inner product", "gumbel"]
_SCORES = 2**24  # of latents with codes, that are held at once


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
    widths: tuple[Size, ...] = (128, 128, 256, 256, 512)
    blocks: Size = 2
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
        self.block_1, self.attn_1, self.block_2 = (
            ResidualBlock(width, width),
            Attention(width),
            ResidualBlock(width, width),
        )

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
        pieces = z.split(max(1, _SCORES // len(self.vectors())))
        return torch.cat([self._scores(piece).argmax(1) for piece in pieces])

    def _scores(self, z: Tensor) -> Tensor:
        if self.lookup == "gumbel":
            return F.linear(z, self.proj.weight.flatten(1), self.proj.bias)
        vectors = self.vectors()
        if self.lookup == "inner product":
            return z @ vectors.T
        if self.lookup == "cosine":
            z = F.normalize(z, dim=1)
        return 2 * z @ vectors.T - vectors.square().sum(1)  # the negative squared distance, but for |z|^2
