"""A folder of generated samples: which files there are to be, what they were made with, grids, and the .npz."""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.data import read_image, read_video, write_image, write_video
from omnitok.errors import OmnitokError
from omnitok.hub.generator_settings import GeneratorSettings

SETTINGS_NAME, GRID_NAME, NPZ_NAME = "generate.json", "grid", "samples.npz"
GRID_COLUMNS = 8


@dataclass(frozen=True)
class Item:
    """One sample: its number decides its random numbers and its label."""

    index: int
    label: int | None
    name: str  # of the class, or its number
    output: Path


def plan_items(
    labels: Sequence[int | None], count: int, settings: GeneratorSettings, folder: Path, suffix: str
) -> list[Item]:
    """`count` items of each label. The labels take turns, so that a larger count keeps the items of a smaller one."""
    items = []
    for index in range(count * len(labels)):
        label = labels[index % len(labels)]
        named = label is not None and label < len(settings.classes)
        name = settings.classes[label] if named and label is not None else ("" if label is None else str(label))
        slug = re.sub(r"[^\w.-]+", "_", name)
        items.append(Item(index, label, name, folder / f"{index:06d}{f'-{slug}' if slug else ''}{suffix}"))
    return items


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note what the samples are made with, or compare with what is noted: one folder holds one kind of samples.

    Raises:
        OmnitokError: the folder holds samples made with other settings.
    """
    path = folder / SETTINGS_NAME
    settings = json.loads(json.dumps(dict(settings)))  # as it will be read: lists for tuples
    if path.exists():
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OmnitokError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
        for name in {**noted, **settings}:
            if noted.get(name) != settings.get(name):
                raise OmnitokError(
                    f"{folder}: holds samples made with {name} {noted.get(name)}, found {settings.get(name)}; "
                    "choose another -o"
                )
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_npz(items: Sequence[Item], path: Path) -> None:
    """All pictures, by number, as the evaluator of ADM reads them: `arr_0`, uint8 (n, H, W, 3). One at a time."""
    first = _to_bytes(read_image(items[0].output))
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(items), *first.shape)}
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for item in items:
            file.write(_to_bytes(read_image(item.output)).tobytes())


def _to_bytes(pixels: Tensor) -> np.ndarray:
    """(3, H, W) in [-1, 1] -> uint8 (H, W, 3); exact for what was read from a PNG."""
    return (pixels.permute(1, 2, 0) * 127.5 + 127.5).round().to(torch.uint8).numpy()


def write_grid(items: Sequence[Item], folder: Path, fps: float) -> Path:
    """The first samples of each label side by side, a row a label: `grid.png`, or `grid.mp4` of clips."""
    rows: dict[int | None, list[Item]] = {}
    for item in items:
        row = rows.setdefault(item.label, [])
        if len(row) < GRID_COLUMNS:
            row.append(item)
    columns = max(len(row) for row in rows.values())
    is_clip = items[0].output.suffix == ".mp4"
    read = read_video if is_clip else read_image
    grid = torch.cat([_row([read(item.output) for item in row], columns) for row in rows.values()], dim=-2)
    path = folder / f"{GRID_NAME}{'.mp4' if is_clip else '.png'}"
    if is_clip:
        write_video(path, grid, fps=fps)
    else:
        write_image(path, grid)
    return path


def _row(samples: list[Tensor], columns: int) -> Tensor:
    blank = [torch.ones_like(samples[0])] * (columns - len(samples))
    return torch.cat([*samples, *blank], dim=-1)


def mark_given(frames: Tensor, start: int, given: int) -> Tensor:
    """Frames (3, n, H, W), of which the first is number `start`, with a red border on those before number `given`."""
    marked = min(max(given - start, 0), frames.shape[1])
    if not marked:
        return frames
    frames = frames.clone()
    border = max(2, round(min(frames.shape[-2:]) / 32))  # two pixels share their colour in H.264
    red = torch.tensor([1.0, -1.0, -1.0], device=frames.device)[:, None, None, None]
    for edge in (
        (..., slice(None, border), slice(None)),
        (..., slice(-border, None), slice(None)),
        (..., slice(None), slice(None, border)),
        (..., slice(None), slice(-border, None)),
    ):
        frames[:, :marked][edge] = red
    return frames


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Runs of up to `size` items."""
    for first in range(0, len(items), size):
        yield list(items[first : first + size])
