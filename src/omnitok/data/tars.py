"""WebDataset shards: plain tar files whose headers are read once, so that every sample is a stretch of a file.

A stream of shards, as the webdataset package reads them, would save that first reading, but has no exact position to
resume from. Compressed tars have no such offsets and are refused.
"""

import io
import json
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

from omnitok.data.lists import Entry, parse_label
from omnitok.data.modality import Modality
from omnitok.errors import MediaError, describe, reading
from omnitok.files import require_regular
from omnitok.limits import MAX_TEXT

_LONGEST_READ = 2**24  # bytes that tarfile may ask for at once: a header can claim any length for its own fields


class _BoundedReader(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_READ:
            raise MediaError(f"{self.name}: cannot be read as a tar: a header claims {size} bytes for itself")
        return super().read(size)


def read_members(path: str, modality_of: Callable[[str], Modality | None]) -> Iterator[Entry]:
    """An entry for every image and video in a tar, in the order of its members.

    The label is that of the `.cls` (an integer) or `.json` (its `label`) with the same name up to the suffix, else of
    the one with the same key, the name up to the first dot. Where several images share a key, the one without a second
    dot is the sample and the others are left out with a warning (`0.mask.png` beside `0.jpg`); images that are numbered
    (`v1.0000.png`) or have a label each are samples of their own.

    Args:
        path: of the tar.
        modality_of: "image", "video", or None for a member that is not wanted, by its name.

    Raises:
        MediaError: no uncompressed tar; or several images share a key and nothing tells which one is meant.
    """
    members, labels = _read_headers(path, modality_of)
    left_out = _left_out(path, members, labels)
    if left_out:
        warnings.warn(
            f"{path}: {len(left_out)} images are left out, because the image of their sample stands beside them, such "
            f"as {describe(left_out[0].path)}",
            stacklevel=2,
        )
    dropped = {member.offset for member in left_out}
    for member in members:
        if member.offset not in dropped:
            key, stem = _key_and_stem(member.path)
            if given := labels.get(stem) or labels.get(key):
                member = replace(member, label=given.label, error=member.error or given.error)
            yield member


def _key_and_stem(name: str) -> tuple[str, str]:
    """A name up to the first dot of its last part, by which WebDataset tells samples apart, and up to the last dot."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}", f"{folder}/{base.rpartition('.')[0]}"


def _read_headers(path: str, modality_of: Callable[[str], Modality | None]) -> tuple[list[Entry], dict[str, Entry]]:
    """The members that hold images and videos, and by their stems those that hold labels or should."""
    require_regular(path)
    members: list[Entry] = []
    labels: dict[str, Entry] = {}
    with (
        reading(path, MediaError, "tar without compression"),
        _BoundedReader(open(path, "rb", buffering=0)) as file,
        tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar,
    ):
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            base, where = member.name.rpartition("/")[2], f"{path}/{member.name}"
            if not member.isreg() or base.startswith("."):
                continue
            if (modality := modality_of(base)) is not None:
                error = f"{where}: is stored with holes, which cannot be read" if member.issparse() else ""
                found = Entry(member.name, None, "", error, modality, member.offset_data, member.size)
                members.append(found)
            elif base.lower().endswith((".cls", ".json")):
                label = _read_label(tar, member, where)
                if label.error or label.label is not None:
                    labels[_key_and_stem(member.name)[1]] = label
    return members, labels


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> Entry:
    try:
        with reading(where, MediaError, "label"):
            MAX_TEXT.check(member.size, f"{where}: a label of {member.size} bytes", MediaError)
            file = tar.extractfile(member)
            text = file.read(member.size).decode("utf-8") if file is not None else ""
            value: object = text
            if member.name.lower().endswith(".json"):
                row = json.loads(text)
                value = row.get("label") if isinstance(row, dict) else None
            elif not text.strip():
                raise MediaError(f"{where}: holds no integer label")
            return Entry(member.name, parse_label(value, where, names=False))
    except MediaError as error:
        return Entry(member.name, error=str(error))


def _left_out(path: str, members: list[Entry], labels: dict[str, Entry]) -> list[Entry]:
    """Members that share a key with the image of their sample."""
    by_key: dict[tuple[str, Modality | None], list[Entry]] = {}
    for member in members:
        by_key.setdefault((_key_and_stem(member.path)[0], member.modality), []).append(member)
    left_out = []
    for (key, modality), alike in by_key.items():
        stems = [_key_and_stem(member.path)[1] for member in alike]
        others = [stem for stem in stems if stem != key]
        own_names = len(set(stems)) == len(stems)
        if len(alike) == 1 or (own_names and all(stem in labels for stem in others)):
            continue
        if len(others) == len(alike) - 1:
            left_out += [member for member, stem in zip(alike, stems, strict=True) if stem != key]
        elif not own_names or not all(stem[len(key) :].replace(".", "").isdecimal() for stem in others):
            names = describe(", ".join(member.path.rpartition("/")[2] for member in alike[:3]))
            raise MediaError(
                f"{path}: {len(alike)} {modality}s share the key {describe(key.rpartition('/')[2])!r} ({names}); a "
                "sample has one, and its key is the name up to the first dot"
            )
    return left_out
