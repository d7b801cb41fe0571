"""Large images in bounded memory: the encoder over tiles with a halo, the decoder over tiles blended in their halos.

Tiles begin at multiples of the attention window, so that windows fall where they fall without tiles, and every block's
view is cut only at a halo's outer edge.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.models.autoencoder import Encoder, TokenizerConfig

HALO_WINDOWS = 1  # halo around a tile, in attention windows


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in latent positions: its core [start, stop) and what is read, with the halo."""

    start: int
    stop: int
    outer_start: int
    outer_stop: int

    @property
    def core(self) -> slice:
        """The core within what is read."""
        return slice(self.start - self.outer_start, self.stop - self.outer_start)


def spans(length: int, tile: int, config: TokenizerConfig) -> list[Span]:
    """Cut an axis of `length` latent positions into tiles of `tile` pixels, rounded down to whole windows.

    Raises:
        ValueError: a tile smaller than one window.
    """
    unit = config.window_size
    if tile < unit * config.patch_size:
        raise ValueError(
            f"tile must be at least {unit * config.patch_size} pixels (one attention window), found {tile}"
        )
    step, halo = tile // config.patch_size // unit * unit, HALO_WINDOWS * unit
    if length <= tile // config.patch_size:
        return [Span(0, length, 0, length)]
    starts = range(0, length, step)
    return [Span(s, min(s + step, length), max(s - halo, 0), min(s + step + halo, length)) for s in starts]


def _tiles(height: int, width: int, tile: int, config: TokenizerConfig) -> Iterator[tuple[Span, Span]]:
    for row in spans(height, tile, config):
        for column in spans(width, tile, config):
            yield row, column


def encode_tiles(encoder: Encoder, video: Tensor, tile: int) -> Tensor:
    """Features (b, t, h, w, width) of video (b, 3, T, H, W), H and W multiples of the patch; halos are discarded."""
    config = encoder.config
    p = config.patch_size
    features = None
    for row, column in _tiles(video.shape[3] // p, video.shape[4] // p, tile, config):
        piece = video[:, :, :, row.outer_start * p : row.outer_stop * p, column.outer_start * p : column.outer_stop * p]
        out = encoder(piece, core=(row.core, column.core))
        if features is None:
            features = out.new_empty(*out.shape[:2], video.shape[3] // p, video.shape[4] // p, out.shape[-1])
        features[:, :, row.start : row.stop, column.start : column.stop] = out
    assert features is not None
    return features


def decode_tiles(decode: Callable[[Tensor], Tensor], grid: Tensor, tile: int, config: TokenizerConfig) -> Tensor:
    """Pixels (b, 3, T, h p, w p) of latents (b, t, h, w, c); neighbouring tiles fade over their halos."""
    h, w = grid.shape[2:4]
    p = config.patch_size
    total = weights = None
    for row, column in _tiles(h, w, tile, config):
        out = decode(grid[:, :, row.outer_start : row.outer_stop, column.outer_start : column.outer_stop])
        if (row.stop - row.start, column.stop - column.start) == (h, w):
            return out
        if total is None or weights is None:
            total = out.new_zeros(*out.shape[:3], h * p, w * p)
            weights = out.new_zeros(h * p, w * p)
        ramp = _ramp(row, h, p, out)[:, None] * _ramp(column, w, p, out)[None, :]
        rows = slice(row.outer_start * p, row.outer_stop * p)
        columns = slice(column.outer_start * p, column.outer_stop * p)
        total[..., rows, columns] += out * ramp
        weights[rows, columns] += ramp
    assert total is not None
    assert weights is not None
    return total.div_(weights)


def _ramp(span: Span, length: int, patch: int, like: Tensor) -> Tensor:
    """Weight of each pixel of a tile along one axis: 1 inside, falling linearly to 0 over an overlap."""
    n = (span.outer_stop - span.outer_start) * patch
    position = torch.arange(n, device=like.device, dtype=like.dtype) + 0.5
    weight = torch.ones_like(position)
    if span.start > 0:
        weight = weight.minimum(position / (2 * (span.start - span.outer_start) * patch))
    if span.stop < length:
        weight = weight.minimum((n - position) / (2 * (span.outer_stop - span.stop) * patch))
    return weight
