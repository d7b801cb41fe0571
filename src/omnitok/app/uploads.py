"""What strangers upload, bounded in bytes, pixels and seconds before it is decoded, and in size and length after."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from omnitok.data import VideoReader
from omnitok.data.image import ImageReader
from omnitok.data.modality import detect_modality, modality_of
from omnitok.data.transforms import resize
from omnitok.errors import MediaError
from omnitok.limits import Limit

MAX_BYTES = Limit("OMNITOK_APP_MAX_BYTES", 2**26)
"""Of one uploaded file."""

MAX_PIXELS = Limit("OMNITOK_APP_MAX_PIXELS", 2**23)
"""Of a frame of an uploaded video; images, which are made smaller as bytes, may have eight times as many."""

MAX_SECONDS = Limit("OMNITOK_APP_MAX_SECONDS", 60)
"""Of an uploaded video. Only the first frames are used, but browsers record without end."""

KEPT_SECONDS = Limit("OMNITOK_APP_KEPT_SECONDS", 3600)
"""For which uploads and results are kept, so that a page that is left open goes on working for so long."""

MAX_FILES = 8
"""That are compared at once."""


def read_image(path: str | None, side: int, size: tuple[int, int] | None = None) -> Tensor:
    """An image (3, H, W) in [-1, 1], made smaller where its longer side is above `side` pixels, or brought to `size`.

    Raises:
        MediaError: nothing was uploaded, it cannot be read, or it is above a bound.
    """
    with ImageReader(_given(path, "an image"), MAX_PIXELS) as reader:
        height, width = size or _within(reader.height, reader.width, side)
        return reader.crop((0, 0, reader.height, reader.width), height, width)


def read_video(path: str | None, frames: int, side: int) -> tuple[Tensor, float]:
    """The first frames of a video, (3, T, H, W) in [-1, 1], no longer side above `side` pixels; and frames per second.

    Raises:
        MediaError: nothing was uploaded, it cannot be read, or it is above a bound.
    """
    path = check_video(path)
    with VideoReader(path) as reader:
        height, width = _within(reader.height, reader.width, side)
        held = [resize(frame[:, None], height, width) for frame in itertools.islice(reader, frames)]
        return torch.cat(held, dim=1), reader.fps


def check_video(path: str | None) -> str:
    """The path, where its header stays within the bounds.

    Raises:
        MediaError: nothing was uploaded, it cannot be read, or it is above a bound.
    """
    path = _given(path, "a video")
    with VideoReader(path) as reader:
        size = f"{path}: a video of {reader.width}x{reader.height} pixels"
        MAX_PIXELS.check(reader.height * reader.width, size, MediaError)
        if reader.frame_count is not None:
            seconds = round(reader.frame_count / reader.fps)
            MAX_SECONDS.check(seconds, f"{path}: a video of {seconds} seconds", MediaError)
    return path


def check_image(path: str | None) -> str:
    """The path, where its header stays within the bounds.

    Raises:
        MediaError: nothing was uploaded, it cannot be read, or it is above a bound.
    """
    path = _given(path, "an image")
    with ImageReader(path, MAX_PIXELS, whole=True):
        return path


def check_files(paths: Sequence[str] | None) -> list[str]:
    """Images and videos to compare, no lists of further files among them.

    Raises:
        MediaError: none, too many, or one that is neither, cannot be read, or is above a bound.
    """
    if not paths or len(paths) > MAX_FILES:
        raise MediaError(f"upload from 1 to {MAX_FILES} images and videos, found {len(paths or ())}")
    for path in paths:
        if modality_of(path) is None:
            raise MediaError(f"{path}: neither an image nor a video by its name")
        if detect_modality(path) == "video":
            check_video(path)
        else:
            check_image(path)
    return [str(path) for path in paths]  # gradio's are strings of another class


def _given(path: str | None, what: str) -> str:
    """
    Raises:
        MediaError: no file, or one above the bound in bytes.
    """
    if path is None:
        raise MediaError(f"upload {what} first")
    if os.path.isfile(path):
        MAX_BYTES.check(Path(path).stat().st_size, f"{path}: a file of {Path(path).stat().st_size} bytes", MediaError)
    return path


def _within(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width at the same aspect, where the longer is at most `side`."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
