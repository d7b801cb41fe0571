"""What there is to train on: folders, lists, manifests and tar shards -> a list of samples.

Accepted are

- a folder: the pictures, or clips, in it and below it, by suffix; where there are none, the `.tar` shards in it.
  A `manifest.csv` in the folder tells the domains of its files;
- a picture or clip: itself;
- `.txt`, `.tsv`, `.lst`: lines of `path` or `path<TAB>label`, the label an integer (the released annotation format);
- `.csv`: a row each, with a header: `path` (or `file`), if wanted `label` (or `class`) and `domain`, the kind
  of scene, by which sampling can be balanced; other columns are ignored;
- `.jsonl`, `.ndjson`: a JSON object each, with the same keys;
- `.tar`: a WebDataset shard. Members whose names agree up to the first dot of the last part are one sample, of which
  the picture or clip is read, and the label from `.cls` (an integer) or from `label` in `.json`.

Shards are plain tar files whose headers are read once, at the start: every sample is then a stretch (offset, size) of
a file, read in any order. A stream of shards, as the webdataset package reads them, would save that first reading, but
has no exact position to resume from. Compressed tars have no such offsets and are refused.
"""

import csv
import json
import os
import tarfile
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from omnitok.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from omnitok.data.sampling import Medium
from omnitok.errors import MediaError

NO_LABEL = -1
NO_DOMAIN = -1
MANIFEST = "manifest.csv"

LIST_SUFFIXES = frozenset({".txt", ".tsv", ".lst"})
TABLE_SUFFIXES = frozenset({".csv", ".jsonl", ".ndjson"})
_SUFFIXES: dict[Medium, frozenset[str]] = {
    "image": IMAGE_SUFFIXES,
    "video": VIDEO_SUFFIXES | {".gif", ".webp", ".apng", ".avif"},  # given explicitly, in lists and in shards
}
DOMAIN_KEY = "domain"
_PATH_KEYS, _LABEL_KEYS = ("path", "file"), ("label", "class")
_PROBED_FILES = 16

T = TypeVar("T")
_Entry = tuple[str, int | str | None, str]  # path, label, domain or ""


@dataclass(frozen=True)
class Sample:
    """One picture or clip.

    Attributes:
        path: of the file, or of the tar that holds it.
        label: class number, or -1.
        key: name within its source: the path below the folder or the list's root, `shard.tar/member` in a shard.
        offset, size: of the stretch of a tar, in bytes; `size` is None for a file of its own.
    """

    path: str
    label: int = NO_LABEL
    key: str = ""
    offset: int = 0
    size: int | None = None

    @property
    def name(self) -> str:
        """For messages: the file, and the member of a tar."""
        return self.path if self.size is None else f"{Path(self.path).parent / self.key}"


