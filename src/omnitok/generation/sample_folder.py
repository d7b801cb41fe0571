"""A folder of generated samples: which files there are to be, what they were made with, grids, and the .npz.

The note `generate.json` says what the samples were made with. Where it lies, only files that are named as samples count
as images or videos (`omnitok.data.index`), so that a grid beside them is none.
"""

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnitok.atomic import atomic_path, lock_folder
from omnitok.data import WRITTEN_SUFFIXES, read_image, read_video, write_image, write_video
from omnitok.data.arrays import ARRAY_SUFFIXES
from omnitok.data.image import WRITTEN_IMAGE_SUFFIXES, to_uint8
from omnitok.data.modality import detect_modality
from omnitok.data.pixel_format import RGB, PixelFormat, as_color
from omnitok.data.video_writer import ENCODED_SUFFIXES, video_writer
from omnitok.errors import OmnitokError, reading
from omnitok.files import SAMPLE_NOTE
from omnitok.generation.asked import Asked
from omnitok.generation.loading import AnyGenerator
from omnitok.generation.work import Work
from omnitok.models.protocol import fingerprint

GRID_NAME, NPZ_NAME = "grid", "samples.npz"
GRID_COLUMNS = 8


@dataclass(frozen=True)
class SampleFile:
    """One sample: its number decides its random numbers and what it is asked to show."""

    index: int
    asked: Asked
    path: Path


def plan_files(
    asked: Sequence[Asked], count: int, out: Path, work: Work, pixel_format: PixelFormat = RGB
) -> list[SampleFile]:
    """What there is to be in the end: `count` samples of each thing asked for, or variants of what is made of given
    files.

    Args:
        asked: from `parse_asked`.
        out: folder, or the file of one result.
        pixel_format: of the results; channels that ordinary files do not have, or ranges, make arrays of them.

    Raises:
        ValueError: results that cannot have that name.
    """
    suffix = ".npy" if _numbers(pixel_format) else ".png" if work.modality == "image" else ".mp4"
    if not work.given:
        files = []
        for index in range(count * len(asked)):
            each = asked[index % len(asked)]  # in turns, so that a larger count keeps the samples of a smaller one
            files.append(SampleFile(index, each, out / f"{index:06d}{each.slug}{suffix}"))
        return files
    if out.suffix.lower() in WRITTEN_SUFFIXES and not out.is_dir():
        accepted = WRITTEN_IMAGE_SUFFIXES if work.modality == "image" else ENCODED_SUFFIXES | {".npy"}
        if not pixel_format.mode:
            accepted &= ARRAY_SUFFIXES
        if out.suffix.lower() not in accepted:
            endings = ", ".join(sorted(accepted))
            raise ValueError(f"out {out} names no {work.modality}: give a folder, or a name that ends in {endings}")
        if count > 1:
            raise ValueError(f"out {out} names one file, but there are {count} results: give a folder")
        paths = [out]
    else:
        stem = "-".join(path.stem for path in work.given)
        paths = [out / f"{stem}{f'-{n:03d}' if count > 1 else ''}{suffix}" for n in range(count)]
    for given in work.given:
        if any(path.resolve() == given.resolve() for path in paths):
            raise ValueError(f"out {out} is the place of {given} itself: give another name")
    return [SampleFile(index, asked[0], path) for index, path in enumerate(paths)]


@contextlib.contextmanager
def hold_folder(
    folder: Path | None, generator: AnyGenerator, run: Mapping[str, Any], options: Mapping[str, Any], is_shared: bool
) -> Iterator[None]:
    """Note what the samples in a folder are made with, or compare with what is noted; keep other processes away.

    Args:
        folder: None for files in no folder of their own.
        run, options: what is noted beside the hash of the model: arguments of the run, and sampling options.
        is_shared: whether several processes share the samples, which then only note: the first one's note counts.

    Raises:
        OmnitokError: the folder holds samples made with other settings, or another process writes to it.
    """
    if folder is None:
        yield
        return
    with contextlib.nullcontext() if is_shared else lock_folder(folder, "omnitok generate"):
        sampling = generator.options(options, is_video=(run["frames"] or 1) > 1).chosen()
        _note(folder, {"model_sha256": fingerprint(generator.model), **run, **sampling})
        yield


