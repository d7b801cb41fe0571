"""The format of token shards: codes or latents of a collection, computed once, memory-mapped to train generators.

A folder holds

- `index.json`: the tokenizer's name and weight hash, the kind of tokens, class names, settings, and for each shard its
  files with their sizes and SHA-256; the index carries a checksum of itself;
- `plan.json`: the same without the shards, from the start of the work on;
- a folder per shard, `00000`, `00001`, ...: for each grid shape one array, `codes-16x16.npy` (n, h, w) of images or
  `codes-5x16x16.npy` (n, t, h, w) of videos, `latents-...npy` (n, c, h, w) or (n, c, t, h, w); `items.npy`, a row per
  item; `keys.txt`, all keys one after another; `shard.json`, its entry of the index and what could not be read; where
  items have captions, `captions.txt`, all of them in UTF-8 with a NUL after each, and `captions.npy` (n, 2), int64,
  between which bytes of it each item's are; where items have embeddings, `embeddings.npy` (rows, d), float16,
  `embedding-ends.npy` (sequences,), int64, the rows where the sequences end, and `embedding-places.npy` (n, 2), int64,
  between which sequences each item's are: one, or one for each of its captions;
- `errors.jsonl`: every file that could not be read, with the reason.

All arrays are plain `.npy`: `numpy.load(..., mmap_mode="r")` reads them without this package. Codes are uint16, or
uint32 where the codebook has more than 65 536; latents are float16, or bfloat16 kept as uint16 bits. Items lie in the
order of the arrays of a shard, then of their rows, which is also the order of `items.npy` and of `TokenShards`.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field

from omnitok.atomic import atomic_path
from omnitok.data.embeddings import MAX_CHANNELS
from omnitok.errors import ShardError, describe, reading

FORMAT, VERSION = "omnitok-shards", 1
INDEX_NAME, PLAN_NAME, ERRORS_NAME = "index.json", "plan.json", "errors.jsonl"
SHARD_NAME, ITEMS_NAME, KEYS_NAME = "shard.json", "items.npy", "keys.txt"
CAPTIONS_NAME, CAPTION_PLACES_NAME = "captions.txt", "captions.npy"
EMBEDDINGS_NAME, ENDS_NAME, PLACES_NAME = "embeddings.npy", "embedding-ends.npy", "embedding-places.npy"
_TABLES = (ITEMS_NAME, KEYS_NAME, CAPTIONS_NAME, CAPTION_PLACES_NAME, EMBEDDINGS_NAME, ENDS_NAME, PLACES_NAME)
TABLE_FILE = f"({'|'.join(map(re.escape, _TABLES))})"
ARRAY_FILE = r"(codes|latents)-[0-9]+(x[0-9]+){1,2}\.npy"
"""Regular expressions of the names of a shard's tables, and of its arrays of tokens."""

Kind = Literal["codes", "latents"]
Grid = tuple[int, ...]
"""(h, w) of an image's tokens, (t, h, w) of a video's."""

ITEM_DTYPE = np.dtype(
    [
        ("label", "<i4"),
        ("view", "<i4"),
        ("start", "<i8"),
        ("fps", "<f8"),
        ("size", "<i4", (3,)),
        ("source", "<i4", (2,)),
        ("crop", "<i4", (4,)),
        ("flip", "<i4"),
        ("key_end", "<i8"),
    ]
)
ENCODING = ("utf-8", "surrogateescape")  # file names need not be text
STORED: dict[str, np.dtype[Any]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),  # its bits
}
_DTYPES: dict[str, tuple[str, ...]] = {"codes": ("uint16", "uint32"), "latents": ("float16", "bfloat16")}

Count = Annotated[int, Field(ge=0, lt=2**48)]  # far more than a disk holds, and products of few of them fit an int64


class StoredArray(BaseModel, frozen=True):
    """An array of a shard: `count` items of one grid. Names are names, never paths."""

    grid: Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(min_length=2, max_length=3)]
    count: Count
    file: Annotated[str, Field(pattern=f"^{ARRAY_FILE}$")]
    bytes: Count
    sha256: str


class StoredTable(BaseModel, frozen=True):
    """A file that describes the items of a shard."""

    file: Annotated[str, Field(pattern=f"^{TABLE_FILE}$")]
    bytes: Count
    sha256: str


class StoredCaptions(BaseModel, frozen=True):
    """The captions of a shard: how many of its items have some, and the files that hold them."""

    items: Count
    files: tuple[StoredTable, ...]


class StoredEmbeddings(BaseModel, frozen=True):
    """The embeddings of a shard: how many of its items have some, rows in all, and the files that hold them."""

    items: Count
    rows: Count
    files: tuple[StoredTable, ...]