class SampleList(Sequence[Sample]):
    """Samples in a few flat buffers: some 20 bytes each beside their names, shared by forked loading processes.

    A list of ten million objects would take gigabytes, and reference counting would copy it into every such process.

    Attributes:
        labels: int32 (n,), -1 where there is none.
        classes: names of the classes, by number; empty where the labels came as numbers.
        domains: int32 (n,), numbers into `domain_names`, -1 where there is none; (0,) where no manifest names any.
        domain_names: in the order they were met in.
    """

    def __init__(
        self,
        text: bytes,
        ends: np.ndarray,
        key_starts: np.ndarray,
        labels: np.ndarray,
        classes: tuple[str, ...],
        shards: tuple[str, ...],
        stretches: np.ndarray,
        domains: np.ndarray,
        domain_names: tuple[str, ...],
    ) -> None:
        self._text, self._ends, self._key_starts = text, ends, key_starts
        self.labels, self.classes = labels, classes
        self._shards, self._stretches = shards, stretches  # (n, 3) int64 shard, offset, size; or (0, 3): files only
        self.domains, self.domain_names = domains, domain_names

    @classmethod
    def of_paths(cls, paths: Iterable[str | os.PathLike[str]]) -> "SampleList":
        """Files of their own, without labels."""
        builder = _Builder()
        for path in paths:
            builder.add(os.fspath(path), key_start=0)
        return builder.build()

    @property
    def has_labels(self) -> bool:
        """Whether any sample has a label."""
        return bool((self.labels != NO_LABEL).any())

    @property
    def class_count(self) -> int:
        """Number of classes: of their names, or the highest label + 1; 0 without labels."""
        return len(self.classes) or int(self.labels.max(initial=NO_LABEL)) + 1

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """A sample, or a list of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        begin = int(self._ends[i - 1]) if i else 0
        text = self._text[begin : int(self._ends[i])]
        path, key, label = os.fsdecode(text), os.fsdecode(text[int(self._key_starts[i]) :]), int(self.labels[i])
        if not len(self._stretches) or self._stretches[i, 0] < 0:
            return Sample(path, label, key)
        shard, offset, size = self._stretches[i].tolist()
        return Sample(self._shards[shard], label, f"{Path(self._shards[shard]).name}/{key}", offset, size)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


class _Builder:
    """Collects samples; labels are all numbers or all names."""

    def __init__(self) -> None:
        self._text, self._ends, self._key_starts = bytearray(), array("q"), array("i")
        self._labels, self._names = array("q"), dict[str, int]()
        self._numbered = ""  # where the first label came as a number
        self._named = ""  # or as a name
        self._domains, self._domain_names = array("i"), dict[str, int]()  # the former only begun by the first domain
        self._shards: list[str] = []
        self._stretches = array("q")  # shard, offset, size in turn; only begun by the first member of a shard

    def __len__(self) -> int:
        return len(self._ends)

    def add(
        self, path: str, key_start: int, label: int | str | None = None, source: str = "", domain: str = ""
    ) -> None:
        """A file; its key is `path[key_start:]`."""
        self._append(path, len(os.fsencode(path[:key_start])), label, source, domain)
        if self._shards:
            self._stretches.extend((-1, 0, 0))

    def begin_shard(self, path: str) -> None:
        """Members added from now on are of this tar."""
        if not self._shards:
            self._stretches.extend((-1, 0, 0) * len(self))
        self._shards.append(path)

    def add_member(self, name: str, offset: int, size: int, label: int | None) -> None:
        """A stretch of the tar begun last."""
        self._append(name, 0, label, self._shards[-1])
        self._stretches.extend((len(self._shards) - 1, offset, size))

    def _append(self, text: str, key_start: int, label: int | str | None, source: str, domain: str = "") -> None:
        if domain and not self._domain_names:
            self._domains.extend([NO_DOMAIN] * len(self))
        if domain or self._domain_names:
            number = self._domain_names.setdefault(domain, len(self._domain_names)) if domain else NO_DOMAIN
            self._domains.append(number)
        self._text += os.fsencode(text)
        self._ends.append(len(self._text))
        self._key_starts.append(key_start)
        if label is None:
            self._labels.append(NO_LABEL)
            return
        if isinstance(label, str):
            self._named = self._named or source
            label = self._names.setdefault(label, len(self._names))
        else:
            self._numbered = self._numbered or source
        if self._named and self._numbered:
            raise MediaError(
                f"{source}: labels must be all numbers or all names, but {self._numbered} has numbers "
                f"and {self._named} has names"
            )
        self._labels.append(label)

    def build(self) -> SampleList:
        labels = np.array(self._labels, dtype=np.int32)
        classes = tuple(sorted(self._names))
        if classes:  # numbered in the order of their names, whatever the order they were met in
            number = {name: i for i, name in enumerate(classes)}
            renumbered = np.array([*(number[name] for name in self._names), NO_LABEL], dtype=np.int32)
            labels = renumbered[labels]
        return SampleList(
            bytes(self._text),
            np.array(self._ends, dtype=np.int64),
            np.array(self._key_starts, dtype=np.int32),
            labels,
            classes,
            tuple(self._shards),
            np.array(self._stretches, dtype=np.int64).reshape(-1, 3),
            np.array(self._domains, dtype=np.int32),
            tuple(self._domain_names),
        )


def find_samples(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    medium: Medium,
    *,
    folder_labels: bool = False,
    root: str | os.PathLike[str] | None = None,
    mixed: bool = False,
) -> SampleList:
    """The samples of one medium in files and folders of any kind (see the top of this module), in a stable order.

    Args:
        paths: one or several; a file reached twice is listed once.
        medium: "image" or "video"; folders and shards give only these.
        folder_labels: classes are the folders directly below a given folder, numbered by sorted name over all of them.
        root: what relative paths in lists and manifests start from; None is the folder of the list.
        mixed: the paths hold both media: what is not of this one (in lists, by suffix) is left out, and there may be
            nothing of it.

    Raises:
        MediaError: something is missing, empty, of another kind, or malformed; none of some listed files looked at
            exists. Whether every file can be read shows only when it is.
    """
    given = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    if not given:
        raise MediaError(f"no path is given to look for {medium}s in")
    builder = _Builder()
    seen: set[str] | None = set() if len(given) > 1 else None
    for path in given:
        if not path.exists():
            raise MediaError(f"{path}: no such file or folder")
        if path.is_dir():
            _add_folder(builder, path, medium, folder_labels, seen, mixed)
        else:
            _add_file(builder, path, medium, root, seen, mixed)
    return builder.build()


def _add_folder(
    builder: _Builder, folder: Path, medium: Medium, labelled: bool, seen: set[str] | None, mixed: bool
) -> None:
    files = _files_below(folder, IMAGE_SUFFIXES if medium == "image" else VIDEO_SUFFIXES)
    if not files:
        shards = _files_below(folder, frozenset({".tar"}))
        if not shards and not mixed:
            kinds = ".jpg, .png, .webp" if medium == "image" else ".mp4, .mkv, .webm"
            raise MediaError(f"{folder}: the folder has no {medium}s (by suffix, such as {kinds}) and no .tar shards")
        for shard in shards:
            if _is_new(shard, seen):
                _add_shard(builder, shard, medium, mixed)
        return
    key_start = len(os.path.join(folder, ""))
    domains = _domains_beside(folder)
    for file in files:
        if not _is_new(file, seen):
            continue
        label = None
        if labelled:
            label, separator, _ = file[key_start:].partition(os.sep)
            if not separator:
                raise MediaError(
                    f"{file}: has no label, because it lies in {folder} itself; FOLDER/CLASS/FILE is wanted"
                )
        builder.add(file, key_start, label, str(folder), domains.get(os.path.normpath(file), ""))


def _domains_beside(folder: Path) -> dict[str, str]:
    """File -> domain by the manifest in a folder, if there is one that names files and domains."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return {}
    _, header = next(_lines(manifest), (1, ""))
    columns = set(next(csv.reader([header]), []))
    if DOMAIN_KEY not in columns or not columns & set(_PATH_KEYS):
        return {}  # some other table
    return {os.path.normpath(os.path.join(folder, name)): domain for name, _, domain in _table_entries(manifest)}


