"""One file through a tokenizer: reconstructed, encoded to a token file, or decoded from one, in bounded memory.

Videos are streamed and keep the times of their frames. A tokenizer that cannot stream takes a video as a whole.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok.data import VideoReader, detect_modality, write_image
from omnitok.data.arrays import ARRAY_SUFFIXES
from omnitok.data.image import image_reader
from omnitok.data.pixel_format import MODES, PixelFormat, Ranges
from omnitok.data.token_file import TokenFile, TokenHeader, compact_codes, open_tokens, write_tokens
from omnitok.data.video_writer import copy_sound, video_writer
from omnitok.errors import CheckpointError, MediaError
from omnitok.metrics.frame_quality import FrameQuality
from omnitok.models.protocol import Tokenizer
from omnitok.tokenization.coding import (
    VideoEncoder,
    bits_per_pixel,
    decode,
    decode_video,
    encode,
    encode_video,
    frames_at_once,
    time_axis,
    token_count,
)

_WHOLE_PIXELS = 2**22
_TILE = 1024
"""Images and frames of more than so many pixels go in tiles of that side, unless another is asked for: as a whole they
take some 280 bytes per pixel, and attention's windows are as good in tiles."""

Progress = Callable[[int, int | None], None]
"""Called with the frames that are done since the last call, and how many there will be, where that is known."""


def _silent(done: int, total: int | None) -> None:
    pass


@dataclass(frozen=True)
class Coded:
    """What a file became.

    Attributes:
        frames, height, width: of the input; an image has one frame.
        tokens: positions of the latent grid.
        bits_per_pixel: of the tokens, over frames * height * width.
        shape: of the tensor that was written.
        psnr, ssim: of a reconstruction, means over frames; NaN for the others.
        per_channel: of a reconstruction that is not in colour, "psnr" and "ssim" of each channel.
    """

    frames: int
    height: int
    width: int
    tokens: int
    bits_per_pixel: float
    shape: tuple[int, ...]
    psnr: float = float("nan")
    ssim: float = float("nan")
    per_channel: Mapping[str, Sequence[float]] = field(default_factory=dict)


@torch.inference_mode()
def reconstruct_file(
    tokenizer: Tokenizer,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    tile: int | None = None,
    fps: float | None = None,
    side_by_side: bool = False,
    progress: Progress = _silent,
) -> Coded:
    """Encode an image or video, decode it again, write the result, and measure it against the original.

    A video keeps its sound, and its frames their times; arrays and TIFF keep the type of their numbers, in the ranges
    of the tokenizer's channels.

    Args:
        tile: work in square tiles of about so many pixels, with halos; None does so above 4 megapixels.
        fps: sample a video at so many frames per second instead of taking every frame.
        side_by_side: write the original to the left of the result.

    Raises:
        OmnitokError: the source cannot be read, or the result not written (then nothing is left under its name).
    """
    quality, pixel_format = FrameQuality(), PixelFormat(tokenizer.channels, tokenizer.channel_ranges)

    def compare(original: Tensor, result: Tensor) -> Tensor:
        quality.add(original, result)
        return torch.cat([original, result], dim=-1) if side_by_side else result

    if detect_modality(source) == "image":
        with image_reader(source, whole=True, pixel_format=pixel_format) as opened:
            image, stored = opened.pixels(), _stored(opened.dtype, pixel_format.ranges)  # (c, H, W)
        _check_output(output, tokenizer.channels)
        height, width = image.shape[1:]
        tile = _tile_of(tokenizer, tile, height, width)
        result = decode(tokenizer, encode(tokenizer, image[None], tile), (height, width), tile)[0]
        written = compare(image[:, None], result[:, None])[:, 0]
        write_image(output, written, **stored)
        return _coded(tokenizer, 1, height, width, written.shape, quality)
    with VideoReader(source, fps=fps, pixel_format=pixel_format) as reader:
        _check_output(output, tokenizer.channels)
        height, width = reader.height, reader.width
        tile = _tile_of(tokenizer, tile, height, width)
        originals = _HeldFrames(reader.chunks(frames_at_once(tokenizer, height, width, tile)))
        tokens = encode_video(tokenizer, originals, tile)
        sound = source if reader.has_audio else None
        written_width = 2 * width if side_by_side else width
        done, stored = 0, _stored(reader.dtype, pixel_format.ranges)
        with video_writer(output, reader.fps, written_width, height, sound, **stored) as writer:
            for result in decode_video(tokenizer, tokens, (height, width), tile):
                if len(originals) == 0:  # what is left fills up the last latent frame
                    break
                original = originals.take(result.shape[1])  # fewer where it was filled up
                count = original.shape[1]
                writer.write(compare(original, result[:, :count]), reader.durations[done : done + count])
                done += count
                progress(count, reader.frame_count)
    return _coded(tokenizer, done, height, width, (tokenizer.channels, done, height, written_width), quality)


