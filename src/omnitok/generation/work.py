"""What one run of `omnitok generate` makes: samples, or something of given files.

A given file that is larger than the generator makes images and videos of is brought to its size: the largest centred
square of it, or for outpainting all of it with its margins.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.data import VideoReader, read_image
from omnitok.data.modality import Modality, detect_modality
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.data.transforms import Box, center_square, crop, resize
from omnitok.errors import MediaError, OmnitokError
from omnitok.generation.loading import AnyGenerator
from omnitok.generation.request import Items
from omnitok.hub.generator_settings import GeneratorSettings

Draw = Callable[..., Tensor | Iterator[Tensor]]
"""Labels and options of `Generator.sample` -> images (b, 3, H, W), videos (b, 3, T, H, W) or pieces of them."""


@dataclass(frozen=True)
class Work:
    """What is made.

    Attributes:
        draw: makes it.
        modality: of the results.
        fps: frames per second of the results, where they are videos.
        given: files that the results are made of and named after; none for samples.
        is_long: comes in several pieces, so one at a time.
        seen: what is left of a file that is filled, brought to its size, (1, 3, T, H, W), the holes grey.
    """

    draw: Draw
    modality: Modality
    fps: float
    given: tuple[Path, ...] = ()
    is_long: bool = False
    seen: Tensor | None = None


def pixel_format_of(generator: AnyGenerator) -> PixelFormat:
    """How files are read and written for a generator: as for its tokenizer."""
    return PixelFormat(generator.tokenizer.channels, generator.tokenizer.channel_ranges)


def sampling(generator: AnyGenerator, frames: int | None) -> Work:
    """Images, or videos of so many frames."""
    settings, count = generator.settings, frames or 1
    is_long = count > settings.num_frames
    draw = partial(generator.stream_video if is_long else generator.sample, num_frames=count)
    return Work(draw, "image" if frames is None else "video", settings.frame_rate, is_long=is_long)


def continuation(generator: AnyGenerator, path: Path, given: int, frames: int | None, mark: bool) -> Work:
    """Videos of `frames` frames (None: the trained length) that begin with the first `given` ones of a video.

    Args:
        mark: draw a red border around those.

    Raises:
        OmnitokError: the video cannot be read, or is shorter.
    """
    settings = generator.settings
    prompt = _read(path, given, partial(square, settings), pixel_format=pixel_format_of(generator))
    count = settings.num_frames if frames is None else frames
    is_long = count > settings.num_frames

    def draw(labels: Items, **options: Any) -> Iterator[Tensor]:
        prompts = prompt.pixels.expand(len(labels), -1, -1, -1, -1)
        if is_long:
            pieces = generator.stream_video(labels, count, frames=prompts, **options)
        else:
            pieces = iter([generator.sample(labels, count, prompt_frames=prompts, **options)])
        return mark_given(pieces, prompt.pixels.shape[2] if mark else 0)  # an image is one frame

    return Work(draw, "video", prompt.fps or settings.frame_rate, (path,), is_long)


def inpainting(generator: AnyGenerator, path: Path, mask: Path, frames: int | None) -> Work:
    """An image or a video whose pixels are made anew where a mask is white.

    Args:
        mask: an image or a video as large and, if a video, as long; an image serves all frames.
        frames: of the video to read; None: as many as the model was trained on, at most.

    Raises:
        ValueError: `frames` for an image.
        OmnitokError: a file cannot be read, or is not what is accepted.
    """
    modality = _modality(path, frames)

    def fit(height: int, width: int) -> Fit:
        if generator.takes(height, width):
            return Fit((0, 0, height, width), height, width)
        return square(generator.settings, height, width)

    def as_image(height: int, width: int) -> Fit:
        if (height, width) != source.size:
            wanted = f"{source.size[1]} x {source.size[0]} pixels"
            raise OmnitokError(f"{mask}: must be as large as {path}, {wanted}, found {width} x {height}")
        return source.fit

    source = _read(path, frames, fit, generator.settings.num_frames, pixel_format=pixel_format_of(generator))
    pixels, is_moving = source.pixels, detect_modality(mask) == "video"
    if is_moving and modality == "image":
        raise OmnitokError(f"{mask}: is a video, but {path} is an image, whose mask is an image")
    holes = _read(mask, None, as_image, pixels.shape[2], nearest=True).pixels
    if is_moving and holes.shape[2] < pixels.shape[2]:
        raise OmnitokError(
            f"{mask}: must be as long as what is filled of {path}, {pixels.shape[2]} frames, found {holes.shape[2]}"
        )
    if not (holes := holes > 0).any():
        height, width = pixels.shape[-2:]
        raise OmnitokError(f"{mask}: nothing is to be filled: no pixel is white, as seen at {width} x {height} pixels")
    holes = holes.expand(-1, -1, pixels.shape[2], -1, -1)
    draw = partial(_fill, generator.inpaint, pixels, holes, modality)
    fps = source.fps or generator.settings.frame_rate
    return Work(draw, modality, fps, (path,), seen=pixels.masked_fill(holes, 0.0))


def outpainting(generator: AnyGenerator, path: Path, padding: tuple[int, int, int, int], frames: int | None) -> Work:
    """An image or a video with margins made around it.

    Args:
        padding: pixels of the file to add: left, right, top, bottom.
        frames: of the video to read; None: as many as the model was trained on, at most.

    Raises:
        ValueError: `frames` for an image.
        OmnitokError: the file cannot be read.
    """
    modality, settings = _modality(path, frames), generator.settings
    left, right, top, bottom = padding

    def scale(height: int, width: int) -> float:
        whole = (top + height + bottom, left + width + right)
        return 1.0 if generator.takes(*whole) else min(settings.height / whole[0], settings.width / whole[1])

    def fit(height: int, width: int) -> Fit:
        by = scale(height, width)
        return Fit((0, 0, height, width), max(1, round(height * by)), max(1, round(width * by)))

    source = _read(path, frames, fit, settings.num_frames, pixel_format=pixel_format_of(generator))
    pixels = source.pixels
    by = scale(*source.size)
    sides = (int(left * by), int(right * by), int(top * by), int(bottom * by))  # rounded down, so that all of it fits
    if not any(sides):
        height, width = pixels.shape[-2:]
        raise OmnitokError(
            f"{path}: nothing is to be made: brought to {width} x {height} pixels, which the model makes, the padding "
            f"{padding} is less than a pixel"
        )
    draw = partial(_fill, generator.outpaint, pixels, sides, modality)
    return Work(draw, modality, source.fps or generator.settings.frame_rate, (path,))


def _fill(
    fill: Callable[..., Tensor], pixels: Tensor, where: Any, modality: Modality, labels: Items, **options: Any
) -> Tensor:
    """As many images or videos as labels, of the pixels of one by `inpaint` or `outpaint`."""
    filled = fill(pixels.expand(len(labels), -1, -1, -1, -1), where, labels, **options)
    return filled if modality == "video" else filled.squeeze(2)


def interpolation(generator: AnyGenerator, first: Path, last: Path, given: int, frames: int | None) -> Work:
    """Videos of `frames` frames (None: the trained length) from an image or a video to another.

    Args:
        given: frames taken of the end of a first video and of the beginning of a last one.

    Raises:
        OmnitokError: a file cannot be read, or a video is shorter.
    """
    fit, how = partial(square, generator.settings), pixel_format_of(generator)
    ends = _read(first, given, fit, from_end=True, pixel_format=how), _read(last, given, fit, pixel_format=how)
    return _between(generator, ends, frames, (first, last), mark=False)


def middle(generator: AnyGenerator, path: Path, given: int, frames: int | None, mark: bool) -> Work:
    """Videos of `frames` frames (None: the trained length) that begin and end as a video does.

    Args:
        given: frames taken of its beginning and of its end.
        mark: draw a red border around those.

    Raises:
        OmnitokError: the video cannot be read, or is shorter.
    """
    fit, how = partial(square, generator.settings), pixel_format_of(generator)
    ends = _read(path, given, fit, pixel_format=how), _read(path, given, fit, from_end=True, pixel_format=how)
    return _between(generator, ends, frames, (path,), mark)


def _between(
    generator: AnyGenerator, ends: tuple["_Read", "_Read"], frames: int | None, given: tuple[Path, ...], mark: bool
) -> Work:
    def draw(labels: Items, **options: Any) -> Tensor:
        first, last = (end.pixels.expand(len(labels), -1, -1, -1, -1) for end in ends)
        made = generator.interpolate(first, last, frames, labels, **options)
        if mark:
            made = _bordered(made, slice(first.shape[2]))
            made = _bordered(made, slice(made.shape[2] - last.shape[2], None))
        return made

    return Work(draw, "video", ends[0].fps or ends[1].fps or generator.settings.frame_rate, given)


def mark_given(pieces: Iterator[Tensor], given: int) -> Iterator[Tensor]:
    """Pieces (b, 3, n, H, W) of videos with a red border on their first `given` frames."""
    start = 0
    for piece in pieces:
        yield _bordered(piece, slice(min(max(given - start, 0), piece.shape[2])))
        start += piece.shape[2]


def _bordered(video: Tensor, frames: slice) -> Tensor:
    """A video (b, 3, T, H, W) with a red border around some frames."""
    video = video.clone()
    border = max(2, round(min(video.shape[-2:]) / 32))  # two pixels share their colour in H.264
    red = video.new_full((video.shape[1], 1, 1, 1), -1.0)
    red[0] = 1.0
    if len(red) == 4:
        red[3] = 1.0  # opaque
    for edge in (slice(None, border), slice(-border, None)):
        video[:, :, frames, edge] = video[:, :, frames, :, edge] = red
    return video


# ------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Fit:
    """What of a frame is taken, and the size that it is brought to."""

    box: Box
    height: int
    width: int

    def __call__(self, frame: Tensor, nearest: bool) -> Tensor:
        """A frame (3, 1, H, W); `nearest`: of a mask, (1, 1, H, W), above 0 where to fill."""
        part = crop(frame, self.box)
        if not nearest:
            return resize(part, self.height, self.width)
        return F.interpolate(part.mean(0, keepdim=True), (self.height, self.width), mode="nearest-exact")


def square(settings: GeneratorSettings, height: int, width: int) -> Fit:
    """The largest centred square for square models, the whole frame for others."""
    box = center_square(height, width) if settings.height == settings.width else (0, 0, height, width)
    return Fit(box, settings.height, settings.width)


def _modality(path: Path, frames: int | None) -> Modality:
    modality = detect_modality(path)
    if modality == "image" and frames is not None:
        raise ValueError(f"frames is for videos, and {path} is an image")
    return modality


@dataclass(frozen=True)
class _Read:
    """What was read of a file.

    Attributes:
        pixels: (1, 3, T, H, W) in [-1, 1], or of a mask (1, 1, T, H, W), above 0 where to fill.
        size: (H, W) of the file.
        fit: how they were brought to their size.
        fps: frames per second of a video.
    """

    pixels: Tensor
    size: tuple[int, int]
    fit: Fit
    fps: float | None = None


def _read(
    path: Path,
    frames: int | None,
    choose: Callable[[int, int], Fit],
    most: int | None = None,
    *,
    nearest: bool = False,
    from_end: bool = False,
    pixel_format: PixelFormat = RGB,
) -> _Read:
    """An image, or frames of a video.

    Args:
        frames: of a video to read; None: `most` of them, or fewer where there are no more.
        choose: (H, W) of the file -> how frames are brought to size.
        nearest: it is a mask.
        from_end: the last frames instead of the first.
        pixel_format: channels and ranges of the pixels.

    Raises:
        OmnitokError: the file cannot be read or is shorter.
    """
    if detect_modality(path) == "image":
        image = read_image(path, pixel_format=pixel_format)[:, None]
        size = (image.shape[2], image.shape[3])
        return _Read((fit := choose(*size))(image, nearest)[None], size, fit)
    with VideoReader(path, pixel_format=pixel_format) as reader:
        size, count = (reader.height, reader.width), frames or most
        fit = choose(*size)
        taken = deque(reader, count) if from_end else itertools.islice(reader, count)
        held = [fit(frame[:, None], nearest) for frame in taken]
    if frames is not None and len(held) < frames:
        raise MediaError(f"{path}: the video has {len(held)} frames, at least {frames} are needed; take fewer")
    return _Read(torch.cat(held, dim=1)[None], size, fit, reader.fps)