def _files_below(folder: Path, suffixes: frozenset[str]) -> list[str]:
    """Files by suffix, sorted as paths are (part by part); linked folders are entered, hidden names left out."""
    found = []
    visited = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            if os.path.islink(os.path.join(parent, name)):
                target = os.path.realpath(os.path.join(parent, name))
                if target in visited:  # a loop, or a second way to the same folder
                    folders.remove(name)
                visited.add(target)
        found += [
            os.path.join(parent, name)
            for name in names
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
        ]
    return sorted(found, key=lambda path: path.replace(os.sep, "\0"))


def _is_new(path: str, seen: set[str] | None) -> bool:
    if seen is None:
        return True
    if path in seen:
        return False
    seen.add(path)
    return True


def _add_file(
    builder: _Builder,
    path: Path,
    medium: Medium,
    root: str | os.PathLike[str] | None,
    seen: set[str] | None,
    mixed: bool,
) -> None:
    suffix = path.suffix.lower()
    if suffix in LIST_SUFFIXES:
        _add_entries(builder, path, _list_entries(path), root, seen, medium if mixed else None)
    elif suffix in TABLE_SUFFIXES:
        _add_entries(builder, path, _table_entries(path), root, seen, medium if mixed else None)
    elif suffix == ".tar":
        if _is_new(str(path), seen):
            _add_shard(builder, str(path), medium, mixed)
    elif mixed and medium != _medium_by_suffix(suffix) and suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return
    elif suffix in _SUFFIXES[medium]:
        if _is_new(str(path), seen):
            builder.add(str(path), len(str(path)) - len(path.name))
    else:
        raise MediaError(
            f"{path}: {suffix or 'a file without a suffix'} is no source of {medium}s; accepted are a folder, "
            f"a {medium}, a list (.txt, .tsv, .lst), a manifest (.csv, .jsonl, .ndjson) and a .tar shard"
        )


