"""Videos as folders of their frames."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from omnitok.data.arrays import ARRAY_SUFFIXES
from omnitok.data.image import IMAGE_SUFFIXES, TimedFrame, image_reader, read_image
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.data.transforms import resize
from omnitok.errors import MediaError, reading

FRAME_RATE = 25.0
"""Frames per second of a folder, which says nothing of it."""


class FrameFolder:
    """A folder of images as a video: frames in the order of the numbers in their names, all of the first one's size.

    Raises:
        MediaError: the folder cannot be listed, or holds no images.
    """

    is_still = has_audio = False
    fps = FRAME_RATE

    def __init__(self, path: Path, pixel_format: PixelFormat = RGB) -> None:
        self._format = pixel_format
        suffixes = IMAGE_SUFFIXES | (ARRAY_SUFFIXES if pixel_format.has_arrays else frozenset())
        with reading(path, MediaError, "folder of frames"):
            names = [name for name in os.listdir(path) if not name.startswith(".")]
        images = [name for name in names if os.path.splitext(name)[1].lower() in suffixes]
        if not images:
            raise MediaError(f"{path}: the folder holds no images, which would be the frames of a video")
        self._files = [path / name for name in sorted(images, key=lambda name: (_natural_order(name), name))]
        with image_reader(self._files[0], whole=True, pixel_format=pixel_format) as first:
            self.height, self.width = first.pixels().shape[1:]  # what cannot be decoded is told at once
            self.dtype = first.dtype
        self.frame_count: int | None = len(self._files)
        self.duration: float | None = self.frame_count / self.fps

    def decode(self, start: float) -> Iterator[TimedFrame]:
        """Every frame that does not end before `start` seconds."""
        for number, file in enumerate(self._files):
            if (number + 1) / self.fps > start:
                yield TimedFrame(number / self.fps, 1 / self.fps, partial(self._to_pixels, file))

    def _to_pixels(self, frame: Path) -> torch.Tensor:
        return resize(read_image(frame, pixel_format=self._format)[:, None], self.height, self.width)[:, 0]


def _natural_order(name: str) -> list[tuple[int, str]]:
    """9 comes before 10."""
    return [(int(part[-18:]), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
