"""Videos of any number of channels as arrays of numpy, (T, H, W, c), frame by frame."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from omnitok.atomic import atomic_path
from omnitok.data.arrays import numbers_of, open_video, scaled
from omnitok.data.frame_folder import FRAME_RATE
from omnitok.data.frame_writer import FrameWriter
from omnitok.data.image import TimedFrame, check_pixels
from omnitok.data.pixel_format import PixelFormat, Ranges
from omnitok.errors import writing

ARRAY_SUFFIX = ".npy"


class ArrayVideo:
    """A `.npy` file as a video, mapped into memory, of as many frames per second as a folder of frames.

    Raises:
        MediaError: it is none, or has other channels.
    """

    is_still = has_audio = False
    fps = FRAME_RATE

    def __init__(self, path: Path, pixel_format: PixelFormat) -> None:
        self._path, self._ranges, self._array = path, pixel_format.ranges, open_video(path)
        frames, self.height, self.width, channels = self._array.shape
        pixel_format.check_channels(path, channels)
        self.dtype: str | None = self._array.dtype.name
        self.frame_count: int | None = frames
        self.duration: float | None = frames / self.fps

    def decode(self, start: float) -> Iterator[TimedFrame]:
        """Every frame that does not end before `start` seconds."""
        for number in range(max(0, int(start * self.fps)), len(self._array)):
            yield TimedFrame(number / self.fps, 1 / self.fps, partial(self._pixels, number))

    def _pixels(self, number: int) -> torch.Tensor:
        return scaled(self._path, self._array[number], self._ranges)


class ArrayVideoWriter(FrameWriter[BinaryIO]):
    """Writes a `.npy` video (T, H, W, c) frame by frame, as `VideoWriter` does, in memory that does not grow with it.

    Args:
        dtype, ranges: of its numbers, as for `omnitok.data.arrays.numbers_of`.

    Raises:
        MediaError: the file cannot be written, or no frames were (then nothing is left under its name).
    """

    def __init__(self, path: str | os.PathLike[str], dtype: str = "uint8", ranges: Ranges = ()) -> None:
        super().__init__(path)
        self._dtype, self._ranges = dtype, ranges
        self._shape: tuple[int, ...] = ()  # of a frame

    def _open(self, stack: contextlib.ExitStack) -> BinaryIO:
        return stack.enter_context(stack.enter_context(atomic_path(self.path)).open("wb"))

    def write(self, frames: torch.Tensor, durations: Sequence[float] | None = None) -> None:
        """Append frames (c, n, H, W), float in [-1, 1]; n may be 0. There is no place for durations."""
        file = self._opened()
        check_pixels(frames, "(c, n, H, W)", frames.shape[0])
        numbers = numbers_of(frames, self._dtype, self._ranges)  # n h w c
        with writing(self.path, self.write_errors):
            if not self._shape:
                self._shape = numbers.shape[1:]
                self._finish(file)  # leaves room for the header
            file.write(numbers.tobytes())
        self.frames_written += len(numbers)

    def _finish(self, target: BinaryIO) -> None:
        """Say at the start of the file how many frames there are; numpy leaves room for any number."""
        target.seek(0)
        fields = np.lib.format.header_data_from_array_1_0(np.empty((0, *self._shape), self._dtype))
        np.lib.format.write_array_header_1_0(target, fields | {"shape": (self.frames_written, *self._shape)})
