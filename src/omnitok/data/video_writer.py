"""Writing videos: mp4, mov, mkv, webm, gif, webp, apng and folders of PNGs, atomic, each frame at its time."""

import contextlib
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter
import numpy as np
import torch
from PIL import Image

from omnitok.atomic import atomic_path, scratch_folder
from omnitok.data.array_video import ARRAY_SUFFIX, ArrayVideoWriter
from omnitok.data.color import rgb_to_yuv420p
from omnitok.data.containers import SOUND_SUFFIX, Clock, can_seek, longest_gap, open_container, video_stream
from omnitok.data.frame_writer import FrameWriter
from omnitok.data.image import check_pixels, open_image, require_file, to_uint8
from omnitok.data.pixel_format import MODES, Ranges, as_color
from omnitok.data.video_reader import finite_positive
from omnitok.errors import MediaError, reading, writing

# By itself x264 looks 40 frames ahead: at 1280x720 that takes 65 MB more, for files of the same size within 0.01 %.
_H264 = ("libx264", {"crf": "17", "preset": "medium", "rc-lookahead": "20"})
if torch.backends.cpu.get_cpu_capability() == "AVX512":
    # With AVX-512 x264's tree of macroblocks reads memory that nobody wrote, so that files differ from run to run.
    _H264[1]["x264-params"] = "asm=MMX2,SSE2Fast,SSSE3,SSE4.2,AVX,FMA3,BMI2,AVX2"
_VP9 = ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"})
_ENCODERS = {".mp4": _H264, ".m4v": _H264, ".mov": _H264, ".mkv": _H264, ".webm": _VP9, ".gif": ("gif", {})}
_ANIMATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    ".webp": ("WEBP", {"quality": 95, "method": 4}),
    ".apng": ("PNG", {"compress_level": 4}),
}
ENCODED_SUFFIXES = frozenset(_ENCODERS | _ANIMATIONS)
"""Suffixes of the single files that `VideoWriter` writes."""

_MPEG4_SOUND = {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}
_MATROSKA_SOUND = _MPEG4_SOUND | {"vorbis", "pcm_s16le", "pcm_s24le", "mp2", "dts"}
_SOUND = {
    ".mp4": _MPEG4_SOUND,
    ".m4v": _MPEG4_SOUND,
    ".mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le", "pcm_s16be"},
    ".mkv": _MATROSKA_SOUND,
    SOUND_SUFFIX: _MATROSKA_SOUND,
    ".webm": {"opus", "vorbis"},
}
_SOUND_LEAD = 1.0  # seconds: Matroska has no times below 0, and AAC begins a little before the first frame
_HIGHEST_RATE, _LONGEST_SHOWN = 1000, 10**6  # frames per second; seconds of a frame
_LARGEST_DENOMINATOR = 1001  # of frame rates: holds 30000/1001 and its kin exactly
_FINE_TICKS = 90000  # per second, at least, where frames have their own times
_WRITE_ERRORS = (av.error.FFmpegError, OSError, ValueError)


