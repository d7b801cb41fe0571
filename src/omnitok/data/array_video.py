"""Videos of any number of channels as arrays of numpy, (T, H, W, c), frame by frame."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch

from omnitok.atomic import atomic_path
from omnitok.data.arrays import numbers_of, open_video, scaled
from omnitok.data.frame_folder import FRAME_RATE
from omnitok.data.image import TimedFrame, check_pixels
from omnitok.data.pixel_format import PixelFormat, Ranges
from omnitok.errors import MediaError, writing

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


class ArrayVideoWriter:
    """Writes a `.npy` video (T, H, W, c) frame by frame, as `VideoWriter` does, in memory that does not grow with it.

    Args:
        dtype, ranges: of its numbers, as for `omnitok.data.arrays.numbers_of`.

    Raises:
        MediaError: the file cannot be written, or no frames were (then nothing is left under its name).
    """

    def __init__(self, path: str | os.PathLike[str], dtype: str = "uint8", ranges: Ranges = ()) -> None:
        self.path, self._dtype, self._ranges = Path(path), dtype, ranges
        self.frames_written = 0
        self._shape: tuple[int, ...] = ()  # of a frame
        self._stack = contextlib.ExitStack()
        self._file: BinaryIO | None = None

    def __enter__(self) -> "ArrayVideoWriter":
        with writing(self.path, (OSError,)), contextlib.ExitStack() as stack:
            self._file = stack.enter_context(stack.enter_context(atomic_path(self.path)).open("wb"))
            self._stack = stack.pop_all()
        return self

    def write(self, frames: torch.Tensor, durations: Sequence[float] | None = None) -> None:
        """Append frames (c, n, H, W), float in [-1, 1]; n may be 0. There is no place for durations."""
        if self._file is None:
            raise ValueError("ArrayVideoWriter.write works only inside its `with` block")
        check_pixels(frames, "(c, n, H, W)", frames.shape[0])
        numbers = numbers_of(frames, self._dtype, self._ranges)  # n h w c
        with writing(self.path, (OSError,)):
            if not self._shape:
                self._shape = numbers.shape[1:]
                self._write_header(self._file)
            self._file.write(numbers.tobytes())
        self.frames_written += len(numbers)

    def _write_header(self, file: BinaryIO) -> None:
        """Say at the start of the file how many frames there are; numpy leaves room for any number."""
        file.seek(0)
        fields = np.lib.format.header_data_from_array_1_0(np.empty((0, *self._shape), self._dtype))
        np.lib.format.write_array_header_1_0(file, fields | {"shape": (self.frames_written, *self._shape)})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        if error is not None or file is None:
            self._stack.__exit__(kind, error, trace)
            return
        with writing(self.path, (OSError,)), self._stack:
            if not self.frames_written:
                raise MediaError(f"{self.path}: no frames were written, so there is no video")
            self._write_header(file)
