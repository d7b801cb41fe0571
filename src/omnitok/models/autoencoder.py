"""Encoder and decoder: pixels <-> features, through a spatial and a temporal stack (Section 3.1 of the paper).

The first frame is cut into p x p patches, the others into t x p x p patches; each kind has its own linear embedding.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import torch
from einops import rearrange
from pydantic import Field, model_validator
from pydantic_core import ArgsKwargs
from torch import Tensor, nn

from omnitok.checked import Positive, checked
from omnitok.models.bottlenecks import BottleneckConfig, VQConfig, bottleneck_fields
from omnitok.models.config import Channels, Count, Size
from omnitok.models.transformer import (
    Block,
    BlockCache,
    FeedForward,
    JointAttention,
    PositionalConvolution,
    SpatialAttention,
    SpatialPosition,
    Stack,
    TemporalAttention,
    TemporalConvolutionLayout,
    TemporalPosition,
    WindowAttention,
    joined,
    saturate,
)

Blocks = Annotated[str, Field(pattern="^[twsj]*$", max_length=1000)]

FLAT_FIELDS = {"codebook_decay": "decay"} | {
    name: name for name in ("latent_channels", "codebook_size", "normalize_codes", "restart_threshold")
}
"""Fields of the bottleneck that older configurations have beside the others, and what they are called in it."""


def nested_bottleneck(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `TokenizerConfig`, with those of the bottleneck that older files have beside the others in it.

    Fields that its type does not have (an older VAE's `codebook_size`) are left out.

    Raises:
        ValueError: measured statistics or compatible tokenizers, which are no architecture.
    """
    fields = {name: value for name, value in given.items() if name not in FLAT_FIELDS}
    for name in ("latent_mean", "latent_std", "tokens_of"):
        if fields.pop(name, None):
            raise ValueError(f"{name} is not architecture: it belongs to the tokenizer, beside its configuration")
    flat = {FLAT_FIELDS[name]: value for name, value in given.items() if name in FLAT_FIELDS}
    bottleneck = fields.get("bottleneck", "vq")
    if flat or isinstance(bottleneck, str):
        if is_dataclass(bottleneck) and not isinstance(bottleneck, type):
            bottleneck = asdict(bottleneck)
        known = {"type": bottleneck} if isinstance(bottleneck, str) else bottleneck
        if isinstance(known, Mapping) and isinstance(known.get("type"), str):
            fields["bottleneck"] = bottleneck_fields(known["type"], {**known, **flat})
    return fields


