"""Which images and videos there are: folders, files, lists, tables and tar shards -> one index.

Accepted are, on this machine, as patterns (`*.png`) or as URLs (see `omnitok.files`),

- a folder: the images and videos in it and below it, by suffix, also in linked folders; where there are none, those in
  its `.tar` shards. A `manifest.csv` in the folder tells the sources, captions and embeddings of its
  files;
- an image or a video: itself;
- a list or table (see `omnitok.data.lists`), and a WebDataset shard (see `omnitok.data.tars`).

What a list names is not looked at until it is read: a file that is missing or damaged is skipped, counted and listed
then, and so is a line of a list that makes no sense.
"""

import os
import warnings
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from omnitok.data import captions as of_captions
from omnitok.data import embeddings as of_embeddings
from omnitok.data.image import IMAGE_SUFFIXES
from omnitok.data.lists import LISTS, SOURCE_KEYS, Entry, read_entries, table_columns
from omnitok.data.modality import MODALITIES, Modality, modality_of
from omnitok.data.samples import NO_LABEL, NO_SOURCE, Index, Samples
from omnitok.data.tars import read_members
from omnitok.data.video_reader import VIDEO_SUFFIXES
from omnitok.errors import MediaError
from omnitok.files import (
    FRAMES_SUFFIX,
    Paths,
    beside,
    expand_all,
    find_files,
    is_folder,
    localize,
    name_of,
    require_regular,
    url_of,
    walk,
)

MANIFEST = "manifest.csv"
_MODALITY_FOLDERS = frozenset({"image", "images", "video", "videos"})
_ARRAYS = frozenset({".npy"})
_PROBED_FILES = 16
_MOST_BAD_LINES = 1000
_UNTOLD = Entry("")

Labels = Literal["auto", "folders", "none"]


def list_media(paths: Paths, arrays: bool = False) -> list[Path]:
    """Files as given, and in place of each folder the images and videos in it; see `omnitok.files.find_files`.

    Args:
        arrays: whether `.npy` files in folders are among them.

    Raises:
        MediaError: a path that does not exist, or a folder without images and videos.
    """
    what = "images or videos (by suffix, such as .png, .jpg, .mp4, .webm)"
    return find_files(paths, IMAGE_SUFFIXES | VIDEO_SUFFIXES | (_ARRAYS if arrays else frozenset()), what)


def build_index(
    paths: Paths = (),
    *,
    images: Paths = (),
    videos: Paths = (),
    labels: Labels = "none",
    root: str | os.PathLike[str] | None = None,
    arrays: bool = False,
    captions: bool = False,
    embeddings: bool = False,
) -> Index:
    """The images and videos in files, folders and lists of any kind (see the top of this module), in a stable order.

    Args:
        paths: hold images and videos, told apart by their suffixes.
        images, videos: hold these alone: whatever a list names is one, and so is an animation among videos.
        labels: "folders": the classes are the folders directly below a given folder (or below its `images` and
            `videos`, where all files lie in these); "none": there are none but those that lists and tars give; "auto":
            as "folders" where only folders are given, every file lies in such a folder and there are at least two.
        root: what relative paths in lists start from; None is the folder of the list.
        arrays: whether `.npy` files in folders and tars are images and videos (as they are in lists).
        captions: whether samples have their captions: those of tables and tars, or those in a text file beside a file
            that a table gives none for (read when they are wanted: `Sample.read_captions`).
        embeddings: whether samples have embeddings: in files that tables name, else beside them, as
            `Sample.read_embedding` reads them.

    Raises:
        MediaError: something is missing, empty, of another kind, or malformed; none of some listed files looked at
            exists. Whether every file can be read shows only when it is.
    """
    groups: list[tuple[Sequence[Modality], list[str]]] = [
        (wanted, expand_all(given))
        for given, wanted in ((paths, MODALITIES), (images, MODALITIES[:1]), (videos, MODALITIES[1:]))
    ]
    every = [path for _, group in groups for path in group]
    if not every:
        raise MediaError("no path is given to look for images and videos in")
    labels = labels if labels != "auto" or all(map(is_folder, every)) else "none"
    builder = _Builder(labels, arrays, captions, embeddings)
    for wanted, group in groups:
        builder.seen = set() if len(group) > 1 else None
        for path in group:
            if is_folder(path):
                _add_folder(builder, path, wanted)
            else:
                _add_file(builder, path, wanted, root)
    index = builder.build(every)
    if not len(index):
        raise MediaError(f"{', '.join(every)}: {_nothing(MODALITIES)}")
    return index


