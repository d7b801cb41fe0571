"""Which images and videos there are: folders, files, lists, tables and tar shards -> one index.

Accepted are, on this machine, as patterns (`*.png`) or as URLs (see `omnitok.files`),

- a folder: the images and videos in it and below it, by suffix, also in linked folders; where there are none, those in
  its `.tar` shards. A `manifest.csv` in the folder tells the sources of its files;
- an image or a video: itself;
- a list or table (see `omnitok.data.lists`), and a WebDataset shard (see `omnitok.data.tars`).

What a list names is not looked at until it is read: a file that is missing or damaged is skipped, counted and listed
then, and so is a line of a list that makes no sense.
"""

import hashlib
import os
import tempfile
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, overload

import numpy as np

from omnitok.data.image import IMAGE_SUFFIXES
from omnitok.data.lists import (
    LIST_SUFFIXES,
    SOURCE_KEYS,
    TABLE_SUFFIXES,
    Entry,
    read_entries,
    require_regular,
    table_columns,
)
from omnitok.data.modality import MODALITIES, Modality, modality_of
from omnitok.data.tars import read_members
from omnitok.data.video_reader import VIDEO_SUFFIXES
from omnitok.errors import MediaError, reading
from omnitok.files import FRAMES_SUFFIX, Paths, expand_all, find_files, is_folder, localize, name_of, url_of, walk

NO_LABEL = -1
NO_SOURCE = -1
MANIFEST = "manifest.csv"
_MODALITY_FOLDERS = frozenset({"image", "images", "video", "videos"})
_PROBED_FILES = 16
_MOST_BAD_LINES = 1000
_COPIED_AT_ONCE = 2**20  # bytes

