"""Pictures and clips as a protocol wants them: files to pixels of one size, pixels to the 8 bits that are judged."""

import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnitok.data.image import read_image
from omnitok.data.index import build_index, list_media
from omnitok.data.lists import LIST_SUFFIXES, TABLE_SUFFIXES
from omnitok.data.transforms import fit_square
from omnitok.data.video_reader import VideoReader, media_kind
from omnitok.errors import MediaError
from omnitok.metrics.protocols import Protocol

Medium = Literal["image", "video"]
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")


def files_by_medium(source: str | os.PathLike[str]) -> dict[Medium, list[Path]]:
    """The pictures and the clips of a folder (sorted by path) or of a list; absent media are no keys.

    A list is a .txt, .tsv or .lst in the released annotation format, or a .csv or .jsonl manifest, and keeps its order.

    Raises:
        MediaError: the source is missing or empty, or a file is neither a picture nor a clip.
    """
    path = Path(source)
    if path.suffix.lower() in LIST_SUFFIXES | TABLE_SUFFIXES and path.is_file():
        files = [Path(sample.path) for sample in build_index(images=path).images]  # lists do not tell media apart
    else:
        files = list_media(path)
    found: dict[Medium, list[Path]] = {}
    for file in files:
        found.setdefault(media_kind(file), []).append(file)
    return found


def load_picture(path: str | os.PathLike[str], resolution: int | None, protocol: Protocol) -> Tensor:
    """A picture as (3, H, W) float32 in [-1, 1], brought to `resolution` by the protocol (None: as it is)."""
    return fit_frames(read_image(path)[:, None], resolution, protocol)[:, 0]


def load_clip(path: str | os.PathLike[str], frames: int, resolution: int | None, protocol: Protocol) -> Tensor:
    """The protocol's choice of `frames` consecutive frames as (3, frames, H, W) float32 in [-1, 1].

    Raises:
        MediaError: the file cannot be read, or is shorter: nothing is padded (the authors' code pads with black).
    """
    with VideoReader(path) as reader:
        skip = 0
        if protocol.frame_choice == "center":
            total = reader.frame_count or sum(1 for _ in reader)
            skip = max(total // 2 - frames // 2, 0)
        held = _frames(reader, skip, frames)
        if len(held) < frames and skip:  # the header promised more frames than there are
            total = sum(1 for _ in reader)
            skip = max(total // 2 - frames // 2, 0)
            held = _frames(reader, skip, frames)
    if len(held) < frames:
        raise MediaError(
            f"{path}: the clip has {len(held)} frames, but the measurement takes {frames} of each clip; leave it out "
            "or give fewer --frames (FVD needs at least 9)"
        )
    return fit_frames(torch.stack(held, dim=1), resolution, protocol)


def _frames(reader: VideoReader, skip: int, count: int) -> list[Tensor]:
    return list(itertools.islice(reader, skip, skip + count))


def fit_frames(frames: Tensor, resolution: int | None, protocol: Protocol) -> Tensor:
    """Frames (3, T, H, W) in [-1, 1] → (3, T, resolution, resolution), as the protocol resizes."""
    if resolution is None:
        return frames
    if protocol.resize == "bicubic_float":
        return fit_square(frames, resolution, protocol.fit)
    height, width = frames.shape[-2:]
    short = min(height, width)
    box = (0, 0, width, height)
    if protocol.fit == "center_crop":
        left, top = (width - short) // 2, (height - short) // 2
        box = (left, top, left + short, top + short)
    resized = []
    for frame in to_levels(frames).permute(1, 2, 3, 0).numpy():  # (H, W, 3) uint8
        picture = Image.fromarray(np.ascontiguousarray(frame)).crop(box)
        resized.append(np.asarray(picture.resize((resolution, resolution), Image.Resampling.BICUBIC)))
    return from_levels(torch.from_numpy(np.stack(resized)).permute(3, 0, 1, 2))


def to_levels(pixels: Tensor) -> Tensor:
    """Float pixels in [-1, 1] → the nearest of 256 levels, uint8; beyond the range clamped."""
    return ((pixels.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_levels(levels: Tensor) -> Tensor:
    """uint8 → float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def quantize_original(pixels: Tensor, protocol: Protocol) -> Tensor:
    """The 8 bits of an original as the protocol's metrics see it, of float pixels in [-1, 1].

    "truncate" repeats what the authors' code does to originals, ((u / 255 - 0.5) + 0.5) * 255 cut off, in float32,
    which lowers some levels by one.
    """
    levels = to_levels(pixels)
    if protocol.quantize == "round":
        return levels
    return (((levels.float() / 255 - 0.5) + 0.5) * 255).to(torch.uint8)


def quantize_reconstruction(pixels: Tensor, protocol: Protocol) -> Tensor:
    """The 8 bits of a reconstruction as the protocol's metrics see it, of float pixels around [-1, 1]."""
    if protocol.quantize == "round":
        return to_levels(pixels)
    return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8)


def through_jpeg(pictures: Tensor, quality: int) -> Tensor:
    """uint8 pictures (n, 3, H, W) after writing and reading them as JPEG with 4:2:0 chroma."""
    decoded = []
    for picture in pictures.permute(0, 2, 3, 1).cpu().numpy():
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(buffer).convert("RGB")))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


def read_ahead(load: Callable[[_Item], _Loaded], items: Iterable[_Item], workers: int = 2) -> Iterator[_Loaded]:
    """`load` of every item, in order, read in threads at most 2 x `workers` ahead, so that memory stays bounded."""
    waiting: deque[Future[_Loaded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Consecutive stretches of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
