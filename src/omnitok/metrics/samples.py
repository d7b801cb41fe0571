"""Images and videos as a protocol wants them: files to pixels of one size, pixels to the 8 bits that are judged."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnitok.data.image import read_image
from omnitok.data.index import build_index
from omnitok.data.modality import MODALITIES, Modality
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.data.samples import Sample
from omnitok.data.transforms import choose_crop, fit_square
from omnitok.data.video_reader import WindowSampling, read_window
from omnitok.errors import MediaError
from omnitok.files import Paths
from omnitok.metrics.protocols import Protocol

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")


def files_by_modality(source: Paths, arrays: bool = False) -> dict[Modality, list[Path]]:
    """The images and the videos of files, folders (sorted by path) and lists; absent modalities are no keys.

    A list is a .txt, .tsv or .lst in the released annotation format, or a .csv or .jsonl manifest, and keeps its order.

    Args:
        arrays: whether `.npy` files in folders are among them.

    Raises:
        MediaError: the source is missing or empty, or a file is neither an image nor a video.
    """
    index = build_index(source, arrays=arrays)
    for modality in MODALITIES:
        check_files(index[modality])
    return {modality: [Path(sample.path) for sample in index[modality]] for modality in MODALITIES if index[modality]}


def check_files(samples: Iterable[Sample]) -> None:
    """Raise MediaError for a sample that is not a file, or that its list says wrongly."""
    for sample in samples:
        if sample.error or sample.size is not None:
            raise MediaError(sample.error or f"{sample.name}: files in tars are not measured; unpack them")


def load_sample(
    path: str | os.PathLike[str],
    modality: Modality,
    protocol: Protocol,
    resolution: int | None,
    frames: int,
    pixel_format: PixelFormat = RGB,
) -> Tensor:
    """A file in [-1, 1]: an image (c, H, W), or the protocol's choice of `frames` of a video, (c, frames, H, W).

    Args:
        resolution: pixels per side that samples are brought to; None: as they are.

    Raises:
        MediaError: the file cannot be read, or the video is shorter: nothing is padded (the authors' code pads with
            black).
    """
    if modality == "image":
        return fit_frames(read_image(path, pixel_format=pixel_format)[:, None], resolution, protocol)[:, 0]
    window = read_window(path, WindowSampling(frames, start=protocol.frame_choice), pixel_format=pixel_format)
    return fit_frames(window.pixels, resolution, protocol)


def fit_frames(frames: Tensor, resolution: int | None, protocol: Protocol) -> Tensor:
    """Frames (c, T, H, W) in [-1, 1] brought to a square of `resolution` by the protocol (None: as they are)."""
    if resolution is None:
        return frames
    if protocol.resize == "bicubic_float":
        return fit_square(frames, resolution, protocol.fit)
    height, width = frames.shape[-2:]
    top, left, h, w = choose_crop(height, width, resolution, protocol.fit)
    resized = []
    for plane in to_uint8(frames).flatten(0, 1).numpy():  # (H, W)
        image = Image.fromarray(plane).crop((left, top, left + w, top + h))
        resized.append(np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC)))
    return from_uint8(torch.from_numpy(np.stack(resized)).unflatten(0, frames.shape[:2]))


def to_uint8(pixels: Tensor) -> Tensor:
    """Float pixels in [-1, 1] → the nearest of 256 levels; beyond the range clamped."""
    return ((pixels.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(levels: Tensor) -> Tensor:
    """uint8 → float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def quantize_original(pixels: Tensor, protocol: Protocol) -> Tensor:
    """The 8 bits of an original as the protocol's metrics see it, of float pixels in [-1, 1].

    "truncate" repeats what the authors' code does to originals, ((u / 255 - 0.5) + 0.5) * 255 cut off, in float32,
    which lowers some levels by one.
    """
    levels = to_uint8(pixels)
    if protocol.quantize == "round":
        return levels
    return (((levels.float() / 255 - 0.5) + 0.5) * 255).to(torch.uint8)


def quantize_reconstruction(pixels: Tensor, protocol: Protocol) -> Tensor:
    """The 8 bits of a reconstruction as the protocol's metrics see it, of float pixels around [-1, 1]."""
    if protocol.quantize == "round":
        return to_uint8(pixels)
    return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8)


def jpeg_roundtrip(images: Tensor, quality: int) -> Tensor:
    """uint8 images (n, 3, H, W) after writing and reading them as JPEG with 4:2:0 chroma."""
    decoded = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(buffer).convert("RGB")))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


def read_ahead(load: Callable[[_Item], _Loaded], items: Iterable[_Item], workers: int = 2) -> Iterator[_Loaded]:
    """`load` of every item, in order, read in threads at most 2 x `workers` ahead, so that memory stays bounded."""
    with ThreadPoolExecutor(workers) as pool:
        rest = iter(items)
        waiting = deque(pool.submit(load, item) for item in islice(rest, 2 * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(load, item) for item in islice(rest, 1))


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Consecutive runs of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