class VideoWriter(FrameWriter["_ImageFolder | _Animation | _EncodedVideo"]):
    """Writes a video frame by frame, in memory that does not grow with its length. Use it in a `with` block.

    The suffix chooses: .mp4, .m4v, .mov, .mkv (H.264, yuv420p, which every browser plays in mp4), .webm (VP9), .gif
    (a palette per frame, times in whole hundredths of a second), .webp and .apng (held in memory as bytes, times in
    milliseconds). A name that ends in "/" or has no suffix gives a folder of PNG images 00000.png, 00001.png and so on,
    without times.

    Nothing appears under `path` before the block ends without an error; after an error nothing is left.

    H.264 in yuv420p has even sizes only: an odd width or height is padded by repeating the last column or row, so
    that the file is one pixel larger. The others keep the size. Colors are BT.709, limited range, and tagged so.

    Args:
        path: the file or folder.
        fps: frames per second; with durations only a hint for players.
        width, height: size of the frames in pixels.
        audio_from: a video whose first sound track is copied, not re-encoded, up to the length of the video. Where
            the container cannot hold its codec it is left out with a warning.
        audio_start: seconds of `audio_from`, from its first video frame, at which the sound begins.

    Raises:
        MediaError: unknown suffix, unreadable `audio_from`, a folder with other files in the way, no frames written,
            or the file cannot be written completely.
        ValueError: fps, width, height or the frames given do not fit.
    """

    write_errors = _WRITE_ERRORS

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float,
        width: int,
        height: int,
        audio_from: str | os.PathLike[str] | None = None,
        audio_start: float = 0.0,
    ) -> None:
        super().__init__(path)
        finite_positive("fps", fps, minimum=1 / _LARGEST_DENOMINATOR)
        if min(width, height) < 1:
            raise ValueError(f"width and height must be at least 1, got {width}x{height}")
        self.fps, self.width, self.height = float(fps), int(width), int(height)
        suffix = self.path.suffix.lower()
        highest = 100 if suffix == ".gif" else _HIGHEST_RATE
        if fps > highest:
            raise ValueError(f"{path}: holds at most {highest} frames per second, got fps={fps:g}")
        self._is_folder = not suffix or os.fspath(path).endswith(("/", os.sep))
        if not self._is_folder and suffix not in _ENCODERS | _ANIMATIONS:
            accepted = ", ".join(_ENCODERS | _ANIMATIONS)
            raise MediaError(f"{path}: videos are written as {accepted} or a folder of PNGs, not {self.path.suffix!r}")
        self._rate = Fraction(self.fps).limit_denominator(_LARGEST_DENOMINATOR)
        self._sound = _Sound(require_file(audio_from), audio_start) if audio_from is not None else None
        self._stop = 0.0  # when the last frame so far ends

    def _open(self, stack: contextlib.ExitStack) -> "_ImageFolder | _Animation | _EncodedVideo":
        sound = self._sound if self._sound is not None and self._sound.fits(self.path) else None
        if self._is_folder:
            return _ImageFolder(self.path, stack)
        if self.path.suffix.lower() in _ANIMATIONS:
            return _Animation(self.path, stack)
        return _EncodedVideo(self.path, self._rate, (self.width, self.height), sound, stack)

    def write(self, frames: torch.Tensor, durations: Sequence[float] | None = None) -> None:
        """Append frames (3, n, H, W), float in [-1, 1], clamped and rounded to 8 bits; n may be 0. Grey frames
        (1, n, H, W) become colour, those with alpha (4, n, H, W) are put over white.

        Args:
            durations: seconds that each of the n frames is shown, such as `VideoReader.durations` tells; None is
                1 / fps each. Folders of PNG images do not keep them.
        """
        target = self._opened()
        frames = as_color(frames) if frames.shape[0] in MODES else frames
        check_pixels(frames, "(3, n, H, W)")
        if frames.shape[-2:] != (self.height, self.width):
            size = f"{frames.shape[-1]}x{frames.shape[-2]}"
            raise ValueError(f"frames are {size}, the writer was opened for {self.width}x{self.height}")
        if durations is None:
            durations = [float(1 / self._rate)] * frames.shape[1]
        if len(durations) != frames.shape[1]:
            raise ValueError(f"{frames.shape[1]} frames need as many durations, got {len(durations)}")
        if not all(0 <= duration <= _LONGEST_SHOWN for duration in durations):
            wanted = f"durations must be seconds from 0 to {_LONGEST_SHOWN}"
            raise ValueError(f"{wanted}, got {min(durations):g} to {max(durations):g}")
        with writing(self.path, self.write_errors):
            for frame, duration in zip(frames.unbind(1), durations, strict=True):
                target.add(to_uint8(frame), self._stop, self._stop + duration)
                self._stop += duration
                self.frames_written += 1

    def _finish(self, target: "_ImageFolder | _Animation | _EncodedVideo") -> None:
        target.finish(self._stop)


