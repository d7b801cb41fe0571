"""Sequences of embeddings in files, which generators are conditioned on: of a sound, of a text encoder, of anything."""

import os
from pathlib import Path

import numpy as np

from omnitok.errors import MediaError, reading

MAX_LENGTH, MAX_CHANNELS = 4096, 16384
"""What one sequence may have at most."""

FILES, AUDIO, TEXT = "files", "audio", "text:"
"""What embeddings are of; after the last comes the folder or hub id of a text encoder."""

KEY = "embedding"
"""Column of tables and key of JSON objects that names a file of embeddings."""

SUFFIX = ".embedding.npy"
"""Of a file of embeddings, named like the image or video beside it: `a.embedding.npy` of `a.mp4`."""


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
        bounds = zip(array.shape, (MAX_LENGTH, MAX_CHANNELS), strict=False)
        if array.ndim != 2 or array.dtype.kind not in "fiu" or not all(1 <= size <= most for size, most in bounds):
            wanted = f"numbers (n, d) of at most {MAX_LENGTH} x {MAX_CHANNELS}"
            raise MediaError(f"{path}: a sequence of embeddings is {wanted}, found {array.dtype} {array.shape}")
        values = np.asarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise MediaError(f"{path}: holds values that are not finite")
    return values


def pack_embeddings(values: np.ndarray, name: str) -> np.ndarray:
    """A sequence (n, d) as float16.

    Raises:
        MediaError: too long for `MAX_LENGTH`, or numbers beyond float16; the message starts with `name`.
    """
    if len(values) > MAX_LENGTH:
        raise MediaError(f"{name}: {len(values)} embeddings, at most {MAX_LENGTH} are accepted")
    with np.errstate(over="ignore"):
        half = np.asarray(values, dtype=np.float16)
    if not np.isfinite(half).all():
        raise MediaError(f"{name}: the embeddings reach {float(np.abs(values).max()):.4g}, beyond float16")
    return half
