"""Encoder and decoder: pixels <-> features, through a spatial and a temporal stack (Section 3.1 of the paper).

The first frame is cut into p x p patches, the others into t x p x p patches; each kind has its own linear embedding.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from omnitok.models.transformer import (
    Block,
    BlockCache,
    FeedForward,
    PositionalConvolution,
    SpatialAttention,
    SpatialPosition,
    Stack,
    TemporalAttention,
    TemporalConvolutionLayout,
    TemporalPosition,
    WindowAttention,
    joined,
)


@dataclass(frozen=True)
class TokenizerConfig:
    """Architecture of a tokenizer. The defaults are the released one with its faults mended.

    Attributes:
        patch_size: p, pixels a latent position spans in height and width.
        temporal_patch_size: t, frames a latent frame spans, the first one excepted.
        width, heads, head_dim: of all blocks; heads * head_dim need not equal width.
        feedforward_multiple: hidden width of the GEGLU feed-forward is int(multiple * 2/3 * width).
        encoder_blocks, decoder_blocks: spatial blocks, a letter each: "t" plain attention, "w" window attention.
        encoder_temporal_blocks, decoder_temporal_blocks: number of temporal blocks.
        window_size: side of the attention windows, in latent positions.
        window_convolution: whether window blocks have a positional convolution too (the released ones do not).
        spatial_position: positions of the plain spatial blocks: "rotary", "relative" or "none".
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
            None leaves tokens as they are, as in released weights.
        bottleneck: "vq" (codes) or "kl" (Gaussian latents).
        latent_channels: channels of the latents.
        codebook_size, codebook_decay, normalize_codes, restart_threshold: of the vector quantizer.
        pixel_scale: the networks see pixels * pixel_scale; 0.5 for released weights, trained on [-0.5, 0.5].
        latent_mean, latent_std: per-channel statistics of the latents over training data (Gaussian bottleneck), for
            generators to normalise with; None where not measured.
        tokens_of: `omnitok.hub.folder.fingerprint` of the tokenizers that this one shares encoder and bottleneck with,
            its decoder having been trained on from theirs; their codes or latents are this one's too.
    """

    patch_size: int = 8
    temporal_patch_size: int = 4
    width: int = 512
    heads: int = 8
    head_dim: int = 64
    feedforward_multiple: float = 4.0
    encoder_blocks: str = "ttww"
    decoder_blocks: str = "tttt"
    encoder_temporal_blocks: int = 4
    decoder_temporal_blocks: int = 4
    window_size: int = 8
    window_convolution: bool = False
    spatial_position: SpatialPosition = "rotary"
    temporal_position: TemporalPosition = "none"
    temporal_window: int | None = 5
    causal: bool = True
    causal_convolution: bool = True
    temporal_convolution_layout: TemporalConvolutionLayout = "grid"
    normalize_context: bool = True
    normalize_patches: bool = True
    normalize_stacks: bool = True
    block_limits: tuple[float, ...] | None = None
    bottleneck: Literal["vq", "kl"] = "vq"
    latent_channels: int = 8
    codebook_size: int = 8192
    codebook_decay: float = 0.99
    normalize_codes: bool = True
    restart_threshold: float = 0.1
    pixel_scale: float = 1.0
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None
    tokens_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        positive = ("patch_size", "temporal_patch_size", "width", "heads", "head_dim", "window_size", "latent_channels")
        for name in (*positive, "codebook_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("encoder_temporal_blocks", "decoder_temporal_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        for name in ("feedforward_multiple", "pixel_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, found {getattr(self, name)}")
        if not 0 <= self.codebook_decay <= 1:
            raise ValueError(f"codebook_decay must lie in [0, 1], found {self.codebook_decay}")
        if not 0 <= self.restart_threshold < float("inf"):
            raise ValueError(f"restart_threshold must not be negative, found {self.restart_threshold}")
        for name in ("encoder_blocks", "decoder_blocks"):
            if set(getattr(self, name)) - set("tw"):
                raise ValueError(
                    f"{name} may hold the letters 't' (plain) and 'w' (window), found {getattr(self, name)!r}"
                )
        choices = {
            "bottleneck": ("vq", "kl"),
            "spatial_position": ("rotary", "relative", "none"),
            "temporal_position": ("alibi", "none"),
            "temporal_convolution_layout": ("grid", "released"),
        }
        for name, accepted in choices.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, found {getattr(self, name)!r}")
        if self.spatial_position == "rotary" and self.head_dim % 4:
            raise ValueError(f"rotary positions need head_dim to be a multiple of 4, found {self.head_dim}")
        if self.temporal_window is not None and self.temporal_window < 1:
            raise ValueError(f"temporal_window must be at least 1 or None, found {self.temporal_window}")
        if self.block_limits is not None:
            blocks = sum(self.stack_depths)
            if len(self.block_limits) != blocks or not all(0 < limit < float("inf") for limit in self.block_limits):
                raise ValueError(
                    f"block_limits must be a positive number for each of the {blocks} blocks, found {self.block_limits}"
                )
            object.__setattr__(self, "block_limits", tuple(self.block_limits))  # JSON gives lists
        for name in ("latent_mean", "latent_std"):
            values = getattr(self, name)
            if values is not None:
                if len(values) != self.latent_channels:
                    raise ValueError(f"{name} must have {self.latent_channels} values, found {len(values)}")
                object.__setattr__(self, name, tuple(values))  # JSON gives lists
        object.__setattr__(self, "tokens_of", tuple(self.tokens_of))

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
        """Whether past frames alone decide each latent frame, so that clips can be coded in pieces."""
        return self.causal and self.causal_convolution and self.temporal_convolution_layout == "grid"

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a clip of `frames` x `height` x `width` pixels; an image has frames = 1."""
        t = 1 + -(-(frames - 1) // self.temporal_patch_size)
        return t, -(-height // self.patch_size), -(-width // self.patch_size)

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames decode to."""
        return 0 if latent_frames == 0 else 1 + (latent_frames - 1) * self.temporal_patch_size


@dataclass
class StreamCache:
    """What an encoder or decoder remembers between the pieces of a clip. Belongs to the caller."""

    spatial: list[BlockCache]
    temporal: list[BlockCache]
    started: bool = field(default=False)

    def nbytes(self) -> int:
        """Bytes of all tensors held now."""
        caches = (*self.spatial, *self.temporal)
        return sum(x.numel() * x.element_size() for cache in caches for x in cache.tensors())


def _spatial_stack(config: TokenizerConfig, blocks: str, limits: tuple[float, ...] | None) -> Stack:
    def block(kind: str) -> Block:
        if kind == "w":
            attention: WindowAttention | SpatialAttention = WindowAttention(
                config.width, config.heads, config.head_dim, config.window_size
            )
        else:
            attention = SpatialAttention(
                config.width, config.heads, config.head_dim, config.spatial_position, config.normalize_context
            )
        convolution = None
        if kind == "t" or config.window_convolution:
            convolution = PositionalConvolution(config.width, config.causal_convolution)
        return Block(attention, FeedForward(config.width, config.feedforward_multiple), convolution)

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
        image_patch = 3 * config.patch_size**2
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
        """An empty cache, for the first piece of a clip."""
        return StreamCache(self.spatial.new_cache(), self.temporal.new_cache())

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """x (b, 3, T, H, W) in [-1, 1], H and W multiples of p -> features (b, t', H/p, W/p, width).

        T is 1 + k * t for the start of a clip, k * t for a piece that continues from `cache`, updated in place.
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
        tokens = self.temporal(tokens, None if cache is None else cache.temporal)
        if cache is not None:
            cache.started = True
        return tokens


class Decoder(nn.Module):
    """Features -> pixels: temporal stack, spatial stack, a linear map to pixels for each kind of patch."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        image_patch = 3 * config.patch_size**2
        self.temporal = _temporal_stack(config, config.decoder_temporal_blocks, config.limits_of(2))
        self.spatial = _spatial_stack(config, config.decoder_blocks, config.limits_of(3))
        self.to_image = nn.Linear(config.width, image_patch)
        self.to_video = nn.Linear(config.width, image_patch * config.temporal_patch_size)
        self.apply(_init_linear)
        self.apply(_shrink_branches)

    def new_cache(self) -> StreamCache:
        """An empty cache, for the first piece of a clip."""
        return StreamCache(self.spatial.new_cache(), self.temporal.new_cache())

    def forward(self, tokens: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Features (b, t', h, w, width) -> pixels (b, 3, T, h p, w p), T = 1 + (t' - 1) t at the start of a clip.

        A piece that continues from `cache`, which is updated in place, gives t' t frames. Pixels are not clamped.
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
        pixels = joined(parts, dim=2)
        return pixels / self.config.pixel_scale