def write_video(
    path: str | os.PathLike[str],
    x: torch.Tensor,
    fps: float,
    audio_from: str | os.PathLike[str] | None = None,
    durations: Sequence[float] | None = None,
    dtype: str = "uint8",
    ranges: Ranges = (),
) -> None:
    """Write a video held in memory; see `VideoWriter` for formats, sizes, sound and errors.

    Args:
        path: the file or folder; .npy is an array (T, H, W, c).
        x: float (3, T, H, W) in [-1, 1], T at least 1; of other channels as for `VideoWriter.write`, any for .npy.
        fps: frames per second.
        audio_from: a video whose sound is copied.
        durations: seconds that each frame is shown, in place of 1 / fps.
        dtype, ranges: of the numbers in a .npy file; see `omnitok.data.arrays.numbers_of`.
    """
    if x.ndim != 4:
        check_pixels(x, "(3, T, H, W)")
    with video_writer(path, fps, x.shape[-1], x.shape[-2], audio_from, dtype, ranges) as writer:
        writer.write(x, durations)


def video_writer(
    path: str | os.PathLike[str],
    fps: float,
    width: int,
    height: int,
    audio_from: str | os.PathLike[str] | None = None,
    dtype: str = "uint8",
    ranges: Ranges = (),
) -> VideoWriter | ArrayVideoWriter:
    """What writes the video `path`: `ArrayVideoWriter` for .npy, else `VideoWriter`."""
    if os.fspath(path).lower().endswith(ARRAY_SUFFIX):
        return ArrayVideoWriter(path, dtype, ranges)
    return VideoWriter(path, fps, width, height, audio_from)


class _ImageFolder:
    """A folder of numbered PNG files."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        if path.exists():
            if not path.is_dir():
                raise MediaError(f"{path}: is a file; the folder of PNG images cannot replace it")
            others = [entry.name for entry in path.iterdir() if not re.fullmatch(r"\d+\.png", entry.name)]
            if others:
                raise MediaError(f"{path}: the folder holds other files ({others[0]}); give a new or empty folder")
        self._folder = stack.enter_context(atomic_path(path))
        self._folder.mkdir(parents=True)
        self._count = 0

    def add(self, pixels: np.ndarray, start: float, stop: float) -> None:
        Image.fromarray(pixels).save(self._folder / f"{self._count:05d}.png", compress_level=4)
        self._count += 1

    def finish(self, stop: float) -> None:
        """Nothing is left to do."""


class _Animation:
    """WebP or APNG through Pillow; FFmpeg's writers lose the duration of the last frame."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self._format, self._options = _ANIMATIONS[path.suffix.lower()]
        self._temporary = stack.enter_context(atomic_path(path))
        self._frames: list[Image.Image] = []
        self._milliseconds: list[int] = []

    def add(self, pixels: np.ndarray, start: float, stop: float) -> None:
        self._frames.append(Image.fromarray(pixels))
        self._milliseconds.append(max(1, round(stop * 1000) - round(start * 1000)))

    def finish(self, stop: float) -> None:
        first, *rest = self._frames
        how = {"save_all": True, "append_images": rest, "duration": self._milliseconds, "loop": 0}
        first.save(self._temporary, format=self._format, **how, **self._options)


