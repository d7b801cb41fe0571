"""Pictures and clips: files to tensors and back.

Pixels are float32 in [-1, 1], channels first: a picture (3, H, W), a clip (3, T, H, W).
"""

import itertools
import os
import warnings
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import torch

from omnitok.data._clips import AvClip, TorchcodecClip, finite_positive
from omnitok.data._pictures import (
    MAX_PIXELS,
    AnimatedPicture,
    is_animated,
    open_picture,
    read_image,
    require_file,
    write_image,
)
from omnitok.data._writers import VideoWriter, write_video
from omnitok.errors import MediaError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "VIDEO_SUFFIXES",
    "VideoReader",
    "VideoWriter",
    "media_kind",
    "read_image",
    "read_video",
    "write_image",
    "write_video",
]

IMAGE_SUFFIXES = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
        *(".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    }
)
"""Suffixes under which folders are searched for pictures (some of them may be animated)."""

VIDEO_SUFFIXES = frozenset(
    {
        *(".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    }
)
"""Suffixes under which folders are searched for clips."""

_LONGEST_FILLED_CHUNK = 64  # frames; a longer chunk may be far longer than the clip
_TICK_TOLERANCE = 1e-3  # Matroska and WebM round times to the millisecond


class _Source(Protocol):
    """What a kind of file offers; frames stay in its own form until their pixels are wanted."""

    is_still: bool
    width: int
    height: int
    fps: float
    frame_count: int | None
    duration: float | None
    has_audio: bool

    def decode(self, start: float) -> Iterator[tuple[float, float, Any]]:
        """(time, duration, frame), in seconds, from the frame shown at `start` on."""

    def to_pixels(self, frame: Any) -> torch.Tensor:
        """A frame as float32 (3, H, W) in [-1, 1]."""


class VideoReader:
    """A clip file, decoded frame by frame in memory that does not grow with its length.

    Any container and codec that PyAV decodes; GIF, animated WebP, APNG and AVIF; a still picture is a clip of one
    frame. Display rotation is applied; the sample aspect ratio is not (pixels stay as coded). Colours become 8-bit
    R'G'B' by the clip's own matrix and range, HDR is tone-mapped, transparency composited over white; frames that
    change size midway are resized to the first.

    Time 0 is the first frame. Without `fps` every decoded frame whose time is in [start, start + duration) is given in
    order (or, if none is, the one shown at `start`). With `fps` the
    clip is sampled at start, start + 1/fps, ...: each time the latest frame shown by then (1 ms of slack for
    containers that round times), so that variable rates come out even. Each iteration starts again at `start`.

    Damaged packets are skipped with a warning, as players do. A clip that ends well before the length in its header is
    an error at its end, after the frames that decode, unless `allow_truncated`.

    Args:
        path: the file.
        fps: frames a second to sample at, or None for the frames as they are.
        start: seconds to leave out at the beginning.
        duration: seconds to read, or None for all.
        allow_truncated: warn, rather than raise, where the file ends early.
        backend: "av" decodes with PyAV; "torchcodec" with torchcodec where it is installed and opens the file, and with
            PyAV after a warning where not; "auto" is PyAV, because torchcodec repeats chroma samples instead of
            interpolating them, reads untagged HD as BT.601, leaves HDR flat and ignores reflections.

    Attributes:
        fps: frames a second of what is read: the `fps` asked for, or the clip's average rate.
        width, height: of the frames, rotated, in pixels.
        frame_count: how many frames will come, an estimate from the header; None where that says nothing.
        has_audio: whether there is a sound track.
        durations: seconds that each frame given so far by the latest iteration is shown, until the next one comes; to
            be handed on with the frames: `writer.write(frames, reader.durations[a:b])`. With `fps` all are 1 / fps.

    Raises:
        MediaError: missing, empty, unreadable, not a clip, no video stream or no frame in it; while iterating,
            truncated or `start` beyond the end.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        *,
        allow_truncated: bool = False,
        backend: Literal["auto", "av", "torchcodec"] = "auto",
    ) -> None:
        finite_positive("fps", fps)
        finite_positive("duration", duration)
        finite_positive("start", start, minimum=-1e-9)
        if backend not in ("auto", "av", "torchcodec"):
            raise ValueError(f"backend must be 'auto', 'av' or 'torchcodec', got {backend!r}")
        self.path = require_file(path)
        self._source: _Source = _open_source(self.path, allow_truncated, backend)
        self._resampled = fps is not None and not self._source.is_still
        self.fps = float(fps) if fps is not None else self._source.fps
        self.start, self.duration = float(start), duration
        self.width, self.height = self._source.width, self._source.height
        self.has_audio = self._source.has_audio
        self.frame_count = self._estimate()
        self.durations: list[float] = []
        self._running: weakref.WeakSet[Generator[torch.Tensor, None, None]] = weakref.WeakSet()

    def _estimate(self) -> int | None:
        whole, count = self._source.duration, self._source.frame_count
        if self._source.is_still:
            return 1
        if not self._resampled and not self.start and self.duration is None:
            return count
        left = max(whole - self.start, 0.0) if whole else self.duration
        if left is None:
            return None
        return max(1, round(min(left, self.duration or left) * self.fps))

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every iteration under way and close its file."""
        for frames in list(self._running):
            frames.close()
        self._running.clear()

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Frames (3, H, W), float32 in [-1, 1], from `start` on."""
        frames = self._timed(self._sampled() if self._resampled else self._as_coded())
        self._running.add(frames)
        return frames

    def _timed(self, frames: Iterator[tuple[torch.Tensor, float]]) -> Generator[torch.Tensor, None, None]:
        durations = self.durations = []
        for frame, duration in frames:
            durations.append(duration)
            yield frame

    def chunks(self, n: int) -> Iterator[torch.Tensor]:
        """Consecutive stretches (3, n, H, W) of the clip; the last may be shorter."""
        if n < 1:
            raise ValueError(f"chunks need at least 1 frame each, got {n}")
        frames = iter(self)
        if n > _LONGEST_FILLED_CHUNK:
            while held := list(itertools.islice(frames, n)):
                yield torch.stack(held, dim=1)  # (3, n, H, W)
            return
        for first in frames:  # filled in place: half the peak of stacking, and large blocks do not fragment the heap
            chunk = torch.empty(3, n, self.height, self.width)
            chunk[:, 0] = first
            count = 1
            for frame in itertools.islice(frames, n - 1):
                chunk[:, count] = frame
                count += 1
            yield chunk[:, :count].clone() if count < n else chunk
            del chunk

    def _as_coded(self) -> Iterator[tuple[torch.Tensor, float]]:
        stop = self.start + self.duration if self.duration is not None else float("inf")
        before, before_ends, found = None, 0.0, False
        for time, length, frame in self._source.decode(self.start):
            if time >= stop - _TICK_TOLERANCE:
                before_ends = time
                break
            if time >= self.start - _TICK_TOLERANCE:
                found = True
                yield self._source.to_pixels(frame), min(length, stop - time)
            else:
                before, before_ends = frame, time + length
        if found:
            return
        if before is None or before_ends <= self.start:
            raise self._too_late()
        yield (
            self._source.to_pixels(before),
            min(before_ends, stop) - self.start,
        )  # the stretch lies within the time of one frame

    def _sampled(self) -> Iterator[tuple[torch.Tensor, float]]:
        stop = self.start + self.duration if self.duration is not None else float("inf")
        tick, shown, pixels, end = 0, None, None, 0.0

        def due(limit: float) -> bool:
            time = self.start + tick / self.fps
            return time < min(limit, stop) - _TICK_TOLERANCE

        for time, length, frame in self._source.decode(self.start):
            while shown is not None and due(time):
                pixels = self._source.to_pixels(shown) if pixels is None else pixels
                tick += 1
                yield pixels.clone(), 1 / self.fps
            if self.start + tick / self.fps >= stop - _TICK_TOLERANCE:
                return
            shown, pixels, end = frame, None, max(end, time + length)
        while shown is not None and due(end):
            pixels = self._source.to_pixels(shown) if pixels is None else pixels
            tick += 1
            yield pixels.clone(), 1 / self.fps
        if tick == 0:
            raise self._too_late()

    def _too_late(self) -> MediaError:
        return MediaError(f"{self.path}: no frame at start={self.start:g} s; the clip is shorter than that")


def _open_source(path: Path, allow_truncated: bool, backend: str) -> _Source:
    is_clip_by_name = path.suffix.lower() in VIDEO_SUFFIXES
    if not is_clip_by_name:
        picture = open_picture(path)
        if picture is not None:
            picture.close()
            return AnimatedPicture(path)
    if backend == "torchcodec":
        try:
            return TorchcodecClip(path, allow_truncated)
        except Exception as error:  # a wheel that does not fit raises anything, at import or later
            warnings.warn(
                f"{path}: torchcodec does not work here ({type(error).__name__}); reading with PyAV", stacklevel=3
            )
    try:
        return AvClip(path, allow_truncated)
    except MediaError as error:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise MediaError(f"{path}: not a picture in a format that Pillow reads, and not a clip") from error
        raise


def read_video(
    path: str | os.PathLike[str],
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    max_frames: int | None = None,
    *,
    allow_truncated: bool = False,
) -> torch.Tensor:
    """Read a clip, or a stretch of it, into memory; see `VideoReader` for the meaning of everything but `max_frames`.

    Args:
        path: the file.
        fps: frames a second to sample at, or None for the frames as they are.
        start: seconds to leave out at the beginning.
        duration: seconds to read, or None for all.
        max_frames: stop after so many frames.
        allow_truncated: warn, rather than raise, where the file ends early.

    Returns:
        float32 (3, T, H, W) in [-1, 1], T at least 1.

    Raises:
        MediaError: as for `VideoReader`.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    with VideoReader(path, fps, start, duration, allow_truncated=allow_truncated) as reader:
        return torch.stack(list(itertools.islice(reader, max_frames)), dim=1)


def media_kind(path: str | os.PathLike[str]) -> Literal["image", "video"]:
    """Whether a file is a picture or a clip. GIF, WebP, PNG and AVIF are told by their content, clips by their suffix.

    Raises:
        MediaError: missing, empty, unreadable, or neither by suffix nor by content.
    """
    path = require_file(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "video"
    picture = open_picture(path)
    if picture is not None:
        with picture:
            return "video" if is_animated(path, picture) else "image"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise MediaError(f"{path}: not a picture in a format that Pillow reads")
    AvClip(path)
    return "video"
