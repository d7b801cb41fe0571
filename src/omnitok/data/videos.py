"""Clips for training: one file to one square tensor of a fixed number of frames."""

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av.error
import numpy as np
import torch
from torch import Tensor

from omnitok.data._clips import finite_positive, open_container, video_stream
from omnitok.data.media import VIDEO_SUFFIXES, VideoReader
from omnitok.data.transforms import CropPolicy, fit_square
from omnitok.errors import MediaError

_SEEK_SECONDS = 1.0  # a start before that is reached by decoding, which the reader below does as well
_REORDERING = 32  # packets; codecs show a frame at most 16 later than they store it


@dataclass(frozen=True)
class ClipSampling:
    """Which frames of a file make a clip.

    Attributes:
        frames: length of the clip.
        fps: frames a second that the file is sampled at first; None takes its frames as they are.
        stride: keep every stride-th frame of these.
        start: "random", or "center" for the same stretch every time.
    """

    frames: int
    fps: float | None = None
    stride: int = 1
    start: Literal["random", "center"] = "random"

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"frames and stride must be at least 1, found {self.frames} and {self.stride}")
        finite_positive("fps", self.fps)
        if self.start not in ("random", "center"):
            raise ValueError(f"start must be 'random' or 'center', found {self.start!r}")

    @property
    def span(self) -> int:
        """Frames from the first to the last one kept."""
        return (self.frames - 1) * self.stride + 1


def load_training_clip(
    path: str | os.PathLike[str],
    frames: int | ClipSampling,
    resolution: int,
    policy: CropPolicy,
    flip: bool,
    seed: int,
) -> Tensor:
    """A stretch of a clip as (3, frames, resolution, resolution) in [-1, 1].

    Start, crop and flip depend on `seed` only and are the same for all frames.

    Args:
        frames: how many consecutive ones from a random start, or a `ClipSampling`.

    Raises:
        MediaError: the file cannot be read or has fewer frames.
    """
    sampling = ClipSampling(frames) if isinstance(frames, int) else frames
    rng = np.random.default_rng(seed)
    pixels = fit_square(read_stretch(path, sampling, position=rng.random()), resolution, policy, rng)
    return pixels.flip(-1) if flip and rng.random() < 0.5 else pixels


def read_stretch(path: str | os.PathLike[str], sampling: ClipSampling, position: float) -> Tensor:
    """The frames of a clip as (3, frames, H, W) in [-1, 1], starting at `position` in [0, 1) of the possible starts.

    Raises:
        MediaError: the file cannot be read or has fewer frames.
    """
    with VideoReader(path, sampling.fps) as reader:
        spare = max((reader.frame_count or sampling.span) - sampling.span, 0)
        skip = spare // 2 if sampling.start == "center" else int(position * (spare + 1))
        if skip > _SEEK_SECONDS * reader.fps:
            clip = _sought(Path(path), sampling, skip)
            if clip is not None:
                return clip
        # Headers promise more frames than some files hold; the last ones then do.
        held = list(_last(itertools.islice(reader, skip + sampling.span), sampling.span))
    if len(held) < sampling.span:
        raise MediaError(f"{path}: {len(held)} frames, at least {sampling.span} are needed")
    return torch.stack(held[:: sampling.stride], dim=1)


def _last(frames: Iterable[Tensor], n: int) -> list[Tensor]:
    held: list[Tensor] = []
    for frame in frames:
        held.append(frame)
        if len(held) > n:
            held.pop(0)
    return held


def _sought(path: Path, sampling: ClipSampling, skip: int) -> Tensor | None:
    """The stretch from frame `skip` on without decoding what comes before the last key frame; None where that could
    give other frames than decoding from the beginning.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return None  # animated pictures cannot seek
    try:
        start = skip / sampling.fps if sampling.fps is not None else _time_of_frame(path, skip)
        if start is None:
            return None
        with VideoReader(path, sampling.fps, start) as reader:
            held = list(itertools.islice(reader, 0, sampling.span, sampling.stride))
    except (MediaError, av.error.FFmpegError, OSError):
        return None
    return torch.stack(held, dim=1) if len(held) == sampling.frames else None


def _time_of_frame(path: Path, index: int) -> float | None:
    """Seconds from the first frame to the one shown as number `index`, by the packets' times; None if in doubt."""
    times = []
    with open_container(path) as container:
        stream = video_stream(path, container)
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            if packet.pts is None or packet.is_corrupt:
                return None
            times.append(packet.pts)
            if len(times) > index + _REORDERING:
                break
        times.sort()
        if len(times) <= index or len(set(times)) < len(times):
            return None
        return float((times[index] - times[0]) * stream.time_base)
