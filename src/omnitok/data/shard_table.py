"""What one shard says of its items, through memory maps: their rows, keys, captions and embeddings."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from omnitok.data.captions import LONGEST, MOST
from omnitok.data.embeddings import MAX_LENGTH
from omnitok.data.shard_format import (
    CAPTION_PLACES_NAME,
    CAPTIONS_NAME,
    EMBEDDINGS_NAME,
    ENCODING,
    ENDS_NAME,
    ITEM_DTYPE,
    ITEMS_NAME,
    KEYS_NAME,
    PLACES_NAME,
    STORED,
    ShardEntry,
    TokenRecord,
    map_array,
    map_bytes,
)
from omnitok.errors import ShardError, reading

_INT64 = np.dtype("<i8")


class ShardTable:
    """The tables of a shard, by the number of an item in it.

    Args:
        folder: of the shard.
        entry: of the index.
        width: of embeddings, 0 where there are none.

    Attributes:
        items: ITEM_DTYPE (n,).

    Raises:
        ShardError: a table cannot be mapped or is of another shape.
    """

    def __init__(self, folder: Path, entry: ShardEntry, width: int) -> None:
        self.folder = folder
        self.items = map_array(folder / ITEMS_NAME, None, ITEM_DTYPE)
        self._keys = map_bytes(folder / KEYS_NAME)
        count = len(self.items)
        self._captions = self._embeddings = None
        if entry.captions:
            self._captions = (
                map_array(folder / CAPTION_PLACES_NAME, (count, 2), _INT64),
                map_bytes(folder / CAPTIONS_NAME),
            )
        if entry.embeddings and width:
            self._embeddings = (
                map_array(folder / PLACES_NAME, (count, 2), _INT64),
                map_array(folder / ENDS_NAME, None, _INT64),
                map_array(folder / EMBEDDINGS_NAME, (entry.embeddings.rows, width), STORED["float16"]),
            )

    def record(self, row: int, label: int) -> TokenRecord:
        """Everything about an item but its tokens, with its label by the classes of all folders."""
        item = self.items[row]
        return TokenRecord(
            key=next(self.keys(row, 1)).decode(*ENCODING),
            label=label,
            size=tuple(item["size"].tolist()),
            source_size=tuple(item["source"].tolist()),
            fps=None if np.isnan(item["fps"]) else float(item["fps"]),
            view=int(item["view"]),
            start=int(item["start"]),
            crop=tuple(item["crop"].tolist()),
            flip=bool(item["flip"]),
            captions=self.captions(row),
        )

    def keys(self, first: int, count: int) -> Iterator[bytes]:
        """The keys of some items in a row."""
        ends = [int(self.items["key_end"][first - 1]) if first else 0]
        ends += self.items["key_end"][first : first + count].tolist()
        return (self._keys[start:end].tobytes() for start, end in pairwise(ends))

    def captions(self, row: int) -> tuple[str, ...]:
        """The captions of an item's file.

        Raises:
            ShardError: damaged.
        """
        if self._captions is None:
            return ()
        path, (places, text) = self.folder / CAPTIONS_NAME, self._captions
        start, end = _between(places[row], len(text), MOST * (LONGEST + 1), f"{path}: item {row}'s bytes")
        with reading(path, ShardError, "file of captions"):
            return tuple(text[start:end].tobytes().decode().split("\0")[:-1])

    def embeddings(self, row: int) -> tuple[np.ndarray, ...]:
        """The sequences of an item, float32 (n, d) each: none, one, or one for each of its captions.

        Raises:
            ShardError: damaged.
        """
        if self._embeddings is None:
            return ()
        places, ends, values = self._embeddings
        where = f"{self.folder / PLACES_NAME}: item {row}'s sequences"
        first, last = _between(places[row], len(ends), MOST, where)
        bounds = [int(ends[first - 1]) if first else 0, *ends[first:last].tolist()]
        sequences = []
        for start, end in pairwise(bounds):
            _between((start, end), len(values), MAX_LENGTH, f"{self.folder / ENDS_NAME}: item {row}'s rows")
            sequences.append(values[start:end].astype(np.float32))
            if not np.isfinite(sequences[-1]).all():
                raise ShardError(f"{self.folder / EMBEDDINGS_NAME}: item {row}'s are NaN or infinite")
        return tuple(sequences)


def _between(place: Sequence[int] | np.ndarray, size: int, most: int, what: str) -> tuple[int, int]:
    start, end = map(int, place)
    if not 0 <= start <= end <= size or end - start > most:
        raise ShardError(f"{what} are said to be {start} to {end} of {size}; the shard was changed")
    return start, end
