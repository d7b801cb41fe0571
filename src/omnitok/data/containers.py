"""Video files through PyAV: containers to timed frames."""

import contextlib
import functools
import itertools
import logging
import math
import warnings
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
from av.sidedata.sidedata import Type as SideDataType

from omnitok.data.color import frame_to_rgb
from omnitok.data.image import TimedFrame, from_uint8
from omnitok.errors import MediaError, reading
from omnitok.limits import MAX_PIXELS

logger = logging.getLogger(__name__)

# Streams without time stamps: frames have the rate that their headers, or else FFmpeg, guess.
_RAW_FORMATS = {"av1", "cavsvideo", "dirac", "h261", "h263", "h264", "hevc", "m4v", "mjpeg", "mpegvideo", "obu"}
_RAW_FORMATS |= {"vc1", "vvc"}
# FFmpeg numbers the packets of MXF as they are stored: where codecs reorder frames, the numbers are not their times.
_COUNTED_FORMATS = _RAW_FORMATS | {"mxf"}
# Recordings and broadcasts, whose clock may start again at any packet (FFmpeg's AVFMT_TS_DISCONT).
_RESTARTING_FORMATS = {"mpegts", "mpeg"}
# Formats whose time stamps lead to the right packet.
_SEEKABLE_FORMATS = {"asf", "avi", "flv", "ivf", "matroska", "mov", "nut", "ogg"}
_OTHER_FORMATS = {"aac", "ac3", "aiff", "caf", "dv", "flac", "gif", "gxf", "mp3", "rm", "swf", "wav", "wtv"}
_OTHER_FORMATS |= {"yuv4mpegpipe"}
# FFmpeg opens nothing else: others render text, or follow names within the file to other files and to the network.
_FORMATS = _COUNTED_FORMATS | _RESTARTING_FORMATS | _SEEKABLE_FORMATS | _OTHER_FORMATS
# Formats whose header was written knowing the length. For others FFmpeg estimates it, by the bit rate if need be.
_STATING_FORMATS = {"mov", "matroska", "avi", "flv", "asf"}
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave out the alpha beside the frame
_PROBED_PACKETS = 240
_HIGHEST_RATE = 1000  # frames per second; above, a header gives ticks of its clock
_SEEK_MARGINS = (0.0, 2.5, 10.0)  # seconds; MPEG-TS lands on a packet whose key frame comes later
_REORDERING = 32  # packets; codecs show a frame at most 16 later than they store it
_LEAST_BYTES = 4  # of a file for a frame; where there are fewer, the header's count is not to be believed
_BACKWARD_SECONDS, _FORWARD_SECONDS = 0.1, 10.0  # jumps of a clock that FFmpeg takes for a restart
_LONGEST_GAP = 3600.0  # seconds from a frame to the next where clocks do not restart
SOUND_SUFFIX = ".sound"
"""Of a Matroska file with the sound of a video alone, as `copy_sound` makes it; a user's `.mka` begins at 0."""
MILLISECOND = 1e-3  # to which Matroska, WebM, FLV and WMV round times


def open_container(path: Path) -> Any:
    """An av container for reading a local file, and nothing that the file may point to."""
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(_FORMATS))}
    is_lenient = int(av.__version__.split(".")[0]) >= 19  # PyAV by itself
    lenient: dict[str, Any] = {} if is_lenient else {"metadata_errors": "replace"}
    try:
        return av.open(f"file:{path}", options=options, **lenient)
    except Exception as error:
        raise MediaError(
            f"{path}: not a video that can be opened; damaged, incomplete or no video ({error})"
        ) from error


def _is(container: Any, formats: set[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def can_seek(container: Any) -> bool:
    """Whether its time stamps lead to the right packet."""
    return _is(container, _SEEKABLE_FORMATS)


def longest_gap(container: Any) -> float:
    """Seconds from one time stamp to the next beyond which its clock has jumped."""
    return _FORWARD_SECONDS if _is(container, _RESTARTING_FORMATS) else _LONGEST_GAP


def video_stream(path: Path, container: Any) -> Any:
    """The default stream of moving images, or the first where none is marked; cover art does not count."""
    marks = av.stream.Disposition
    moving = [stream for stream in container.streams.video if not stream.disposition & marks.attached_pic]
    if not moving:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise MediaError(f"{path}: has no video stream, only {', '.join(kinds)}")
    stream = next((stream for stream in moving if stream.disposition & marks.default), moving[0])
    size = f"{path}: a video of {stream.width}x{stream.height} pixels a frame"
    MAX_PIXELS.check(stream.width * stream.height, size, MediaError)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS.value)}  # of frames that differ from the header
    stream.thread_type = "AUTO"
    return stream


