"""Sets of samples to compare: folders of images or videos, `.npz` arrays in the ADM layout, reference statistics."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from omnitok.data.lists import LISTS
from omnitok.data.modality import Modality
from omnitok.errors import OmnitokError, describe, reading
from omnitok.limits import MAX_PIXELS
from omnitok.metrics.evaluate import EvaluationConfig
from omnitok.metrics.frechet import GaussianStatistics, load_statistics
from omnitok.metrics.samples import (
    batches,
    files_by_modality,
    fit_frames,
    from_uint8,
    load_sample,
    read_ahead,
    to_uint8,
)


class SampleSet:
    """Samples of one size, and statistics where the file has them; one of both may be missing.

    `n` is the number of samples, 0 where there are only statistics; `config` says how they are read.
    """

    def __init__(
        self, path: Path, modality: Modality, config: EvaluationConfig, statistics: GaussianStatistics | None = None
    ) -> None:
        self.path, self.name, self.n = path, str(path), 0
        self.modality, self.config, self.statistics = modality, config, statistics

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
        return tuple(next(self.iterate([0], 1)).shape[1:])

    def iterate(self, positions: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        """Batches, uint8 (n, 3, H, W) or (n, 3, T, H, W), of the samples at these ascending positions."""
        raise OmnitokError(f"{self.name}: holds statistics only, but the samples themselves are needed")


class FolderSet(SampleSet):
    """The images, or the videos, of a folder, sorted by path, or of a list, in its order; or `files` of these."""

    def __init__(
        self, path: Path, wanted: Modality, config: EvaluationConfig, files: Sequence[Path] | None = None
    ) -> None:
        super().__init__(path, wanted, config)
        if files is not None:
            self._files, self.n = list(files), len(files)
            return
        found = files_by_modality(path)
        self._files = found.pop(wanted, [])
        for other, files in found.items():
            if files:
                hint = "leave --video out" if wanted == "video" else "give --video to compare videos"
                raise OmnitokError(f"{path}: only {wanted}s are wanted, but there are {len(files)} {other}s; {hint}")
        self.n = len(self._files)

    @property
    def files(self) -> list[Path]:
        return self._files

    @property
    def stems(self) -> list[str] | None:
        root = self.path if self.path.is_dir() else common_folder(self._files)
        return [os.path.relpath(file.with_suffix(""), root) for file in self._files]

    def iterate(self, positions: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        first: tuple[Path, Tensor] | None = None
        loaded = read_ahead(self._load, positions)
        for part in batches(positions, batch_size):
            samples = []
            for position in part:
                sample = next(loaded)
                first = first or (self._files[position], sample)
                if sample.shape != first[1].shape:
                    raise OmnitokError(
                        f"{self._files[position]}: {_size(sample.shape)}, but {first[0]} is {_size(first[1].shape)}; "
                        "a set has one size: give --resolution to bring all to one"
                    )
                samples.append(sample)
            yield torch.stack(samples)

    def _load(self, position: int) -> Tensor:
        how = self.config
        sample = load_sample(self._files[position], self.modality, how.protocol, how.resolution, how.video_frames)
        return to_uint8(sample)


class ArraySet(SampleSet):
    """The array of an `.npz`: uint8 (n, H, W, 3) images, as ADM writes them, or (n, T, H, W, 3) videos.

    Read in pieces, never as a whole; pickled arrays are refused. The mu and sigma of an ADM reference come along.
    """

    _member = "arr_0.npy"

    def __init__(
        self, path: Path, modality: Modality, config: EvaluationConfig, statistics: GaussianStatistics | None
    ) -> None:
        super().__init__(path, modality, config, statistics)
        with self._open() as (_, shape):
            self._shape = shape
        self.n = self._shape[0]
        if modality == "video" and self._shape[1] < config.video_frames:
            raise OmnitokError(
                f"{path}: its videos have {self._shape[1]} frames, but the measurement takes {config.video_frames}; "
                "give fewer --frames (FVD needs at least 9)"
            )
        if not self.n:
            raise OmnitokError(f"{path}: the array {self._member} is empty")
        # Bytes, not floats: eight times as many as of an image that is held whole.
        MAX_PIXELS.check(math.prod(self._shape[1:-1]), f"{path}: samples of {self._shape[1:]} bytes", times=8)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """The stream behind the array's header, and the array's shape."""
        with (
            reading(self.path, what=".npz file"),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self._member) as stream,
        ):
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            rank = 4 if self.modality == "image" else 5
            if dtype != np.uint8 or fortran or len(shape) != rank or shape[-1] != 3:
                wanted = "(n, H, W, 3)" if rank == 4 else "(n, T, H, W, 3)"
                found = f"{self._member} is {describe(f'{dtype} {shape}')}"
                raise OmnitokError(f"{self.path}: {self.modality}s are uint8 {wanted}, but {found}")
            yield stream, shape

    def iterate(self, positions: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        size = math.prod(self._shape[1:])
        with self._open() as (stream, _):
            at = 0
            for part in batches(positions, batch_size):
                samples = []
                for position in part:
                    stream.seek((position - at) * size, os.SEEK_CUR)
                    data = stream.read(size)
                    if len(data) < size:
                        raise OmnitokError(f"{self.path}: ends within sample {position} of {self.n}")
                    at = position + 1
                    samples.append(self._prepare(np.frombuffer(data, np.uint8).reshape(self._shape[1:])))
                yield torch.stack(samples)

    def _prepare(self, sample: np.ndarray) -> Tensor:
        levels = torch.from_numpy(sample.copy()).movedim(-1, 0)  # (3, [T,] H, W)
        is_video, protocol = self.modality == "video", self.config.protocol
        if is_video:
            total, frames = levels.shape[1], self.config.video_frames
            skip = total // 2 - frames // 2 if protocol.frame_choice == "center" else 0
            levels = levels[:, min(skip, total - frames) :][:, :frames]
        if self.config.resolution is None:
            return levels
        fitted = fit_frames(from_uint8(levels if is_video else levels[:, None]), self.config.resolution, protocol)
        return to_uint8(fitted if is_video else fitted[:, 0])


def common_folder(files: Sequence[Path]) -> str:
    """The folder that all of these are below; absolute where one of them is."""
    folders = [file.parent for file in files]
    is_absolute = any(folder.is_absolute() for folder in folders)
    return os.path.commonpath(map(os.path.abspath, folders) if is_absolute else folders)


def open_samples(path: str | os.PathLike[str], modality: Modality, config: EvaluationConfig) -> SampleSet:
    """A folder, a list, an `.npz` with samples, or an `.npz` with statistics.

    Raises:
        OmnitokError: none of these, or empty.
    """
    path = Path(path)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in LISTS):
        return FolderSet(path, modality, config)
    if not path.is_file():
        raise OmnitokError(f"{path}: no such file or folder")
    if path.suffix != ".npz":
        raise OmnitokError(f"{path}: a set is a folder, a list, or an .npz with samples (arr_0) or with mu and sigma")
    with reading(path, what=".npz file"), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    statistics = load_statistics(path) if {"mu.npy", "sigma.npy"} <= set(members) else None
    if "arr_0.npy" in members:
        return ArraySet(path, modality, config, statistics)
    if statistics is None:
        raise OmnitokError(
            f"{path}: needs arr_0, or mu and sigma, but holds {describe(', '.join(members)) or 'nothing'}"
        )
    return SampleSet(path, modality, config, statistics)


def _size(shape: Sequence[int]) -> str:
    frames = f"{shape[1]} frames of " if len(shape) == 4 else ""
    return f"{frames}{shape[-1]} x {shape[-2]} pixels"