@checked
class TokenizerConfig:
    """Architecture of a tokenizer. The defaults are the released one with its faults mended.

    Attributes:
        patch_size: p, pixels a latent position spans in height and width.
        temporal_patch_size: t, frames a latent frame spans, the first one excepted.
        width, heads, head_dim: of all blocks; heads * head_dim need not equal width.
        feedforward_multiple: hidden width of the GEGLU feed-forward is int(multiple * 2/3 * width).
        encoder_blocks, decoder_blocks: spatial blocks, a letter each: "t" plain attention inside each frame, "w" window
            attention, "s" window attention with the windows shifted by half, "j" joint attention over space and time,
            to all positions of the frame and of earlier ones (`temporal_window` and `causal` hold for it too).
        encoder_temporal_blocks, decoder_temporal_blocks: number of temporal blocks.
        window_size: side of the attention windows, in latent positions; "s" shifts by half of it, rounded down.
        window_convolution: whether window blocks have a positional convolution too (the released ones do not).
        spatial_position: positions within a frame of the plain and joint blocks: "rotary", "relative" or "none".
        temporal_position: "alibi", or "none" (the positional convolution alone tells the order).
        temporal_window: latent frames a temporal query sees, its own included; None is unlimited.
        causal: whether temporal attention is causal.
        causal_convolution: whether the positional convolutions are causal.
        temporal_convolution_layout: "grid", or "released" (see `PositionalConvolution`).
        normalize_context: keys and values from the normalised input; False as in the released weights.
        normalize_patches: LayerNorm over the pixels of each patch before its embedding and over the features after, as
            released. The first removes the brightness and the contrast of every patch, which nothing downstream can
            recover; False embeds with the linear map alone.
        normalize_stacks: LayerNorm at the end of each spatial and temporal stack, as released. Four of them lie between
            pixels and pixels, and each makes contrast something to be learnt around; False leaves them out.
        block_limits: the largest length of a token after each block, in the order of computation: the encoder's spatial
            and temporal blocks, the decoder's temporal and spatial ones. Measured on training data, with room above it,
            so that photographs pass bit for bit and nothing grows without end on what is unlike them (see `Stack`).
            Pixels are bounded too, out of sight (`saturate`). None bounds nothing, as in released weights.
        bottleneck: its configuration, whose `type` says which it is. Older files and settings name the type alone and
            have the bottleneck's fields beside the others; they are read too.
        pixel_scale: the networks see pixels * pixel_scale; 0.5 for released weights, trained on [-0.5, 0.5].
        channels: of pixels: 3 for colour, 1 for grey or depth, 4 with alpha, any number for other bands.
    """

    patch_size: Size = 8
    temporal_patch_size: Size = 4
    width: Size = 512
    heads: Size = 8
    head_dim: Size = 64
    feedforward_multiple: Positive = 4.0
    encoder_blocks: Blocks = "ttww"
    decoder_blocks: Blocks = "tttt"
    encoder_temporal_blocks: Count = 4
    decoder_temporal_blocks: Count = 4
    window_size: Size = 8
    window_convolution: bool = False
    spatial_position: SpatialPosition = "rotary"
    temporal_position: TemporalPosition = "none"
    temporal_window: Size | None = 5
    causal: bool = True
    causal_convolution: bool = True
    temporal_convolution_layout: TemporalConvolutionLayout = "grid"
    normalize_context: bool = True
    normalize_patches: bool = True
    normalize_stacks: bool = True
    block_limits: tuple[Positive, ...] | None = None
    bottleneck: BottleneckConfig = VQConfig()
    pixel_scale: Positive = 1.0
    channels: Channels = 3

    @model_validator(mode="before")
    @classmethod
    def _nest_bottleneck(cls, given: Any) -> Any:
        if isinstance(given, ArgsKwargs):
            return ArgsKwargs(given.args, nested_bottleneck(given.kwargs or {}))
        return nested_bottleneck(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _check(self) -> "TokenizerConfig":
        if self.spatial_position == "rotary" and self.head_dim % 4:
            raise ValueError(f"rotary positions need head_dim to be a multiple of 4, found {self.head_dim}")
        blocks = sum(self.stack_depths)
        if self.block_limits is not None and len(self.block_limits) != blocks:
            raise ValueError(
                f"block_limits must be a number for each of the {blocks} blocks, found {self.block_limits}"
            )
        return self

    @property
    def stack_depths(self) -> tuple[int, int, int, int]:
        """Blocks of each stack in the order of computation: encoder spatial, temporal, decoder temporal, spatial."""
        encoder, decoder = len(self.encoder_blocks), len(self.decoder_blocks)
        return encoder, self.encoder_temporal_blocks, self.decoder_temporal_blocks, decoder

    def limits_of(self, stack: int) -> tuple[float, ...] | None:
        """The part of `block_limits` for one of the `stack_depths`."""
        start = sum(self.stack_depths[:stack])
        return None if self.block_limits is None else self.block_limits[start : start + self.stack_depths[stack]]

    @property
    def streamable(self) -> bool:
        """Whether past frames alone decide each latent frame, so that videos can be coded in pieces."""
        return self.causal and self.causal_convolution and self.temporal_convolution_layout == "grid"

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a video of `frames` x `height` x `width` pixels; an image has frames = 1."""
        t = 1 + -(-(frames - 1) // self.temporal_patch_size)
        return t, -(-height // self.patch_size), -(-width // self.patch_size)

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames decode to."""
        return 0 if latent_frames == 0 else 1 + (latent_frames - 1) * self.temporal_patch_size


@dataclasses.dataclass
class StreamCache:
    """What an encoder or decoder remembers between the pieces of a video. Belongs to the caller."""

    spatial: list[BlockCache]
    temporal: list[BlockCache]
    started: bool = False

    def nbytes(self) -> int:
        """Bytes of all tensors held now."""
        caches = (*self.spatial, *self.temporal)
        return sum(x.numel() * x.element_size() for cache in caches for x in cache.tensors())


def _spatial_stack(config: TokenizerConfig, blocks: str, limits: tuple[float, ...] | None) -> Stack:
    width, heads, head_dim = config.width, config.heads, config.head_dim

    def attention(kind: str) -> SpatialAttention | WindowAttention:
        if kind in "ws":
            shift = config.window_size // 2 if kind == "s" else 0
            return WindowAttention(width, heads, head_dim, config.window_size, shift)
        position, normalize = config.spatial_position, config.normalize_context
        if kind == "j":
            return JointAttention(width, heads, head_dim, position, normalize, config.temporal_window, config.causal)
        return SpatialAttention(width, heads, head_dim, position, normalize)

    def block(kind: str) -> Block:
        part = attention(kind)
        convolution = None
        if kind in "tj" or config.window_convolution:
            convolution = PositionalConvolution(width, config.causal_convolution)
        return Block(part, FeedForward(width, config.feedforward_multiple), convolution)

    return Stack(config.width, [block(kind) for kind in blocks], config.normalize_stacks, limits)


def _temporal_stack(config: TokenizerConfig, depth: int, limits: tuple[float, ...] | None) -> Stack:
    def block() -> Block:
        attention = TemporalAttention(
            config.width,
            config.heads,
            config.head_dim,
            config.temporal_window,
            config.causal,
            config.temporal_position,
            config.normalize_context,
        )
        convolution = PositionalConvolution(config.width, config.causal_convolution, config.temporal_convolution_layout)
        return Block(attention, FeedForward(config.width, config.feedforward_multiple), convolution)

    return Stack(config.width, [block() for _ in range(depth)], config.normalize_stacks, limits)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def _shrink_branches(module: nn.Module) -> None:
    """What blocks add to their input begins at a tenth, so that a fresh stack nearly passes features through."""
    if isinstance(module, Block):
        for output in module.outputs:
            output.weight.mul_(0.1)


class Encoder(nn.Module):
    """Pixels -> features: patch embeddings, spatial stack, temporal stack."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        image_patch = config.channels * config.patch_size**2
        self.embed_image = self._embedding(image_patch)
        self.embed_video = self._embedding(image_patch * config.temporal_patch_size)
        self.spatial = _spatial_stack(config, config.encoder_blocks, config.limits_of(0))
        self.temporal = _temporal_stack(config, config.encoder_temporal_blocks, config.limits_of(1))
        self.apply(_init_linear)
        self.apply(_shrink_branches)

    def _embedding(self, patch: int) -> nn.Sequential:
        width = self.config.width
        if not self.config.normalize_patches:
            return nn.Sequential(nn.Linear(patch, width))
        return nn.Sequential(nn.LayerNorm(patch), nn.Linear(patch, width), nn.LayerNorm(width))

    def new_cache(self) -> StreamCache:
        """An empty cache, for the first piece of a video."""
        return StreamCache(self.spatial.new_cache(), self.temporal.new_cache())

    def forward(self, x: Tensor, cache: StreamCache | None = None, core: tuple[slice, slice] | None = None) -> Tensor:
        """x (b, channels, T, H, W) in [-1, 1], H and W multiples of p -> features (b, t', H/p, W/p, width).

        T is 1 + k * t for the start of a video, k * t for a piece that continues from `cache`, updated in place.
        Of `core`, rows and columns of the features, only these are given: around them the temporal blocks, which look
        one position aside each, need not be computed.
        """
        p, s = self.config.patch_size, self.config.temporal_patch_size
        x = x * self.config.pixel_scale
        parts = []
        if cache is None or not cache.started:
            first = rearrange(x[:, :, :1], "b c t (h p) (w q) -> b t h w (c p q)", p=p, q=p)
            parts.append(self.embed_image(first))
            x = x[:, :, 1:]
        if x.shape[2]:
            patches = rearrange(x, "b c (t s) (h p) (w q) -> b t h w (c s p q)", s=s, p=p, q=p)
            parts.append(self.embed_video(patches))
        tokens = joined(parts, dim=1)  # b t' h w d
        tokens = self.spatial(tokens, None if cache is None else cache.spatial)
        if core is not None and self.config.temporal_convolution_layout == "grid":
            rows, columns = (_widened(part, self.config.encoder_temporal_blocks) for part in core)
            tokens = tokens[:, :, rows, columns]
            core = _within(core[0], rows), _within(core[1], columns)
        tokens = self.temporal(tokens, None if cache is None else cache.temporal)
        if cache is not None:
            cache.started = True
        return tokens if core is None else tokens[:, :, core[0], core[1]]


def _widened(part: slice, margin: int) -> slice:
    return slice(max(part.start - margin, 0), part.stop + margin)


def _within(part: slice, wider: slice) -> slice:
    return slice(part.start - wider.start, part.stop - wider.start)


class Decoder(nn.Module):
    """Features -> pixels: temporal stack, spatial stack, a linear map to pixels for each kind of patch."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        image_patch = config.channels * config.patch_size**2
        self.temporal = _temporal_stack(config, config.decoder_temporal_blocks, config.limits_of(2))
        self.spatial = _spatial_stack(config, config.decoder_blocks, config.limits_of(3))
        self.to_image = nn.Linear(config.width, image_patch)
        self.to_video = nn.Linear(config.width, image_patch * config.temporal_patch_size)
        self.apply(_init_linear)
        self.apply(_shrink_branches)

    def new_cache(self) -> StreamCache:
        """An empty cache, for the first piece of a video."""
        return StreamCache(self.spatial.new_cache(), self.temporal.new_cache())

    def forward(self, tokens: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Features (b, t', h, w, width) -> pixels (b, channels, T, h p, w p).

        T is 1 + (t' - 1) t at the start of a video; a piece that continues from `cache`, which is updated in place,
        gives t' t frames. Pixels are not clamped.
        """
        p, s = self.config.patch_size, self.config.temporal_patch_size
        tokens = self.temporal(tokens, None if cache is None else cache.temporal)
        tokens = self.spatial(tokens, None if cache is None else cache.spatial)
        parts = []
        if cache is None or not cache.started:
            first = self.to_image(tokens[:, :1])
            parts.append(rearrange(first, "b t h w (c p q) -> b c t (h p) (w q)", p=p, q=p))
            tokens = tokens[:, 1:]
        if tokens.shape[1]:
            rest = self.to_video(tokens)
            parts.append(rearrange(rest, "b t h w (c s p q) -> b c (t s) (h p) (w q)", s=s, p=p, q=p))
        if cache is not None:
            cache.started = True
        pixels = joined(parts, dim=2) / self.config.pixel_scale
        return pixels if self.config.block_limits is None else saturate(pixels)