def _medium_by_suffix(suffix: str) -> Medium:
    return "video" if suffix.lower() in VIDEO_SUFFIXES else "image"


def _add_entries(
    builder: _Builder,
    path: Path,
    entries: Iterable[_Entry],
    root: str | os.PathLike[str] | None,
    seen: set[str] | None,
    only: Medium | None,
) -> None:
    base = os.path.join(path.parent if root is None else root, "")
    count, probe = 0, 1
    files: list[str] = []
    for name, label, domain in entries:
        file = os.path.join(base, name)
        count += 1
        if count == probe and len(files) < _PROBED_FILES:  # the 1st, 2nd, 4th, 8th ...
            files.append(file)
            probe *= 2
        if only is not None and only != _medium_by_suffix(os.path.splitext(file)[1]):
            continue
        if _is_new(file, seen):
            builder.add(file, len(base) if file.startswith(base) else 0, label, str(path), domain)
    if not count:
        raise MediaError(f"{path}: the list is empty")
    if not any(os.path.exists(file) for file in files):
        raise MediaError(
            f"{path}: none of {len(files)} listed files looked at exists, such as {files[0]}; "
            f"relative paths start from {base}, or from the root that is given"
        )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, without their ends."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise MediaError(f"{path}: is no list; text in UTF-8 is wanted") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error})") from error


def _list_entries(path: Path) -> Iterator[_Entry]:
    labelled: bool | None = None
    for number, line in _lines(path):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        if not name or len(rest) > 1:
            raise MediaError(f"{path}, line {number}: expected PATH or PATH<TAB>LABEL, found {_short(line)}")
        if labelled is not None and labelled != bool(rest):
            raise MediaError(
                f"{path}, line {number}: {'has' if rest else 'lacks'} a label, unlike the lines before: {_short(line)}"
            )
        labelled = bool(rest)
        yield name, _number(rest[0], path, number) if rest else None, ""


def _number(text: str, path: Path, number: int) -> int:
    try:
        label = int(text)
    except ValueError as error:
        raise MediaError(f"{path}, line {number}: the label must be an integer, found {_short(text)}") from error
    if not 0 <= label < 2**31:
        raise MediaError(f"{path}, line {number}: the label must lie in [0, 2^31), found {label}")
    return label


