"""Reading videos: frame by frame, sampled at a rate, whole, or a window of them."""

import itertools
import math
import os
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from omnitok.checked import AtLeastOne, checked
from omnitok.data.animated_image import AnimatedImage
from omnitok.data.array_video import ArrayVideo
from omnitok.data.containers import MILLISECOND, VideoFile
from omnitok.data.frame_folder import FrameFolder
from omnitok.data.image import IMAGE_SUFFIXES, open_image, require_file
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.errors import MediaError
from omnitok.files import FRAMES_SUFFIX
from omnitok.limits import MAX_REPEATS

VIDEO_SUFFIXES = frozenset(
    {
        *(".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
        FRAMES_SUFFIX,
    }
)
"""Suffixes under which videos are found in folders."""

_LONGEST_FILLED_CHUNK = 64  # frames; a longer chunk may be far longer than the video
_REPEATS_PER_FRAME = 60  # such as a video of 1 frame per second, sampled at 60
_SEEK_SECONDS = 1.0  # a window that starts before is reached by decoding, which the reader does as well


class VideoReader:
    """A video file, decoded frame by frame in memory that does not grow with its length.

    Any container and codec that PyAV decodes; GIF, animated WebP, APNG and AVIF; a folder of images is a video of these
    frames, and a `.npy` array (T, H, W, c) one of its frames, 25 per second; a still image is one of one frame. Display
    rotation is applied; the sample aspect ratio is not (pixels stay as coded). Colors become 8-bit R'G'B' by the
    video's own matrix and range, HDR is tone-mapped, transparency composited over white where `pixel_format` has no
    alpha; frames that change size midway are resized to the first. Of several video streams it is the default one.

    Time 0 is the first frame. Without `fps` every decoded frame whose time is in [start, start + duration) is given in
    order (or, if none is, the one shown at `start`); what a stream says to show again counts as a frame. With `fps` the
    video is sampled at start, start + 1/fps, ...: each time the latest frame shown by then (1 ms of slack for
    containers that round times), so that variable rates come out even. Each iteration starts again at `start`.

    Where the clock of the file restarts or jumps, times go on from there, with a warning. Damaged packets are skipped
    with a warning, as players do. A video that ends well before the length in its header is an error at its end, after
    the frames that decode, unless `allow_truncated`.

    Args:
        path: the file.
        fps: frames per second to sample at, or None for the frames as they are.
        start: seconds to leave out at the beginning.
        duration: seconds to read, or None for all.
        allow_truncated: warn, rather than raise, where the file ends early.
        pixel_format: channels and ranges of the pixels.

    Attributes:
        fps: frames per second of what is read: the `fps` asked for, or the video's average rate.
        width, height: of the frames, rotated, in pixels.
        frame_count: how many frames will come, an estimate from the header; None where that says nothing.
        has_audio: whether there is a sound track.
        dtype: numpy's name of the type of the file's numbers; None where it is an ordinary video of 8 bits.
        durations: seconds that each frame given so far by the latest iteration is shown, until the next one comes; to
            be handed on with the frames: `writer.write(frames, reader.durations[a:b])`. With `fps` all are 1 / fps.

    Raises:
        MediaError: missing, empty, unreadable, not a video, no video stream or no frame in it, more pixels than the
            bounds of `omnitok.limits`; while iterating, truncated, `start` beyond the end, or hours to be filled with
            the same frame.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        *,
        allow_truncated: bool = False,
        pixel_format: PixelFormat = RGB,
    ) -> None:
        finite_positive("fps", fps, maximum=1e6)
        finite_positive("duration", duration)
        finite_positive("start", start, minimum=-1e-9)
        self.path = Path(path) if os.path.isdir(path) else require_file(path)
        self.pixel_format = pixel_format
        self._source = _open_source(self.path, allow_truncated, pixel_format)
        self.dtype = None if isinstance(self._source, VideoFile) else self._source.dtype
        self._resampled = fps is not None and not self._source.is_still
        self.fps = float(fps) if fps is not None else self._source.fps
        self.start, self.duration = float(start), duration
        self._stop = self.start + duration if duration is not None else math.inf
        self.width, self.height = self._source.width, self._source.height
        self.has_audio = self._source.has_audio
        self.frame_count = self._estimate()
        if self._resampled and self.frame_count and self._source.frame_count:
            self._check_repeats(self.frame_count - self._source.frame_count, self._source.frame_count)
        self.durations: list[float] = []
        self._running: weakref.WeakSet[Generator[torch.Tensor, None, None]] = weakref.WeakSet()

    @property
    def can_seek(self) -> bool:
        """Whether a late `start` is reached without decoding what comes before it."""
        return isinstance(self._source, VideoFile) and self._source.can_seek

    def _estimate(self) -> int | None:
        whole, count = self._source.duration, self._source.frame_count
        if self._source.is_still:
            return 1
        if not self._resampled and not self.start and self.duration is None:
            return count
        left = max(whole - self.start, 0.0) if whole and count else self.duration
        if left is None:
            return None
        return max(1, round(min(left, self.duration or left) * self.fps))

    def _check_repeats(self, repeats: int, frames: int) -> None:
        what = (
            f"{self.path}: sampling at {self.fps:g} frames per second repeats {repeats} times what {frames} frames show"
        )
        MAX_REPEATS.check(
            repeats - _REPEATS_PER_FRAME * frames, f"{what}, which, less {_REPEATS_PER_FRAME} each,", MediaError
        )

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every iteration under way and close its file."""
        for frames in list(self._running):
            frames.close()
        self._running.clear()

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Frames (c, H, W), float32 in [-1, 1], from `start` on."""
        frames = self._noting_durations(self._sampled() if self._resampled else self._as_coded())
        self._running.add(frames)
        return frames

    def _noting_durations(self, frames: Iterator[tuple[torch.Tensor, float]]) -> Generator[torch.Tensor, None, None]:
        durations = self.durations = []
        for frame, duration in frames:
            durations.append(duration)
            yield self.pixel_format.from_color(frame)

    def chunks(self, n: int) -> Iterator[torch.Tensor]:
        """Consecutive stretches (c, n, H, W) of the video; the last may be shorter."""
        if n < 1:
            raise ValueError(f"chunks need at least 1 frame each, got {n}")
        frames = iter(self)
        if n > _LONGEST_FILLED_CHUNK:
            while held := list(itertools.islice(frames, n)):
                yield torch.stack(held, dim=1)  # (c, n, H, W)
            return
        for first in frames:  # filled in place: half the peak of stacking, and large blocks do not fragment the heap
            chunk = torch.empty(len(first), n, self.height, self.width)
            chunk[:, 0] = first
            count = 1
            for frame in itertools.islice(frames, n - 1):
                chunk[:, count] = frame
                count += 1
            yield chunk[:, :count].clone() if count < n else chunk
            del chunk

    def _as_coded(self) -> Iterator[tuple[torch.Tensor, float]]:
        before, before_ends, found = None, 0.0, False
        for time, length, pixels in self._source.decode(self.start):
            if time >= self._stop - MILLISECOND:
                before_ends = time
                break
            if time >= self.start - MILLISECOND:
                found = True
                yield pixels(), min(length, self._stop - time)
            else:
                before, before_ends = pixels, time + length
        if found:
            return
        if before is None or before_ends <= self.start:
            raise self._too_late()
        # what is asked for lies within the time of one frame
        yield before(), min(before_ends, self._stop) - self.start

    def _sampled(self) -> Iterator[tuple[torch.Tensor, float]]:
        tick = 0
        for decoded, (time, length, pixels) in enumerate(self._source.decode(self.start), start=1):
            end = min(time + length, self._stop) - MILLISECOND
            due = math.ceil((end - self.start) * self.fps) - tick  # times to show this frame
            if due > 0:
                self._check_repeats(tick + due - decoded, decoded)
                frame = pixels()
                for _ in range(due):
                    tick += 1
                    yield frame.clone(), 1 / self.fps
            if time >= self._stop:
                break
        if tick == 0:
            raise self._too_late()

    def _too_late(self) -> MediaError:
        return MediaError(f"{self.path}: no frame at start={self.start:g} s; the video is shorter than that")


def _open_source(
    path: Path, allow_truncated: bool, pixel_format: PixelFormat
) -> VideoFile | AnimatedImage | FrameFolder | ArrayVideo:
    if path.is_dir():
        return FrameFolder(path, pixel_format)
    if path.suffix.lower() == ".npy":
        return ArrayVideo(path, pixel_format)
    pixel_format.check_ordinary(path)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        image = open_image(path)
        if image is not None:
            image.close()
            return AnimatedImage(path, pixel_format)
    try:
        return VideoFile(path, allow_truncated)
    except MediaError as error:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise MediaError(f"{path}: not an image in a format that Pillow reads, and not a video") from error
        raise


def read_video(
    path: str | os.PathLike[str],
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    max_frames: int | None = None,
    *,
    allow_truncated: bool = False,
    pixel_format: PixelFormat = RGB,
) -> torch.Tensor:
    """Read a video, or a part of it, into memory.

    Args:
        path, fps, start, duration, allow_truncated, pixel_format: as for `VideoReader`.
        max_frames: stop after so many frames.

    Returns:
        float32 (c, T, H, W) in [-1, 1], T at least 1.

    Raises:
        MediaError: as for `VideoReader`.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    reader = VideoReader(path, fps, start, duration, allow_truncated=allow_truncated, pixel_format=pixel_format)
    with reader:
        return torch.stack(list(itertools.islice(reader, max_frames)), dim=1)


@checked
class WindowSampling:
    """Which frames of a video make a window.

    Attributes:
        frames: length of the window.
        fps: frames per second that the file is sampled at first; None takes its frames as they are.
        stride: keep every stride-th frame of these.
        start: "random"; "center", where the middle frames lie in the middle of the video; or "first".
    """

    frames: AtLeastOne
    fps: Annotated[float, Field(gt=0, le=1e6)] | None = None
    stride: AtLeastOne = 1
    start: Literal["random", "center", "first"] = "random"

    @property
    def span(self) -> int:
        """Frames from the first to the last one kept."""
        return (self.frames - 1) * self.stride + 1

    def skipped(self, total: int, position: float) -> int:
        """How many of `total` frames come before the window; `position` in [0, 1) chooses where it is random."""
        spare = max(total - self.span, 0)
        if self.start == "random":
            return int(position * (spare + 1))
        return 0 if self.start == "first" else min(max(total // 2 - self.span // 2, 0), spare)


@dataclass(frozen=True)
class Window:
    """Some frames of a video.

    Attributes:
        pixels: (c, T, H, W), float32 in [-1, 1].
        durations: seconds that each is shown, until the next one of the window would come.
        fps: frames per second, the average of the video or what it was sampled at, over the stride.
    """

    pixels: torch.Tensor
    durations: list[float]
    fps: float


def read_window(
    path: str | os.PathLike[str], sampling: WindowSampling, position: float = 0.0, pixel_format: PixelFormat = RGB
) -> Window:
    """The frames of a video that `sampling` chooses, in memory that grows with the window only.

    Late windows are sought, where that gives the frames that decoding from the beginning gives. Where the header
    promises more frames than there are, a random window is of the last ones, and a centered one is placed anew.

    Args:
        position: in [0, 1), chooses among the possible starts of a random window.
        pixel_format: channels and ranges of the pixels.

    Raises:
        MediaError: the file cannot be read or has fewer frames.
    """
    with VideoReader(path, sampling.fps, pixel_format=pixel_format) as reader:
        skip = sampling.skipped(reader.frame_count or sampling.span, position)
        if reader.frame_count is None and sampling.start == "center":
            skip = sampling.skipped(sum(1 for _ in reader), position)
        fps = reader.fps / sampling.stride
        if skip > _SEEK_SECONDS * reader.fps and reader.can_seek:
            window = _seek_window(reader, sampling, skip)
            if window is not None:
                return window
        held, total = _read_span(reader, skip, sampling.span)
        if total < skip + sampling.span and sampling.start == "center":
            held, _ = _read_span(reader, sampling.skipped(total, position), sampling.span)
    if len(held) < sampling.span:
        found = f"{path}: the video has {len(held)} frames, at least {sampling.span} are needed"
        raise MediaError(f"{found}; leave it out, or take fewer frames of each")
    return _to_window(held, sampling, fps)


_Held = list[tuple[torch.Tensor, float]]  # frames and their durations


def _read_span(reader: VideoReader, skip: int, span: int) -> tuple[_Held, int]:
    """The last `span` of the first `skip + span` frames, and how many of those there are."""
    held: _Held = []
    total = 0
    for frame in itertools.islice(reader, skip + span):
        total += 1
        held.append((frame, reader.durations[-1]))
        del held[:-span]
    return held, total


def _to_window(held: _Held, sampling: WindowSampling, fps: float) -> Window:
    durations = [duration for _, duration in held]
    starts = range(0, sampling.span, sampling.stride)
    pixels = torch.stack([held[start][0] for start in starts], dim=1)
    return Window(pixels, [sum(durations[start : start + sampling.stride]) for start in starts], fps)


def _seek_window(reader: VideoReader, sampling: WindowSampling, skip: int) -> Window | None:
    """The window from frame `skip` on without decoding what comes before the last key frame; None where that could
    give other frames than decoding from the beginning.
    """
    assert isinstance(reader._source, VideoFile)
    start = skip / sampling.fps if sampling.fps is not None else reader._source.time_of_frame(skip)
    if start is None:
        return None
    try:
        with VideoReader(reader.path, sampling.fps, start, pixel_format=reader.pixel_format) as late:
            held, total = _read_span(late, 0, sampling.span)
    except MediaError:
        return None
    return _to_window(held, sampling, late.fps / sampling.stride) if total == sampling.span else None


def finite_positive(name: str, value: float | None, minimum: float = 0.0, maximum: float = 1e9) -> None:
    """Raise ValueError unless `value` is None or a number above `minimum` and at most `maximum`."""
    if value is not None and not minimum < value <= maximum:
        raise ValueError(f"{name} must be a number above {minimum:g} and at most {maximum:g}, got {value}")