class _EncodedVideo:
    """One container file through FFmpeg's encoders."""

    def __init__(
        self, path: Path, rate: Fraction, size: tuple[int, int], sound: "_Sound | None", stack: contextlib.ExitStack
    ) -> None:
        suffix = path.suffix.lower()
        codec, options = _ENCODERS[suffix]
        width, height = size
        self._path = path
        self._padding = (height % 2, width % 2) if codec == "libx264" else (0, 0)
        # Whole parts of a frame at the usual rate, so that even rates come out even; GIF has hundredths of a second.
        parts = rate.numerator * math.ceil(_FINE_TICKS / rate.numerator)
        self._time_base = Fraction(1, 100 if codec == "gif" else parts)
        self._temporary = stack.enter_context(atomic_path(path))
        muxing = {"movflags": "+faststart"} if suffix in (".mp4", ".m4v", ".mov") else {}
        self._container: Any = av.open(f"file:{self._temporary}", "w", format=_muxer(suffix), options=muxing)
        stack.callback(_abandon, self._container)
        stream: Any = self._container.add_stream(codec, rate=rate, options=dict(options))
        stream.width, stream.height = width + self._padding[1], height + self._padding[0]
        stream.pix_fmt = "pal8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = self._time_base
        self._palettes = _Palettes(width, height, self._time_base) if codec == "gif" else None
        if self._palettes is None:  # H.273 codes: 1 is BT.709; range 1 is limited
            context = stream.codec_context
            context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
            stream.thread_type = "AUTO"
        self._stream = stream
        self._sound = sound
        if sound is not None:
            sound.begin(self._container, stack)
        self._count, self._tick = 0, -1
        self._lengths: dict[int, int] = {}  # of the frames within the encoder, which forgets them

    def add(self, pixels: np.ndarray, start: float, stop: float) -> None:
        if any(self._padding):
            pixels = np.pad(pixels, ((0, self._padding[0]), (0, self._padding[1]), (0, 0)), mode="edge")
        self._tick = max(self._tick + 1, round(start / self._time_base))  # no two frames at one time
        self._lengths[self._tick] = max(1, round(stop / self._time_base) - self._tick)
        self._count += 1
        if self._palettes is not None:
            self._palettes.push(pixels, self._tick)
            self._encode_paletted()
            return
        frame = rgb_to_yuv420p(pixels)
        frame.pts, frame.time_base = self._tick, self._time_base
        self._encode(frame)

    def finish(self, stop: float) -> None:
        if self._palettes is not None:
            self._palettes.finish()
            self._encode_paletted()
        self._encode(None)
        if self._sound is not None:
            self._sound.copy_until(stop)
        self._container.close()
        self._verify()

    def _encode_paletted(self) -> None:
        assert self._palettes is not None
        for frame in self._palettes.pull():
            self._encode(frame)

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            if packet.time_base == self._time_base:
                packet.duration = self._lengths.pop(packet.pts, packet.duration)
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


