"""WebDataset shards: plain tar files whose headers are read once, so that every sample is a stretch of a file.

A stream of shards, as the webdataset package reads them, would save that first reading, but has no exact position to
resume from. Compressed tars have no such offsets and are refused.
"""

import io
import json
import os
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from omnitok.data.captions import SUFFIX as CAPTION_SUFFIX
from omnitok.data.captions import parse_captions, parse_lines
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


@dataclass
class _Members:
    """The members that hold images and videos; by their stems those that hold labels and captions, or should."""

    media: list[Entry] = field(default_factory=list)
    labels: dict[str, Entry] = field(default_factory=dict)
    captions: dict[str, Entry] = field(default_factory=dict)


def read_members(path: str, modality_of: Callable[[str], Modality | None], captions: bool = False) -> Iterator[Entry]:
    """An entry for every image and video in a tar, in the order of its members.

    The label is that of the `.cls` (an integer) or `.json` (its `label`) with the same name up to the suffix, else of
    the one with the same key, the name up to the first dot. Where several images share a key, the one without a second
    dot is the sample and the others are left out with a warning (`0.mask.png` beside `0.jpg`); images that are numbered
    (`v1.0000.png`) or have a label each are samples of their own. Captions are found by name or key as labels are: in
    the `.txt`, one a line, else in the `.json` as `caption`, `captions` or `text`.

    Args:
        path: of the tar.
        modality_of: "image", "video", or None for a member that is not wanted, by its name.
        captions: whether they are wanted.

    Raises:
        MediaError: no uncompressed tar; or several images share a key and nothing tells which one is meant.
    """
    found = _read_headers(path, modality_of, captions)
    left_out = _left_out(path, found.media, found.labels)
    if left_out:
        warnings.warn(
            f"{path}: {len(left_out)} images are left out, because the image of their sample stands beside them, such "
            f"as {describe(left_out[0].path)}",
            stacklevel=2,
        )
    dropped = {member.offset for member in left_out}
    for member in found.media:
        if member.offset not in dropped:
            key, stem = _key_and_stem(member.path)
            if given := found.labels.get(stem) or found.labels.get(key):
                member = replace(member, label=given.label, error=member.error or given.error)
            if given := found.captions.get(stem) or found.captions.get(key):
                member = replace(member, captions=given.captions, error=member.error or given.error)
            yield member


def _key_and_stem(name: str) -> tuple[str, str]:
    """A name up to the first dot of its last part, by which WebDataset tells samples apart, and up to the last dot."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}", f"{folder}/{base.rpartition('.')[0]}"


def _read_headers(path: str, modality_of: Callable[[str], Modality | None], captions: bool) -> _Members:
    require_regular(path)
    found = _Members()
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
                media = Entry(member.name, None, "", error, modality, member.offset_data, member.size)
                found.media.append(media)
                continue
            stem, suffix = _key_and_stem(member.name)[1], os.path.splitext(base)[1].lower()
            if suffix in (".cls", ".json"):
                label = _read_label(tar, member, where)
                if label.error or label.label is not None:
                    found.labels[stem] = label
            if captions and suffix in (CAPTION_SUFFIX, ".json"):
                told = _read_captions(tar, member, where)
                if (told.error or told.captions) and (suffix == CAPTION_SUFFIX or stem not in found.captions):
                    found.captions[stem] = told
    return found


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> Entry:
    try:
        with reading(where, MediaError, "label"):
            content = _content(tar, member, f"{where}: a label")
            if member.name.lower().endswith(".json"):
                value = _json_row(content).get("label")
            elif not (value := content.decode("utf-8")).strip():
                raise MediaError(f"{where}: holds no integer label")
            return Entry(member.name, parse_label(value, where, names=False))
    except MediaError as error:
        return Entry(member.name, error=str(error))


def _read_captions(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> Entry:
    try:
        with reading(where, MediaError, "caption"):
            content = _content(tar, member, f"{where}: a caption")
            if member.name.lower().endswith(CAPTION_SUFFIX):
                return Entry(member.name, captions=parse_lines(content, where))
            return Entry(member.name, captions=parse_captions(_json_row(content), where))
    except MediaError as error:
        return Entry(member.name, error=str(error))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, what: str) -> bytes:
    MAX_TEXT.check(member.size, f"{what} of {member.size} bytes", MediaError)
    file = tar.extractfile(member)
    return file.read(member.size) if file is not None else b""


def _json_row(content: bytes) -> dict[str, Any]:
    row = json.loads(content.decode("utf-8"))
    return row if isinstance(row, dict) else {}


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