class Clock:
    """Time stamps in seconds to times that start at 0 and go forward, for stamps that restart, jump, tie or lack.

    As FFmpeg does, a jump moves all later times, so that the next frame comes when it is expected. Stamps that tie, or
    go back a little, are spread within the time of a frame.

    Args:
        longest: seconds from a time to the next that are no jump.
        origin: stamp of time 0; None is the first stamp.

    Attributes:
        jumps: (time, seconds) of each jump.
    """

    def __init__(self, longest: float, origin: float | None = None) -> None:
        self.offset, self._longest = origin, longest
        self._last, self._length, self._ties = -math.inf, 0.0, 0
        self.jumps: list[tuple[float, float]] = []

    def time(self, stamp: float | None, length: float) -> float:
        """The time of what has this stamp and is `length` seconds long."""
        expected = max(self._last + self._length, 0.0)
        if self.offset is None and stamp is not None:
            self.offset = stamp - expected
        time = expected if stamp is None or self.offset is None else stamp - self.offset
        if self._last > -math.inf:
            self._ties = self._ties + 1 if time <= self._last else 0
            restarts = time < self._last - _BACKWARD_SECONDS or self._ties > 3
            if restarts or time - expected > self._longest:
                self.jumps.append((expected, time - expected))
                self.offset, self._ties, time = (self.offset or 0.0) + time - expected, 0, expected
            elif self._ties:
                time = self._last + length / 2
        self._last, self._length = time, length
        return time


_Timed = tuple[float, float, av.VideoFrame]  # seconds from the first frame, seconds that it is shown


