"""Frames to clip files: mp4, mov, mkv, webm, gif and PNG sequences, streamed and atomic."""

import contextlib
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import av.filter
import numpy as np
import torch
from PIL import Image

from omnitok.atomic import atomic_path
from omnitok.data._clips import finite_positive, open_container, video_stream
from omnitok.data._colour import rgb_to_yuv420p
from omnitok.data._pictures import check_pixels, open_picture, require_file, to_bytes
from omnitok.errors import MediaError

# By itself x264 looks 40 frames ahead: at 1280x720 that takes 65 MB more, for files of the same size within 0.01 %.
_H264 = ("libx264", {"crf": "17", "preset": "medium", "rc-lookahead": "20"})
_VP9 = ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"})
_ENCODERS = {".mp4": _H264, ".m4v": _H264, ".mov": _H264, ".mkv": _H264, ".webm": _VP9, ".gif": ("gif", {})}
_MPEG4_SOUND = {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}
_SOUND = {
    ".mp4": _MPEG4_SOUND,
    ".m4v": _MPEG4_SOUND,
    ".mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le", "pcm_s16be"},
    ".mkv": _MPEG4_SOUND | {"vorbis", "pcm_s16le", "pcm_s24le", "mp2", "dts"},
    ".webm": {"opus", "vorbis"},
}
_LARGEST_DENOMINATOR = 1001  # of frame rates: holds 30000/1001 and its kin exactly
_NUMBER = re.compile(r"%0?\d*d")
_WRITE_ERRORS = (av.error.FFmpegError, OSError, ValueError)


