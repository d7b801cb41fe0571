"""Reading the files of a checkpoint, which may come from anybody, without running anything that they hold.

torch's own reader unpickles the index `.metadata`, and a pickle is a program. Here the names in it stand for inert
records, from which the index is built again; it may describe tensors only, in files of the checkpoint's own folder.
"""

import io
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from omnitok.atomic import sha256_of
from omnitok.errors import CheckpointError, describe
from omnitok.inert_pickle import InertUnpickler

INDEX = ".metadata"
CHECKSUMS = "SHA256SUMS"
LARGEST_INDEX = 64 * 2**20
"""Bytes; the index of a checkpoint with 100 000 tensors has about 40 MB."""

_DATA_FILE = re.compile(r"__[0-9]+_[0-9]+\.distcp")
_METADATA = "torch.distributed.checkpoint.metadata"
_RECORDS = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}
_IGNORED = {
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
    ("builtins", "getattr"),  # of the class of an enumeration, as Python 3.11.0 to 3.11.3 pickle its members
    *((module, path) for module in ("pathlib", "pathlib._local") for path in ("PosixPath", "WindowsPath")),
}


class _Record:
    """What stands for an object of torch's; a class of its own for each name and file, so that nothing is shared."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["state"][name]


class _IndexUnpickler(InertUnpickler):
    """Knows the classes that torch writes into an index, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return type(name, (_Record,), {})
        if (module, name) in _IGNORED:
            return lambda *_: None
        if (module, name) == ("torch", "Size"):
            return lambda size=(): size
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise CheckpointError(f"its index names {describe(f'{module}.{name}')}, which no checkpoint of ours holds")


class CheckpointReader(FileSystemReader):
    """torch's reader of the data, with an index that is read without trust.

    `read_metadata` raises CheckpointError, or whatever a damaged pickle brings about (see `omnitok.errors.reading`).
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index: tensors, and where their parts are."""
        folder = Path(self.path)
        content = _read_regular(folder / INDEX, LARGEST_INDEX)
        found = _IndexUnpickler(content, len(content)).load()
        tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {
            _text(name): _tensor(entry) for name, entry in dict(found.state_dict_metadata).items()
        }
        storage = {}
        for index, info in dict(found.storage_data).items():
            offset = index.state.get("offset")
            key = MetadataIndex(_text(index.fqn), None if offset is None else _numbers(offset), index.state["index"])
            storage[key] = _place(folder, info)
        return Metadata(tensors, storage_data=storage, version=None)


def verify(folder: Path) -> None:
    """Compare the files of a checkpoint with the SHA-256 that were kept; one without them, from before, passes.

    Raises:
        CheckpointError: a file that is missing, added, or has other bytes.
    """
    if not (folder / CHECKSUMS).exists():
        return
    lines = _read_regular(folder / CHECKSUMS, LARGEST_INDEX).decode().splitlines()
    kept = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = set(os.listdir(folder)) - {CHECKSUMS}
    for name in sorted(kept.keys() | found):
        if name not in kept or name not in found:
            what = "is not among those of the checkpoint" if name in found else "is missing"
            raise CheckpointError(f"{folder / name}: the file {what}")
        if sha256_of(folder / name) != kept[name]:
            raise CheckpointError(
                f"{folder / name}: the file has changed since it was written (its SHA-256 is another); remove this "
                "checkpoint to go on from the one before"
            )


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS beside the files of a checkpoint, in the format of `sha256sum --check`."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_records(folder: Path, storage: Iterable[_StorageInfo]) -> None:
    """See that the parts of tensors unpack to about as many bytes as they have: torch writes them uncompressed.

    Raises:
        CheckpointError: one that would fill the memory.
    """
    for info in storage:
        with (folder / info.relative_path).open("rb") as file:
            file.seek(info.offset)
            with zipfile.ZipFile(io.BytesIO(file.read(info.length))) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > info.length:
            raise CheckpointError(f"{folder / info.relative_path}: a part of {info.length} bytes unpacks to {unpacked}")


def _read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most`: neither a pipe that never ends nor a device."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path.name}")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise CheckpointError(f"{path.name} has more than {most} bytes")
    return content


def _tensor(entry: Any) -> TensorStorageMetadata:
    if not isinstance(entry, _Record):
        raise CheckpointError("its index describes something that is no tensor")
    dtype = entry.properties.state[0]
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"its index gives the type {describe(dtype)}")
    chunks = [ChunkStorageMetadata(_numbers(chunk.offsets), _numbers(chunk.sizes)) for chunk in entry.chunks]
    return TensorStorageMetadata(TensorProperties(dtype), _numbers(entry.size), chunks)


def _place(folder: Path, info: Any) -> _StorageInfo:
    name, (offset, length) = _text(info.relative_path), _numbers((info.offset, info.length))
    if not _DATA_FILE.fullmatch(name) or not (folder / name).is_file():
        raise CheckpointError(f"its index names the file {describe(name)}, which is missing")
    if offset + length > (folder / name).stat().st_size:
        raise CheckpointError(f"{name} is shorter than the index says")
    return _StorageInfo(name, offset, length)


def _numbers(values: Any) -> torch.Size:
    if not isinstance(values, tuple | list) or not all(type(n) is int and 0 <= n < 2**63 for n in values):
        raise CheckpointError(f"its index gives the numbers {describe(values)}")
    return torch.Size(values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise CheckpointError(f"its index gives the name {describe(value)}")
    return value
