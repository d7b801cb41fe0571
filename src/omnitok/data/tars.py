"""WebDataset shards: plain tar files whose headers are read once, so that every sample is a stretch of a file.

A stream of shards, as the webdataset package reads them, would save that first reading, but has no exact position to
resume from. Compressed tars have no such offsets and are refused.
"""

import io
import json
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from omnitok.data.lists import Entry, parse_label
from omnitok.data.modality import Modality
from omnitok.errors import MediaError, describe, reading
from omnitok.files import require_regular
from omnitok.limits import MAX_TEXT

_LONGEST_READ = 2**24  # bytes that tarfile may ask for at once: a header can claim any length for its own fields


@dataclass(frozen=True)
class _Member:
    """A member that holds an image or video.

    Attributes:
        key: its name up to the first dot of the last part: what WebDataset tells samples apart by.
        stem: its name up to the last dot.
    """

    key: str
    stem: str
    name: str
    modality: Modality
    offset: int
    size: int
    error: str


@dataclass
class _Contents:
    members: list[_Member] = field(default_factory=list)
    labels: dict[str, int | str | None] = field(default_factory=dict)  # by stem
    bad_labels: dict[str, str] = field(default_factory=dict)


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
    contents = _read_headers(path, modality_of)
    left_out = _left_out(path, contents)
    if left_out:
        warnings.warn(
            f"{path}: {len(left_out)} images are left out, because the image of their sample stands beside them, such "
            f"as {describe(left_out[0].name)}",
            stacklevel=2,
        )
    dropped = {member.offset for member in left_out}
    for member in contents.members:
        if member.offset in dropped:
            continue
        stem = member.stem if member.stem in contents.labels else member.key
        error = member.error or contents.bad_labels.get(stem, "")
        label = contents.labels.get(stem)
        yield Entry(member.name, label, "", error, member.modality, member.offset, member.size)


def _read_headers(path: str, modality_of: Callable[[str], Modality | None]) -> _Contents:
    require_regular(path)
    contents = _Contents()
    with (
        reading(path, MediaError, "tar without compression"),
        _BoundedReader(open(path, "rb", buffering=0)) as file,
        tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar,
    ):
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            folder, _, base = member.name.rpartition("/")
            if not member.isreg() or base.startswith("."):
                continue
            key = f"{folder}/{base.partition('.')[0]}"
            stem, _, suffix = base.rpartition(".")
            stem = f"{folder}/{stem}"
            if (modality := modality_of(base)) is not None:
                error = f"{path}/{member.name}: is stored with holes, which cannot be read" if member.issparse() else ""
                found = _Member(key, stem, member.name, modality, member.offset_data, member.size, error)
                contents.members.append(found)
            elif suffix.lower() in ("cls", "json"):
                _add_label(contents, tar, member, f"{path}/{member.name}", stem)
    return contents


def _add_label(contents: _Contents, tar: tarfile.TarFile, member: tarfile.TarInfo, where: str, stem: str) -> None:
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
            label = parse_label(value, where, names=False)
            if label is not None:
                contents.labels[stem] = label
    except MediaError as error:
        contents.labels[stem] = None
        contents.bad_labels[stem] = str(error)


def _left_out(path: str, contents: _Contents) -> list[_Member]:
    """Members that share a key with the image of their sample."""
    by_key: dict[tuple[str, str], list[_Member]] = {}
    for member in contents.members:
        by_key.setdefault((member.key, member.modality), []).append(member)
    left_out = []
    for (key, modality), alike in by_key.items():
        plain = [member for member in alike if member.stem == key]
        others = [member for member in alike if member.stem != key]
        own_names = len({member.stem for member in alike}) == len(alike)
        if len(alike) == 1 or (own_names and all(member.stem in contents.labels for member in others)):
            continue
        if len(plain) == 1:
            left_out += others
        elif not own_names or not all(m.stem[len(key) :].replace(".", "").isdecimal() for m in others):
            names = describe(", ".join(member.name.rpartition("/")[2] for member in alike[:3]))
            raise MediaError(
                f"{path}: {len(alike)} {modality}s share the key {describe(key.rpartition('/')[2])!r} ({names}); a "
                "sample has one, and its key is the name up to the first dot"
            )
    return left_out
