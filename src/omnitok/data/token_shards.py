"""Reading token shards: random access through memory maps; see `omnitok.data.shard_format`."""

import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnitok.data.samples import NO_LABEL
from omnitok.data.shard_format import (
    ENCODING,
    INDEX_NAME,
    ITEM_DTYPE,
    ITEMS_NAME,
    KEYS_NAME,
    STORED,
    Grid,
    ShardIndex,
    TokenFormat,
    TokenRecord,
    map_array,
    map_bytes,
    read_index,
    sha256_of,
)
from omnitok.data.token_loader import TokenLoader
from omnitok.errors import ShardError, reading

_INT64 = np.dtype(np.int64)


@dataclass(slots=True, eq=False)
class TokenItem:
    """One item of `TokenShards`.

    Attributes:
        codes: int64 (h, w) of an image or (t, h, w) of a video; None for latents.
        latents: float32 (c, h, w) or (c, t, h, w); None for codes.
        label: class number, -1 for none.
        index: its number in the shards.
    """

    codes: Tensor | None
    latents: Tensor | None
    label: int
    index: int
    _shards: "TokenShards" = field(repr=False)

    @property
    def record(self) -> TokenRecord:
        """Everything else about it, looked up when asked for."""
        return self._shards.record(self.index)

    @property
    def key(self) -> str:
        """Name of its file below the collection."""
        return self.record.key

    @property
    def size(self) -> tuple[int, int, int]:
        """(T, H, W) of the pixels, for `decode` to crop to."""
        return self.record.size


@dataclass(frozen=True)
class _Bucket:
    """One array: the items of one grid in one shard."""

    path: Path  # of the array
    grid: Grid
    count: int
    first: int  # number of its first item in the whole
    row: int  # and in the items of its shard
    source: int  # which of the folders


@dataclass(frozen=True)
class _Mapped:
    values: np.ndarray  # (n, ...) as stored
    items: np.ndarray  # (n,) ITEM_DTYPE
    labels: np.ndarray  # (n,) int64, by the union of the classes
    key_starts: np.ndarray  # (n,) int64
    keys: np.ndarray  # uint8, of the whole shard


