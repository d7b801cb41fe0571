"""The samples of a collection: a table that takes little memory, and the file that each one is read from."""

import contextlib
import hashlib
import json
import marshal
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnitok.atomic import scratch_folder
from omnitok.data.captions import read_beside
from omnitok.data.embeddings import SUFFIX, read_embeddings
from omnitok.data.modality import MODALITIES, Modality
from omnitok.errors import MediaError, reading
from omnitok.files import find_beside, localize, require_regular, url_of, with_urls

NO_LABEL = -1
NO_SOURCE = -1
_BLOCK = 2**20  # bytes that are copied at a time
# Error, number of the tar, offset, size, captions and embedding, where a row lacks them.
_OF_FILES: tuple[Any, ...] = ("", -1, 0, None, (), "")


@dataclass(frozen=True)
class Sample:
    """One image or video.

    Attributes:
        path: of the file, or of the tar that holds it.
        label: class number, or -1.
        key: name within its source: the path below the folder or the list's root, `shard.tar/member` in a shard.
        offset, size: of the stretch of a tar, in bytes; `size` is None for a file of its own.
        error: why there is nothing to be read, of a line of a list that makes no sense.
        captions: that its list or shard gives; None where they are in a text file beside it, if there is one.
        embedding: the file of embeddings that its list names, from the folder on in which `key` lies; "" is none, None
            one beside it, if there is one.
    """

    path: str
    label: int = NO_LABEL
    key: str = ""
    offset: int = 0
    size: int | None = None
    error: str = ""
    captions: tuple[str, ...] | None = ()
    embedding: str | None = ""

    def read_captions(self) -> tuple[str, ...]:
        """The captions, wherever they are.

        Raises:
            MediaError: the text file beside it cannot be read or does not hold captions.
        """
        return read_beside(self.path) if self.captions is None else self.captions

    def read_embedding(self) -> np.ndarray | None:
        """The sequence of embeddings (n, d), float32, wherever it is; None where there is none.

        Raises:
            MediaError: the file cannot be read, or holds none; the message starts with the sample's name.
        """
        if self.embedding is None:
            path = find_beside(self.path, SUFFIX)
            if path is None:
                return None
            name = os.path.basename(path)
        elif self.embedding:
            name = self.embedding
            path = name if url_of(name) else os.path.join(self.path.removesuffix(self.key), name)
        else:
            return None
        where, local = f"{self.name}: its embeddings in {name}", localize(path)
        try:
            require_regular(local)
            return read_embeddings(local)
        except MediaError as error:
            raise MediaError(str(error).replace(str(local), where, 1)) from error

    @property
    def name(self) -> str:
        """For messages: the file, and the member of a tar."""
        return self.path if self.size is None else f"{Path(self.path).parent / self.key}"


class Samples:
    """Samples of one modality in a few flat buffers: some 25 bytes each beside their names, shared by forked workers.

    A list of ten million objects would take gigabytes, and reference counting would copy it into every such process.

    Attributes:
        labels, sources: int32 of each sample, -1 where there is none; sources are numbered as they are met.
    """

    def __init__(self) -> None:
        self._rows, self._ends = bytearray(), array("q")
        self.labels, self.sources = array("i"), array("i")
        self._tars: list[str] = []

    def append(
        self,
        text: str,
        key_start: int = 0,
        label: int = NO_LABEL,
        source: int = NO_SOURCE,
        error: str = "",
        captions: tuple[str, ...] | None = (),
        embedding: str | None = "",
    ) -> None:
        """Add a file; its key is `text[key_start:]`."""
        if error or captions != () or embedding != "":
            row = marshal.dumps((text, key_start, error, *_OF_FILES[1:-2], captions, embedding))
        else:
            row = marshal.dumps((text, key_start))
        self._append(row, label, source)

    def append_member(
        self, tar: str, name: str, offset: int, size: int, label: int, error: str, captions: tuple[str, ...] = ()
    ) -> None:
        """Add a member of a tar."""
        if not self._tars or self._tars[-1] != tar:
            self._tars.append(tar)
        row = (name, 0, error, len(self._tars) - 1, offset, size)
        self._append(marshal.dumps((*row, captions) if captions else row), label, NO_SOURCE)

    def _append(self, row: bytes | bytearray, label: int, source: int) -> None:
        self._rows += row
        self._ends.append(len(self._rows))
        self.labels.append(label)
        self.sources.append(source)

    def _row(self, i: int) -> bytearray:
        return self._rows[self._ends[i - 1] if i else 0 : self._ends[i]]

    def select(self, indices: Iterable[int]) -> "Samples":
        """Those of these places, in this order."""
        chosen = Samples()
        chosen._tars = self._tars
        for i in indices:
            chosen._append(self._row(i), self.labels[i], self.sources[i])
        return chosen

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> Sample:
        row: tuple[Any, ...] = marshal.loads(self._row(i))
        text, key_start, error, tar, offset, size, captions, embedding = row + _OF_FILES[len(row) - 2 :]
        if tar < 0:
            return Sample(text, self.labels[i], text[key_start:], error=error, captions=captions, embedding=embedding)
        key = f"{Path(self._tars[tar]).name}/{text}"
        return Sample(self._tars[tar], self.labels[i], key, offset, size, error, captions)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class Index:
    """All samples: the images, then the videos, with labels that agree.

    Attributes:
        images, videos: the samples of each modality.
        classes: names of the classes of both, by label; empty where labels are numbers or there are none.
        roots: the files and folders that it was made of.
        captions, embeddings: whether those of the samples were asked for.
    """

    images: Samples
    videos: Samples
    classes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    captions: bool = False
    embeddings: bool = False

    @property
    def class_count(self) -> int:
        """Number of classes: of their names, or the highest label + 1; 0 without labels."""
        return len(self.classes) or 1 + max(max(self[modality].labels, default=NO_LABEL) for modality in MODALITIES)

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
        """Of modalities, names, labels and what lists give in order: tells whether two are of the same collection."""
        digest = hashlib.sha256()
        for modality in MODALITIES:
            for sample in self[modality]:
                given = f"\0{json.dumps(sample.captions)}" if sample.captions else ""
                given += f"\0\0{sample.embedding}" if sample.embedding else ""
                digest.update(os.fsencode(f"{modality}\0{sample.key}\0{sample.label}{given}\n"))
        return digest.hexdigest()


@contextlib.contextmanager
def sample_file(sample: Sample) -> Iterator[str]:
    """The path of the sample's file; a member of a shard is put into a temporary file meanwhile.

    Raises:
        MediaError: there is none, or the shard cannot be read; one raised inside names the URL or the member, not the
            copy here.
    """
    if sample.error:
        raise MediaError(sample.error)
    with contextlib.ExitStack() as stack:
        path = sample.path if sample.size is None else stack.enter_context(_member_file(sample, sample.size))
        try:
            yield path
        except MediaError as error:
            raise MediaError(with_urls(str(error)).replace(path, sample.name)) from error


@contextlib.contextmanager
def _member_file(sample: Sample, size: int) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(suffix=Path(sample.key).suffix, dir=scratch_folder()) as file:
        with reading(sample.path, MediaError, "tar"), localize(sample.path).open("rb") as shard:
            shard.seek(sample.offset)
            while block := shard.read(min(size - file.tell(), _BLOCK)):
                file.write(block)
        file.flush()
        if file.tell() < size:
            raise MediaError(f"{sample.name}: {file.tell()} of {size} bytes are there; the shard has changed or is cut")
        yield file.name