class VideoWriter:
    """Writes a clip frame by frame, in memory that does not grow with its length. Use it in a `with` block.

    The suffix chooses: .mp4, .m4v, .mov, .mkv (H.264, yuv420p, which every browser plays in mp4), .webm (VP9), .gif
    (a palette per frame, delays in whole hundredths of a second). A name that ends in "/", has no suffix, or has a
    number pattern such as `frame_%05d.png` gives PNG pictures numbered from 0 (a folder gets `%05d.png`).

    Nothing appears under `path` before the block ends without an error; after an error nothing is left. A number
    pattern names many files: they appear one by one, each complete, at the end.

    H.264 in yuv420p has even sizes only: an odd width or height is padded by repeating the last column or row, so
    that the file is one pixel larger. VP9, GIF and PNG keep the size. Colours are BT.709, limited range, and tagged so.

    Args:
        path: the file or folder.
        fps: frames a second.
        width, height: size of the frames in pixels.
        audio_from: a clip whose first sound track is copied, not re-encoded, up to the length of the picture. Where
            the container cannot hold its codec it is left out with a warning.
        audio_start: seconds of `audio_from`, from its first video frame, at which the sound begins.

    Raises:
        MediaError: unknown suffix, unreadable `audio_from`, a folder with other files in the way, no frames written,
            or the file cannot be written completely.
        ValueError: fps, width, height or the frames given do not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float,
        width: int,
        height: int,
        audio_from: str | os.PathLike[str] | None = None,
        audio_start: float = 0.0,
    ) -> None:
        finite_positive("fps", fps, minimum=1 / _LARGEST_DENOMINATOR)
        if min(width, height) < 1:
            raise ValueError(f"width and height must be at least 1, got {width}x{height}")
        self.path, self.fps, self.width, self.height = Path(path), float(fps), int(width), int(height)
        self.frames_written = 0
        self._is_timed = False
        self._sound = _Sound(require_file(audio_from), audio_start) if audio_from is not None else None
        self._open = _PictureSequence if _is_sequence(path) else _EncodedClip
        if self._open is _EncodedClip and self.path.suffix.lower() not in _ENCODERS:
            accepted = ", ".join(_ENCODERS)
            raise MediaError(f"{path}: clips are written as {accepted} or a folder of PNGs, not {self.path.suffix!r}")
        if self.path.suffix.lower() == ".gif" and fps > 100:
            raise ValueError(f"a GIF shows at most 100 frames a second, got fps={fps:g}")
        self._stack = contextlib.ExitStack()
        self._target: _PictureSequence | _EncodedClip | None = None

    def __enter__(self) -> "VideoWriter":
        try:
            self._target = self._open(self.path, self.fps, self.width, self.height, self._sound, self._stack)
        except _WRITE_ERRORS as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise MediaError(f"{self.path}: cannot be written ({error})") from error
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, frames: torch.Tensor, durations: Sequence[float] | None = None) -> None:
        """Append frames (3, n, H, W), float in [-1, 1], clamped and rounded to 8 bits; n may be 0.

        Args:
            durations: seconds that each of the n frames is shown, such as `VideoReader.durations` tells; None is
                1 / fps each. Given with every call or with none. Numbered PNG pictures do not keep them.
        """
        if self._target is None:
            raise ValueError("VideoWriter.write works only inside its `with` block")
        check_pixels(frames, "(3, n, H, W)")
        if frames.shape[-2:] != (self.height, self.width):
            size = f"{frames.shape[-1]}x{frames.shape[-2]}"
            raise ValueError(f"frames are {size}, the writer was opened for {self.width}x{self.height}")
        if frames.shape[1] and self.frames_written and (durations is not None) != self._is_timed:
            raise ValueError("durations are given with every call of VideoWriter.write or with none")
        if durations is not None and len(durations) != frames.shape[1]:
            raise ValueError(f"{frames.shape[1]} frames need as many durations, got {len(durations)}")
        if durations is not None and not all(0 <= duration < math.inf for duration in durations):
            raise ValueError(f"durations must be finite seconds of at least 0, got {min(durations)}..{max(durations)}")
        self._is_timed = durations is not None
        try:
            for index, frame in enumerate(frames.unbind(1)):
                self._target.add(frame, None if durations is None else durations[index])
                self.frames_written += 1
        except _WRITE_ERRORS as error:
            raise MediaError(f"{self.path}: cannot be written ({error})") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        target, self._target = self._target, None
        if error is not None or target is None:
            self._stack.__exit__(kind, error, trace)
            return
        try:
            with self._stack:
                if self.frames_written == 0:
                    raise MediaError(f"{self.path}: no frames were written, so there is no clip")
                target.finish()
        except _WRITE_ERRORS as failure:
            raise MediaError(f"{self.path}: cannot be written ({failure})") from failure


def write_video(
    path: str | os.PathLike[str],
    x: torch.Tensor,
    fps: float,
    audio_from: str | os.PathLike[str] | None = None,
    durations: Sequence[float] | None = None,
) -> None:
    """Write a clip held in memory; see `VideoWriter` for formats, sizes, sound and errors.

    Args:
        path: the file or folder.
        x: float (3, T, H, W) in [-1, 1], T at least 1.
        fps: frames a second.
        audio_from: a clip whose sound is copied.
        durations: seconds that each frame is shown, in place of 1 / fps.
    """
    check_pixels(x, "(3, T, H, W)")
    with VideoWriter(path, fps, x.shape[-1], x.shape[-2], audio_from) as writer:
        writer.write(x, durations)


def _is_sequence(path: str | os.PathLike[str]) -> bool:
    name = os.fspath(path)
    return name.endswith(("/", os.sep)) or not Path(name).suffix or bool(_NUMBER.search(Path(name).name))


class _PictureSequence:
    """Numbered PNG files: gathered in a temporary folder, then given their names."""

    def __init__(
        self, path: Path, fps: float, width: int, height: int, sound: "_Sound | None", stack: contextlib.ExitStack
    ) -> None:
        self._pattern: str | None = path.name if _NUMBER.search(path.name) else None
        self._folder = path.parent if self._pattern else path
        self._count = 0
        if self._pattern and path.suffix.lower() != ".png":
            raise MediaError(f"{path}: numbered pictures are written as .png, not {path.suffix!r}")
        if not self._pattern and path.exists():
            if not path.is_dir():
                raise MediaError(f"{path}: is a file; the folder of PNG pictures cannot replace it")
            others = [entry.name for entry in path.iterdir() if not re.fullmatch(r"\d+\.png", entry.name)]
            if others:
                raise MediaError(f"{path}: the folder holds other files ({others[0]}); give a new or empty folder")
        if sound is not None and sound.codec:
            warnings.warn(f"{path}: pictures hold no sound; that of {sound.path} is left out", stacklevel=4)
        target = path.with_name(path.name.replace("%", "")) if self._pattern else path
        self._temporary = stack.enter_context(_scratch(target) if self._pattern else atomic_path(target))
        self._temporary.mkdir(parents=True)

    def add(self, frame: torch.Tensor, duration: float | None) -> None:
        Image.fromarray(to_bytes(frame)).save(self._temporary / f"{self._count:05d}.png", compress_level=4)
        self._count += 1

    def finish(self) -> None:
        if self._pattern:
            for index in range(self._count):
                os.replace(self._temporary / f"{index:05d}.png", self._folder / (self._pattern % index))


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that never takes its name."""
    with contextlib.suppress(_Discarded), atomic_path(target) as temporary:
        yield temporary
        raise _Discarded