class _Builder:
    """Collects samples of both modalities; labels are all numbers or all names."""

    def __init__(self, labels: Labels, arrays: bool, captions: bool, embeddings: bool) -> None:
        self.labels, self.arrays, self.captions, self.embeddings = labels, arrays, captions, embeddings
        self.seen: set[str] | None = None  # of those that several paths may lead to
        self.samples: dict[Modality, Samples] = {modality: Samples() for modality in MODALITIES}
        self._classes, self._sources = dict[str, int](), dict[str, int]()
        self._numbered = ""  # where the first label came as a number
        self._named = ""  # or as a name

    def is_new(self, path: str) -> bool:
        """Whether this file has not been reached before by another path that was given for the same modalities."""
        if self.seen is None:
            return True
        known = path in self.seen
        self.seen.add(path)
        return not known

    def source(self, name: str) -> int:
        """The number of a source; "" is none."""
        return self._sources.setdefault(name, len(self._sources)) if name else NO_SOURCE

    def label(self, label: int | str | None, origin: str) -> int:
        """The number of a label, of names in the order that they are met in."""
        if label is None:
            return NO_LABEL
        if isinstance(label, str):
            self._named = self._named or origin
            label = self._classes.setdefault(label, len(self._classes))
        else:
            self._numbered = self._numbered or origin
        if self._named and self._numbered:
            raise MediaError(
                f"{origin}: labels must be all numbers or all names, but {self._numbered} has numbers "
                f"and {self._named} has names"
            )
        return label

    @property
    def columns(self) -> set[str]:
        """Of tables, which tell something of a file that is asked for."""
        captions, embeddings = of_captions.KEYS if self.captions else (), [of_embeddings.KEY] if self.embeddings else ()
        return {*SOURCE_KEYS, *captions, *embeddings}

    def add_file(
        self,
        modality: Modality,
        file: str,
        key_start: int,
        label: int,
        told: Entry,
        known: Container[str] | None = None,
    ) -> None:
        """Add a file with what a table tells of it, else with what is beside it.

        Args:
            known: all files of its folder that are no images or videos; None looks for them when they are read, but not
                beside a URL.
        """

        samples, source = self.samples[modality], self.source(told.source)
        if not self.captions and not self.embeddings:
            samples.append(file, key_start, label, source)
            return

        def is_there(suffix: str) -> bool:
            return not url_of(file) if known is None else beside(file, suffix) in known

        captions: tuple[str, ...] | None = told.captions
        embedding: str | None = told.embedding
        if self.captions and not captions and is_there(of_captions.SUFFIX):
            captions = None
        if self.embeddings and not embedding and is_there(of_embeddings.SUFFIX):
            embedding = None
        samples.append(file, key_start, label, source, captions=captions, embedding=embedding)

    def add_error(self, modality: Modality, entry: Entry) -> None:
        """Add a line that makes no sense, which is counted and listed like a file that cannot be read."""
        key_start = len(os.path.join(os.path.dirname(entry.path), ""))
        self.samples[modality].append(entry.path, key_start, error=entry.error)

    def folder_label(self, name: str | None, origin: str) -> int:
        """The label of a file by its folder; below -1 where `build` decides whether folders are classes."""
        if self.labels != "auto" or name is None:
            return self.label(name, origin)
        return NO_LABEL - 1 - self._classes.setdefault(name, len(self._classes))

    def build(self, roots: Iterable[str]) -> Index:
        """The index of what was added, its classes numbered in the order of their names."""
        images, videos = self.samples.values()
        labels = [np.array(samples.labels, dtype=np.int32) for samples in (images, videos)]
        if self.labels == "auto":
            folders_are_classes = len(self._classes) > 1 and all((part < NO_LABEL).all() for part in labels)
            self._classes = self._classes if folders_are_classes else {}
            for part in labels:
                by_folder = part < NO_LABEL
                part[by_folder] = NO_LABEL - 1 - part[by_folder] if folders_are_classes else NO_LABEL
        classes = tuple(sorted(self._classes))
        number = {name: i for i, name in enumerate(classes)}
        numbers = np.array([*(number[name] for name in self._classes), NO_LABEL], dtype=np.int32)
        for samples, part in zip((images, videos), labels, strict=True):
            samples.labels = array("i", (numbers[part] if classes else part).tobytes())
        return Index(images, videos, classes, tuple(roots), self.captions, self.embeddings)