def _table_entries(path: Path) -> Iterator[_Entry]:
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    for number, row in rows:
        name = next((row[key] for key in _PATH_KEYS if row.get(key)), None)
        if not isinstance(name, str):
            found = ", ".join(map(str, row)) or "nothing"
            raise MediaError(f"{path}, line {number}: has no {' or '.join(_PATH_KEYS)}, only {_short(found)}")
        label = next((row[key] for key in _LABEL_KEYS if row.get(key) not in (None, "")), None)
        if isinstance(label, bool) or not isinstance(label, int | str | None):
            raise MediaError(f"{path}, line {number}: a label is an integer or a name, found {_short(str(label))}")
        if isinstance(label, int) or (isinstance(label, str) and label.strip().lstrip("+-").isdecimal()):
            label = _number(str(label), path, number)
        domain = row.get(DOMAIN_KEY)
        if not isinstance(domain, str | None):
            raise MediaError(f"{path}, line {number}: a domain is a name, found {_short(str(domain))}")
        yield name, label, domain or ""


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    lines = (line + "\n" for _, line in _lines(path))
    reader = csv.DictReader(lines)
    try:
        columns = reader.fieldnames or ()
        if columns and not set(columns) & set(_PATH_KEYS):
            raise MediaError(f"{path}: the header needs a column {' or '.join(_PATH_KEYS)}, found {', '.join(columns)}")
        for row in reader:
            if None in row or None in row.values():
                raise MediaError(
                    f"{path}, line {reader.line_num}: has more or fewer than the header's {len(columns)} columns"
                )
            yield reader.line_num, {key: value for key, value in row.items()}
    except csv.Error as error:
        raise MediaError(f"{path}, line {reader.line_num}: is no CSV ({error})") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise MediaError(f"{path}, line {number}: is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise MediaError(f"{path}, line {number}: a JSON object is wanted, found {_short(line)}")
        yield number, row


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _add_shard(builder: _Builder, path: str, medium: Medium, mixed: bool) -> None:
    suffixes = _SUFFIXES[medium]
    media: list[tuple[str, str, int, int]] = []  # key, name, offset, size
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                if not member.isreg() or base.startswith("."):
                    continue
                stem, _, extensions = base.partition(".")
                key, suffix = f"{folder}/{stem}", "." + extensions.rpartition(".")[2].lower()
                if suffix in suffixes:
                    media.append((key, member.name, member.offset_data, member.size))
                elif suffix in (".cls", ".json"):
                    label = _member_label(tar, member, path)
                    if label is not None:
                        labels[key] = label
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
    except tarfile.TarError as error:
        raise MediaError(f"{path}: cannot be read as an uncompressed tar ({error})") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not media and not mixed:
        raise MediaError(f"{path}: the shard holds no {medium}s")
    builder.begin_shard(path)
    for key, name, offset, size in media:
        builder.add_member(name, offset, size, labels.get(key))


def _member_label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int | None:
    file = tar.extractfile(member)
    text = file.read() if file is not None else b""
    value: object = None
    try:
        if member.name.lower().endswith(".cls"):
            value = int(text)
        else:
            row = json.loads(text)
            value = row.get("label") if isinstance(row, dict) else None
    except ValueError as error:
        raise MediaError(f"{path}/{member.name}: holds no integer label, but {_short(str(text[:80])[2:-1])}") from error
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise MediaError(f"{path}/{member.name}: the label must be an integer in [0, 2^31), found {_short(str(value))}")
    return value


def read_sample(sample: Sample, read: Callable[[str], T]) -> T:
    """`read(path)` of the sample's file; a member of a shard is put into a temporary file for it.

    Raises:
        MediaError: whatever `read` says, about the member's own name.
    """
    with sample_file(sample) as path:
        return read(path)


@contextmanager
def sample_file(sample: Sample) -> Iterator[str]:
    """The path of the sample's file; a member of a shard is put into a temporary file meanwhile.

    Raises:
        MediaError: the shard cannot be read; one raised inside is about the member's own name.
    """
    if sample.size is None:
        yield sample.path
        return
    try:
        with open(sample.path, "rb") as shard:
            shard.seek(sample.offset)
            content = shard.read(sample.size)
    except OSError as error:
        raise MediaError(f"{sample.path}: cannot be read ({error.strerror or error})") from error
    if len(content) < sample.size:
        raise MediaError(
            f"{sample.name}: {len(content)} of {sample.size} bytes are there; the shard has changed or is cut"
        )
    with tempfile.NamedTemporaryFile(suffix=Path(sample.key).suffix) as file:
        file.write(content)
        file.flush()
        try:
            yield file.name
        except MediaError as error:
            raise MediaError(str(error).replace(file.name, sample.name)) from error
