"""Blocks of the spatio-temporal transformer. Tokens travel as (b, t, h, w, d) through all of them.

The layout never changes between blocks: projections, norms and feed-forwards do not care for it, spatial attention
reads it as (b t) (h w) d, temporal attention reads it strided, and only windows are gathered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omnitok.models.attention import attend
from omnitok.models.exporting import is_free
from omnitok.models.positions import ContinuousPositionBias, alibi_slopes, rotary_2d, rotate_pairs, window_bias

SpatialPosition = Literal["rotary", "relative", "none"]
TemporalPosition = Literal["alibi", "none"]
TemporalConvolutionLayout = Literal["grid", "released"]

COSINE_ATTENTION_SCALE = 8.0  # q and k are l2-normalised, so the usual 1 / sqrt(d) does not apply


@dataclass
class BlockCache:
    """What one block must remember of earlier frames. Owned by the caller; a block reads and replaces the tensors."""

    frames: Tensor | None = None  # (b, <= 2, h, w, d): input of the positional convolution
    # of < temporal_window frames: (b, h*w*heads, n, head_dim), of joint attention (b, n, heads, h*w, head_dim)
    keys: Tensor | None = None
    values: Tensor | None = None

    def tensors(self) -> Iterator[Tensor]:
        """The tensors held now."""
        return (x for x in (self.frames, self.keys, self.values) if x is not None)


class PositionalConvolution(nn.Module):
    """Positional encoding generator (PEG; Chu et al., 2021): a depthwise 3x3x3 convolution over (t, h, w).

    Zero padding of 1 in space; in time 2 before and 0 after where causal, else 1 and 1. It is computed as one depthwise
    2-D convolution per kernel frame over channels-last frames, which CPUs and GPUs run several times faster than the
    3-D one, and of which an image needs only the last.

    Args:
        layout: "grid" convolves over the grid. "released" reproduces the temporal stacks of the released weights, which
            reinterpret the memory of `(b h w) t d` as `b t h w d` and so mix positions and frames; not causal.
    """

    def __init__(self, width: int, causal: bool = True, layout: TemporalConvolutionLayout = "grid") -> None:
        super().__init__()
        self.causal, self.layout = causal, layout
        self.weight = nn.Parameter(torch.empty(width, 1, 3, 3, 3))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor, cache: BlockCache | None = None) -> Tensor:
        """x (b, t, h, w, d) -> same shape; continues from `cache.frames` and replaces them."""
        if self.layout == "released":
            b, t, h, w, d = x.shape
            scrambled = x.permute(0, 2, 3, 1, 4).reshape(b, t, h, w, d)
            return self._convolve(scrambled).reshape(b, h, w, t, d).permute(0, 3, 1, 2, 4)
        if cache is None:
            return self._convolve(x)
        past = cache.frames
        joined = x if past is None else torch.cat([past, x], dim=1)
        cache.frames = joined[:, -2:].clone()  # a copy, so that the chunk's memory is not kept alive by a view
        y = self._convolve(joined)
        return y if past is None else y[:, past.shape[1] :]

    def _convolve(self, x: Tensor) -> Tensor:
        b, t, h, w, d = x.shape
        frames = x.reshape(b * t, h, w, d).permute(0, 3, 1, 2)  # channels last in memory
        last = 2 if self.causal else 1  # the kernel frame that sees the current frame
        if is_free(t):  # which frames a kernel frame misses may not depend on how many there are
            padded = F.pad(x, (0, 0, 0, 0, 0, 0, last, 2 - last))
            shifted = (padded.narrow(1, k, t).reshape(b * t, h, w, d).permute(0, 3, 1, 2) for k in range(3))
            parts = (self._frame_convolution(y, k, None) for k, y in enumerate(shifted))
            return (sum(parts) + self.bias[:, None, None]).permute(0, 2, 3, 1).reshape(b, t, h, w, d)
        out = self._frame_convolution(frames, last, self.bias).permute(0, 2, 3, 1).reshape(b, t, h, w, d)
        for kernel_frame in range(3):
            shift = last - kernel_frame  # output frame i reads input frame i - shift
            if shift == 0 or abs(shift) >= t:
                continue
            source = x[:, : t - shift] if shift > 0 else x[:, -shift:]
            moved = self._frame_convolution(source.reshape(-1, h, w, d).permute(0, 3, 1, 2), kernel_frame, None)
            moved = moved.permute(0, 2, 3, 1).reshape(b, -1, h, w, d)
            padding = (0, 0, 0, 0, 0, 0, shift, 0) if shift > 0 else (0, 0, 0, 0, 0, 0, 0, -shift)
            out = out + F.pad(moved, padding)
        return out

    def _frame_convolution(self, frames: Tensor, kernel_frame: int, bias: Tensor | None) -> Tensor:
        if is_free(*frames.shape[2:]):
            frames = frames.contiguous()  # torch looks whether channels-last frames are more than one, and keeps to it
        return F.conv2d(frames, self.weight[:, :, kernel_frame], bias, padding=1, groups=self.weight.shape[0])


class CosineAttention(nn.Module):
    """Projections shared by spatial and temporal attention: pre-norm, l2-normalised and scaled queries and keys.

    softmax(8 q kᵀ) v with q = l2norm(q) * q_scale, k = l2norm(k) * k_scale. With `normalize_context=False` keys and
    values come from the input before the norm, as the released weights were trained.
    """

    def __init__(self, width: int, heads: int, head_dim: int, normalize_context: bool = True) -> None:
        super().__init__()
        self.heads, self.head_dim, self.normalize_context = heads, head_dim, normalize_context
        self.norm = nn.LayerNorm(width, bias=False)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_dim))
        self.k_scale = nn.Parameter(torch.ones(head_dim))
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)

    def _contexts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What queries, and what keys and values, are projected from."""
        normed = self.norm(x)
        return normed, normed if self.normalize_context else x

    def _normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        # The attention scale joins q_scale: one multiplication, and no dependence on the kernel's default scale.
        q = F.normalize(q, dim=-1) * (self.q_scale * COSINE_ATTENTION_SCALE)
        return q, F.normalize(k, dim=-1) * self.k_scale


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """`torch.cat` without its copy of a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


class SpatialAttention(CosineAttention):
    """Plain attention among all positions of each frame, with rotary positions, a relative bias, or none."""

    def __init__(
        self, width: int, heads: int, head_dim: int, position: SpatialPosition, normalize_context: bool = True
    ) -> None:
        super().__init__(width, heads, head_dim, normalize_context)
        self.position = position
        self.relative_bias = ContinuousPositionBias(width, heads) if position == "relative" else None

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, t, h, w, d) -> (b t) heads (h w) head_dim each."""
        b, t, h, w, _ = x.shape
        for_q, for_kv = self._contexts(x)
        split = (b * t, h * w, self.heads, self.head_dim)
        q = self.to_q(for_q).reshape(split)
        k, v = (part.reshape(split) for part in self.to_kv(for_kv).chunk(2, dim=-1))
        if self.position == "rotary":
            cos, sin = rotary_2d(h, w, self.head_dim, x.device)
            q, k = rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin)
        q, k = self._normalize(q, k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, cache: BlockCache | None = None) -> Tensor:
        """x (b, t, h, w, d) -> same shape. Frames are independent; `cache` is not needed."""
        b, t, h, w, _ = x.shape
        q, k, v = self._queries_keys_values(x)
        bias = None if self.relative_bias is None else self.relative_bias(h, w).to(q.dtype)
        out = attend(q, k, v, bias, scale=1.0)  # (b t) heads n d
        return self.to_out(out.transpose(1, 2).reshape(b, t, h, w, -1))


