"""Log-mel features of a file's own sound, aligned to the latent frames of its video."""

import functools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import torch
from torch import Tensor

from omnitok.data.containers import Clock, VideoFile, can_seek, longest_gap, open_container
from omnitok.data.image import require_file
from omnitok.errors import MediaError, reading

RATE = 16_000  # samples per second, mono
PER_LATENT_FRAME = 4
MELS = 64
HIGHEST_VALUE, LOWEST_VALUE = 1.0, -1.0
"""Of a sine of full scale, and of what is 80 dB below it or quieter, which silence is."""

_WINDOW, _HOP = 1024, 160  # samples: 64 ms, which tells the lowest bands apart, every 10 ms
_LOWEST_HZ = 40.0
_LONGEST = 100_000  # seconds
_FLOOR = 1e-8  # of the power of a sine of full scale
_BLOCK = 256  # spectra at a time
_SNAP = 0.02  # seconds by which stamps may disagree with the samples before them: containers round times


def log_mel(
    path: str | os.PathLike[str],
    edges: Sequence[float],
    *,
    per_frame: int = PER_LATENT_FRAME,
    n_mels: int = MELS,
) -> Tensor:
    """What is heard while each latent frame is shown: `per_frame` spectra for each, one after another.

    The sound (the default track, mixed to one channel of 16 kHz) is cut into windows of 64 ms, one every 10 ms. The
    time of a latent frame is cut into `per_frame` equal parts; a part has the mean power of the windows whose centres
    lie in it (of the nearest, where it is shorter than 10 ms), in `n_mels` triangular bands from 40 Hz to 8 kHz that
    are even on the mel scale of `mel_bands`. Of a power p, relative to a sine of full scale, the value is
    (log10 max(p, 1e-8) + 4) / 4: 1 at full scale, -1 from 80 dB below it on. Where the track is silent, has not begun
    or has ended, all values are -1.

    Memory does not grow with the length of the file. Of a late start in a video only what comes shortly before it
    is decoded, where the container has an index.

    Args:
        path: a video, or a file of sound alone.
        edges: seconds at which latent frames begin, and at last the end: ascending, t + 1 numbers for t latent frames.
            Time 0 is the first frame of the video, or the begin of the sound where there is no video. For frames from
            `start` on at a rate: ``[start + tokenizer.num_frames(i) / fps for i in range(t + 1)]``.
        per_frame: spectra for each latent frame.
        n_mels: bands.

    Returns:
        float32 (t * per_frame, n_mels) in about [-1, 1].

    Raises:
        MediaError: the file is missing or damaged, or has no sound track: that is not the same as silence.
        ValueError: edges that do not ascend or are beyond 100 000 seconds, or no spectra or bands.
    """
    times = [float(edge) for edge in edges]
    ascending = len(times) > 1 and all(a < b for a, b in pairwise(times))
    if not ascending or not max(-times[0], times[-1]) <= _LONGEST:
        raise ValueError(f"edges must be at least two ascending numbers of seconds up to {_LONGEST}, found {times[:4]}")
    if per_frame < 1 or n_mels < 1:
        raise ValueError(f"per_frame and n_mels must be at least 1, found {per_frame} and {n_mels}")
    path = require_file(path)
    parts = _Parts.between(times, per_frame)
    power = torch.zeros(parts.count, n_mels, dtype=torch.float64)
    for first, spectra in _spectra(path, parts.first, parts.last):
        here = parts.within(first, first + len(spectra))
        power.index_add_(0, parts.part[here], (spectra @ mel_bands(n_mels)).double()[parts.window[here] - first])
    power /= parts.part.bincount(minlength=parts.count)[:, None]
    return ((power.clamp(min=_FLOOR).log10() + 4) / 4).float()


@functools.cache
def mel_bands(n_mels: int) -> Tensor:
    """Weights of frequencies in bands, (513, n_mels): triangles with peak 1 that meet at one another's peaks.

    Their peaks are even in m = 2595 log10(1 + f / 700) (O'Shaughnessy, "Speech Communication", 1987; the formula of
    HTK). A band that is narrower than the distance of two frequencies takes the nearest one.
    """

    def to_mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    mels = torch.linspace(to_mel(_LOWEST_HZ), to_mel(RATE / 2), n_mels + 2, dtype=torch.float64)
    peaks = 700 * (10 ** (mels / 2595) - 1)
    hertz = torch.linspace(0, RATE / 2, _WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hertz - peaks[:-2]) / (peaks[1:-1] - peaks[:-2])
    falling = (peaks[2:] - hertz) / (peaks[2:] - peaks[1:-1])
    bands = torch.minimum(rising, falling).clamp(min=0)
    nearest = (hertz - peaks[1:-1]).abs().argmin(0)
    empty = bands.amax(0) == 0
    bands[nearest[empty], empty.nonzero()[:, 0]] = 1
    return bands.float()


