"""Reading token shards through memory maps, item by item and in batches; see `omnitok.data.shard_format`."""

import copy
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from omnitok.atomic import sha256_of
from omnitok.data.captions import draw
from omnitok.data.loader import Batch, load_batches
from omnitok.data.sampler import EpochOrder, Sampler
from omnitok.data.samples import NO_LABEL
from omnitok.data.shard_format import (
    INDEX_NAME,
    ITEMS_NAME,
    STORED,
    Grid,
    ShardEntry,
    ShardIndex,
    TokenRecord,
    common_embeddings,
    read_index,
)
from omnitok.data.shard_table import ShardTable
from omnitok.data.token_packing import map_tokens, packed_shape, unpack
from omnitok.errors import ShardError, reading
from omnitok.padding import pad_embeddings

T = TypeVar("T")

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
    def captions(self) -> tuple[str, ...]:
        """Of its file."""
        return self._shards.captions(self.index)

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
    labels: np.ndarray  # (n,) int64, by the union of the classes
    table: ShardTable  # of the whole shard


class TokenShards:
    """Random access to the items of one or several folders of shards, through memory maps.

    Items of several folders follow one another. Their classes are united by name (sorted), and labels renumbered.

    Args:
        paths: a folder that `omnitok tokenize` wrote, or several, all of one tokenizer.
        verify: compare the SHA-256 of every file, which reads all of them; without it, files are compared by size, and
            tokens are checked when their array is first used: codes against the codebook, latents for being finite.
        same_tokens: fingerprints of tokenizers that count as one, as their tokens are the same.

    Attributes:
        kind: "codes" or "latents".
        size: number of codes in the codebook, or channels of the latents.
        tokenizer, tokenizer_sha256: the tokenizer that made those of the first folder.
        classes: names of the classes, by label; empty where labels came as numbers or there are none.
        grids: number of items of each grid shape: (h, w) of images, (t, h, w) of videos.
        shard_count, skipped: how many shards there are, and how many files could not be read when they were made.
        captioned, embedded: how many items have captions, and embeddings.
        embedding_format: what the embeddings beside the tokens are, their source and width; None where there are none.

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
        first, *others = (index.format for index in indices)
        self._format, self.kind, self.size = first, first.kind, first.size
        self._is_codes = first.kind == "codes"
        self.tokenizer, self.tokenizer_sha256 = first.tokenizer, first.tokenizer_sha256
        self._same_tokens = frozenset(same_tokens)
        for folder, other in zip(self.folders[1:], others, strict=True):
            self._check(folder, other.tokenizer, other.tokenizer_sha256, first.tokenizer, first.tokenizer_sha256)
            if (other.kind, other.dtype, other.size) != (first.kind, first.dtype, first.size):
                raise ShardError(
                    f"{folder}: holds {other.dtype} {other.kind} of size {other.size}, {self.folders[0]} {first.dtype} "
                    f"{first.kind} of size {first.size}"
                )
        self._unite_classes(indices)
        self._length = 0
        self._buckets: list[_Bucket] = []
        self._entries: dict[Path, ShardEntry] = {}  # by the folders of shards
        self.embedding_format = common_embeddings(self.folders, indices)
        for source, (folder, index) in enumerate(zip(self.folders, indices, strict=True)):
            self._add(source, folder, index)
        self.skipped = sum(index.skipped for index in indices)
        shards = [shard for index in indices for shard in index.shards]
        self.shard_count = len(shards)
        self.captioned = sum(shard.captions.items for shard in shards if shard.captions)
        self.embedded = sum(shard.embeddings.items for shard in shards if shard.embeddings)
        self._starts = [bucket.first for bucket in self._buckets]
        self.grids: dict[Grid, int] = Counter()
        for bucket in self._buckets:
            self.grids[bucket.grid] += bucket.count
        self._chosen: np.ndarray | None = None  # bool (n,), of `only`
        self._mapped: dict[int, _Mapped] = {}
        self._tables: dict[Path, ShardTable] = {}  # of shards, by their folders
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
            for file in shard.files:
                path = folder / shard.name / file.file
                if not path.is_file():
                    raise ShardError(f"{path}: is missing, although the index lists it")
                if (found := path.stat().st_size) != file.bytes:
                    raise ShardError(
                        f"{path}: has {found} bytes, the index says {file.bytes}; it is truncated or was changed"
                    )
            self._entries[folder / shard.name] = shard
            row = 0
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
        return TokenItem(None, unpack(mapped.values[row], self._format), label, i, self)

    def read(self, indices: Sequence[int] | np.ndarray, grid: Grid) -> tuple[Tensor, Tensor]:
        """Several items of one grid: codes int64 `(b, *grid)` or latents float32 `(b, c, *grid)`; labels int64 (b,).

        Raises:
            ValueError: an item of another grid.
            ShardError: as for one item.
        """
        rows = np.empty((len(indices), *packed_shape(grid, self._format)), dtype=STORED[self._format.dtype])
        labels = np.empty(len(indices), dtype=np.int64)
        for place, i in enumerate(map(int, indices)):
            number, mapped, row = self._locate(i)
            if self._buckets[number].grid != grid:
                raise ValueError(f"item {i} is of grid {self._buckets[number].grid}, items of {grid} are wanted")
            rows[place], labels[place] = mapped.values[row], mapped.labels[row]
        return unpack(rows, self._format), torch.from_numpy(labels)

    def blocks(self, items: int = 1024) -> Iterator[Tensor]:
        """All tokens in order, so many items of one grid at a time: codes (n, ...) or float32 latents (n, c, ...)."""
        for number, bucket in enumerate(self._buckets):
            values = self._map(number).values
            for first in range(0, bucket.count, items):
                yield unpack(values[first : first + items], self._format)

    def record(self, index: int) -> TokenRecord:
        """Everything about an item but its tokens."""
        number, mapped, row = self._locate(index + self._length if index < 0 else index)
        return mapped.table.record(self._buckets[number].row + row, int(mapped.labels[row]))

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of an item's file; none where `omnitok tokenize` was not asked for them."""
        number, mapped, row = self._locate(index + self._length if index < 0 else index)
        return mapped.table.captions(self._buckets[number].row + row)

    def embedding(self, index: int) -> Tensor | None:
        """The sequence of embeddings of an item, float32 (n, d), of several the first; None where it has none."""
        return next(iter(self.embeddings(index)), None)

    def embeddings(self, index: int) -> tuple[Tensor, ...]:
        """The sequences of embeddings of an item: none, one, or of a text encoder one for each of its captions."""
        number, mapped, row = self._locate(index + self._length if index < 0 else index)
        return tuple(map(torch.from_numpy, mapped.table.embeddings(self._buckets[number].row + row)))

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
        indices = np.concatenate([np.empty(0, dtype=np.int64), *ranges])
        return indices if self._chosen is None else indices[self._chosen[indices]]

    @property
    def files(self) -> np.ndarray:
        """Which file each item is of, by its key (also across folders), numbered as they are met: int64 (n,)."""
        numbers: dict[bytes, int] = {}
        found: list[int] = []
        for bucket in self._buckets:
            keys = self._table(bucket).keys(bucket.row, bucket.count)
            found += [numbers.setdefault(key, len(numbers)) for key in keys]
        return np.array(found, dtype=np.int64)

    def only(self, chosen: np.ndarray) -> "TokenShards":
        """The same items by the same numbers, but `grids` and `indices_of` name only those chosen: bool (n,)."""
        part = copy.copy(self)
        part._chosen = chosen
        counts = {grid: int(chosen[self.indices_of(grid)].sum()) for grid in self.grids}
        part.grids = {grid: count for grid, count in counts.items() if count}
        return part

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
        """A shuffled, resumable loader of batches of one grid each.

        Args:
            batch_size, seed, full_batches: as for `EpochOrder`.
            rank, world_size: as for `TokenDataset`.
            workers: loading processes; 0 loads in this one.
            grids: use the items of these grids only.
            pin_memory: for copies to a GPU that do not block.

        Raises:
            ValueError: a batch that cannot be shared evenly; a grid that the shards do not have; nothing to sample.
        """
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} items cannot be shared evenly by {world_size} processes")
        counts = self.grids if grids is None else {grid: self.grids.get(grid, 0) for grid in grids}
        if missing := [grid for grid, count in counts.items() if not count]:
            known = ", ".join(map(str, self.grids))
            raise ValueError(f"there are no items of grid {missing[0]}; there are of {known}")
        order = EpochOrder(counts, batch_size, seed, full_batches)
        return TokenLoader(TokenDataset(self, order, rank, world_size), order, workers, pin_memory)

    # ------------------------------------------------------------------------------------------------------- checks

    def check_tokenizer(self, name: str, sha256: str) -> None:
        """Refuse shards that are not of the tokenizer of this name, nor of one whose tokens are the same.

        Args:
            sha256: its fingerprint in float32.

        Raises:
            ShardError: with both names and hashes.
        """
        self._check(self.folders[0], self.tokenizer, self.tokenizer_sha256, name, sha256)

    def _check(self, folder: Path, name: str, sha256: str, wanted_name: str, wanted: str) -> None:
        if sha256 != wanted and not {sha256, wanted} <= self._same_tokens:
            raise ShardError(
                f"{folder}: its tokens are of the tokenizer {name!r} (weights {sha256}), not of {wanted_name!r} "
                f"(weights {wanted})"
            )

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the index; reads everything.

        Raises:
            ShardError: naming the first file that differs.
        """
        for path, file in ((shard / file.file, file) for shard, entry in self._entries.items() for file in entry.files):
            with reading(path, ShardError, "file of a shard"):
                found = sha256_of(path)
            if found != file.sha256:
                raise ShardError(f"{path}: its content has changed: SHA-256 {found}, the index says {file.sha256}")

    # ------------------------------------------------------------------------------------------------------ mapping

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}, "_tables": {}}  # maps stay with their process

    def _locate(self, i: int) -> tuple[int, _Mapped, int]:
        """Number of the array that holds item i, the array, and the row in it."""
        if not 0 <= i < self._length:
            raise IndexError(f"item {i} of {self._length}")
        number = bisect_right(self._starts, i) - 1
        return number, self._mapped.get(number) or self._map(number), i - self._starts[number]

    def _map(self, number: int) -> _Mapped:
        mapped = self._mapped.get(number)
        if mapped is not None:
            return mapped
        bucket = self._buckets[number]
        values = map_tokens(bucket.path, bucket.count, bucket.grid, self._format)
        table = self._table(bucket)
        labels = table.items["label"][bucket.row : bucket.row + bucket.count].astype(_INT64)
        renumbering = self._renumbering[bucket.source]
        if renumbering is not None and labels.size:
            if not NO_LABEL <= labels.min() <= labels.max() < len(renumbering) - 1:
                path = bucket.path.parent / ITEMS_NAME
                raise ShardError(f"{path}: has a label outside the {len(renumbering) - 1} classes of {INDEX_NAME}")
            labels = renumbering[labels]  # -1 takes the last entry
        mapped = self._mapped[number] = _Mapped(values, labels, table)
        return mapped

    def _table(self, bucket: _Bucket) -> ShardTable:
        """The tables of the whole shard that an array lies in."""
        shard = bucket.path.parent
        if shard not in self._tables:
            width = self.embedding_format.width if self.embedding_format else 0
            self._tables[shard] = ShardTable(shard, self._entries[shard], width)
        table = self._tables[shard]
        if len(table.items) < bucket.row + bucket.count:
            raise ShardError(f"{shard / ITEMS_NAME}: holds {len(table.items)} items, fewer than the index says")
        return table


class TokenDataset(Dataset[Batch]):
    """`dataset[step]` is this process's share of the batch of that step.

    Args:
        shards: the items.
        order: of the shards' grids, by a global batch size.
        rank, world_size: this process has every world_size-th item of a batch from the rank-th on.
        labelled: False gives every item the label -1.
    """

    def __init__(
        self,
        shards: TokenShards,
        order: EpochOrder | Sampler,
        rank: int = 0,
        world_size: int = 1,
        labelled: bool = True,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank must lie in [0, {world_size}), found {rank}")
        self.shards, self.order, self.rank, self.world_size, self.labelled = shards, order, rank, world_size, labelled
        self._indices = {grid: shards.indices_of(grid) for grid in shards.grids}
        self._sizes = {grid: shards.record(int(indices[0])).size for grid, indices in self._indices.items()}

    def __getitem__(self, step: int) -> Batch:
        """The share of one step; of a last, incomplete batch it may be smaller than others', or empty.

        Raises:
            ShardError: a shard is damaged.
        """
        grid, places = self.order.places(step)
        indices = self._indices[grid][places][self.rank :: self.world_size]
        tokens, labels = self.shards.read(indices, grid)
        if not self.labelled:
            labels = torch.full_like(labels, NO_LABEL)
        is_image, numbers = len(grid) == 2, tuple(indices.tolist())
        shape = (len(indices), 3, *self._sizes[grid][is_image:])
        format = self.shards.embedding_format

        def drawn(of_item: Callable[[int], Sequence[T]]) -> list[T | None]:
            return [draw(of_item(i), (self.order.seed, step, i)) for i in numbers]  # embeddings as their captions

        return Batch(
            step,
            "image" if is_image else "video",
            tokens,
            labels,
            shape,
            indices=numbers,
            captions=tuple(found or "" for found in drawn(self.shards.captions)) if self.shards.captioned else (),
            embeddings=pad_embeddings(drawn(self.shards.embeddings), format.width) if format else None,
        )


class TokenLoader:
    """Iterates over the batches of an epoch, then, iterated again, of the next; made by `TokenShards.loader`.

    The position is that of the batches handed out, whatever worker processes have loaded ahead: `state_dict` in the
    middle of an epoch, given to a loader with any number of workers, gives exactly the rest. Each rank has its own
    loader at the same step.
    """

    def __init__(self, dataset: TokenDataset, order: EpochOrder, workers: int, pin_memory: bool) -> None:
        self.dataset, self.order, self.workers, self.pin_memory = dataset, order, workers, pin_memory
        self.step = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next batch lies in."""
        return self.order.epoch_of(self.step)

    def __len__(self) -> int:
        """Batches in the current epoch, those handed out included."""
        return self.order.steps_before(self.epoch + 1) - self.order.steps_before(self.epoch)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        stop = self.order.steps_before(self.epoch + 1)
        for batch in load_batches(self.dataset, self.step, stop, self.workers, pin_memory=self.pin_memory):
            self.step = batch.step + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and of what order."""
        order = self.order
        names = ("seed", "batch_size", "full_batches")
        return {"step": self.step, **{n: getattr(order, n) for n in names}, "items": sum(order.counts.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a loader of the same items, batch size and seed was, on any number of ranks.

        Raises:
            ShardError: the state is of another order.
        """
        for name, own in self.state_dict().items():
            if name != "step" and state.get(name) != own:
                raise ShardError(f"this position is of a loader with {name} {state.get(name)}, not {own}")
        self.step = int(state["step"])