class ShardEntry(BaseModel, frozen=True):
    """A shard, as `index.json` lists it."""

    name: Annotated[str, Field(pattern="^[0-9]{5,}$")]
    items: Count
    tokens: Count
    skipped: Count
    labelled: Count
    arrays: tuple[StoredArray, ...]
    tables: tuple[StoredTable, ...]
    captions: StoredCaptions | None = None
    embeddings: StoredEmbeddings | None = None

    def to_json(self, **options: Any) -> dict[str, Any]:
        """As it is in `shard.json` and `index.json`: what is None is left out."""
        return self.model_dump(exclude_none=True, **options)

    @property
    def files(self) -> tuple[StoredArray | StoredTable, ...]:
        """All of its files but `shard.json`."""
        conditions = (part.files for part in (self.captions, self.embeddings) if part is not None)
        return (*self.arrays, *self.tables, *(file for files in conditions for file in files))


class FileFailure(BaseModel, frozen=True):
    """A file of the collection that could not be read."""

    key: str
    reason: str


class ShardReport(ShardEntry, frozen=True):
    """`shard.json`: the entry, and what could not be read."""

    errors: tuple[FileFailure, ...]


class _Identity(BaseModel):
    name: str
    sha256: str


class EmbeddingFormat(BaseModel, frozen=True):
    """What the embeddings of all shards are.

    Attributes:
        source: "files", "audio", or "text:NAME" with the folder or hub id of a text encoder.
        width: d, of an embedding.
        sha256: of the text encoder's weights.
    """

    source: Annotated[str, Field(max_length=10_000)]
    width: Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
    sha256: str = ""


class ShardIndex(BaseModel, frozen=True):
    """`index.json`."""

    kind: Kind
    dtype: str
    codebook_size: Count = 0
    latent_channels: Count = 0
    tokenizer: _Identity
    classes: tuple[str, ...]
    settings: dict[str, Any]
    skipped: Count
    labelled: Count = 0
    embeddings: EmbeddingFormat | None = None
    shards: tuple[ShardEntry, ...]

    @property
    def format(self) -> "TokenFormat":
        """What all shards have in common.

        Raises:
            ValueError: a combination that does not exist.
        """
        size = self.codebook_size if self.kind == "codes" else self.latent_channels
        identity = self.tokenizer
        return TokenFormat(
            self.kind, self.dtype, size, identity.name, identity.sha256, self.classes, self.settings, self.embeddings
        )


