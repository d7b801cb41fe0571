"""The format of token shards: codes or latents of a collection, computed once, memory-mapped to train generators.

A folder holds

- `index.json`: the tokenizer's name and weight hash, the kind of tokens, class names, settings, and for each shard its
  files with their sizes and SHA-256; the index carries a checksum of itself;
- `plan.json`: the same without the shards, from the start of the work on;
- a folder a shard, `00000`, `00001`, ...: for each grid shape one array, `codes-16x16.npy` (n, h, w) of pictures or
  `codes-5x16x16.npy` (n, t, h, w) of clips, `latents-...npy` (n, c, h, w) or (n, c, t, h, w); `items.npy`, a row an
  item; `keys.txt`, all keys one after another; `shard.json`, its entry of the index and what could not be read;
- `errors.jsonl`: every file that could not be read, with the reason.

All arrays are plain `.npy`: `numpy.load(..., mmap_mode="r")` reads them without this package. Codes are uint16, or
uint32 where the codebook has more than 65 536; latents are float16, or bfloat16 kept as uint16 bits. Items lie in the
order of the arrays of a shard, then of their rows, which is also the order of `items.npy` and of `TokenShards`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omnitok.atomic import atomic_path
from omnitok.errors import ShardError

FORMAT, VERSION = "omnitok-shards", 1
INDEX_NAME, PLAN_NAME, ERRORS_NAME = "index.json", "plan.json", "errors.jsonl"
SHARD_NAME, ITEMS_NAME, KEYS_NAME = "shard.json", "items.npy", "keys.txt"

Kind = Literal["codes", "latents"]
Grid = tuple[int, ...]
"""(h, w) of a picture's tokens, (t, h, w) of a clip's."""

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
_DTYPES_OF: dict[str, tuple[str, ...]] = {"codes": ("uint16", "uint32"), "latents": ("float16", "bfloat16")}


@dataclass(frozen=True)
class TokenFormat:
    """What all shards of a folder have in common.

    Attributes:
        kind: "codes" of a quantizer or "latents" (the posterior's mean) of a VAE.
        dtype: how they are stored: uint16, uint32, float16 or bfloat16.
        size: number of codes in the codebook, or channels of the latents.
        tokenizer, tokenizer_sha256: who made them; `omnitok.hub.folder.fingerprint` of its float32 weights.
        classes: names of the classes, by label; empty where labels came as numbers, or where there are none.
        settings: how they were made (resolution, frames, views, ...), for the record and for `--resume` to compare.

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

    def __post_init__(self) -> None:
        accepted = _DTYPES_OF.get(self.kind)
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
        }


def codes_dtype(codebook_size: int) -> str:
    """The smallest type that holds the codes of a codebook."""
    return "uint16" if codebook_size <= 2**16 else "uint32"


@dataclass(frozen=True)
class TokenRecord:
    """Everything about an item but its tokens.

    Attributes:
        key: name of its file below the collection (several items share it: views, windows of a clip).
        label: class number, -1 for none.
        size: (T, H, W) of the pixels that were encoded, for `decode` to crop to; a picture has T = 1.
        source_size: (H, W) of the frames of the file.
        fps: frames a second of a clip's frames; None for a picture.
        view: number of the view; 0 is the plain one.
        start: first frame of the clip.
        crop: (top, left, height, width) in the file's frames of what was encoded, before resizing.
        flip: whether it was mirrored (after cropping).
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


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    stamped = {**content, "sha256": _checksum(content)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(stamped, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: is no JSON; it is damaged ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or "sha256" not in content:
        raise ShardError(f"{path}: is not a file that `omnitok tokenize` wrote")
    stated = content.pop("sha256")
    if stated != _checksum(content):
        raise ShardError(
            f"{path}: does not fit its own checksum, so it was edited or damaged; "
            "`omnitok tokenize` with the same options and --resume writes it anew"
        )
    return content