class _Discarded(Exception):
    """Makes `atomic_path` drop an emptied folder instead of naming it."""


class _EncodedClip:
    """One container file through FFmpeg's encoders."""

    def __init__(
        self, path: Path, fps: float, width: int, height: int, sound: "_Sound | None", stack: contextlib.ExitStack
    ) -> None:
        suffix = path.suffix.lower()
        codec, options = _ENCODERS[suffix]
        self._path = path
        self._is_gif = codec == "gif"
        self._padding = (height % 2, width % 2) if codec == "libx264" else (0, 0)
        rate = Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)
        self._rate = rate
        self._time_base: Fraction | None = None
        self._temporary = stack.enter_context(atomic_path(path))
        muxing = {"movflags": "+faststart"} if suffix in (".mp4", ".m4v", ".mov") else {}
        self._container: Any = av.open(f"file:{self._temporary}", "w", format=_muxer(suffix), options=muxing)
        stack.callback(_abandon, self._container)
        stream: Any = self._container.add_stream(codec, rate=rate, options=dict(options))
        stream.width, stream.height = width + self._padding[1], height + self._padding[0]
        stream.pix_fmt = "pal8" if self._is_gif else "yuv420p"
        self._graph: Any = None
        if not self._is_gif:  # H.273 codes: 1 is BT.709; range 1 is limited
            context = stream.codec_context
            context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
            stream.thread_type = "AUTO"
        self._stream = stream
        self._sound = sound.into(self._container, path, stack) if sound is not None else None
        self._count, self._ticks, self._time = 0, -1, 0.0
        self._lengths: dict[int, int] = {}  # of the frames within the encoder, which forgets them

    def _begin(self, is_timed: bool) -> Fraction:
        """Fix the time base: even clips count frames, others parts of one of about 1/90000 s; GIF has 1/100 s."""
        self._time_base = 1 / self._rate
        if is_timed:
            parts = math.ceil(90000 / self._rate.numerator)
            self._time_base = Fraction(1, 100) if self._is_gif else Fraction(1, self._rate.numerator * parts)
        self._stream.codec_context.time_base = self._time_base
        if self._is_gif:
            self._graph = _palette_graph(self._stream.width, self._stream.height, self._time_base)
        return self._time_base

    def add(self, frame: torch.Tensor, duration: float | None) -> None:
        """Encode a frame shown for `duration` seconds, or 1 / fps."""
        base = self._time_base or self._begin(duration is not None)
        pixels = to_bytes(frame)
        if any(self._padding):
            pixels = np.pad(pixels, ((0, self._padding[0]), (0, self._padding[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24") if self._graph else rgb_to_yuv420p(pixels)
        self._ticks = max(self._ticks + 1, round(self._time / base))  # no two frames at one time
        self._time += float(1 / self._rate) if duration is None else duration
        picture.pts, picture.time_base = self._ticks, base
        self._lengths[self._ticks] = max(1, round(self._time / base) - self._ticks)
        self._count += 1
        if self._graph is None:
            self._encode(picture)
        else:
            self._graph.push(picture)
            self._drain()

    def finish(self) -> None:
        if self._graph is not None:
            self._graph.push(None)
            self._drain()
        self._encode(None)
        if self._sound is not None:
            self._sound.copy_until(self._time)
        self._container.close()
        self._verify()

    def _drain(self) -> None:
        assert self._graph is not None
        while True:
            try:
                self._encode(self._graph.pull())
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    def _encode(self, picture: Any) -> None:
        for packet in self._stream.encode(picture):
            if packet.time_base == self._time_base and packet.pts in self._lengths:
                packet.duration = self._lengths.pop(packet.pts)
            self._container.mux(packet)
            if self._sound is not None and packet.dts is not None:
                self._sound.copy_until(float(packet.dts * packet.time_base))

    def _verify(self) -> None:
        """FFmpeg does not report every failed write at the end of a file, so count what arrived."""
        with open_container(self._temporary) as container:
            stream = video_stream(self._temporary, container)
            arrived = sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux(stream))
        if arrived != self._count:
            raise MediaError(f"{self._path}: only {arrived} of {self._count} frames reached the disk")


def _abandon(container: Any) -> None:
    """Close after a failure, whose own error matters more than one of closing; does nothing after a proper end."""
    with contextlib.suppress(*_WRITE_ERRORS):
        container.close()


def _muxer(suffix: str) -> str:
    return {".m4v": "mp4", ".mkv": "matroska"}.get(suffix, suffix[1:])


def _palette_graph(width: int, height: int, time_base: Fraction) -> Any:
    """RGB to paletted frames, each with the 256 colours that suit it best, dithered in a fixed pattern."""
    graph: Any = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=time_base)
    split = graph.add("split")
    choose = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    apply = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
    sink = graph.add("buffersink")
    source.link_to(split, 0, 0)
    split.link_to(choose, 0, 0)
    split.link_to(apply, 1, 0)
    choose.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    return graph


class _Sound:
    """The first sound track of a clip, to be copied beside new pictures."""

    def __init__(self, path: Path, start: float) -> None:
        self.path = path
        self.codec: str | None = None
        self._offset = start
        picture = open_picture(path)
        if picture is not None:  # a GIF has no sound
            picture.close()
            return
        with open_container(path) as container:
            if container.streams.audio:
                self.codec = container.streams.audio[0].codec_context.name
            if container.streams.video and container.streams.video[0].start_time is not None:
                video = container.streams.video[0]
                self._offset += float(video.start_time * video.time_base)

    def into(self, output: Any, path: Path, stack: contextlib.ExitStack) -> "_SoundCopy | None":
        """Adds a track to the container being written, or warns and returns None if it cannot hold this codec."""
        if self.codec is None:
            return None
        if self.codec not in _SOUND.get(path.suffix.lower(), ()):
            warnings.warn(f"{path}: cannot hold {self.codec} sound; that of {self.path} is left out", stacklevel=5)
            return None
        return _SoundCopy(stack.enter_context(open_container(self.path)), output, self._offset)


class _SoundCopy:
    """Packets of a sound track, shifted in time and interleaved with the pictures."""

    def __init__(self, source: Any, output: Any, offset: float) -> None:
        track = source.streams.audio[0]
        self._output, self._offset = output, offset
        self._stream = output.add_stream_from_template(track)
        if offset > 1:
            source.seek(int((offset - 0.5) / track.time_base), stream=track)
        self._packets = (packet for packet in source.demux(track) if packet.size and packet.dts is not None)
        self._held: Any = None

    def copy_until(self, end: float) -> None:
        """Copy every packet that starts before `end` seconds of the new clip."""
        while True:
            if self._held is None:
                self._held = next(self._packets, None)
            if self._held is None:
                return
            packet = self._held
            base = packet.time_base
            begins = float((packet.pts if packet.pts is not None else packet.dts) * base) - self._offset
            if begins >= end:
                return
            self._held = None
            if begins + float((packet.duration or 0) * base) < 0:
                continue
            shift = round(self._offset / base)
            packet.dts -= shift
            packet.pts = packet.pts - shift if packet.pts is not None else None
            packet.stream = self._stream
            self._output.mux(packet)
