"""Clips through PyAV (and, on request, torchcodec): containers to timed frames."""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch

from omnitok.data._colour import frame_to_rgb
from omnitok.data._pictures import from_bytes
from omnitok.errors import MediaError

logger = logging.getLogger(__name__)

# Demuxers that render text, or follow names written inside the file to other files and to the network.
_REFUSED_FORMATS = {"tty", "bin", "xbin", "adf", "idf", "concat", "concatf", "hls", "dash", "lavfi", "ffmetadata"}
# Formats whose header was written knowing the length. For others FFmpeg estimates it, by the bit rate if need be.
_STATING_FORMATS = {"mov", "mp4", "matroska", "webm", "avi", "flv", "asf"}
_PROBED_PACKETS = 240


def open_container(path: Path) -> Any:
    """An av container for reading a local file, and nothing that the file may point to."""
    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{path}: not a clip that can be opened; damaged, incomplete or not a video ({error})"
        ) from error
    if set(container.format.name.split(",")) & _REFUSED_FORMATS:
        name = container.format.name
        container.close()
        raise MediaError(f"{path}: not a clip; its content reads as text or a playlist ({name})")
    return container


def video_stream(path: Path, container: Any) -> Any:
    """The first stream of moving pictures; cover art does not count."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise MediaError(f"{path}: has no video stream, only {', '.join(kinds)}")


class AvClip:
    """A clip file: its properties, and its frames in presentation order with times that start at 0.

    Display rotation and reflection are applied. The sample aspect ratio is not: pixels stay as they are coded.
    """

    is_still = False

    def __init__(self, path: Path, allow_truncated: bool = False) -> None:
        self.path = path
        self._allow_truncated = allow_truncated
        with open_container(path) as container:
            stream = video_stream(path, container)
            rate = _average_rate(path, stream)
            self.fps = float(rate)
            self.duration = _stated_duration(container, stream, rate)
            self._states_duration = bool(set(container.format.name.split(",")) & _STATING_FORMATS)
            self.has_audio = bool(container.streams.audio)
            listed = stream.frames if "avi" not in container.format.name else 0  # AVI counts skipped frames too
            first = next(iter(_DecodedFrames(path, container, stream)), None)
            if first is None:
                raise MediaError(f"{path}: no frame of the clip can be decoded")
            self._coded_size = (first.width, first.height)
            self._turn = _display_turn(first)
            self._origin = float(first.time) if first.time is not None else 0.0
        self.width, self.height = self._coded_size[::-1] if self._turn[0] else self._coded_size
        estimate = round(self.duration * self.fps) if self.duration else None
        self.frame_count: int | None = listed or estimate

    def decode(self, start: float) -> Iterator[tuple[float, float, av.VideoFrame]]:
        """(time, duration, frame) from the frame shown at `start` seconds on; times in seconds from the first frame.

        Damaged packets are skipped with a warning.

        Raises:
            MediaError: nothing decodes, or the file ends well before the length that its header states.
        """
        usual = 1 / self.fps
        if start > 1:  # below that decoding from the beginning is as quick, and never wrong
            with open_container(self.path) as container:
                stream = video_stream(self.path, container)
                try:
                    container.seek(int((start + self._origin) / stream.time_base), stream=stream)
                    frames = self._timed(container, stream, usual)
                    first = next(frames, None)
                except av.error.FFmpegError:
                    first = None
                # Some files mark key frames that are not: the decoder then starts from nothing and says so.
                if first is not None and first[0] <= start and not first[2].is_corrupt:
                    yield from self._since(start, first, frames)
                    return
        with open_container(self.path) as container:
            frames = self._timed(container, video_stream(self.path, container), usual)
            first = next(frames, None)
            if first is None:
                raise MediaError(f"{self.path}: no frame of the clip can be decoded")
            yield from self._since(start, first, frames)

    def _since(self, start: float, first: Any, rest: Iterator[Any]) -> Iterator[tuple[float, float, av.VideoFrame]]:
        held = first
        for timed in rest:
            if timed[0] > start:
                yield held[0], max(timed[0] - held[0], 0.0), held[2]
            held = timed
        yield held

    def _timed(self, container: Any, stream: Any, usual: float) -> Iterator[tuple[float, float, av.VideoFrame]]:
        decoded = _DecodedFrames(self.path, container, stream)
        expected, count = -1.0, 0
        end = 0.0
        for frame in decoded:
            time = float(frame.time) - self._origin if frame.time is not None else max(expected, 0.0)
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
            expected, count = time + length, count + 1
            end = max(end, expected)
            yield time, length, frame
        if not count:
            return
        stated = self.duration if self._states_duration and self.duration else 0.0
        truncated = stated - end > max(0.25, 4 * usual, 0.05 * stated)
        found = f"{end:.2f} s of {stated:.2f} s ({count} frames) can be decoded"
        if truncated and not self._allow_truncated:
            raise MediaError(f"{self.path}: the clip is truncated, {found}; allow_truncated=True reads these")
        if truncated:
            warnings.warn(f"{self.path}: the clip is truncated, {found}", stacklevel=2)
        elif decoded.damaged:
            warnings.warn(f"{self.path}: {decoded.damaged} damaged packets or frames", stacklevel=2)

    def to_pixels(self, frame: av.VideoFrame) -> torch.Tensor:
        """A frame of `decode` as float32 (3, H, W) in [-1, 1], turned as it is displayed."""
        transposed, flip_rows, flip_columns = self._turn
        pixels = frame_to_rgb(frame, *self._coded_size)  # (h, w, 3)
        if transposed:
            pixels = pixels.transpose(0, 1)
        flips = [axis for axis, flipped in ((0, flip_rows), (1, flip_columns)) if flipped]
        return from_bytes(pixels.flip(flips) if flips else pixels)


class _DecodedFrames:
    """Frames of one stream that survives damaged packets; `damaged` counts those."""

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self.path, self._container, self._stream = path, container, stream
        self.damaged = 0

    def __iter__(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        failures = 0  # in a row, while demuxing: a broken file may fail forever
        while failures < 64:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                logger.debug("%s: %s", self.path, error)
                self.damaged += 1
                failures += 1
                packets = self._container.demux(self._stream)
                continue
            failures = 0
            self.damaged += packet.is_corrupt
            try:
                yield from packet.decode()
            except (av.error.FFmpegError, OSError) as error:
                logger.debug("%s: %s", self.path, error)
                self.damaged += 1


def _average_rate(path: Path, stream: Any) -> Fraction:
    """Frames a second; measured over the first packets where the header's figures contradict one another."""
    average, guessed = stream.average_rate, stream.guessed_rate
    if average and guessed and Fraction(1, 2) <= average / guessed <= 2:
        return Fraction(average)
    times = []
    with open_container(path) as container, contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(container.streams[stream.index]):
            if packet.pts is not None:
                times.append(packet.pts)
            if len(times) >= _PROBED_PACKETS:
                break
    if len(times) > 1 and max(times) > min(times):
        return (len(times) - 1) / (Fraction(max(times) - min(times)) * stream.time_base)
    return Fraction(average or guessed or 25)


