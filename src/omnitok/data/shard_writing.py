"""Writing token shards, each whole or not at all; see `omnitok.data.shard_format`."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnitok.atomic import atomic_path, sha256_of
from omnitok.data.samples import NO_LABEL
from omnitok.data.shard_format import (
    ARRAY_FILE,
    CAPTION_PLACES_NAME,
    CAPTIONS_NAME,
    EMBEDDINGS_NAME,
    ENCODING,
    ENDS_NAME,
    ERRORS_NAME,
    INDEX_NAME,
    ITEM_DTYPE,
    ITEMS_NAME,
    KEYS_NAME,
    PLACES_NAME,
    PLAN_NAME,
    SHARD_NAME,
    TABLE_FILE,
    FileFailure,
    ShardReport,
    StoredArray,
    StoredCaptions,
    StoredEmbeddings,
    StoredTable,
    TokenFormat,
    TokenRecord,
    read_json,
    to_utf8,
    write_json,
)
from omnitok.errors import ShardError, reading

_SHARD = re.compile("[0-9]{5,}")
_SHARD_FILE = re.compile(f"{re.escape(SHARD_NAME)}|{TABLE_FILE}|{ARRAY_FILE}")


@dataclass(frozen=True)
class Token:
    """An item to be written: a record with codes or latents, as `pack` stores them, and without the batch axis.

    `embeddings` are sequences (n, d), float16: one, or one for each of its captions.
    """

    record: TokenRecord
    values: np.ndarray
    embeddings: tuple[np.ndarray, ...] = ()


def begin_folder(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make a folder for the shards of a plan, or go on in one that was begun with the same plan.

    `plan.json` is what tells our folders from others: without it, nothing may be there under a name of ours.

    Raises:
        ShardError: the folder belongs to something else or to another plan, or its plan is damaged.
        OSError: it cannot be written.
    """
    if not folder.is_dir() and os.path.lexists(folder):
        raise ShardError(f"{folder}: is no folder; the shards need one")
    path = folder / PLAN_NAME
    if path.exists():
        for place, theirs, ours in _differences("", read_json(path), plan):
            raise ShardError(f"{path}: was begun with {place} {theirs}, not {ours}; give another folder")
        return
    names = os.listdir(folder) if folder.is_dir() else []
    taken = [name for name in names if name in (PLAN_NAME, INDEX_NAME, ERRORS_NAME) or _SHARD.fullmatch(name)]
    if taken:
        raise ShardError(
            f"{folder}: holds {min(taken)}, but no {PLAN_NAME}, so it is not of `omnitok tokenize`; give another folder"
        )
    write_json(path, plan)