def _nothing(wanted: Sequence[Modality]) -> str:
    such = {"image": "images (by suffix, such as .jpg, .png, .webp)", "video": "videos (such as .mp4, .mkv, .webm)"}
    return f"there are no {' or '.join(such[modality] for modality in wanted)}, and no .tar shards of them"


def _add_folder(builder: _Builder, folder: str, wanted: Sequence[Modality]) -> None:
    of_modality = {"image": IMAGE_SUFFIXES, "video": VIDEO_SUFFIXES}
    suffixes = frozenset().union(*(of_modality[modality] for modality in wanted), _ARRAYS if builder.arrays else ())
    asked = {of_captions.SUFFIX: builder.captions, of_embeddings.SUFFIX: builder.embeddings}
    endings = tuple(ending for ending, is_asked in asked.items() if is_asked)
    walked = walk(folder, suffixes.union(f".{ending.rpartition('.')[2]}" for ending in endings))
    others = {file for file in walked if file.endswith(endings) or os.path.splitext(file)[1].lower() not in suffixes}
    found = {file: modality_of(file, wanted) for file in walked if file not in others}
    if missing := [modality for modality in wanted if modality not in found.values()]:
        tars = walk(folder, frozenset({".tar"}))
        if wanted == MODALITIES[1:] and not tars:
            found = dict.fromkeys(_frame_folders(folder), "video")
        if len(wanted) == 1 and not tars and not found:
            raise MediaError(f"{folder}: {_nothing(wanted)}")
        for tar in tars:
            _add_tar(builder, tar, wanted, missing)
    key_start = len(os.path.join(folder, ""))
    manifest = _manifest_in(builder, folder, wanted[0])
    level = int({file[key_start:].partition(os.sep)[0].casefold() for file in found} <= _MODALITY_FOLDERS)
    for file, modality in found.items():
        if modality is None or not builder.is_new(file):
            continue
        *folders, _ = file[key_start:].split(os.sep)
        name = folders[level] if builder.labels != "none" and len(folders) > level else None
        if builder.labels == "folders" and name is None:
            raise MediaError(f"{file}: has no label, because it lies in no folder of a class: FOLDER/CLASS/FILE")
        told = manifest.get(os.path.normpath(file), _UNTOLD)
        builder.add_file(modality, file, key_start, builder.folder_label(name, file), told, others)


def _frame_folders(folder: str) -> list[str]:
    """The folders of images below a folder: videos where only videos are asked for and there are no others."""
    parents = dict.fromkeys(map(os.path.dirname, walk(folder, IMAGE_SUFFIXES)))
    found = [parent for parent in parents if parent != folder]
    if found:
        told = f"{folder}: there are no video files; {len(found)} folders of images are its videos"
        warnings.warn(told, stacklevel=2)
    return found


