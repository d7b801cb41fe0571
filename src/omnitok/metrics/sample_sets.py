"""Sets of samples to compare: folders of pictures or clips, `.npz` arrays in the ADM layout, reference statistics."""

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from omnitok.data.lists import LIST_SUFFIXES, TABLE_SUFFIXES
from omnitok.errors import OmnitokError
from omnitok.metrics.frechet import GaussianStatistics, load_statistics
from omnitok.metrics.protocols import Protocol
from omnitok.metrics.samples import (
    Medium,
    batches,
    files_by_medium,
    fit_frames,
    from_levels,
    load_clip,
    load_picture,
    read_ahead,
    to_levels,
)


@dataclass(frozen=True)
class Preparation:
    """How samples are read: their medium, `frames` of each clip, and the size they are brought to (None: their own)."""

    medium: Medium
    protocol: Protocol
    resolution: int | None = None
    frames: int = 17


@dataclass(frozen=True)
class Batch:
    """uint8 pictures (n, 3, H, W) or clips (n, 3, T, H, W), and the position of each in the set."""

    levels: Tensor
    positions: list[int]


class SampleSet:
    """Samples of one size, and statistics where the file has them; one of both may be missing.

    `n` is the number of samples, 0 where there are only statistics.
    """

    def __init__(self, path: Path, preparation: Preparation, statistics: GaussianStatistics | None = None) -> None:
        self.path = path
        self.name = str(path)
        self.preparation = preparation
        self.statistics = statistics
        self.n = 0

    @property
    def files(self) -> list[Path]:
        """The files that the set is read from."""
        return [self.path]

    @property
    def stems(self) -> list[str] | None:
        """What pairs samples of two sets: paths below the folder without suffix; None where samples have no names."""
        return None

    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, (3, H, W) or (3, T, H, W)."""
        return tuple(next(self.iterate([0], 1)).levels.shape[1:])

    def iterate(self, positions: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """Batches of the samples at these ascending positions."""
        raise OmnitokError(f"{self.name}: holds statistics only, but the samples themselves are needed")

    def what(self) -> str:
        """ "pictures" or "clips"."""
        return "pictures" if self.preparation.medium == "image" else "clips"


class FolderSet(SampleSet):
    """The pictures, or the clips, of a folder, sorted by path, or of a list, in its order."""

    def __init__(self, path: Path, preparation: Preparation) -> None:
        super().__init__(path, preparation)
        found = files_by_medium(path)
        if list(found) != [preparation.medium]:
            others = "pictures" if preparation.medium == "video" else "clips"
            number = len(found.get("image" if preparation.medium == "video" else "video", []))
            hint = "leave --video out" if preparation.medium == "video" else "give --video to compare clips"
            raise OmnitokError(f"{path}: only {self.what()} are wanted, but there are {number} {others}; {hint}")
        self._files = found[preparation.medium]
        self.n = len(self._files)

    @property
    def files(self) -> list[Path]:
        return self._files

    @property
    def stems(self) -> list[str] | None:
        root = self.path if self.path.is_dir() else os.path.commonpath([file.parent for file in self._files])
        return [str(file.relative_to(root).with_suffix("")) for file in self._files]

    def iterate(self, positions: Sequence[int], batch_size: int) -> Iterator[Batch]:
        first: tuple[Path, tuple[int, ...]] | None = None
        loaded = read_ahead(self._load, positions)
        for part in batches(positions, batch_size):
            samples = []
            for position in part:
                sample = next(loaded)
                first = first or (self._files[position], tuple(sample.shape))
                if tuple(sample.shape) != first[1]:
                    raise OmnitokError(
                        f"{self._files[position]}: {_size(sample.shape)}, but {first[0]} is {_size(first[1])}; "
                        "a set has one size: give --resolution to bring all to one"
                    )
                samples.append(sample)
            yield Batch(torch.stack(samples), list(part))

    def _load(self, position: int) -> Tensor:
        path, how = self._files[position], self.preparation
        if how.medium == "image":
            return to_levels(load_picture(path, how.resolution, how.protocol))
        return to_levels(load_clip(path, how.frames, how.resolution, how.protocol))


class ArraySet(SampleSet):
    """The array of an `.npz`: uint8 (n, H, W, 3) pictures, as ADM writes them, or (n, T, H, W, 3) clips.

    Read in pieces, never as a whole; pickled arrays are refused. The mu and sigma of an ADM reference come along.
    """

    def __init__(
        self, path: Path, preparation: Preparation, member: str, statistics: GaussianStatistics | None
    ) -> None:
        super().__init__(path, preparation, statistics)
        self._member = member
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            self._shape = self._read_header(stream)
        self.n = self._shape[0]
        if preparation.medium == "video" and self._shape[1] < preparation.frames:
            raise OmnitokError(
                f"{path}: its clips have {self._shape[1]} frames, but the measurement takes {preparation.frames}; give "
                "fewer --frames (FVD needs at least 9)"
            )
        if not self.n:
            raise OmnitokError(f"{path}: the array {member} is empty")

    def _read_header(self, stream: IO[bytes]) -> tuple[int, ...]:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        rank = 4 if self.preparation.medium == "image" else 5
        if dtype != np.uint8 or fortran or len(shape) != rank or shape[-1] != 3:
            wanted = "(n, H, W, 3)" if rank == 4 else "(n, T, H, W, 3)"
            raise OmnitokError(f"{self.path}: {self.what()} are uint8 {wanted}, but {self._member} is {dtype} {shape}")
        return shape

    def iterate(self, positions: Sequence[int], batch_size: int) -> Iterator[Batch]:
        size = math.prod(self._shape[1:])
        with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as stream:
            self._read_header(stream)
            at = 0
            for part in batches(positions, batch_size):
                samples = []
                for position in part:
                    while at < position:
                        stream.read(size)
                        at += 1
                    data = stream.read(size)
                    if len(data) < size:
                        raise OmnitokError(f"{self.path}: ends within sample {position} of {self.n}")
                    at += 1
                    samples.append(self._prepare(np.frombuffer(data, np.uint8).reshape(self._shape[1:])))
                yield Batch(torch.stack(samples), list(part))

    def _prepare(self, sample: np.ndarray) -> Tensor:
        levels = torch.from_numpy(sample.copy()).movedim(-1, 0)  # (3, [T,] H, W)
        how = self.preparation
        if how.medium == "video":
            total = levels.shape[1]
            skip = total // 2 - how.frames // 2 if how.protocol.frame_choice == "center" else 0
            levels = levels[:, min(skip, total - how.frames) :][:, : how.frames]
        if how.resolution is None:
            return levels
        frames = from_levels(levels if how.medium == "video" else levels[:, None])
        fitted = to_levels(fit_frames(frames, how.resolution, how.protocol))
        return fitted if how.medium == "video" else fitted[:, 0]


def open_samples(path: str | os.PathLike[str], preparation: Preparation) -> SampleSet:
    """A folder, a list, an `.npz` with samples, or an `.npz` with statistics.

    Raises:
        OmnitokError: none of these, or empty.
    """
    path = Path(path)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in LIST_SUFFIXES | TABLE_SUFFIXES):
        return FolderSet(path, preparation)
    if not path.is_file():
        raise OmnitokError(f"{path}: no such file or folder")
    if path.suffix != ".npz":
        raise OmnitokError(f"{path}: a set is a folder, a list, or an .npz with samples (arr_0) or with mu and sigma")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        statistics = load_statistics(path) if {"mu.npy", "sigma.npy"} <= set(members) else None
        if "arr_0.npy" in members:
            return ArraySet(path, preparation, "arr_0.npy", statistics)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise OmnitokError(f"{path}: not an .npz file ({error})") from error
    if statistics is None:
        raise OmnitokError(f"{path}: needs arr_0, or mu and sigma, but holds {', '.join(members) or 'nothing'}")
    return SampleSet(path, preparation, statistics)


def _size(shape: Sequence[int]) -> str:
    frames = f"{shape[1]} frames of " if len(shape) == 4 else ""
    return f"{frames}{shape[-1]} x {shape[-2]} pixels"