def _differences(name: str, found: Any, own: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(own, dict):
        keys = sorted(found.keys() | own.keys())
        return [
            difference
            for key in keys
            for difference in _differences(f"{name}.{key}" if name else key, found.get(key), own.get(key))
        ]
    return [] if found == own else [(name, found, own)]


def remove_damaged_shard(folder: Path, number: int) -> None:
    """Remove what is left of a shard; does nothing where there is none.

    Raises:
        ShardError: there is something that `write_shard` did not make; nothing is removed.
    """
    path = folder / shard_name(number)
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise ShardError(f"{path}: is no folder of `omnitok tokenize`; move it away")
    files = list(path.iterdir())
    for file in files:
        if not _SHARD_FILE.fullmatch(file.name) or not file.is_file():
            raise ShardError(f"{path}: holds {file.name}, which is not of `omnitok tokenize`; move it away")
    for file in files:
        file.unlink()
    path.rmdir()


def shard_name(number: int) -> str:
    """Name of the folder of a shard."""
    return f"{number:05d}"


def write_shard(
    folder: Path, number: int, format: TokenFormat, tokens: Iterable[Token], errors: Sequence[FileFailure]
) -> ShardReport:
    """Write one shard, whole or not at all, and give its report.

    Args:
        folder: of all shards.
        tokens: the items, in the order of the collection.
        errors: the files that could not be read.

    Raises:
        OSError: it cannot be written; nothing is left under its name.
    """
    buckets: dict[tuple[int, ...], list[Token]] = {}
    for token in tokens:
        buckets.setdefault(token.values.shape, []).append(token)
    ordered = [buckets[shape] for shape in sorted(buckets, key=lambda shape: (len(shape), shape))]
    with atomic_path(folder / shard_name(number)) as temporary:
        temporary.mkdir(parents=True)
        arrays = []
        for bucket in ordered:
            values = np.stack([token.values for token in bucket])
            grid = values.shape[1:] if format.kind == "codes" else values.shape[2:]
            name = f"{format.kind}-{'x'.join(map(str, grid))}.npy"
            np.save(temporary / name, values)
            arrays.append(StoredArray(grid=grid, count=len(bucket), **_stamp(temporary / name)))
        records = [token.record for bucket in ordered for token in bucket]
        items, keys = _pack_records(records)
        np.save(temporary / ITEMS_NAME, items)
        (temporary / KEYS_NAME).write_bytes(keys)
        report = ShardReport(
            name=shard_name(number),
            items=len(records),
            tokens=sum(array.count * math.prod(array.grid) for array in arrays),
            skipped=len(errors),
            labelled=sum(record.label != NO_LABEL for record in records),
            arrays=tuple(arrays),
            tables=_tables(temporary, ITEMS_NAME, KEYS_NAME),
            captions=_write_captions(temporary, records),
            embeddings=_write_embeddings(temporary, [token.embeddings for bucket in ordered for token in bucket]),
            errors=tuple(errors),
        )
        write_json(temporary / SHARD_NAME, report.to_json())
    return report


def read_shard(folder: Path, number: int) -> ShardReport | None:
    """The report of a finished shard; None where it is missing or its files are not all there.

    Files are compared by size; `TokenShards.verify` compares what they hold.
    """
    path = folder / shard_name(number)
    try:
        with reading(path, ShardError, "shard"):
            report = ShardReport.model_validate(read_json(path / SHARD_NAME))
            complete = all((path / file.file).stat().st_size == file.bytes for file in report.files)
    except ShardError:
        return None
    return report if complete else None


def write_index(folder: Path, format: TokenFormat, reports: Sequence[ShardReport]) -> None:
    """`index.json` and `errors.jsonl` of all shards, in order.

    Raises:
        OSError: they cannot be written.
    """
    errors = [error for report in reports for error in report.errors]
    with atomic_path(folder / ERRORS_NAME) as temporary:
        lines = [json.dumps(error.model_dump(), ensure_ascii=False) + "\n" for error in errors]
        temporary.write_bytes(to_utf8("".join(lines)))
    content = {
        **format.to_json(),
        "items": sum(report.items for report in reports),
        "tokens": sum(report.tokens for report in reports),
        "skipped": len(errors),
        "labelled": sum(report.labelled for report in reports),
        "shards": [report.to_json(exclude={"errors"}) for report in reports],
    }
    write_json(folder / INDEX_NAME, content)


def _pack_records(records: Sequence[TokenRecord]) -> tuple[np.ndarray, bytes]:
    keys, rows = bytearray(), []
    for r in records:
        keys += r.key.encode(*ENCODING)
        fps = np.nan if r.fps is None else r.fps
        rows.append((r.label, r.view, r.start, fps, r.size, r.source_size, r.crop, r.flip, len(keys)))
    return np.array(rows, dtype=ITEM_DTYPE), bytes(keys)


def _write_captions(folder: Path, records: Sequence[TokenRecord]) -> StoredCaptions | None:
    """Captions, those of a file once for all of its items; nothing where there are none at all."""
    if not any(record.captions for record in records):
        return None
    text, known = bytearray(), dict[tuple[str, ...], tuple[int, int]]({(): (0, 0)})
    for captions in (record.captions for record in records):
        if captions not in known:
            start = len(text)
            text += "".join(f"{caption}\0" for caption in captions).encode()
            known[captions] = start, len(text)
    (folder / CAPTIONS_NAME).write_bytes(text)
    np.save(folder / CAPTION_PLACES_NAME, np.array([known[record.captions] for record in records], dtype="<i8"))
    count = sum(bool(record.captions) for record in records)
    return StoredCaptions(items=count, files=_tables(folder, CAPTIONS_NAME, CAPTION_PLACES_NAME))


def _write_embeddings(folder: Path, items: Sequence[tuple[np.ndarray, ...]]) -> StoredEmbeddings | None:
    """Sequences of embeddings, the same ones once for all of their items; nothing where there are none at all."""
    if not any(items):
        return None
    sequences: list[np.ndarray] = []
    known = dict[tuple[bytes, ...], tuple[int, int]]({(): (0, 0)})
    places = []
    for item in items:
        content = tuple(hashlib.sha256(sequence.tobytes()).digest() for sequence in item)
        if content not in known:
            known[content] = len(sequences), len(sequences) + len(item)
            sequences += item
        places.append(known[content])
    np.save(folder / EMBEDDINGS_NAME, np.concatenate(sequences).astype("<f2"))
    np.save(folder / ENDS_NAME, np.cumsum([len(sequence) for sequence in sequences], dtype="<i8"))
    np.save(folder / PLACES_NAME, np.array(places, dtype="<i8"))
    files = _tables(folder, EMBEDDINGS_NAME, ENDS_NAME, PLACES_NAME)
    return StoredEmbeddings(items=sum(map(bool, items)), rows=sum(map(len, sequences)), files=files)


def _tables(folder: Path, *names: str) -> tuple[StoredTable, ...]:
    return tuple(StoredTable(**_stamp(folder / name)) for name in names)


def _stamp(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
