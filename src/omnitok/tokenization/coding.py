"""Images and videos through a tokenizer. Videos go as generators of pieces, so that only pieces are in memory.

Tokens are codes (1, t, h, w) of a quantizer or latents (1, c, t, h, w) of a VAE; a piece is a run of latent frames.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from omnitok.models import streaming
from omnitok.models.encoding import Encoding
from omnitok.models.protocol import DecoderStream, EncoderStream, Tokenizer
from omnitok.models.tiling import Span, decode_tiles, spans
from omnitok.models.tokenizer import OmniTokenizer

POSITIONS_AT_ONCE = 8192  # latent positions that a piece aims at: about 100 MB of activations in the small models
PIXELS_AT_ONCE = 2**23  # of whole frames, which tiles are cut from: 100 MB as floats, and there are several copies


def frames_at_once(tokenizer: Tokenizer, height: int, width: int, tile: int | None) -> int:
    """How many frames of a video to push at a time: whole latent frames, fewer the larger the frames are."""
    frames, patch, _ = tokenizer.downsample
    _, h, w = tokenizer.latent_shape(1, height, width)
    most = min(8, PIXELS_AT_ONCE // (frames * height * width))
    if tile is not None:
        side = max(1, 2 * tile // patch)  # with the halo
        h, w = min(h, side), min(w, side)
    return frames * max(1, min(most, POSITIONS_AT_ONCE // (h * w)))


def _goes_in_pieces(tokenizer: Tokenizer, tile: int | None) -> bool:
    """Whether a video is streamed; in tiles only ours are, whose windows say where tiles may begin."""
    return tokenizer.causal and (tile is None or isinstance(tokenizer, OmniTokenizer))


def _spans(tokenizer: Tokenizer, length: int, tile: int | None) -> list[Span]:
    """The tiles along an axis of a streamed video."""
    if tile is None:
        return [Span(0, length, 0, length)]
    assert isinstance(tokenizer, OmniTokenizer)
    return spans(length, tile, tokenizer.config)


def token_count(tokenizer: Tokenizer, frames: int, height: int, width: int) -> int:
    """Latent positions of an image (frames = 1) or video."""
    return math.prod(tokenizer.latent_shape(frames, height, width))


def bits_per_pixel(tokenizer: Tokenizer, frames: int, height: int, width: int) -> float:
    """Bits of the tokens over frames * height * width."""
    return token_count(tokenizer, frames, height, width) * tokenizer.bits_per_token / (frames * height * width)


@torch.inference_mode()
def encode(tokenizer: Tokenizer, pixels: Tensor, tile: int | None = None) -> Tensor:
    """Pixels of files, (b, 3, H, W) or (b, 3, T, H, W), to codes or means of the posterior, on the CPU.

    Their range is known, so a bright image is no mistake.
    """
    return tokenizer.encode(pixels.to(tokenizer.device), tile=tile, check_range=False).tokens.cpu()


def decode(tokenizer: Tokenizer, tokens: Tensor, size: tuple[int, int], tile: int | None) -> Tensor:
    """Pixels (b, 3, H, W) or (b, 3, T, H, W), float32 in [-1, 1] on the CPU, of codes or latents; size is (H, W)."""
    decode = tokenizer.decode if tokens.is_floating_point() else tokenizer.decode_codes
    return _finished(decode(tokens, tile=tile), size)


class VideoEncoder:
    """One video on its way through the encoder, in tiles where these are asked for.

    A tokenizer that cannot stream gathers the whole video first.
    """

    def __init__(self, tokenizer: Tokenizer, tile: int | None = None) -> None:
        self._tokenizer, self._tile = tokenizer, tile
        self._streams: list[tuple[EncoderStream, Span, Span]] = []  # of each tile, with its rows and columns
        self._held: list[Tensor] = []

    def push(self, frames: Tensor) -> list[Tensor]:
        """Take frames (3, n, H, W); the tokens that they complete, in a list of one piece or none."""
        if not _goes_in_pieces(self._tokenizer, self._tile):
            self._held.append(frames)
            return []
        patch = self._tokenizer.downsample[1]
        if not self._streams:
            _, h, w = self._tokenizer.latent_shape(1, *frames.shape[2:])
            rows, columns = (_spans(self._tokenizer, length, self._tile) for length in (h, w))
            self._streams = [(self._stream(r, c), r, c) for r in rows for c in columns]
        return self._joined(
            [
                stream.push(frames[None, ..., _pixels(row, patch), _pixels(column, patch)])
                for stream, row, column in self._streams
            ]
        )

    def _stream(self, row: Span, column: Span) -> EncoderStream:
        if self._tile is None:
            return self._tokenizer.encoder_stream()
        assert isinstance(self._tokenizer, OmniTokenizer)
        return streaming.EncoderStream(self._tokenizer, (row.core, column.core))

    def finish(self) -> list[Tensor]:
        """The tokens of the frames that waited."""
        if self._held:
            return [encode(self._tokenizer, torch.cat(self._held, dim=1)[None], self._tile)]
        return self._joined([stream.flush() for stream, _, _ in self._streams])

    def _joined(self, encodings: list[Encoding]) -> list[Tensor]:
        """The cores of all tiles, row by row, side by side."""
        cores = [encoding.tokens for encoding in encodings]
        columns = sum(row.start == 0 for _, row, _ in self._streams)
        rows = [torch.cat(cores[i : i + columns], dim=-1) for i in range(0, len(cores), columns)]
        tokens = torch.cat(rows, dim=-2)
        return [tokens] if tokens.shape[time_axis(tokens)] else []


def _pixels(span: Span, patch: int) -> slice:
    return slice(span.outer_start * patch, span.outer_stop * patch)


def encode_video(tokenizer: Tokenizer, pieces: Iterable[Tensor], tile: int | None) -> Iterator[Tensor]:
    """Tokens of a video given in pieces (3, n, H, W); see `VideoEncoder`."""
    encoder = VideoEncoder(tokenizer, tile)
    for piece in pieces:
        yield from encoder.push(piece)
    yield from encoder.finish()


def decode_video(
    tokenizer: Tokenizer, pieces: Iterable[Tensor], size: tuple[int, int], tile: int | None
) -> Iterator[Tensor]:
    """Frames (3, n, H, W), float32 in [-1, 1] on the CPU, of tokens in pieces; size (H, W) crops the padding away.

    The last latent frame stands for a whole temporal patch: frames beyond the video's own are the caller's to drop.
    """
    if not _goes_in_pieces(tokenizer, tile):
        tokens = list(pieces)
        yield decode(tokenizer, torch.cat(tokens, dim=time_axis(tokens[0])), size, tile)[0]
        return
    streams: list[DecoderStream] = []
    for piece in pieces:
        frames = _finished(_push_tiles(tokenizer, streams, piece, tile), size)[0]
        if frames.shape[1]:
            yield frames
    if tile is None and streams:  # of ours, which alone have tiles here, no frame waits
        frames = _finished(streams[0].flush(), size)[0]
        if frames.shape[1]:
            yield frames


def time_axis(tokens: Tensor) -> int:
    """Where the latent frames are, in codes (1, t, h, w) or latents (1, c, t, h, w)."""
    return 2 if tokens.is_floating_point() else 1


def _push_tiles(tokenizer: Tokenizer, streams: list[DecoderStream], tokens: Tensor, tile: int | None) -> Tensor:
    """Pixels (1, 3, n, H, W) of a piece; `streams`, one per tile in the order of `decode_tiles`, fills on first use."""
    if tile is None:
        streams.extend([tokenizer.decoder_stream()] if not streams else [])
        return streams[0].push(tokens)
    assert isinstance(tokenizer, OmniTokenizer)
    grid = tokens.permute(0, 2, 3, 4, 1) if tokens.is_floating_point() else tokenizer.lookup_codes(tokens)  # b t h w c
    turn = 0

    def decode_part(part: Tensor) -> Tensor:
        nonlocal turn
        if turn == len(streams):
            streams.append(tokenizer.decoder_stream())
        turn += 1
        return streams[turn - 1].push(part.permute(0, 4, 1, 2, 3))

    return decode_tiles(decode_part, grid, tile, tokenizer.config)


def _finished(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return pixels[..., : size[0], : size[1]].float().clamp(-1, 1).cpu()
