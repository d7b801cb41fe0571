"""Images and videos through a tokenizer. Videos go as generators of pieces, so that only pieces are in memory.

Tokens are codes (1, t, h, w) of a quantizer or latents (1, c, t, h, w) of a VAE; a piece is a run of latent frames.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omnitok.models.protocol import Tokenizer
from omnitok.models.streaming import DecoderStream, EncoderStream
from omnitok.models.tiling import Span, decode_tiles, spans
from omnitok.models.tokenizer import Encoding, OmniTokenizer, TokenizerConfig

POSITIONS_AT_ONCE = 8192  # latent positions that a piece aims at: about 100 MB of activations in the small models


def frames_at_once(config: TokenizerConfig, height: int, width: int, tile: int | None) -> int:
    """How many frames of a video to push at a time: whole latent frames, fewer the larger the frames are."""
    _, h, w = config.latent_shape(1, height, width)
    if tile is not None:
        side = tile // config.patch_size + 2 * config.window_size  # with the halo
        h, w = min(h, side), min(w, side)
    return config.temporal_patch_size * max(1, min(8, POSITIONS_AT_ONCE // (h * w)))


def token_count(tokenizer: Tokenizer, frames: int, height: int, width: int) -> int:
    """Latent positions of an image (frames = 1) or video."""
    return math.prod(tokenizer.latent_shape(frames, height, width))


def bits_per_pixel(tokenizer: Tokenizer, frames: int, height: int, width: int) -> float:
    """Bits of the tokens over frames * height * width."""
    return token_count(tokenizer, frames, height, width) * tokenizer.bits_per_token / (frames * height * width)


def encode_image(tokenizer: OmniTokenizer, pixels: Tensor, tile: int | None) -> Tensor:
    """Codes (h, w) or latents (c, h, w), on the CPU, of an image (3, H, W)."""
    return tokenizer.encode(pixels[None], tile=tile, check_range=False).tokens[0].cpu()


def decode_image(tokenizer: OmniTokenizer, tokens: Tensor, size: tuple[int, int], tile: int | None) -> Tensor:
    """An image (3, H, W), float32 in [-1, 1] on the CPU, of codes (h, w) or latents (c, h, w); size is (H, W)."""
    decode = tokenizer.decode if tokens.is_floating_point() else tokenizer.decode_codes
    return decode(tokens[None], size=(1, *size), tile=tile)[0].float().cpu().clamp_(-1, 1)


def encode_video(tokenizer: OmniTokenizer, pieces: Iterable[Tensor], tile: int | None) -> Iterator[Tensor]:
    """Tokens of a video given in pieces (3, n, H, W). A tokenizer that cannot stream gathers the whole video first."""
    if not tokenizer.causal:
        whole = torch.cat(list(pieces), dim=1)[None]  # (1, 3, T, H, W)
        yield tokenizer.encode(whole, tile=tile, check_range=False).tokens
        return
    streams: list[_TileEncoder] = []
    for piece in pieces:
        streams = streams or _tile_encoders(tokenizer, piece.shape[2], piece.shape[3], tile)
        tokens = _assemble([stream.push(piece[None]) for stream in streams], streams)
        if tokens.shape[time_axis(tokens)]:
            yield tokens
    tokens = _assemble([stream.flush() for stream in streams], streams)
    if tokens.shape[time_axis(tokens)]:
        yield tokens


def decode_video(
    tokenizer: OmniTokenizer, pieces: Iterable[Tensor], size: tuple[int, int], tile: int | None
) -> Iterator[Tensor]:
    """Frames (3, n, H, W), float32 in [-1, 1] on the CPU, of tokens in pieces; size (H, W) crops the padding away.

    The last latent frame stands for a whole temporal patch: frames beyond the video's own are the caller's to drop.
    """
    if not tokenizer.causal:
        tokens = list(pieces)
        whole = torch.cat(tokens, dim=time_axis(tokens[0]))
        decode = tokenizer.decode if whole.is_floating_point() else tokenizer.decode_codes
        yield _finished(decode(whole, tile=tile), size)
        return
    streams: list[DecoderStream] = []
    for piece in pieces:
        yield _finished(_push_tiles(tokenizer, streams, piece, tile), size)


def time_axis(tokens: Tensor) -> int:
    """Where the latent frames are, in codes (1, t, h, w) or latents (1, c, t, h, w)."""
    return 2 if tokens.is_floating_point() else 1


@dataclass(frozen=True)
class _TileEncoder:
    """The encoder stream of one spatial tile; without tiles there is one that covers the frame."""

    stream: EncoderStream
    row: Span
    column: Span
    patch: int

    def push(self, frames: Tensor) -> Tensor:
        """Tokens of the tile's core, of frames (1, 3, n, H, W)."""
        rows = slice(self.row.outer_start * self.patch, self.row.outer_stop * self.patch)
        columns = slice(self.column.outer_start * self.patch, self.column.outer_stop * self.patch)
        return self._core(self.stream.push(frames[..., rows, columns]))

    def flush(self) -> Tensor:
        """Tokens of the tile's core, of the frames that were waiting."""
        return self._core(self.stream.flush())

    def _core(self, encoding: Encoding) -> Tensor:
        rows = slice(self.row.start - self.row.outer_start, self.row.stop - self.row.outer_start)
        columns = slice(self.column.start - self.column.outer_start, self.column.stop - self.column.outer_start)
        return encoding.tokens[..., rows, columns]


def _tile_encoders(tokenizer: OmniTokenizer, height: int, width: int, tile: int | None) -> list[_TileEncoder]:
    config = tokenizer.config
    _, h, w = config.latent_shape(1, height, width)
    rows, columns = ([Span(0, n, 0, n)] if tile is None else spans(n, tile, config) for n in (h, w))
    return [_TileEncoder(tokenizer.encoder_stream(), r, c, config.patch_size) for r in rows for c in columns]


def _assemble(cores: list[Tensor], streams: list[_TileEncoder]) -> Tensor:
    """Cores of all tiles, row by row, side by side."""
    columns = sum(stream.row.start == 0 for stream in streams)
    rows = [torch.cat(cores[i : i + columns], dim=-1) for i in range(0, len(cores), columns)]
    return torch.cat(rows, dim=-2)


def _push_tiles(tokenizer: OmniTokenizer, streams: list[DecoderStream], tokens: Tensor, tile: int | None) -> Tensor:
    """Pixels (1, 3, n, H, W) of a piece; `streams`, one per tile in the order of `decode_tiles`, fills on first use."""
    if tile is None:
        streams.extend([tokenizer.decoder_stream()] if not streams else [])
        return streams[0].push(tokens)
    grid = tokens.permute(0, 2, 3, 4, 1) if tokens.is_floating_point() else tokenizer.lookup_codes(tokens)  # b t h w c
    turn = 0

    def decode(part: Tensor) -> Tensor:
        nonlocal turn
        if turn == len(streams):
            streams.append(tokenizer.decoder_stream())
        turn += 1
        return streams[turn - 1].push(part.permute(0, 4, 1, 2, 3))

    return decode_tiles(decode, grid, tile, tokenizer.config)


def _finished(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return pixels[0, :, :, : size[0], : size[1]].float().clamp(-1, 1).cpu()