class _Palettes:
    """RGB to paletted frames, each with the 256 colors that suit it best, dithered in a fixed pattern."""

    def __init__(self, width: int, height: int, time_base: Fraction) -> None:
        graph: Any = av.filter.Graph()
        colors, pixels = (
            graph.add_buffer(width=width, height=height, format="rgb24", time_base=time_base) for _ in range(2)
        )
        choose = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        apply = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
        sink = graph.add("buffersink")
        colors.link_to(choose)
        pixels.link_to(apply, 0, 0)
        choose.link_to(apply, 0, 1)
        apply.link_to(sink)
        graph.configure()
        self._graph, self._colors, self._pixels, self._time_base = graph, colors, pixels, time_base

    def push(self, pixels: np.ndarray, tick: int) -> None:
        for source, image in ((self._colors, few_colors(pixels)), (self._pixels, pixels)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, self._time_base
            source.push(frame)

    def finish(self) -> None:
        self._colors.push(None)
        self._pixels.push(None)

    def pull(self) -> Iterator[Any]:
        """The frames that are ready."""
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                yield self._graph.pull()


def few_colors(pixels: np.ndarray) -> np.ndarray:
    """Each color of uint8 (H, W, 3) as the mean of those that share its upper 5 bits: at most 2**15 of them.

    FFmpeg's choice of a palette takes 2 seconds for a megapixel whose colors all differ, and comes out as good or a
    little better (docs/log.md) from these; a color that is alone in its cell, as in drawings, stays as it is.
    """
    red, green, blue = (pixels.reshape(-1, 3) >> 3).astype(np.intp).T
    cell = red << 10 | green << 5 | blue  # of each pixel
    count = np.bincount(cell, minlength=2**15).clip(1)
    sums = [np.bincount(cell, weights=channel, minlength=2**15) for channel in pixels.reshape(-1, 3).T]
    means = np.stack([np.rint(total / count) for total in sums], axis=-1).astype(np.uint8)
    return means[cell].reshape(pixels.shape)


def copy_sound(path: str | os.PathLike[str]) -> bytes | None:
    """The first sound track of a video as a Matroska file of its own, whose second 1 is the time of the first frame.

    Packets are copied, not encoded again. None where there is no sound, or, with a warning, none that Matroska holds. A
    file of these bytes with the suffix `SOUND_SUFFIX` is an `audio_from`.

    Raises:
        MediaError: the video cannot be read.
    """
    source = require_file(path)
    sound = _Sound(source, -_SOUND_LEAD)
    with (
        tempfile.TemporaryDirectory(dir=scratch_folder()) as folder,
        contextlib.ExitStack() as stack,
        reading(source, MediaError, "video"),
    ):
        target = Path(folder, f"sound{SOUND_SUFFIX}")
        if not sound.fits(target):
            return None
        with av.open(str(target), "w", format="matroska") as output:
            sound.begin(output, stack)
            sound.copy_until(math.inf)
        return target.read_bytes()


class _Sound:
    """The first sound track of a video, whose packets are copied beside new frames, shifted in time."""

    def __init__(self, path: Path, start: float) -> None:
        self.path, self._start = path, start
        self._codec: str | None = None
        self._origin: float | None = None  # stamp of the first video frame
        self._held: tuple[float, float, Any] | None = None
        image = open_image(path)
        if image is not None:  # a GIF has no sound
            image.close()
            return
        with open_container(path) as container, reading(path, MediaError, "video"):
            if container.streams.audio:
                self._codec = container.streams.audio[0].codec_context.name
            if container.streams.video:
                video = video_stream(path, container)
                self._origin = float((video.start_time or 0) * video.time_base)
            elif path.suffix == SOUND_SUFFIX:
                self._origin = _SOUND_LEAD

    def fits(self, path: Path) -> bool:
        """Whether there is a sound that this file can hold; warns where it cannot."""
        if self._codec is not None and self._codec not in _SOUND.get(path.suffix.lower(), ()):
            warnings.warn(f"{path}: cannot hold {self._codec} sound; that of {self.path} is left out", stacklevel=5)
            return False
        return self._codec is not None

    def begin(self, output: Any, stack: contextlib.ExitStack) -> None:
        """Add a track to the container that is written."""
        source: Any = stack.enter_context(open_container(self.path))
        track = source.streams.audio[0]
        self._output, self._track = output, output.add_stream_from_template(track)
        self._clock = Clock(longest_gap(source), self._origin)
        if self._start > 1 and self._origin is not None and can_seek(source):  # else the first packet tells time 0
            source.seek(int((self._origin + self._start - 0.5) / track.time_base), stream=track)
        self._packets = (packet for packet in source.demux(track) if packet.size and packet.dts is not None)

    def copy_until(self, end: float) -> None:
        """Copy every packet that starts before `end` seconds of the new video."""
        while self._held is not None or self._pull():
            assert self._held is not None
            begins, stops, packet = self._held
            if begins >= end:
                return
            self._held = None
            if stops < 0:
                continue
            shift = round(((self._clock.offset or 0.0) + self._start) / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.pts - shift if packet.pts is not None else None
            packet.stream = self._track
            self._output.mux(packet)

    def _pull(self) -> bool:
        packet = next(self._packets, None)
        if packet is not None:
            length = float((packet.duration or 0) * packet.time_base)
            begins = self._clock.time(float(packet.dts * packet.time_base), length) - self._start
            self._held = begins, begins + length, packet
        return packet is not None