def _manifest_in(builder: _Builder, folder: str, modality: Modality) -> dict[str, Entry]:
    """File -> what the manifest in a folder tells of it, if there is one that names files and what is asked for."""
    manifest = Path(folder, MANIFEST)
    if not manifest.is_file():
        return {}
    columns = set(table_columns(manifest))
    if not columns & builder.columns or not columns & {"path", "file"}:
        return {}  # some other table
    told = {}
    for entry in read_entries(manifest, builder.captions, builder.embeddings):
        if not entry.error:
            told[os.path.normpath(os.path.join(folder, entry.path))] = entry
        elif builder.captions or builder.embeddings:
            builder.add_error(modality, entry)
    return told


def _add_file(builder: _Builder, path: str, wanted: Sequence[Modality], root: str | os.PathLike[str] | None) -> None:
    name = name_of(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in LISTS:
        _add_list(builder, path, wanted, root)
    elif suffix == ".tar":
        _add_tar(builder, path, wanted, wanted)
    elif (modality := modality_of(name if url_of(path) else path, wanted)) is not None:
        if not url_of(path) and suffix != FRAMES_SUFFIX:
            require_regular(path)
        if builder.is_new(path):
            key_start = len(path) - len(os.path.basename(path))
            builder.add_file(modality, path, key_start, NO_LABEL, _UNTOLD)
    else:
        raise MediaError(
            f"{path}: {suffix or 'a file without a suffix'} is no source of {' or '.join(f'{m}s' for m in wanted)}; "
            f"accepted are a folder, {' or '.join(f'a {m}' for m in wanted).replace('a i', 'an i')}, a list (.txt, "
            ".tsv, .lst), a table (.csv, .jsonl, .ndjson) and a .tar shard"
        )


def _add_list(builder: _Builder, path: str, wanted: Sequence[Modality], root: str | os.PathLike[str] | None) -> None:
    base = os.path.join(os.path.dirname(path) if root is None else root, "")
    probed: list[str] = []
    modality = wanted[0]
    for entry in _usable(read_entries(localize(path), builder.captions, builder.embeddings)):
        if entry.error:
            builder.add_error(modality, entry)
            continue
        file = entry.path if url_of(entry.path) else os.path.join(base, entry.path)
        if len(probed) < _PROBED_FILES:
            probed.append(file)
        if len(wanted) > 1:
            modality = modality_of(file) or "image"
        if builder.is_new(file):
            key_start = len(base) if file.startswith(base) else 0
            if entry.embedding and not key_start and not url_of(entry.embedding):
                entry = replace(entry, embedding=os.path.join(base, entry.embedding))
            builder.add_file(modality, file, key_start, builder.label(entry.label, path), entry)
    if not probed:
        raise MediaError(f"{path}: the list is empty")
    if not any(url_of(file) or os.path.exists(file) for file in probed):
        raise MediaError(
            f"{path}: none of the first {len(probed)} listed files exists, such as {probed[0]}; relative paths start "
            f"from {base}, or from the root that is given"
        )


def _add_tar(builder: _Builder, path: str, wanted: Sequence[Modality], missing: Sequence[Modality]) -> None:
    """Add the members of the modalities that are `missing`; where several are wanted, there may be none."""
    if not builder.is_new(path):
        return
    is_empty = True
    wants = partial(modality_of, wanted=missing, arrays=builder.arrays)
    for entry in _usable(read_members(str(localize(path)), wants, builder.captions)):
        label, is_empty = builder.label(entry.label, path), False
        samples = builder.samples[entry.modality or "image"]
        samples.append_member(path, entry.path, entry.offset, entry.size, label, entry.error, entry.captions)
    if is_empty and len(wanted) == 1:
        raise MediaError(f"{path}: the shard holds no {wanted[0]}s")


def _usable(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries; some may have errors, but not all of them and not very many."""
    first_error, bad, good = "", 0, 0
    for entry in entries:
        first_error, bad, good = first_error or entry.error, bad + bool(entry.error), good + (not entry.error)
        if bad > _MOST_BAD_LINES:
            raise MediaError(f"{first_error}; and so are {_MOST_BAD_LINES} more")
        yield entry
    if bad and not good:
        raise MediaError(first_error)