def _note(folder: Path, settings: dict[str, Any]) -> None:
    settings = json.loads(json.dumps(settings))  # as it will be read: lists for tuples
    path = folder / SAMPLE_NOTE
    try:  # also where it is there already: what a killed process left of it is cleared so
        with atomic_path(path, replace=False) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return
    except FileExistsError:
        pass  # another run, or another process of this one, was first
    with reading(path, what="note of samples"):
        noted = dict(json.loads(path.read_text(encoding="utf-8")))
    for name in settings.keys() | noted.keys():
        if noted.get(name) != settings.get(name):
            raise OmnitokError(
                f"{folder}: holds samples made with {name} {noted.get(name)}, found {settings.get(name)}; choose "
                "another -o"
            )


def _numbers(pixel_format: PixelFormat) -> dict[str, Any]:
    """How the numbers of pixels are written that are not those of ordinary images: in the ranges of the channels, else
    over all that 16 bits can say. Nothing for ordinary images."""
    if pixel_format.mode and not pixel_format.ranges:
        return {}
    return {"dtype": "float32" if pixel_format.ranges else "uint16", "ranges": pixel_format.ranges}


def write_samples(
    paths: Sequence[Path], samples: Tensor | Iterator[Tensor], fps: float, pixel_format: PixelFormat = RGB
) -> None:
    """Write images (b, c, H, W) or videos (b, c, T, H, W), or pieces (1, c, n, H, W) of one video as they come."""
    if isinstance(samples, Tensor):
        for path, sample in zip(paths, samples.cpu().float(), strict=True):
            write_sample(path, sample, fps, pixel_format)
        return
    first = next(samples)  # tells the size
    with video_writer(paths[0], fps, first.shape[-1], first.shape[-2], **_numbers(pixel_format)) as writer:
        for piece in chain([first], samples):
            writer.write(piece[0].cpu().float())


def write_sample(path: Path, sample: Tensor, fps: float, pixel_format: PixelFormat = RGB) -> None:
    """Write an image (c, H, W) or a video (c, T, H, W); an image under a video's name is one of one frame."""
    if sample.ndim == 3 and path.suffix.lower() in WRITTEN_IMAGE_SUFFIXES:
        write_image(path, sample, **_numbers(pixel_format))
    else:
        write_video(path, sample if sample.ndim == 4 else sample[:, None], fps=fps, **_numbers(pixel_format))


def write_extras(
    files: Sequence[SampleFile], folder: Path, fps: float, grid: bool, npz: bool, pixel_format: PixelFormat = RGB
) -> bool:
    """Write the grid and the .npz; False where samples are missing, which another process makes."""
    if not all(file.path.exists() for file in files):
        return False
    if grid:
        write_grid(files, folder, fps, pixel_format)
    if npz:
        write_npz(files, folder / NPZ_NAME)
    return True


def write_npz(files: Sequence[SampleFile], path: Path) -> None:
    """All images, by number, as the evaluator of ADM reads them: `arr_0`, uint8 (n, H, W, 3). One at a time."""
    first = to_uint8(read_image(files[0].path))
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *first.shape)}
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as array,
    ):
        np.lib.format.write_array_header_1_0(array, header)
        for file in files:
            array.write(to_uint8(read_image(file.path)).tobytes())


def write_grid(files: Sequence[SampleFile], folder: Path, fps: float, pixel_format: PixelFormat = RGB) -> None:
    """The first samples of each class or text side by side in colour, a row for each: `grid.png`, or `grid.mp4` of
    videos."""
    rows: dict[str | None, list[SampleFile]] = {}
    for file in files:
        row = rows.setdefault(file.asked.name, [])
        if len(row) < GRID_COLUMNS:
            row.append(file)
    columns = max(len(row) for row in rows.values())
    of_images = detect_modality(files[0].path) == "image"
    read, suffix = (read_image, ".png") if of_images else (read_video, ".mp4")
    lines = []
    for row in rows.values():
        samples = [as_color(read(file.path, pixel_format=pixel_format)) for file in row]
        samples += [torch.ones_like(samples[0])] * (columns - len(samples))
        lines.append(torch.cat(samples, dim=-1))
    write_sample(folder / f"{GRID_NAME}{suffix}", torch.cat(lines, dim=-2), fps)