class VideoFile:
    """A video file: its properties, and its frames in the order they are shown in, with times that start at 0.

    Display rotation and reflection are applied. The sample aspect ratio is not: pixels stay as they are coded.
    """

    is_still = False

    def __init__(self, path: Path, allow_truncated: bool = False) -> None:
        self.path = path
        self._allow_truncated = allow_truncated
        with open_container(path) as container, reading(path, MediaError, "video"):
            stream = video_stream(path, container)
            rate = _average_rate(path, container, stream)
            self.fps = float(rate)
            self._is_counted = _is(container, _COUNTED_FORMATS)
            self._longest_gap, self._has_index = longest_gap(container), can_seek(container)
            self._may_restart = _is(container, _RESTARTING_FORMATS)
            self.duration = _stated_duration(container, stream, rate)
            self._states_duration = _is(container, _STATING_FORMATS)
            self._states_last = _is(container, {"matroska", "mov", "mp4"})
            self.has_audio = bool(container.streams.audio)
            listed = stream.frames if not _is(container, {"avi"}) else 0  # AVI counts skipped frames too
            estimate = round(self.duration * self.fps) if self.duration else 0
            count = listed or estimate
            self.frame_count = count if 0 < count * _LEAST_BYTES <= path.stat().st_size else None
            stamp, first = next(iter(_DecodedFrames(path, container, stream)), (None, None))
            if first is None:
                raise MediaError(f"{path}: no frame of the video can be decoded")
            self._coded_size = (first.width, first.height)
            self._turn = _display_turn(first)
            self.origin = stamp or 0.0
        self.width, self.height = self._coded_size[::-1] if self._turn[0] else self._coded_size

    def decode(self, start: float) -> Iterator[TimedFrame]:
        """Frames from the one shown at `start` seconds on.

        Damaged packets are skipped, and jumps of the clock left out, with a warning.

        Raises:
            MediaError: nothing decodes, or the file ends well before the length that its header states.
        """
        with reading(self.path, MediaError, "video"):
            found = False
            for time, duration, frame in self._sought(start) or self._timed():
                found = True
                if time + duration > start:
                    yield TimedFrame(time, duration, functools.partial(self._to_pixels, frame))
            if not found:
                raise MediaError(f"{self.path}: no frame of the video can be decoded")

    def _sought(self, start: float) -> Iterator[_Timed] | None:
        """Frames from the key frame before `start` on; None where only decoding from the beginning finds it."""
        if start <= 1 or not self.can_seek:  # below that decoding from the beginning is as quick, and never wrong
            return None
        for margin in _SEEK_MARGINS:
            frames = self._timed(max(start - margin, 0.0))
            with contextlib.suppress(av.error.FFmpegError, OverflowError):
                first = next(frames, None)
                # Some files mark key frames that are not: the decoder then starts from nothing and says so.
                if first is not None and first[0] <= start and not first[2].is_corrupt:
                    return itertools.chain([first], frames)
            frames.close()
        return None

    def _timed(self, start: float | None = None) -> Generator[_Timed, None, None]:
        with open_container(self.path) as container:
            stream = video_stream(self.path, container)
            if start is not None:
                container.seek(int((start + self.origin) / stream.time_base), stream=stream)
            yield from self._clocked(container, stream)

    def _clocked(self, container: Any, stream: Any) -> Iterator[_Timed]:
        usual = 1 / self.fps
        decoded = _DecodedFrames(self.path, container, stream)
        clock = Clock(self._longest_gap, self.origin)
        rounds = stream.time_base == Fraction(1, 1000)  # even rates do not come out even
        held: _Timed | None = None
        count = 0
        for stamp, frame in decoded:
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
            if length > self._longest_gap or (rounds and abs(length - usual) < MILLISECOND):
                length = usual
            time = clock.time(None if self._is_counted else stamp, length)
            on_grid = round(time * self.fps) * usual
            if rounds and abs(on_grid - time) < min(MILLISECOND, usual / 4):
                time = on_grid
            if held is not None:
                yield held[0], max(time - held[0], 0.0), held[2]
            held = time, length, frame
            count += 1
        if held is None:
            return
        stated = self.duration if self._states_duration and self.duration else 0.0
        missing = stated - held[0] - held[1]
        truncated = missing > max(0.25, 4 * usual, 0.05 * stated)
        # MP4 tells how long frames last in the order they are stored; of the last one shown the end of all tells.
        is_rounded = -usual / 2 <= missing <= 0
        if self._states_last and held[0] < stated and missing <= max(0.25, 4 * usual) and not is_rounded:
            held = held[0], stated - held[0], held[2]
        yield held
        found = f"{stated - missing:.2f} s of {stated:.2f} s ({count} frames) can be decoded"
        if truncated and not self._allow_truncated:
            raise MediaError(
                f"{self.path}: the video is truncated, {found}; from Python, allow_truncated=True reads these"
            )
        if truncated:
            warnings.warn(f"{self.path}: the video is truncated, {found}", stacklevel=2)
        elif decoded.damaged:
            warnings.warn(f"{self.path}: {decoded.damaged} damaged packets or frames", stacklevel=2)
        if clock.jumps:
            time, seconds = clock.jumps[0]
            times = "once" if len(clock.jumps) == 1 else f"{len(clock.jumps)} times"
            jump = f"the clock of the video jumps {times}, first at {time:.2f} s by {seconds:.2f} s"
            warnings.warn(f"{self.path}: {jump}; its frames follow one another without the gap", stacklevel=2)

    @functools.cached_property
    def can_seek(self) -> bool:
        """Whether time stamps lead to the right packets; of recordings all packets are looked at, but not decoded."""
        if not self._may_restart:
            return self._has_index
        clock = Clock(self._longest_gap)
        with contextlib.suppress(av.error.FFmpegError):
            for packet in _packets(self.path):
                if packet.dts is not None:
                    clock.time(float(packet.dts * packet.time_base), 1 / self.fps)
        return not clock.jumps

    def time_of_frame(self, index: int) -> float | None:
        """Seconds from the first frame to the one shown as number `index`, by the packets' times; None if in doubt."""
        times = []
        with reading(self.path, MediaError, "video"):
            for packet in _packets(self.path):
                if packet.is_discard or (packet.pts is None and not packet.size):
                    continue
                if packet.pts is None or packet.is_corrupt:
                    return None
                times.append(packet.pts * packet.time_base)
                if len(times) > index + _REORDERING:
                    break
        times.sort()
        if len(times) <= index or len(set(times)) < len(times):
            return None
        return float(times[index]) - self.origin

    def _to_pixels(self, frame: av.VideoFrame) -> torch.Tensor:
        """A decoded frame as float32 (3, H, W) in [-1, 1], turned as it is displayed."""
        transposed, flip_rows, flip_columns = self._turn
        pixels = frame_to_rgb(frame, *self._coded_size)  # (h, w, 3)
        if transposed:
            pixels = pixels.transpose(0, 1)
        flips = [axis for axis, flipped in ((0, flip_rows), (1, flip_columns)) if flipped]
        return from_uint8(pixels.flip(flips) if flips else pixels)