class JointAttention(SpatialAttention):
    """Attention of each position to all positions of its latent frame and of earlier ones, at most `window` back.

    Positions within a frame are those of `SpatialAttention`, whichever frame a key is of; the order of frames is left
    to the PEG. Of one frame it is `SpatialAttention`, whose weights it has.

    Args:
        window: latent frames a query sees, its own included; None is unlimited.
        causal: False lets every frame see every other; then there is no window and no stream.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        position: SpatialPosition,
        normalize_context: bool = True,
        window: int | None = 5,
        causal: bool = True,
    ) -> None:
        super().__init__(width, heads, head_dim, position, normalize_context)
        self.window, self.causal = window, causal

    def forward(self, x: Tensor, cache: BlockCache | None = None) -> Tensor:
        """x (b, t, h, w, d) -> same shape; continues from the keys and values in `cache` and replaces them.

        Frame by frame over the keys that it may see, so that no mask is needed and nothing masked is computed.
        """
        b, t, h, w, _ = x.shape
        q, k, v = (y.unflatten(0, (b, t)) for y in self._queries_keys_values(x))  # b t heads n d
        if cache is not None:
            if cache.keys is not None and cache.values is not None:
                k, v = torch.cat([cache.keys, k], dim=1), torch.cat([cache.values, v], dim=1)
            keep = k.shape[1] if self.window is None else min(self.window - 1, k.shape[1])
            cache.keys, cache.values = (y[:, y.shape[1] - keep :].clone() for y in (k, v))
        bias = None if self.relative_bias is None else self.relative_bias(h, w).to(q.dtype)
        frames = []
        for i in range(t):
            stop = k.shape[1] - t + i + 1 if self.causal else k.shape[1]
            start = 0 if self.window is None or not self.causal else max(stop - self.window, 0)
            keys, values = (y[:, start:stop].transpose(1, 2).flatten(2, 3) for y in (k, v))  # b heads (frames n) d
            repeated = None if bias is None else bias.repeat(1, 1, stop - start)
            frames.append(attend(q[:, i], keys, values, repeated, scale=1.0))
        out = torch.stack(frames, dim=1)  # b t heads n d
        return self.to_out(out.transpose(2, 3).reshape(b, t, h, w, -1))


class TemporalAttention(CosineAttention):
    """Attention among the frames of each position: causal, and at most `window` latent frames back.

    Args:
        window: latent frames a query sees, its own included; None is unlimited.
        causal: False lets every frame see every other (Table 9, "plain"); then there is no window and no stream.
        position: "alibi" adds -slope * |i - j| (the released image-only model); "none" leaves order to the PEG.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        window: int | None = 5,
        causal: bool = True,
        position: TemporalPosition = "none",
        normalize_context: bool = True,
    ) -> None:
        super().__init__(width, heads, head_dim, normalize_context)
        self.window, self.causal, self.position = window, causal, position

    def forward(self, x: Tensor, cache: BlockCache | None = None) -> Tensor:
        """x (b, t, h, w, d) -> same shape; continues from the keys and values in `cache` and replaces them."""
        b, t, h, w, _ = x.shape
        for_q, for_kv = self._contexts(x)
        if t == 1 and cache is None:  # one key: the softmax is 1, whatever the query
            return self.to_out(F.linear(for_kv, self.to_kv.weight.chunk(2)[1]))
        # Positions and heads together play the role of heads: every tensor below is a view of (b, t, h, w, d) memory.
        q = self.to_q(for_q).reshape(b, t, -1, self.head_dim)
        k, v = (part.reshape(b, t, -1, self.head_dim) for part in self.to_kv(for_kv).chunk(2, dim=-1))
        q, k = self._normalize(q, k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # b (h w heads) t d
        if cache is not None:
            if cache.keys is not None and cache.values is not None:
                k, v = torch.cat([cache.keys, k], dim=2), torch.cat([cache.values, v], dim=2)
            keep = k.shape[2] if self.window is None else min(self.window - 1, k.shape[2])
            cache.keys, cache.values = (y[:, :, y.shape[2] - keep :].clone() for y in (k, v))
        mask = self._mask(t, k.shape[2], h * w, x.device, q.dtype)
        out = attend(q, k, v, mask, scale=1.0)
        return self.to_out(out.transpose(1, 2).reshape(b, t, h, w, -1))

    def _mask(self, queries: int, keys: int, positions: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """Which key each query may see; the last query sits at the last key. None: all of them, without bias."""
        distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
        visible = torch.ones_like(distance, dtype=torch.bool)
        if self.causal:
            visible = distance >= 0
            if self.window is not None:
                visible &= distance < self.window
        if self.position == "alibi":
            bias = -alibi_slopes(self.heads).to(device)[:, None, None] * distance.abs()  # heads queries keys
            bias = bias.masked_fill(~visible, float("-inf")).to(dtype)
            return bias.repeat(positions, 1, 1)  # (positions heads) queries keys
        return None if queries == 1 and self.causal and (self.window is None or keys <= self.window) else visible


class WindowAttention(nn.Module):
    """Attention inside square windows with a learned relative position table (Liu et al., 2021).

    Windows at the edges of the grid are smaller where they do not fit: the same result as padding and masking (for
    shifted windows, as rolling the grid and masking what does not belong together), without either and for any size.

    Args:
        shift: rows and columns before the first whole window; half the window for "shifted" blocks, else 0.
    """

    def __init__(self, width: int, heads: int, head_dim: int, window_size: int, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.head_dim, self.window_size, self.shift = heads, head_dim, window_size, shift
        self.norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.position_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, heads))
        self.proj = nn.Linear(heads * head_dim, width)
        nn.init.trunc_normal_(self.position_table, std=0.02)

    def forward(self, x: Tensor, cache: BlockCache | None = None) -> Tensor:
        """x (b, t, h, w, d) -> same shape. Frames are independent; `cache` is not needed."""
        b, t, h, w, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b * t, h, w, -1)
        if is_free(h, w):
            return self.proj(self._padded_windows(qkv).reshape(b, t, h, w, -1))
        rows, columns = self._parts(h), self._parts(w)
        strips = [joined([self._windows(qkv[:, r, c]) for c in columns], dim=2) for r in rows]
        return self.proj(joined(strips, dim=1).reshape(b, t, h, w, -1))

    def _padded_windows(self, qkv: Tensor) -> Tensor:
        """The same by padding and masking, whose operations are as many for any size: (n, h, w, 3 * heads * d)."""
        h, w, size = qkv.shape[1], qkv.shape[2], self.window_size
        before = -self.shift % size
        rows, columns = (before + h + size - 1) // size, (before + w + size - 1) // size
        padding = (0, 0, before, columns * size - before - w, before, rows * size - before - h)
        inside = F.pad(qkv.new_ones(1, h, w, 1), padding).reshape(rows, size, columns, size)
        hidden = inside.transpose(1, 2).reshape(rows * columns, size * size) == 0
        out = self._windows(F.pad(qkv, padding), hidden)
        # Not slices, whose layout would tie the graph to sizes that fill no window.
        row, column = (torch.arange(before, before + side, device=qkv.device) for side in (h, w))
        return out.index_select(1, row).index_select(2, column)

    def _parts(self, length: int) -> list[slice]:
        """An axis in the part window before the first whole one, the whole ones, and the part window after them."""
        start = min(self.shift, length)
        stop = length - (length - start) % self.window_size
        return [part for part in (slice(0, start), slice(start, stop), slice(stop, length)) if part.start < part.stop]

    def _windows(self, qkv: Tensor, hidden: Tensor | None = None) -> Tensor:
        """qkv (n, h, w, 3 * heads * d), h and w multiples of the window or smaller -> (n, h, w, heads * d).

        No query sees the keys that are `hidden` (windows, keys), in which case h and w are multiples of the window.
        """
        n, h, w, _ = qkv.shape
        wh = ww = self.window_size
        if hidden is None:
            wh, ww = min(wh, h), min(ww, w)
        grid = (n, h // wh, wh, w // ww, ww)
        q, k, v = (
            qkv.reshape(*grid, 3, self.heads, self.head_dim)
            .permute(5, 0, 1, 3, 6, 2, 4, 7)  # 3 n rows columns heads wh ww d
            .reshape(3, -1, self.heads, wh * ww, self.head_dim)
        )
        table_side = 2 * self.window_size - 1
        bias = window_bias(self.position_table.reshape(table_side, table_side, -1), wh, ww).to(q.dtype)
        if hidden is not None:
            bias = bias.masked_fill(hidden[:, None, None], float("-inf")).repeat(n, 1, 1, 1)
        out = attend(q, k, v, bias, scale=self.head_dim**-0.5)  # (n rows columns) heads (wh ww) d
        out = out.reshape(n, h // wh, w // ww, self.heads, wh, ww, self.head_dim)
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(n, h, w, -1)


class FeedForward(nn.Module):
    """Pre-norm GEGLU: Linear(d, 2k), first half times GELU of the second, Linear(k, d); k = int(multiple * 2/3 * d)."""

    def __init__(self, width: int, multiple: float) -> None:
        super().__init__()
        hidden = int(multiple * (2 / 3) * width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * hidden, bias=False)
        self.project = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(self.norm(x)).chunk(2, dim=-1)
        return self.project(value * F.gelu(gate))


class Block(nn.Module):
    """Positional convolution (where the block has one), attention, feed-forward; each added to its input."""

    def __init__(
        self,
        attention: SpatialAttention | TemporalAttention | WindowAttention,
        feedforward: FeedForward,
        positional_convolution: PositionalConvolution | None,
    ) -> None:
        super().__init__()
        self.positional_convolution = positional_convolution
        self.attention = attention
        self.feedforward = feedforward

    @property
    def outputs(self) -> tuple[nn.Linear, nn.Linear]:
        """The last linear maps of attention and feed-forward, whose results are added to the input."""
        attention = self.attention
        last = attention.proj if isinstance(attention, WindowAttention) else attention.to_out
        return last, self.feedforward.project

    def forward(self, x: Tensor, cache: BlockCache | None = None) -> Tensor:
        """x (b, t, h, w, d) -> same shape."""
        if self.positional_convolution is not None:
            x = x + self.positional_convolution(x, cache)
        x = x + self.attention(x, cache)
        return x + self.feedforward(x)


def limit_length(x: Tensor, limit: float) -> Tensor:
    """Tokens x (..., d) that are longer than `limit` shortened to it; others come back bit for bit."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    # Of two tensors: torch divides a number by a tensor as number * (1 / tensor), which is 1 only nearly.
    return x * (torch.full_like(length, limit) / length.clamp_min(limit)).to(x.dtype)


SATURATION = (1.5, 2.0)
"""Where the absolute value of a pixel begins to be bent, and what it never reaches."""


def saturate(pixels: Tensor) -> Tensor:
    """Pixels beyond 1.5 bent so that they never reach 2; none of it is seen once they are clamped to [-1, 1].

    Smooth, and with a slope that falls slowly (as the inverse square), so that training still pulls pixels back.
    """
    start, end = SATURATION
    beyond = (pixels.abs() - start).clamp_min(0) / (end - start)
    bent = start + (end - start) * beyond / (1 + beyond)
    return torch.where(beyond > 0, torch.where(pixels < 0, -bent, bent), pixels)


class Stack(nn.Module):
    """Blocks in a row, then a LayerNorm without bias where `normalize` says so.

    Args:
        limits: the largest length of a token after each block (`limit_length`); None leaves tokens as they are.

    What blocks add to a token is not bounded: a feed-forward sees a normalised token, but its value times its gate is
    quadratic in it, and training shapes both only in the directions that its material has. Tokens of other material may
    come out 50 times longer, and no later block, each of which adds a bounded amount, can make that good again.
    """

    def __init__(
        self, width: int, blocks: list[Block], normalize: bool = True, limits: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.limits = limits
        self.norm = nn.LayerNorm(width, bias=False) if normalize else nn.Identity()

    def new_cache(self) -> list[BlockCache]:
        """An empty cache, one entry a block."""
        return [BlockCache() for _ in self.blocks]

    def forward(self, x: Tensor, cache: list[BlockCache] | None = None) -> Tensor:
        """x (b, t, h, w, d) -> same shape."""
        for i, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[i])
            if self.limits is not None:
                x = limit_length(x, self.limits[i])
        return self.norm(x)


def recompute(block: nn.Module, enable: bool = True) -> None:
    """Compute a block again in the backward pass instead of keeping what lies within it; or no more.

    On the instance, not by a wrapping module, which would rename every parameter.
    """
    vars(block).pop("forward", None)
    if enable:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