def _stated_duration(container: Any, stream: Any, rate: Fraction) -> float | None:
    """Seconds of video by the header or FFmpeg's estimate, or None where nothing speaks of the video alone."""
    if "avi" in container.format.name and stream.frames:
        return stream.frames / float(rate)
    if stream.duration:
        return float(stream.duration * stream.time_base)
    begin = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska: 00:00:05.005000000, from time 0
    try:
        minutes, _, seconds = rest.partition(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - begin
    except ValueError:
        pass
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def _display_turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, then flip rows, then flip columns) that shows a frame as its display matrix asks, in quarter turns.

    The matrix (ISO/IEC 14496-12, 8.2.2) maps coded to shown places: x' = a x + c y, y' = b x + d y.
    """
    try:
        side_data: Any = list(frame.side_data)  # PyAV's stub calls it a mapping; it is a sequence
    except ValueError:  # a kind of side data that this PyAV has no name for, such as EXIF; the angle is still told
        turns = {90: (True, True, False), 180: (False, True, True), 270: (True, False, True)}
        return turns.get(round(frame.rotation / 90) * 90 % 360, (False, False, False))
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
            if abs(a) + abs(d) >= abs(b) + abs(c):
                return False, d < 0, a < 0
            return True, b < 0, c < 0
    return False, False, False


class TorchcodecClip(AvClip):
    """The same clip decoded by torchcodec (extra `video`); properties and checks still come from PyAV."""

    def __init__(self, path: Path, allow_truncated: bool = False) -> None:
        from torchcodec.decoders import VideoDecoder

        super().__init__(path, allow_truncated)
        self._decoder: Any = VideoDecoder(os.fspath(path), dimension_order="NCHW", seek_mode="exact")
        shape = self._decoder.get_frame_at(0).data.shape
        if shape != (3, self.height, self.width):
            raise MediaError(f"{path}: torchcodec gives {tuple(shape)}, the container says {self.width}x{self.height}")

    def decode(self, start: float) -> Iterator[tuple[float, float, Any]]:
        """(time, duration, uint8 (3, H, W)) from the frame shown at `start` seconds on."""
        origin = self._decoder.get_frame_at(0).pts_seconds
        for index in range(len(self._decoder)):
            frame = self._decoder.get_frame_at(index)
            if frame.pts_seconds - origin + frame.duration_seconds > start:
                yield frame.pts_seconds - origin, frame.duration_seconds, frame.data

    def to_pixels(self, frame: Any) -> torch.Tensor:
        """uint8 (3, H, W) to float32 in [-1, 1]."""
        return frame.float().mul_(2 / 255).sub_(1)


def finite_positive(name: str, value: float | None, minimum: float = 0.0) -> None:
    """Raise ValueError unless `value` is None or a finite number above `minimum`."""
    if value is not None and not (math.isfinite(value) and value > minimum):
        raise ValueError(f"{name} must be a finite number above {minimum:g}, got {value}")