Labels = Literal["auto", "folders", "none"]
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One image or video.

    Attributes:
        path: of the file, or of the tar that holds it.
        label: class number, or -1.
        key: name within its source: the path below the folder or the list's root, `shard.tar/member` in a shard.
        offset, size: of the stretch of a tar, in bytes; `size` is None for a file of its own.
        error: why there is nothing to be read, of a line of a list that makes no sense.
    """

    path: str
    label: int = NO_LABEL
    key: str = ""
    offset: int = 0
    size: int | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """For messages: the file, and the member of a tar."""
        return self.path if self.size is None else f"{Path(self.path).parent / self.key}"


class Samples(Sequence[Sample]):
    """Samples of one modality in a few flat buffers: some 20 bytes each beside their names, shared by forked workers.

    A list of ten million objects would take gigabytes, and reference counting would copy it into every such process.

    Attributes:
        labels: int32 (n,), -1 where there is none.
        sources: int32 (n,), which source each is from, -1 where nothing tells; (0,) where nothing tells of any.
    """

    def __init__(self, table: "_Table", numbers: np.ndarray | None = None) -> None:
        self._text, self._ends = bytes(table.text), np.array(table.ends, dtype=np.int64)
        self._key_starts = np.array(table.key_starts, dtype=np.int32)
        self._tars, self._errors = tuple(table.tars), table.errors
        self._stretches = np.array(table.stretches if table.tars else (), dtype=np.int64).reshape(-1, 3)
        labels = np.array(table.labels, dtype=np.int32)
        self.labels = labels if numbers is None else numbers[labels]
        self.sources = np.array(table.sources if max(table.sources, default=-1) >= 0 else (), dtype=np.int32)

    @classmethod
    def of_paths(cls, paths: Iterable[str | os.PathLike[str]]) -> "Samples":
        """Files of their own, without labels."""
        table = _Table()
        for path in paths:
            table.append(os.fspath(path), 0, NO_LABEL)
        return cls(table)

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
        error = self._errors.get(i, "")
        if not len(self._stretches) or self._stretches[i, 0] < 0:
            return Sample(path, label, key, error=error)
        tar, offset, size = self._stretches[i].tolist()
        return Sample(self._tars[tar], label, f"{Path(self._tars[tar]).name}/{key}", offset, size, error)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Index:
    """All samples: the images, then the videos, with labels that agree.

    Attributes:
        images, videos: the samples of each modality.
        classes: names of the classes of both, by label; empty where labels are numbers or there are none.
        roots: the files and folders that it was made of.
    """

    images: Samples
    videos: Samples
    classes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()

    @classmethod
    def of_paths(cls, images: Iterable[str | os.PathLike[str]], videos: Iterable[str | os.PathLike[str]]) -> "Index":
        """Files of their own, without labels."""
        return cls(Samples.of_paths(images), Samples.of_paths(videos))

    @property
    def class_count(self) -> int:
        """Number of classes: of their names, or the highest label + 1; 0 without labels."""
        highest = max(int(self[modality].labels.max(initial=NO_LABEL)) for modality in MODALITIES)
        return len(self.classes) or highest + 1

    def __getitem__(self, modality: Modality) -> Samples:
        return self.images if modality == "image" else self.videos

    def __len__(self) -> int:
        return len(self.images) + len(self.videos)

    def locate(self, number: int) -> tuple[Modality, Sample]:
        """The sample of that number, counted over images, then videos."""
        if number < len(self.images):
            return "image", self.images[number]
        return "video", self.videos[number - len(self.images)]

    def sha256(self) -> str:
        """Of modalities, names and labels in order: tells whether two indices are of the same collection."""
        digest = hashlib.sha256()
        for modality in MODALITIES:
            for sample in self[modality]:
                digest.update(os.fsencode(f"{modality}\0{sample.key}\0{sample.label}\n"))
        return digest.hexdigest()


class _Table:
    """Buffers that grow, of one modality."""

    def __init__(self) -> None:
        self.text, self.ends, self.key_starts = bytearray(), array("q"), array("i")
        self.labels, self.sources = array("q"), array("i")
        self.folder_classes = array("i")
        self.tars: list[str] = []
        self.stretches = array("q")  # tar, offset, size in turn
        self.errors: dict[int, str] = {}

    def append(
        self,
        text: str,
        key_start: int,
        label: int,
        source: int = NO_SOURCE,
        folder_class: int = NO_LABEL,
        stretch: tuple[int, int, int] = (-1, 0, 0),
        error: str = "",
    ) -> None:
        if error:
            self.errors[len(self.ends)] = error
        self.text += os.fsencode(text)
        self.ends.append(len(self.text))
        self.key_starts.append(len(os.fsencode(text[:key_start])))
        self.labels.append(label)
        self.sources.append(source)
        self.folder_classes.append(folder_class)
        self.stretches.extend(stretch)


class _Builder:
    """Collects samples of both modalities; labels are all numbers or all names."""

    def __init__(self, labels: Labels) -> None:
        self.wants_folders = labels != "none"
        self.auto = labels == "auto"
        self.seen: dict[Sequence[Modality], set[str]] = {}
        self._tables: dict[Modality, _Table] = {modality: _Table() for modality in MODALITIES}
        self._names, self._folders, self._sources = dict[str, int](), dict[str, int](), dict[str, int]()
        self._numbered = ""  # where the first label came as a number
        self._named = ""  # or as a name

    def is_new(self, path: str, wanted: Sequence[Modality]) -> bool:
        """Whether this file has not been reached before by another path that was given for the same modalities."""
        if (seen := self.seen.get(wanted)) is None:
            return True
        known = path in seen
        seen.add(path)
        return not known

    def add_file(self, modality: Modality, path: str, key_start: int, folder_class: str | None, source: str) -> None:
        """A file found in a folder, or given; its key is `path[key_start:]`."""
        label = NO_LABEL if self.auto else self._label(folder_class, path)
        number = NO_LABEL if folder_class is None or not self.auto else _number(self._folders, folder_class)
        self._tables[modality].append(path, key_start, label, self._source(source), number)

    def add_entries(self, origin: str, entries: Iterable[tuple[Modality, int, Entry]], tar: bool = False) -> int:
        """The samples that a list or tar names, with the length of what precedes their keys; how many there are.

        Raises:
            MediaError: labels are numbers here and names there; no entry can be used, or too many cannot.
        """
        first_error, good, bad = "", 0, 0
        for table in self._tables.values() if tar else ():
            table.tars.append(origin)
        for modality, key_start, entry in entries:
            table = self._tables[modality]
            stretch = (-1, 0, 0) if entry.size is None else (len(table.tars) - 1, entry.offset, entry.size)
            table.append(
                entry.path,
                key_start,
                NO_LABEL if entry.error else self._label(entry.label, origin),
                self._source(entry.source),
                stretch=stretch,
                error=entry.error,
            )
            good, bad, first_error = good + (not entry.error), bad + bool(entry.error), first_error or entry.error
            if bad > _MOST_BAD_LINES:
                raise MediaError(f"{first_error}; and so are {_MOST_BAD_LINES} more")
        if bad and not good:
            raise MediaError(first_error)
        return good

    def _source(self, name: str) -> int:
        return _number(self._sources, name) if name else NO_SOURCE

    def _label(self, label: int | str | None, origin: str) -> int:
        if label is None:
            return NO_LABEL
        if isinstance(label, str):
            self._named = self._named or origin
            label = _number(self._names, label)
        else:
            self._numbered = self._numbered or origin
        if self._named and self._numbered:
            raise MediaError(
                f"{origin}: labels must be all numbers or all names, but {self._numbered} has numbers "
                f"and {self._named} has names"
            )
        return label

    def build(self, roots: Iterable[str]) -> Index:
        """The index of what was added."""
        names = self._names
        if len(self._folders) > 1 and not any(NO_LABEL in table.folder_classes for table in self._tables.values()):
            names = self._folders
            for table in self._tables.values():
                table.labels = table.folder_classes
        classes = tuple(sorted(names))  # numbered in the order of their names, whatever the order they were met in
        number = {name: i for i, name in enumerate(classes)}
        numbers = np.array([*(number[name] for name in names), NO_LABEL], dtype=np.int32) if classes else None
        images, videos = (Samples(self._tables[modality], numbers) for modality in MODALITIES)
        return Index(images, videos, classes, tuple(roots))


def _number(numbers: dict[str, int], name: str) -> int:
    return numbers.setdefault(name, len(numbers))


def build_index(
    paths: Paths = (),
    *,
    images: Paths = (),
    videos: Paths = (),
    labels: Labels = "none",
    root: str | os.PathLike[str] | None = None,
) -> Index:
    """The images and videos in files, folders and lists of any kind (see the top of this module), in a stable order.

    Args:
        paths: hold images and videos, told apart by their suffixes.
        images, videos: hold these alone: whatever a list names is one, and so is an animation among videos.
        labels: "folders": the classes are the folders directly below a given folder (or below its `images` and
            `videos`, where all files lie in these); "none": there are none but those that lists and tars give; "auto":
            as "folders" where only folders are given, every file lies in such a folder and there are at least two.
        root: what relative paths in lists start from; None is the folder of the list.

    Raises:
        MediaError: something is missing, empty, of another kind, or malformed; none of some listed files looked at
            exists. Whether every file can be read shows only when it is.
    """
    groups = [
        (wanted, expand_all(given))
        for given, wanted in ((paths, MODALITIES), (images, MODALITIES[:1]), (videos, MODALITIES[1:]))
    ]
    every = [path for _, group in groups for path in group]
    if not every:
        raise MediaError("no path is given to look for images and videos in")
    builder = _Builder(labels if labels != "auto" or all(map(is_folder, every)) else "none")
    builder.seen = {wanted: set() for wanted, group in groups if len(group) > 1}
    for wanted, group in groups:
        for path in group:
            if is_folder(path):
                _add_folder(builder, path, wanted)
            else:
                _add_file(builder, path, wanted, root)
    index = builder.build(every)
    if not len(index):
        raise MediaError(f"{', '.join(every)}: {_nothing(MODALITIES)}")
    return index


def _nothing(wanted: Sequence[Modality]) -> str:
    such = {"image": "images (by suffix, such as .jpg, .png, .webp)", "video": "videos (such as .mp4, .mkv, .webm)"}
    return f"there are no {' or '.join(such[modality] for modality in wanted)}, and no .tar shards of them"


def list_media(paths: Paths) -> list[Path]:
    """Files as given, and in place of each folder the images and videos in it; see `omnitok.files.find_files`.

    Raises:
        MediaError: a path that does not exist, or a folder without images and videos.
    """
    what = "images or videos (by suffix, such as .png, .jpg, .mp4, .webm)"
    return find_files(paths, IMAGE_SUFFIXES | VIDEO_SUFFIXES, what)


def _add_folder(builder: _Builder, folder: str, wanted: Sequence[Modality]) -> None:
    suffixes = {modality: IMAGE_SUFFIXES if modality == "image" else VIDEO_SUFFIXES for modality in wanted}
    files = walk(folder, frozenset().union(*suffixes.values()))
    modalities = [modality_of(file) for file in files]
    if missing := [modality for modality in wanted if modality not in modalities]:
        tars = walk(folder, frozenset({".tar"}))
        if wanted == MODALITIES[1:] and not tars:
            files = _frame_folders(folder)
            modalities = ["video"] * len(files)
        if len(wanted) == 1 and not tars and not files:
            raise MediaError(f"{folder}: {_nothing(wanted)}")
        for tar in tars:
            if builder.is_new(tar, wanted):
                _add_tar(builder, tar, missing, may_lack_them=len(wanted) > 1)
    key_start = len(os.path.join(folder, ""))
    sources = _sources_beside(folder)
    below = {file[key_start:].partition(os.sep)[0].casefold() for file in files}
    level = 1 if below <= _MODALITY_FOLDERS else 0
    for file, modality in zip(files, modalities, strict=True):
        if modality is None or not builder.is_new(file, wanted):
            continue
        folder_class = None
        if builder.wants_folders:
            *folders, _ = file[key_start:].split(os.sep)
            if len(folders) > level:
                folder_class = folders[level]
            elif not builder.auto:
                raise MediaError(f"{file}: has no label, because it lies in no folder of a class: FOLDER/CLASS/FILE")
        builder.add_file(modality, file, key_start, folder_class, sources.get(os.path.normpath(file), ""))


def _frame_folders(folder: str) -> list[str]:
    """The folders of images below a folder: videos where only videos are asked for and there are no others."""
    parents = dict.fromkeys(map(os.path.dirname, walk(folder, IMAGE_SUFFIXES)))
    found = [parent for parent in parents if parent != folder]
    if found:
        warnings.warn(
            f"{folder}: there are no video files; {len(found)} folders of images are its videos", stacklevel=2
        )
    return found


def _sources_beside(folder: str) -> dict[str, str]:
    """File -> source by the manifest in a folder, if there is one that names files and their sources."""
    manifest = Path(folder, MANIFEST)
    if not manifest.is_file():
        return {}
    columns = set(table_columns(manifest))
    if not columns & set(SOURCE_KEYS) or not columns & {"path", "file"}:
        return {}  # some other table
    return {os.path.normpath(os.path.join(folder, entry.path)): entry.source for entry in read_entries(manifest)}


def _add_file(builder: _Builder, path: str, wanted: Sequence[Modality], root: str | os.PathLike[str] | None) -> None:
    name = name_of(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in LIST_SUFFIXES | TABLE_SUFFIXES:
        _add_list(builder, path, wanted, root)
    elif suffix == ".tar":
        if builder.is_new(path, wanted):
            _add_tar(builder, path, wanted, may_lack_them=len(wanted) > 1)
    elif (modality := modality_of(name, wanted)) is not None:
        if not url_of(path) and not name.endswith(FRAMES_SUFFIX):
            require_regular(path)
        if builder.is_new(path, wanted):
            builder.add_file(modality, path, len(path) - len(os.path.basename(path)), None, "")
    else:
        raise MediaError(
            f"{path}: {suffix or 'a file without a suffix'} is no source of {' or '.join(f'{m}s' for m in wanted)}; "
            f"accepted are a folder, {' or '.join(f'a {m}' for m in wanted).replace('a i', 'an i')}, a list (.txt, "
            ".tsv, .lst), a table (.csv, .jsonl, .ndjson) and a .tar shard"
        )


def _add_list(builder: _Builder, path: str, wanted: Sequence[Modality], root: str | os.PathLike[str] | None) -> None:
    base = os.path.join(os.path.dirname(path) if root is None else root, "")
    probed: list[str] = []

    def located() -> Iterator[tuple[Modality, int, Entry]]:
        count, probe, modality = 0, 1, wanted[0]
        for entry in read_entries(localize(path)):
            if entry.error:
                yield modality, len(os.path.join(os.path.dirname(entry.path), "")), entry
                continue
            file = os.path.join(base, entry.path)
            count += 1
            if count == probe and len(probed) < _PROBED_FILES:  # the 1st, 2nd, 4th, 8th ...
                probed.append(file)
                probe *= 2
            if len(wanted) > 1:
                modality = "video" if modality_of(file) == "video" else "image"
            if builder.is_new(file, wanted):
                key_start = len(base) if file.startswith(base) else 0
                yield modality, key_start, Entry(file, entry.label, entry.source)

    builder.add_entries(path, located())
    if not probed:
        raise MediaError(f"{path}: the list is empty")
    if not any(url_of(file) or os.path.exists(file) for file in probed):
        raise MediaError(
            f"{path}: none of {len(probed)} listed files looked at exists, such as {probed[0]}; "
            f"relative paths start from {base}, or from the root that is given"
        )


def _add_tar(builder: _Builder, path: str, wanted: Sequence[Modality], may_lack_them: bool) -> None:
    members = read_members(str(localize(path)), partial(modality_of, wanted=wanted))
    found = builder.add_entries(path, ((modality, 0, entry) for modality, entry in members), tar=True)
    if not found and not may_lack_them:
        raise MediaError(f"{path}: the shard holds no {wanted[0]}s")


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
        MediaError: there is none, or the shard cannot be read; one raised inside is about the member's own name.
    """
    if sample.error:
        raise MediaError(sample.error)
    if sample.size is None:
        yield sample.path
        return
    with tempfile.NamedTemporaryFile(suffix=Path(sample.key).suffix) as file:
        with reading(sample.path, MediaError, "tar"), localize(sample.path).open("rb") as shard:
            shard.seek(sample.offset)
            while block := shard.read(min(sample.size - file.tell(), _COPIED_AT_ONCE)):
                file.write(block)
        file.flush()
        if file.tell() < sample.size:
            raise MediaError(
                f"{sample.name}: {file.tell()} of {sample.size} bytes are there; the shard has changed or is cut"
            )
        try:
            yield file.name
        except MediaError as error:
            raise MediaError(str(error).replace(file.name, sample.name)) from error
