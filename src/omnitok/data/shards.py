"""Reading token shards: random access through memory maps; see `omnitok.data.shard_format`."""

import math
import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from omnitok.data.shard_format import (
    ENCODING,
    FORMAT,
    INDEX_NAME,
    ITEM_DTYPE,
    ITEMS_NAME,
    KEYS_NAME,
    PLAN_NAME,
    STORED,
    VERSION,
    Grid,
    TokenFormat,
    TokenRecord,
    read_json,
    sha256_of,
)
from omnitok.data.sources import NO_LABEL
from omnitok.errors import ShardError

if TYPE_CHECKING:
    from omnitok.data.token_batches import TokenLoader

_INT64 = np.dtype(np.int64)


@dataclass(slots=True, eq=False)
class TokenItem:
    """One item of `TokenShards`.

    Attributes:
        codes: int64 (h, w) of a picture or (t, h, w) of a clip; None for latents.
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
    """One array: items of one grid in one shard."""

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
        same_tokens: `omnitok.hub.folder.fingerprint` of tokenizers that count as one, as their tokens are the same (a
            tokenizer's own and its `TokenizerConfig.tokens_of`).
        verify: compare the SHA-256 of every file, which reads all of them; without it, files are compared by size, and
            codes are checked against the codebook when their array is first used.

    Attributes:
        kind: "codes" or "latents".
        size: number of codes in the codebook, or channels of the latents.
        tokenizer, tokenizer_sha256: who made those of the first folder.
        classes: names of the classes, by label; empty where labels came as numbers or there are none.
        grids: number of items of each grid shape: (h, w) of pictures, (t, h, w) of clips.
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
        folders = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
        if not folders:
            raise ShardError("no folder of token shards is given")
        indices = [_read_index(folder) for folder in folders]
        self.folders, self._formats = folders, [_format_of(index, f) for index, f in zip(indices, folders, strict=True)]
        first = self._formats[0]
        self.kind, self.size = first.kind, first.size
        self._is_codes = first.kind == "codes"
        self.tokenizer, self.tokenizer_sha256 = first.tokenizer, first.tokenizer_sha256
        for folder, other in zip(folders[1:], self._formats[1:], strict=True):
            if not {first.tokenizer_sha256, other.tokenizer_sha256} <= set(same_tokens):
                _check_identity(folder, other, first.tokenizer, first.tokenizer_sha256, f"as {folders[0]} are")
            if (other.kind, other.dtype, other.size) != (first.kind, first.dtype, first.size):
                found = f"{other.dtype} {other.kind} of size {other.size}"
                raise ShardError(
                    f"{folder}: holds {found}, {folders[0]} {first.dtype} {first.kind} of size {first.size}"
                )
        self._buckets: list[_Bucket] = []
        self._stamps: list[tuple[Path, str]] = []
        self.skipped = 0
        self.shard_count = sum(len(index["shards"]) for index in indices)
        has_numbers: Path | None = None
        for source, (folder, index) in enumerate(zip(folders, indices, strict=True)):
            self._add(source, folder, index)
            if not self._formats[source].classes and index.get("labelled"):
                has_numbers = folder
        named = [folder for folder, format in zip(folders, self._formats, strict=True) if format.classes]
        if named and has_numbers is not None:
            raise ShardError(
                f"{has_numbers}: has labels by number and {named[0]} by name, so they cannot be read together"
            )
        self.classes = tuple(sorted({name for format in self._formats for name in format.classes}))
        self._renumber = [_renumbering(format.classes, self.classes) for format in self._formats]
        self._starts = [bucket.first for bucket in self._buckets]
        self._length = self._buckets[-1].first + self._buckets[-1].count if self._buckets else 0
        self.grids: dict[Grid, int] = {}
        for bucket in self._buckets:
            self.grids[bucket.grid] = self.grids.get(bucket.grid, 0) + bucket.count
        self._mapped: dict[int, _Mapped] = {}
        self._tables: dict[Path, tuple[np.ndarray, np.ndarray]] = {}  # items and keys of a shard
        if verify:
            self.verify()

    def _add(self, source: int, folder: Path, index: Mapping[str, Any]) -> None:
        first = self._buckets[-1].first + self._buckets[-1].count if self._buckets else 0
        try:
            for shard in index["shards"]:
                row = 0
                path = folder / shard["name"]
                for file in [*shard["arrays"], *shard["tables"]]:
                    _check_size(path / file["file"], int(file["bytes"]))
                    self._stamps.append((path / file["file"], file["sha256"]))
                for array in shard["arrays"]:
                    grid, count = tuple(int(n) for n in array["grid"]), int(array["count"])
                    self._buckets.append(_Bucket(path / array["file"], grid, count, first, row, source))
                    first, row = first + count, row + count
            self.skipped += int(index["skipped"])
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{folder / INDEX_NAME}: is incomplete or damaged ({error!r})") from error

    # ------------------------------------------------------------------------------------------------------- access

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> TokenItem:
        """An item; negative numbers count from the end.

        Raises:
            ShardError: its shard is damaged, or holds codes outside the codebook.
        """
        i = index + self._length if index < 0 else index
        if not 0 <= i < self._length:
            raise IndexError(f"item {index} of {self._length}")
        number = bisect_right(self._starts, i) - 1
        mapped = self._mapped.get(number) or self._map(number)
        row = i - self._starts[number]
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
        channels = () if self.kind == "codes" else (self.size,)
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
        if not self._buckets:
            return np.empty(0, dtype=np.int64)
        return np.concatenate([self._map(number).labels for number in range(len(self._buckets))])

    @property
    def class_count(self) -> int:
        """Number of classes: of their names, or the highest label + 1; 0 without labels."""
        return len(self.classes) or int(self.labels.max(initial=NO_LABEL)) + 1

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
    ) -> "TokenLoader":
        """A shuffled, resumable loader of batches of one grid each; see `TokenLoader` and `TokenDataset`."""
        from omnitok.data.token_batches import TokenDataset, TokenLoader

        dataset = TokenDataset(self, batch_size, seed, rank, world_size, full_batches, grids)
        return TokenLoader(dataset, workers, pin_memory)

    def indices_of(self, grid: Grid) -> np.ndarray:
        """Numbers of the items of one grid, in order: int64 (n,)."""
        ranges = [np.arange(b.first, b.first + b.count) for b in self._buckets if b.grid == grid]
        return np.concatenate(ranges) if ranges else np.empty(0, dtype=np.int64)

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
            sha256: `omnitok.hub.folder.fingerprint` of it in float32.
            tokens_of: those of the tokenizers whose tokens are its own too (`TokenizerConfig.tokens_of`).

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
        for path, sha256 in self._stamps:
            try:
                found = sha256_of(path)
            except OSError as error:
                raise ShardError(f"{path}: cannot be read ({error.strerror or error})") from error
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
        format = self._formats[bucket.source]
        channels = () if self.kind == "codes" else (self.size,)
        values = _map_array(bucket.path, (bucket.count, *channels, *bucket.grid), STORED[format.dtype])
        if self.kind == "codes" and int(values.max(initial=0)) >= self.size:
            raise ShardError(
                f"{bucket.path}: holds the code {int(values.max())}, but the codebook of {self.tokenizer!r} has "
                f"{self.size}; the index or the shard was changed"
            )
        table, keys = self._table(bucket.path.parent)
        if len(table) < bucket.row + bucket.count:
            raise ShardError(f"{bucket.path.parent / ITEMS_NAME}: holds {len(table)} items, fewer than the index says")
        items = table[bucket.row : bucket.row + bucket.count]
        ends = table["key_end"][max(bucket.row - 1, 0) : bucket.row + bucket.count - 1]
        starts = ends if bucket.row else np.concatenate([[0], ends[: bucket.count - 1]])
        labels = self._renumber[bucket.source](items["label"].astype(np.int64))
        mapped = _Mapped(values, items, labels, starts, keys)
        self._mapped[number] = mapped
        return mapped

    def _table(self, shard: Path) -> tuple[np.ndarray, np.ndarray]:
        if shard not in self._tables:
            keys = _map_bytes(shard / KEYS_NAME)
            self._tables[shard] = (_map_array(shard / ITEMS_NAME, None, ITEM_DTYPE), keys)
        return self._tables[shard]

    def _unpack(self, values: np.ndarray) -> Tensor:
        if self.kind == "codes":
            return torch.from_numpy(values.astype(_INT64))
        if values.dtype == STORED["bfloat16"]:
            return torch.from_numpy(values.astype(np.uint32) << np.uint32(16)).view(torch.float32)
        return torch.from_numpy(values.astype(np.float32))


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_NAME
    if not path.is_file():
        if (folder / PLAN_NAME).is_file():
            raise ShardError(
                f"{folder}: its shards are not finished (there is no {INDEX_NAME} yet); the same `omnitok tokenize` "
                "with --resume continues them"
            )
        found = "holds no token shards" if folder.is_dir() else "no such folder"
        raise ShardError(f"{folder}: {found}; a folder that `omnitok tokenize` wrote is wanted")
    index = read_json(path)
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        raise ShardError(
            f"{path}: is {index.get('format')!r} version {index.get('version')!r}, "
            f"this omnitok reads {FORMAT!r} version {VERSION}"
        )
    return index


def _format_of(index: Mapping[str, Any], folder: Path) -> TokenFormat:
    try:
        size = index["codebook_size" if index["kind"] == "codes" else "latent_channels"]
        identity = index["tokenizer"]
        return TokenFormat(
            index["kind"],
            index["dtype"],
            int(size),
            str(identity["name"]),
            str(identity["sha256"]),
            tuple(map(str, index["classes"])),
            index["settings"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{folder / INDEX_NAME}: is incomplete or damaged ({error!r})") from error


def _check_identity(folder: Path, found: TokenFormat, name: str, sha256: str, why: str) -> None:
    if found.tokenizer_sha256 != sha256:
        raise ShardError(
            f"{folder}: its tokens are of the tokenizer {found.tokenizer!r} (weights {found.tokenizer_sha256}), not of "
            f"{name!r} (weights {sha256}), {why}"
        )


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise ShardError(f"{path}: is missing, although the index lists it") from error
    if found != expected:
        raise ShardError(f"{path}: has {found} bytes, the index says {expected}; it is truncated or was changed")


def _map_bytes(path: Path) -> np.ndarray:
    """The bytes of a file, mapped; through torch, which (unlike numpy) holds no file descriptor meanwhile."""
    try:
        size = path.stat().st_size
        if size == 0:
            return np.empty(0, dtype=np.uint8)
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except (OSError, RuntimeError) as error:
        raise ShardError(f"{path}: cannot be mapped ({' '.join(str(error).split())})") from error


def _map_array(path: Path, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> np.ndarray:
    """A `.npy` file, mapped, as a plain array: numpy's own class for that is twice as slow to index."""
    content = _map_bytes(path)
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            found, fortran, found_dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        size = math.prod(found) * found_dtype.itemsize
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: is no .npy file; it is damaged ({' '.join(str(error).split())})") from error
    if found_dtype != dtype or fortran or (shape is not None and found != shape):
        wanted = f"{dtype} {shape}" if shape is not None else f"{dtype}"
        raise ShardError(f"{path}: holds {found_dtype} {found}, the index says {wanted}")
    if len(content) - start != size:
        raise ShardError(f"{path}: has {len(content) - start} bytes of numbers, {size} are needed; it is truncated")
    return content[start:].view(dtype).reshape(found)


@dataclass(frozen=True)
class _Renumbering:
    """Labels of one folder to labels of all; those beyond its names stay as they are."""

    table: np.ndarray | None

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        if self.table is None or not labels.size:
            return labels
        if int(labels.max()) >= len(self.table) - 1 or int(labels.min()) < NO_LABEL:
            raise ShardError(f"a label lies outside the {len(self.table) - 1} classes of its index")
        return self.table[labels]  # -1 takes the last entry


def _renumbering(own: tuple[str, ...], all_classes: tuple[str, ...]) -> _Renumbering:
    if not own:
        return _Renumbering(None)
    number = {name: i for i, name in enumerate(all_classes)}
    return _Renumbering(np.array([*(number[name] for name in own), NO_LABEL], dtype=np.int64))