@torch.inference_mode()
def encode_file(
    tokenizer: Tokenizer,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str,
    model_sha256: str,
    tile: int | None = None,
    fps: float | None = None,
    latent_dtype: torch.dtype = torch.float32,
    progress: Progress = _silent,
) -> Coded:
    """Write the tokens of an image or video, the times of its frames and its sound as one token file.

    Args:
        model, model_sha256: name and fingerprint of the tokenizer, which `decode_file` asks for.
        tile, fps: as for `reconstruct_file`.
        latent_dtype: how a VAE's latents are stored; codes are stored in the smallest integers that hold them.

    Raises:
        OmnitokError: the source cannot be read, or the result not written (then nothing is left under its name).
    """
    kind, durations, rate, sound = detect_modality(source), None, None, None
    pixel_format = PixelFormat(tokenizer.channels, tokenizer.channel_ranges)

    def stored(tokens: Tensor) -> Tensor:
        is_latent = tokens.is_floating_point()
        return tokens.to(latent_dtype) if is_latent else compact_codes(tokens, tokenizer.vocab_size or 0)

    if kind == "image":
        with image_reader(source, whole=True, pixel_format=pixel_format) as opened:
            pixels, dtype = opened.pixels(), opened.dtype
        frames, (height, width) = 1, pixels.shape[1:]
        tokens = stored(encode(tokenizer, pixels[None], _tile_of(tokenizer, tile, height, width))[0])
    else:
        with VideoReader(source, fps=fps, pixel_format=pixel_format) as reader:
            dtype = reader.dtype
            height, width, rate = reader.height, reader.width, reader.fps
            tile = _tile_of(tokenizer, tile, height, width)
            encoder, parts = VideoEncoder(tokenizer, tile), []
            for chunk in reader.chunks(frames_at_once(tokenizer, height, width, tile)):
                parts += [stored(piece.cpu()) for piece in encoder.push(chunk)]
                progress(chunk.shape[1], reader.frame_count)
            parts += [stored(piece.cpu()) for piece in encoder.finish()]
            tokens = torch.cat(parts, dim=time_axis(parts[0]))[0]
            frames = len(reader.durations)
            sound = copy_sound(source) if reader.has_audio else None
            durations = None if _is_even(reader.durations, rate) else reader.durations
    numbers = _stored(dtype, pixel_format.ranges)
    header = TokenHeader(kind, frames, height, width, model, model_sha256, Path(source).name, rate, **numbers)
    write_tokens(output, tokens, header, durations, sound)
    return _coded(tokenizer, frames, height, width, tokens.shape)