class TokenShards:
    """Random access to the items of one or several folders of shards, through memory maps.

    Items of several folders follow one another. Their classes are united by name (sorted), and labels renumbered.

    Args:
        paths: a folder that `omnitok tokenize` wrote, or several, all of one tokenizer.
        same_tokens: fingerprints of tokenizers that count as one, as their tokens are the same.
        verify: compare the SHA-256 of every file, which reads all of them; without it, files are compared by size, and
            tokens are checked when their array is first used: codes against the codebook, latents for being finite.

    Attributes:
        kind: "codes" or "latents".
        size: number of codes in the codebook, or channels of the latents.
        tokenizer, tokenizer_sha256: the tokenizer that made those of the first folder.
        classes: names of the classes, by label; empty where labels came as numbers or there are none.
        grids: number of items of each grid shape: (h, w) of images, (t, h, w) of videos.
        shard_count, skipped: how many shards there are, and how many files could not be read when they were made.

    Raises:
        ShardError: no shards, unfinished, damaged, edited or truncated; folders of several tokenizers.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        verify: bool = False,
        same_tokens: Collection[str] = (),
    ) -> None:
        self.folders = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
        if not self.folders:
            raise ShardError("no folder of token shards is given")
        indices = [read_index(folder) for folder in self.folders]
        self._formats = [index.format for index in indices]
        first = self._formats[0]
        self.kind, self.size = first.kind, first.size
        self._is_codes = first.kind == "codes"
        self.tokenizer, self.tokenizer_sha256 = first.tokenizer, first.tokenizer_sha256
        for folder, other in zip(self.folders[1:], self._formats[1:], strict=True):
            if not {first.tokenizer_sha256, other.tokenizer_sha256} <= set(same_tokens):
                _check_identity(folder, other, first.tokenizer, first.tokenizer_sha256, f"as {self.folders[0]} are")
            if (other.kind, other.dtype, other.size) != (first.kind, first.dtype, first.size):
                found = f"{other.dtype} {other.kind} of size {other.size}"
                raise ShardError(
                    f"{folder}: holds {found}, {self.folders[0]} {first.dtype} {first.kind} of size {first.size}"
                )
        self._unite_classes(indices)
        self._length = 0
        self._buckets: list[_Bucket] = []
        self._files: list[tuple[Path, str]] = []  # with the SHA-256 of each
        for source, (folder, index) in enumerate(zip(self.folders, indices, strict=True)):
            self._add(source, folder, index)
        self.skipped = sum(index.skipped for index in indices)
        self.shard_count = sum(len(index.shards) for index in indices)
        self._starts = [bucket.first for bucket in self._buckets]
        self.grids: dict[Grid, int] = {}
        for bucket in self._buckets:
            self.grids[bucket.grid] = self.grids.get(bucket.grid, 0) + bucket.count
        self._mapped: dict[int, _Mapped] = {}
        self._tables: dict[Path, tuple[np.ndarray, np.ndarray]] = {}  # items and keys of a shard
        if verify:
            self.verify()

    def _unite_classes(self, indices: Sequence[ShardIndex]) -> None:
        """Set `classes`, and for each folder the table from its labels to those of all (None: they stay)."""
        named = [folder for folder, index in zip(self.folders, indices, strict=True) if index.classes]
        for folder, index in zip(self.folders, indices, strict=True):
            if named and not index.classes and index.labelled:
                raise ShardError(
                    f"{folder}: has labels by number and {named[0]} by name, so they cannot be read together"
                )
        self.classes = tuple(sorted({name for index in indices for name in index.classes}))
        number = {name: i for i, name in enumerate(self.classes)}
        self._renumbering = [
            np.array([*(number[name] for name in index.classes), NO_LABEL]) if index.classes else None
            for index in indices
        ]

    def _add(self, source: int, folder: Path, index: ShardIndex) -> None:
        for shard in index.shards:
            row = 0
            for file in shard.files:
                path = folder / shard.name / file.file
                _check_size(path, file.bytes)
                self._files.append((path, file.sha256))
            for array in shard.arrays:
                path = folder / shard.name / array.file
                self._buckets.append(_Bucket(path, array.grid, array.count, self._length, row, source))
                self._length, row = self._length + array.count, row + array.count

    # ------------------------------------------------------------------------------------------------------- access

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> TokenItem:
        """An item; negative numbers count from the end.

        Raises:
            ShardError: its shard is damaged, or holds codes outside the codebook.
        """
        i = index + self._length if index < 0 else index
        _, mapped, row = self._locate(i)
        label = mapped.labels.item(row)
        if self._is_codes:  # written out, and with numpy's fastest calls: a read is a few microseconds
            return TokenItem(torch.from_numpy(mapped.values[row].astype(_INT64)), None, label, i, self)
        return TokenItem(None, self._unpack(mapped.values[row]), label, i, self)

    def read(self, indices: Sequence[int] | np.ndarray, grid: Grid) -> tuple[Tensor, Tensor]:
        """Several items of one grid: codes int64 (b, *grid) or latents float32 (b, c, *grid), and labels int64 (b,).

        Raises:
            ValueError: an item of another grid.
            ShardError: as for one item.
        """
        channels = () if self._is_codes else (self.size,)
        rows = np.empty((len(indices), *channels, *grid), dtype=STORED[self._formats[0].dtype])
        labels = np.empty(len(indices), dtype=np.int64)
        for place, i in enumerate(map(int, indices)):
            number, mapped, row = self._locate(i)
            if self._buckets[number].grid != grid:
                raise ValueError(f"item {i} is of grid {self._buckets[number].grid}, items of {grid} are wanted")
            rows[place], labels[place] = mapped.values[row], mapped.labels[row]
        return self._unpack(rows), torch.from_numpy(labels)

    def blocks(self, items: int = 1024) -> Iterator[Tensor]:
        """All tokens in order, so many items of one grid at a time: codes (n, ...) or float32 latents (n, c, ...)."""
        for number, bucket in enumerate(self._buckets):
            values = self._map(number).values
            for first in range(0, bucket.count, items):
                yield self._unpack(values[first : first + items])

    def record(self, index: int) -> TokenRecord:
        """Everything about an item but its tokens."""
        _, mapped, row = self._locate(index + self._length if index < 0 else index)
        item = mapped.items[row]
        return TokenRecord(
            key=mapped.keys[int(mapped.key_starts[row]) : int(item["key_end"])].tobytes().decode(*ENCODING),
            label=int(mapped.labels[row]),
            size=tuple(item["size"].tolist()),
            source_size=tuple(item["source"].tolist()),
            fps=None if np.isnan(item["fps"]) else float(item["fps"]),
            view=int(item["view"]),
            start=int(item["start"]),
            crop=tuple(item["crop"].tolist()),
            flip=bool(item["flip"]),
        )

    def _locate(self, i: int) -> tuple[int, _Mapped, int]:
        """Number of the array that holds item i, the array, and the row in it."""
        if not 0 <= i < self._length:
            raise IndexError(f"item {i} of {self._length}")
        number = bisect_right(self._starts, i) - 1
        return number, self._mapped.get(number) or self._map(number), i - self._starts[number]

    @property
    def labels(self) -> np.ndarray:
        """Labels of all items: int64 (n,), -1 for none."""
        labels = [self._map(number).labels for number in range(len(self._buckets))]
        return np.concatenate([np.empty(0, dtype=np.int64), *labels])

    @property
    def class_count(self) -> int:
        """Number of classes: of their names, or the highest label + 1; 0 without labels."""
        return len(self.classes) or int(self.labels.max(initial=NO_LABEL)) + 1

    def indices_of(self, grid: Grid) -> np.ndarray:
        """Numbers of the items of one grid, in order: int64 (n,)."""
        ranges = [np.arange(b.first, b.first + b.count) for b in self._buckets if b.grid == grid]
        return np.concatenate([np.empty(0, dtype=np.int64), *ranges])

    def loader(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        full_batches: bool = False,
        grids: Sequence[Grid] | None = None,
        pin_memory: bool = False,
    ) -> TokenLoader:
        """A shuffled, resumable loader of batches of one grid each; see `TokenLoader`."""
        return TokenLoader(
            self,
            batch_size,
            seed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            full_batches=full_batches,
            grids=grids,
            pin_memory=pin_memory,
        )

    # ------------------------------------------------------------------------------------------------------- checks

    @classmethod
    def of_tokenizer(
        cls,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        name: str,
        sha256: str,
        tokens_of: Sequence[str] = (),
        *,
        verify: bool = False,
    ) -> "TokenShards":
        """Open shards that this tokenizer made, or those whose tokens it shares, also both together.

        Args:
            paths, verify: as of `TokenShards`.
            name, sha256, tokens_of: as of `check_tokenizer`.

        Raises:
            ShardError: as `TokenShards` and `check_tokenizer`.
        """
        shards = cls(paths, verify=verify, same_tokens=(sha256, *tokens_of))
        shards.check_tokenizer(name, sha256, tokens_of)
        return shards

    def check_tokenizer(self, name: str, sha256: str, tokens_of: Sequence[str] = ()) -> None:
        """Refuse shards that are not this tokenizer's.

        Args:
            name: of the tokenizer, for the message.
            sha256: its fingerprint in float32.
            tokens_of: the fingerprints of the tokenizers whose tokens are its own too.

        Raises:
            ShardError: with both names and hashes.
        """
        if self.tokenizer_sha256 not in tokens_of:
            _check_identity(self.folders[0], self._formats[0], name, sha256, "which is asked for")

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the index; reads everything.

        Raises:
            ShardError: naming the first file that differs.
        """
        for path, sha256 in self._files:
            with reading(path, ShardError, "file of a shard"):
                found = sha256_of(path)
            if found != sha256:
                raise ShardError(f"{path}: its content has changed: SHA-256 {found}, the index says {sha256}")

    # ------------------------------------------------------------------------------------------------------ mapping

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}, "_tables": {}}  # maps stay with their process

    def _map(self, number: int) -> _Mapped:
        mapped = self._mapped.get(number)
        if mapped is not None:
            return mapped
        bucket = self._buckets[number]
        channels = () if self._is_codes else (self.size,)
        dtype = STORED[self._formats[bucket.source].dtype]
        values = map_array(bucket.path, (bucket.count, *channels, *bucket.grid), dtype)
        self._check_values(values, bucket.path)
        table, keys = self._table(bucket.path.parent)
        if len(table) < bucket.row + bucket.count:
            raise ShardError(f"{bucket.path.parent / ITEMS_NAME}: holds {len(table)} items, fewer than the index says")
        items = table[bucket.row : bucket.row + bucket.count]
        ends = table["key_end"][max(bucket.row - 1, 0) : bucket.row + bucket.count - 1]
        starts = ends if bucket.row else np.concatenate([[0], ends[: bucket.count - 1]])
        labels = items["label"].astype(_INT64)
        renumbering = self._renumbering[bucket.source]
        if renumbering is not None and labels.size:
            if not NO_LABEL <= labels.min() <= labels.max() < len(renumbering) - 1:
                raise ShardError(
                    f"{bucket.path.parent / ITEMS_NAME}: has a label outside the {len(renumbering) - 1} classes of "
                    f"{INDEX_NAME}"
                )
            labels = renumbering[labels]  # -1 takes the last entry
        mapped = self._mapped[number] = _Mapped(values, items, labels, starts, keys)
        return mapped

    def _check_values(self, values: np.ndarray, path: Path) -> None:
        if self._is_codes:
            highest = int(values.max(initial=0))
            if highest >= self.size:
                raise ShardError(
                    f"{path}: holds the code {highest}, but the codebook of {self.tokenizer!r} has {self.size}; "
                    "the index or the shard was changed"
                )
            return
        flat = values.reshape(-1)
        for first in range(0, flat.size, 2**20):
            if not torch.isfinite(self._unpack(flat[first : first + 2**20])).all():
                raise ShardError(f"{path}: holds latents that are NaN or infinite; the shard was changed")

    def _table(self, shard: Path) -> tuple[np.ndarray, np.ndarray]:
        if shard not in self._tables:
            self._tables[shard] = (map_array(shard / ITEMS_NAME, None, ITEM_DTYPE), map_bytes(shard / KEYS_NAME))
        return self._tables[shard]

    def _unpack(self, values: np.ndarray) -> Tensor:
        if self._is_codes:
            return torch.from_numpy(values.astype(_INT64))
        if values.dtype == STORED["bfloat16"]:
            return torch.from_numpy(values.astype(np.uint32) << np.uint32(16)).view(torch.float32)
        return torch.from_numpy(values.astype(np.float32))


def _check_identity(folder: Path, found: TokenFormat, name: str, sha256: str, why: str) -> None:
    if found.tokenizer_sha256 != sha256:
        raise ShardError(
            f"{folder}: its tokens are of the tokenizer {found.tokenizer!r} (weights {found.tokenizer_sha256}), not of "
            f"{name!r} (weights {sha256}), {why}"
        )


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise ShardError(f"{path}: is missing, although the index lists it")
    found = path.stat().st_size
    if found != expected:
        raise ShardError(f"{path}: has {found} bytes, the index says {expected}; it is truncated or was changed")
