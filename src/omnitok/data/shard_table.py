"""What one shard says of its items, through memory maps: their rows, keys and captions."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from omnitok.data.captions import LONGEST, MOST
from omnitok.data.shard_format import (
    CAPTION_PLACES_NAME,
    CAPTIONS_NAME,
    ENCODING,
    ITEM_DTYPE,
    ITEMS_NAME,
    KEYS_NAME,
    TokenRecord,
    map_array,
    map_bytes,
)
from omnitok.errors import ShardError, reading


class ShardTable:
    """The tables of a shard, by the number of an item in it.

    Args:
        folder: of the shard.
        captioned: whether its items have captions.

    Attributes:
        items: ITEM_DTYPE (n,).

    Raises:
        ShardError: a table cannot be mapped or is of another shape.
    """

    def __init__(self, folder: Path, captioned: bool) -> None:
        self.folder = folder
        self.items = map_array(folder / ITEMS_NAME, None, ITEM_DTYPE)
        self._keys = map_bytes(folder / KEYS_NAME)
        self._places = self._text = np.empty(0, dtype=np.uint8)
        if captioned:
            self._places = map_array(folder / CAPTION_PLACES_NAME, (len(self.items), 2), np.dtype("<i8"))
            self._text = map_bytes(folder / CAPTIONS_NAME)

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
        if not len(self._places):
            return ()
        path = self.folder / CAPTIONS_NAME
        start, end = self._places[row].tolist()
        if not 0 <= start <= end <= len(self._text) or end - start > MOST * (LONGEST + 1):
            raise ShardError(f"{path}: has {len(self._text)} bytes, item {row}'s are said to be {start} to {end}")
        with reading(path, ShardError, "file of captions"):
            return tuple(self._text[start:end].tobytes().decode().split("\0")[:-1])