@torch.inference_mode()
def decode_file(
    tokenizer: Tokenizer,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str,
    model_sha256: str,
    tile: int | None = None,
    ranges: Ranges = (),
    progress: Progress = _silent,
) -> Coded:
    """Bring back the image or video of a token file, with the times of its frames and its sound.

    Arrays and TIFF get numbers of the type that the source had.

    Args:
        model, model_sha256: name and fingerprint of the tokenizer; its tokens must be those of the file.
        tile: decode in square tiles of about so many pixels, blended over their halos.
        ranges: of the numbers in arrays and TIFF, in place of those of the source.

    Raises:
        CheckpointError: no token file, or tokens of another tokenizer.
        OmnitokError: the result cannot be written (then nothing is left under its name).
    """
    _check_output(output, tokenizer.channels)
    with open_tokens(source) as file:
        _check_tokens(file, tokenizer, model, model_sha256)
        header = file.header
        size = (header.height, header.width)
        tile = _tile_of(tokenizer, tile, *size)
        stored = _stored(header.dtype or "uint8", ranges or header.ranges)
        if header.kind == "image":
            pixels = decode(tokenizer, file.tokens()[None], size, tile)[0]
            write_image(output, pixels, **stored)
            return _coded(tokenizer, 1, *size, pixels.shape)
        assert header.fps is not None  # of a video; checked when the header was read
        done = 0
        pieces = file.pieces(frames_at_once(tokenizer, *size, tile) // tokenizer.downsample[0])
        with (
            file.sound() as sound,
            video_writer(output, header.fps, header.width, header.height, sound, **stored) as writer,
        ):
            for result in decode_video(tokenizer, pieces, size, tile):
                frames = result[:, : header.frames - done]  # the last patch may have been filled up
                stop = done + frames.shape[1]
                writer.write(frames, None if file.durations is None else file.durations[done:stop])
                progress(stop - done, header.frames)
                done = stop
    return _coded(tokenizer, header.frames, *size, (tokenizer.channels, header.frames, *size))


def _check_tokens(file: TokenFile, tokenizer: Tokenizer, model: str, model_sha256: str) -> None:
    """Refuse tokens that are not this tokenizer's, or that do not fit what the header says."""
    header = file.header
    if header.model_sha256 not in (model_sha256, *tokenizer.compatible_tokenizers):
        raise CheckpointError(
            f"{file.path}: its tokens are of the model {header.model!r} (weights {header.model_sha256}), not of "
            f"{model!r} (weights {model_sha256}): give the model that made them with --model"
        )
    if file.is_codes != tokenizer.is_discrete:
        found, wanted = ("codes", "latents") if file.is_codes else ("latents", "codes")
        raise CheckpointError(f"{file.path}: holds {found}, but {model!r} decodes {wanted}")
    grid = tokenizer.latent_shape(header.frames, header.height, header.width)
    expected = grid if header.kind == "video" else grid[1:]
    expected = expected if file.is_codes else (tokenizer.latent_channels, *expected)
    if file.shape != expected:
        size = f"{header.frames} frames of {header.width}x{header.height}"
        raise CheckpointError(f"{file.path}: {size} need tokens of shape {expected}, found {file.shape}")


def _stored(dtype: str | None, ranges: Ranges) -> dict[str, Any]:
    """How numbers are written that a file holds as `dtype`; nothing for an ordinary image or video (None)."""
    return {} if dtype is None else {"dtype": dtype, "ranges": tuple(ranges)}


def _check_output(output: str | os.PathLike[str], channels: int) -> None:
    """Refuse, before the work begins, a kind of file that cannot hold so many channels."""
    if channels not in MODES and Path(output).suffix.lower() not in ARRAY_SUFFIXES:
        raise MediaError(f"{output}: {channels} channels are written as .npy, those of an image also as .tif")


def _tile_of(tokenizer: Tokenizer, tile: int | None, height: int, width: int) -> int | None:
    is_large = height * width > _WHOLE_PIXELS and tokenizer.tile_unit is not None
    return _TILE if tile is None and is_large else tile


def _is_even(durations: Sequence[float], fps: float) -> bool:
    """Whether every frame begins and ends where 1 / fps each puts it, to the millisecond of Matroska and WebM."""
    return all(abs(time - n / fps) <= 1e-3 for n, time in enumerate(itertools.accumulate(durations), start=1))


class _HeldFrames:
    """Lets pieces of a video through and holds their frames until `take` asks for them, in order."""

    def __init__(self, pieces: Iterable[Tensor]) -> None:
        self._pieces = pieces
        self._held: deque[Tensor] = deque()

    def __iter__(self) -> Iterator[Tensor]:
        for piece in self._pieces:  # (c, n, H, W)
            self._held.extend(piece.unbind(1))
            yield piece

    def __len__(self) -> int:
        return len(self._held)

    def take(self, n: int) -> Tensor:
        """The next n frames (c, n, H, W), or as many as were let through."""
        return torch.stack([self._held.popleft() for _ in range(min(n, len(self._held)))], dim=1)


def _coded(
    tokenizer: Tokenizer,
    frames: int,
    height: int,
    width: int,
    shape: tuple[int, ...],
    quality: FrameQuality | None = None,
) -> Coded:
    tokens, bits = token_count(tokenizer, frames, height, width), bits_per_pixel(tokenizer, frames, height, width)
    measured = () if quality is None else (quality.psnr, quality.ssim, quality.per_channel)
    return Coded(frames, height, width, tokens, bits, tuple(shape), *measured)