@dataclass(frozen=True)
class _Parts:
    """Which windows belong to which parts of latent frames, as pairs, sorted by windows.

    Window j is centred at j * _HOP samples.
    """

    count: int
    part: Tensor
    window: Tensor

    @classmethod
    def between(cls, edges: Sequence[float], per_frame: int) -> "_Parts":
        a, b = (torch.tensor(side, dtype=torch.float64)[:, None] for side in (edges[:-1], edges[1:]))
        share = torch.arange(per_frame + 1, dtype=torch.float64) / per_frame
        bounds = (a + (b - a) * share) * (RATE / _HOP)
        begin, end = bounds[:, :-1].flatten(), bounds[:, 1:].flatten()
        # A hair of slack: bounds that are windows' centres but for rounding belong to what begins there.
        low, high = (begin - 1e-6).ceil().long(), (end - 1e-6).ceil().long()
        nearest = ((begin + end) / 2).round().long()
        low, high = torch.where(high > low, low, nearest), torch.where(high > low, high, nearest + 1)
        count = high - low
        part = torch.arange(len(low)).repeat_interleave(count)
        offsets = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
        window = low.repeat_interleave(count) + offsets
        order = window.argsort(stable=True)
        return cls(len(low), part[order], window[order])

    @property
    def first(self) -> int:
        return int(self.window[0])

    @property
    def last(self) -> int:
        return int(self.window[-1])

    def within(self, first: int, stop: int) -> slice:
        """The pairs of the windows from `first` to before `stop`."""
        return slice(*torch.searchsorted(self.window, torch.tensor([first, stop])).tolist())


def _spectra(path: Path, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
    """Windows `first` to `last`: (number of the first of a block, power (n, 513) relative to a sine of full scale)."""
    window = torch.hann_window(_WINDOW)
    scale = float(window.sum()) / 2  # the amplitude of a sine of full scale in the spectrum
    pieces = _samples(path, first * _HOP - _WINDOW // 2, last * _HOP + _WINDOW // 2)
    held = torch.empty(0)
    for piece in pieces:
        held = torch.cat([held, piece])
        count = 1 + (len(held) - _WINDOW) // _HOP
        if len(held) < _WINDOW or (count < _BLOCK and first + count <= last):
            continue
        spectrum = torch.stft(
            held[: (count - 1) * _HOP + _WINDOW], _WINDOW, _HOP, window=window, center=False, return_complex=True
        )
        yield first, (spectrum / scale).abs().square().T
        first, held = first + count, held[count * _HOP :]


def _samples(path: Path, start: int, stop: int) -> Iterator[Tensor]:
    """Exactly the samples from number `start` to before `stop`, in pieces; zeros where there is no sound."""
    position, end = start, None  # of what was given, and of what was decoded
    for at, piece in _decoded(path, start / RATE):
        if end is not None and abs(at - end) <= _SNAP * RATE:
            at = end
        end = at + len(piece)
        if at >= stop:
            break
        if at > position:
            yield from _zeros(at - position)
            position = at
        piece = piece[position - at : stop - at]
        if len(piece):
            yield piece
            position += len(piece)
    yield from _zeros(stop - position)


def _zeros(count: int) -> Iterator[Tensor]:
    for begin in range(0, count, RATE):
        yield torch.zeros(min(RATE, count - begin))


def _decoded(path: Path, start: float) -> Iterator[tuple[int, Tensor]]:
    """(number of the first sample, samples) of the sound from shortly before `start` seconds on, in order."""
    with open_container(path) as container, reading(path, MediaError, "sound"):
        if not container.streams.audio:
            raise MediaError(f"{path}: has no sound track")
        marks = av.stream.Disposition
        tracks = container.streams.audio
        stream = next((track for track in tracks if track.disposition & marks.default), tracks[0])
        clock = Clock(longest_gap(container), _origin(path, container))
        if start > 2 and clock.offset is not None and can_seek(container):  # else its first frame tells time 0
            container.seek(int((start - 1 + clock.offset) / stream.time_base), stream=stream)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        damaged = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                yield from _resampled(resampler.resample(frame), clock)
        yield from _resampled(resampler.resample(None), clock)
    if damaged:
        warnings.warn(f"{path}: {damaged} damaged packets of sound", stacklevel=2)


def _resampled(frames: Sequence[Any], clock: Clock) -> Iterator[tuple[int, Tensor]]:
    for frame in frames:
        samples = torch.from_numpy(frame.to_ndarray()[0].copy())
        time = clock.time(None if frame.pts is None else float(frame.pts * frame.time_base), len(samples) / RATE)
        yield round(time * RATE), samples


def _origin(path: Path, container: Any) -> float | None:
    """The stamp of the first frame of the video; None where there is only sound, which then begins at 0."""
    pictures = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & pictures]
    return VideoFile(path).origin if moving else None