@dataclass(frozen=True)
class TokenFormat:
    """What all shards of a folder have in common.

    Attributes:
        kind: "codes" of a quantizer or "latents" (the posterior's mean) of a VAE.
        dtype: how they are stored: uint16, uint32, float16 or bfloat16.
        size: number of codes in the codebook, or channels of the latents.
        tokenizer, tokenizer_sha256: who made them; `omnitok.models.protocol.fingerprint` of its float32 weights.
        classes: names of the classes, by label; empty where labels came as numbers, or where there are none.
        settings: how they were made (resolution, frames, views, ...), for the record and for `--resume` to compare.
        embeddings: what the embeddings beside the tokens are; None where there are none.

    Raises:
        ValueError: a kind, dtype or size that does not exist.
    """

    kind: Kind
    dtype: str
    size: int
    tokenizer: str
    tokenizer_sha256: str
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    embeddings: EmbeddingFormat | None = None

    def __post_init__(self) -> None:
        accepted = _DTYPES.get(self.kind)
        if accepted is None:
            raise ValueError(f"kind must be 'codes' or 'latents', found {self.kind!r}")
        if self.dtype not in accepted:
            raise ValueError(f"{self.kind} are stored as {' or '.join(accepted)}, found {self.dtype!r}")
        if self.size < 1 or (self.dtype == "uint16" and self.size > 2**16):
            raise ValueError(f"{self.dtype} {self.kind} cannot be of size {self.size}")

    def to_json(self) -> dict[str, Any]:
        """As it is in `plan.json` and `index.json`."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "dtype": self.dtype,
            "codebook_size" if self.kind == "codes" else "latent_channels": self.size,
            "tokenizer": {"name": self.tokenizer, "sha256": self.tokenizer_sha256},
            "classes": list(self.classes),
            "settings": dict(self.settings),
            **({"embeddings": self.embeddings.model_dump()} if self.embeddings else {}),
        }


def codes_dtype(codebook_size: int) -> str:
    """The smallest type that holds the codes of a codebook."""
    return "uint16" if codebook_size <= 2**16 else "uint32"


@dataclass(frozen=True)
class TokenRecord:
    """Everything about an item but its tokens.

    Attributes:
        key: name of its file below the collection (several items share it: views, windows of a video).
        label: class number, -1 for none.
        size: (T, H, W) of the pixels that were encoded, for `decode` to crop to; an image has T = 1.
        source_size: (H, W) of the frames of the file.
        fps: frames per second of a video; None for an image.
        view: number of the view; 0 is the plain one.
        start: first frame in the video.
        crop: (top, left, height, width) in the file's frames of what was encoded, before resizing.
        flip: whether it was mirrored (after cropping).
        captions: of its file.
    """

    key: str
    label: int
    size: tuple[int, int, int]
    source_size: tuple[int, int]
    fps: float | None
    view: int
    start: int
    crop: tuple[int, int, int, int]
    flip: bool
    captions: tuple[str, ...] = ()


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def to_utf8(text: str) -> bytes:
    """JSON as bytes; of a file name that is no text, the bytes that are none become escapes, which JSON has too."""
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with a checksum of itself."""
    stamped = {**content, "sha256": _checksum(content)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_utf8(json.dumps(stamped, indent=1, ensure_ascii=False) + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote, without the checksum.

    Raises:
        ShardError: it is absent, damaged, edited or not of ours.
    """
    with reading(path, ShardError, "JSON file"):
        if not path.is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or "sha256" not in content:
            raise ShardError(f"{path}: is not a file that `omnitok tokenize` wrote")
        stated = content.pop("sha256")
        if stated != _checksum(content):
            raise ShardError(
                f"{path}: does not fit its own checksum, so it was edited or damaged; "
                "`omnitok tokenize` with the same options and --resume writes it anew"
            )
    return content


def read_index(folder: Path) -> ShardIndex:
    """The index of a folder of finished shards.

    Raises:
        ShardError: no shards, unfinished ones, or a damaged index.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        if (folder / PLAN_NAME).is_file():
            raise ShardError(
                f"{folder}: its shards are not finished (there is no {INDEX_NAME} yet); the same `omnitok tokenize` "
                "with --resume continues them"
            )
        found = "holds no token shards" if folder.is_dir() else "no such folder"
        raise ShardError(f"{folder}: {found}; a folder that `omnitok tokenize` wrote is wanted")
    content = read_json(path)
    name, version = content.get("format"), content.get("version")
    if (name, version) != (FORMAT, VERSION):
        stated = f"{describe(name)} version {describe(version)}"
        raise ShardError(f"{path}: is {stated}, this omnitok reads {FORMAT!r} version {VERSION}")
    with reading(path, ShardError, "shard index"):
        index = ShardIndex.model_validate(content)
        index.format  # noqa: B018 - whose checks belong to the index
        return index


def common_embeddings(folders: Sequence[Path], indices: Sequence[ShardIndex]) -> EmbeddingFormat | None:
    """What the embeddings of several folders are; None where there are none.

    Raises:
        ShardError: those of two folders are not alike.
    """
    common: tuple[Path, EmbeddingFormat] | None = None
    for folder, found in ((folder, index.embeddings) for folder, index in zip(folders, indices, strict=True)):
        if found is None:
            continue
        common = common or (folder, found)
        if found != common[1]:
            (other, theirs), weights = common, ", by other weights" * (found.sha256 != common[1].sha256)
            raise ShardError(
                f"{folder}: has embeddings of {describe(found.source)!r} of width {found.width}, and {other} of "
                f"{describe(theirs.source)!r} of width {theirs.width}{weights}; they cannot be read together"
            )
    return common[1] if common else None


def map_bytes(path: Path) -> np.ndarray:
    """The bytes of a file, mapped; through torch, which (unlike numpy) holds no file descriptor meanwhile.

    Raises:
        ShardError: it cannot be mapped.
    """
    with reading(path, ShardError, "file of a shard"):
        size = path.stat().st_size
        if size == 0:
            return np.empty(0, dtype=np.uint8)
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()


def map_array(path: Path, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> np.ndarray:
    """A `.npy` file, mapped, as a plain array: numpy's own class for that is twice as slow to index.

    Args:
        shape: that the index says; None takes what the file says, of one axis.

    Raises:
        ShardError: damaged, or of another shape or type.
    """
    content = map_bytes(path)
    with reading(path, ShardError, ".npy file"), path.open("rb") as file:
        np.lib.format.read_magic(file)
        found, is_fortran, found_dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    if found_dtype != dtype or is_fortran or (len(found) != 1 if shape is None else found != shape):
        wanted = f"{dtype}" if shape is None else f"{dtype} {shape}"
        raise ShardError(f"{path}: holds {describe(found_dtype)} {describe(found)}, the index says {wanted}")
    size = math.prod(found) * dtype.itemsize
    if len(content) - start != size:
        raise ShardError(f"{path}: has {len(content) - start} bytes of numbers, {size} are needed; it is truncated")
    return content[start:].view(dtype).reshape(found)
