"""Sequences of embeddings in files, which generators are conditioned on: of a sound, of a text encoder, of anything."""

import os
from pathlib import Path

import numpy as np

from omnitok.errors import MediaError, reading

MAX_LENGTH, MAX_CHANNELS = 4096, 16384
"""What one sequence may have at most."""


def read_embeddings(path: str | os.PathLike[str]) -> np.ndarray:
    """The sequence (n, d), float32, of a `.npy` file that holds (n, d) or (d,) finite numbers.

    Raises:
        MediaError: it is missing, damaged, of another shape, larger than `MAX_LENGTH` x `MAX_CHANNELS`, or not finite.
    """
    path = Path(path)
    with reading(path, MediaError, ".npy file"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim == 1:
            array = array[None]
        largest = (MAX_LENGTH, MAX_CHANNELS)
        if array.ndim != 2 or array.dtype.kind not in "fiu" or not all(map(_within, array.shape, largest)):
            wanted = f"numbers (n, d) of at most {largest[0]} x {largest[1]}"
            raise MediaError(f"{path}: a sequence of embeddings is {wanted}, found {array.dtype} {array.shape}")
        values = np.asarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise MediaError(f"{path}: holds values that are not finite")
    return values


def _within(size: int, most: int) -> bool:
    return 1 <= size <= most