class _DecodedFrames:
    """(time stamp in seconds, frame) of one stream that survives damaged packets; `damaged` counts those."""

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self.path, self._container, self._stream = path, container, stream
        self._decoder = _decoder(stream)
        self._repeats: list[float] = []
        self._last: av.VideoFrame | None = None
        self.damaged = 0

    def __iter__(self) -> Iterator[tuple[float | None, av.VideoFrame]]:
        packets = self._container.demux(self._stream)
        failures = 0  # in a row, while demuxing: a broken file may fail forever
        while failures < 64:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (av.error.FFmpegError, OSError) as error:
                logger.debug("%s: %s", self.path, error)
                self.damaged += 1
                failures += 1
                packets = self._container.demux(self._stream)
                continue
            failures = 0
            self.damaged += packet.is_corrupt
            if not packet.size and packet.pts is not None:  # the frame before, again; a decoder would end there
                self._repeats.append(float(packet.pts * packet.time_base))
                continue
            try:
                for frame in self._decoder.decode(packet):
                    stamp = None if frame.pts is None else float(frame.time)
                    yield from self._repeated(stamp)
                    self._last = frame
                    yield stamp, frame
            except (av.error.FFmpegError, OSError) as error:
                logger.debug("%s: %s", self.path, error)
                self.damaged += 1
        yield from self._repeated(math.inf)

    def _repeated(self, until: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
        while self._last is not None and self._repeats and until is not None and self._repeats[0] < until:
            yield self._repeats.pop(0), self._last


def _packets(path: Path) -> Iterator[Any]:
    with open_container(path) as container:
        yield from container.demux(video_stream(path, container))


def _decoder(stream: Any) -> Any:
    """The stream's own decoder, or one that knows of alpha where the container says that there is some."""
    context = stream.codec_context
    name = _ALPHA_DECODERS.get(context.name)
    has_alpha = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    if name is None or not has_alpha or name not in av.codecs_available:
        return context
    decoder: Any = av.CodecContext.create(name, "r")
    decoder.extradata = context.extradata
    decoder.options = context.options
    return decoder


def _average_rate(path: Path, container: Any, stream: Any) -> Fraction:
    """Frames per second; measured over the first packets where the header's figures contradict one another."""
    average, guessed = stream.average_rate, stream.guessed_rate
    if guessed and _is(container, _RAW_FORMATS):
        return Fraction(guessed)  # the average is FFmpeg's default
    agree = average and guessed and Fraction(1, 2) <= average / guessed <= 2
    rates = (average if agree else None, None if agree else _measured_rate(path), average, guessed, 25)
    return Fraction(next(rate for rate in rates if rate and 1 / _LONGEST_GAP <= rate <= _HIGHEST_RATE))


def _measured_rate(path: Path) -> Fraction | None:
    times: list[Fraction] = []
    with contextlib.suppress(av.error.FFmpegError):
        stamped = (packet.pts * packet.time_base for packet in _packets(path) if packet.pts is not None)
        times.extend(itertools.islice(stamped, _PROBED_PACKETS))
    return (len(times) - 1) / (max(times) - min(times)) if len(set(times)) > 1 else None


def _stated_duration(container: Any, stream: Any, rate: Fraction) -> float | None:
    """Seconds of video by the header or FFmpeg's estimate, or None where nothing speaks of the video alone."""
    if _is(container, {"avi"}) and stream.frames:
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
        side_data: Any = frame.side_data  # PyAV's stub takes its keys for names
        matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:  # a kind of side data that this PyAV has no name for, such as EXIF; the angle is still told
        turns = {90: (True, True, False), 180: (False, True, True), 270: (True, False, True)}
        return turns.get(round(frame.rotation / 90) * 90 % 360, (False, False, False))
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0
