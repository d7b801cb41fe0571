"""Released checkpoint files -> plain weights and flags, without running anything that is in them.

A Lightning `.ckpt` is a zip archive with one pickle (`data.pkl`) and one record of raw bytes per tensor storage. Every
name in the pickle stands for a `_Foreign` class that records what it is given, every tensor for a `_TensorRecord`
(see `omnitok.inert_pickle`); afterwards the storages of the wanted tensors alone are read, each checked against the
archive's own sizes.

The reference files and our own exports are `.safetensors`: weights under `state_dict.`, flags as JSON in the metadata.
"""

import hashlib
import json
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import torch
from safetensors import safe_open
from torch import Tensor

from omnitok.errors import CheckpointError, reading, reason
from omnitok.inert_pickle import MAX_NAME, InertUnpickler, MalformedPickle, Mapping

ACCEPTED = (
    "accepted are a released .ckpt (zip archive of torch 1.6 or newer) and a .safetensors file "
    "with flags in its metadata key 'hyper_parameters'"
)
PREFIX = "state_dict."

# What a file may claim. The released files stay two orders of magnitude below each.
MAX_RECORDS = 100_000
MAX_PICKLE_BYTES = 32 * 2**20
MAX_NAMES = 10_000
MAX_FLAGS = 10_000
MAX_FLAG_DEPTH = 16
MAX_DIMENSIONS = 16

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.serialization.MAGIC_NUMBER, pickled
_FOREIGN_BEGINNINGS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"version https://git-lfs": "a Git LFS pointer instead of the file it stands for",
    b"<": "an HTML or XML page",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    _LEGACY_TORCH: "a checkpoint of torch older than 1.6 (load and save it again with a newer torch, if you trust it)",
    b"\x80": "a bare pickle",
}

_STORAGE_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """What a released file holds, under the released names.

    state_dict: every weight of the file, discriminator and LPIPS included, on the CPU, dtypes as stored. Tensors that
        shared memory when saved share it here.
    hyper_parameters: the released flags, one flat dict of plain values; values of foreign classes are left out.
    sha256: of the whole file, in hexadecimal.
    """

    state_dict: dict[str, Tensor]
    hyper_parameters: dict[str, object]
    sha256: str


def read_released_checkpoint(path: str | os.PathLike[str], need_flags: bool = True) -> ReleasedCheckpoint:
    """Read a released `.ckpt`, or a `.safetensors` with released names; the content decides which, not the suffix.

    Nothing in the file is executed or imported. In a `.ckpt` the weights are under `state_dict` and the flags under
    `hyper_parameters` (Lightning: a dict, a Namespace, or a dict with a Namespace under `args`), or under `ema`, else
    `model`, with the flags under `args` (the diffusion transformers).

    Args:
        need_flags: False accepts a file without flags too (`hyper_parameters` is then empty), and one that holds
            nothing but weights under their names.

    Raises CheckpointError, one sentence beginning with the path, for whatever is not such a file.
    """
    path = Path(path)
    with reading(path, CheckpointError, "checkpoint"), path.open("rb") as file:
        head = file.read(64)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            if head.startswith(b"PK\x03\x04"):
                state_dict, flags = _read_zip(file, need_flags)
            elif head[8:9] == b"{":  # 8 bytes of length, then a JSON header
                state_dict, flags = _read_safetensors(path, need_flags)
            else:
                raise _Malformed(f"found {_describe(head)}; {ACCEPTED}")
        except _Malformed as error:
            raise CheckpointError(f"{path}: {error}") from error
        return ReleasedCheckpoint(state_dict, flags, digest)


class _Malformed(Exception):
    """The reason, without the file's name, which only `read_released_checkpoint` knows."""


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    for beginning, name in _FOREIGN_BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    is_text = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
    return "a text file" if is_text else "an unknown format"


# ---------------------------------------------------------------------------------------------------- safetensors


def _read_safetensors(path: Path, need_flags: bool) -> tuple[dict[str, Tensor], dict[str, object]]:
    with safe_open(path, framework="pt") as file:
        flags_text = (file.metadata() or {}).get("hyper_parameters")
        if flags_text is None:
            if not need_flags:
                return {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}, {}  # noqa: SIM118
            raise _Malformed(f"found a safetensors file without 'hyper_parameters' in its metadata; {ACCEPTED}")
        names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118 (not a dict)
        state_dict = {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    if not state_dict:
        raise _Malformed(f"found a safetensors file without weights under '{PREFIX}'")
    try:
        flags = json.loads(flags_text)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"the metadata key 'hyper_parameters' is not JSON ({reason(error)})") from error
    return state_dict, _plain_flags(flags)


# ------------------------------------------------------------------------------------------------------ zip archive


@dataclass(frozen=True, eq=False)
class _Storage:
    """A claim of the pickle: the record `data/<key>` holds `numel` elements of `dtype`."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, eq=False)
class _TensorRecord:
    """A claim of the pickle: a strided view (in elements of `dtype`) of a storage."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Foreign:
    """What stands for an object of a class, or the result of a function, that the pickle names; never looked up.

    Keeps the state that it is given (attributes of a Namespace) and the items of a mapping that is not a dict. Each
    name has a subclass of its own.
    """

    name = ""

    def __new__(cls, *_: object, **__: object) -> "_Foreign":
        made = super().__new__(cls)
        made.state, made.items = None, Mapping()
        return made

    state: object
    items: Mapping

    def __init__(self, *_: object, **__: object) -> None:
        """Arguments are not needed."""

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items[key] = value

    def extend(self, _: object) -> None:
        """Elements of a list or set that is not one are not needed."""

    append = add = extend

    def attributes(self) -> dict[object, object]:
        """State as a dict; a pair is (dict of attributes, dict of slots)."""
        states = self.state[:2] if isinstance(self.state, tuple) else (self.state,)
        merged = dict(self.items)
        for state in states:
            if isinstance(state, dict):
                merged.update(state)
        return merged


def _read_zip(file: BinaryIO, need_flags: bool) -> tuple[dict[str, Tensor], dict[str, object]]:
    with zipfile.ZipFile(file) as archive:
        root = _checked_root(archive, file)
        payload = _unpickle(archive.read(f"{root}/data.pkl"))
        weights, flags = _weights_and_flags(payload, need_flags)
        # flags first: they are cheap, and tell a foreign file before its gigabytes are read
        plain = _plain_flags(flags)
        return _read_tensors(archive, root, weights), plain


def _checked_root(archive: zipfile.ZipFile, file: BinaryIO) -> str:
    """The folder that all records lie in, after the sizes the archive claims were held against the file's own."""
    records = archive.infolist()
    if len(records) > MAX_RECORDS:
        raise _Malformed(f"claims {len(records)} records, accepted are {MAX_RECORDS}")
    length = os.fstat(file.fileno()).st_size
    claimed = 0
    for record in records:
        # torch stores records as they are; a compressed one could unpack to anything, overlapping ones too
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise _Malformed(f"record {record.filename!r} is compressed, which torch never does")
        claimed += record.file_size
    if claimed > length:
        raise _Malformed(f"the records claim {claimed} bytes in a file of {length}")
    pickles = [
        record for record in records if record.filename.endswith("/data.pkl") and record.filename.count("/") == 1
    ]
    if len(pickles) != 1:
        raise _Malformed(f"found a zip archive with {len(pickles)} records 'data.pkl' instead of one; {ACCEPTED}")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise _Malformed(f"its pickle has {pickles[0].file_size} bytes, accepted are {MAX_PICKLE_BYTES}")
    root = pickles[0].filename.removesuffix("/data.pkl")
    if f"{root}/byteorder" in archive.NameToInfo and archive.read(f"{root}/byteorder") != b"little":
        raise _Malformed("its numbers are not little-endian; save it again on an ordinary machine")
    return root


def _weights_and_flags(payload: object, need_flags: bool) -> tuple[dict[object, object], object]:
    if not isinstance(payload, dict):
        raise _Malformed(f"the checkpoint holds {_kind(payload)} instead of a dict with 'state_dict'")
    if not need_flags and payload and all(isinstance(value, _TensorRecord) for value in payload.values()):
        return payload, {}
    if "state_dict" in payload:
        weights, flags = payload["state_dict"], payload.get("hyper_parameters", payload.get("args"))
    else:
        weights, flags = payload.get("ema", payload.get("model")), payload.get("args")
    if not isinstance(weights, dict) or not weights:
        keys = ", ".join(sorted(repr(key) for key in payload if isinstance(key, str))[:10]) or "none"
        raise _Malformed(f"the checkpoint has no weights under 'state_dict' (its keys: {keys})")
    if flags is None and need_flags:
        raise _Malformed("the checkpoint has no flags under 'hyper_parameters'")
    return weights, {} if flags is None else flags


def _read_tensors(archive: zipfile.ZipFile, root: str, weights: dict[object, object]) -> dict[str, Tensor]:
    storages: dict[str, Tensor] = {}  # record name -> its bytes; weights may share one
    tensors: dict[str, Tensor] = {}
    for name, record in weights.items():
        if not isinstance(name, str) or not isinstance(record, _TensorRecord):
            raise _Malformed(f"the weight {name if isinstance(name, str) else _kind(name)!r} is {_kind(record)}")
        tensors[name] = _read_tensor(archive, root, record, storages)
    return tensors


def _read_tensor(archive: zipfile.ZipFile, root: str, record: _TensorRecord, storages: dict[str, Tensor]) -> Tensor:
    storage = record.storage
    info = archive.NameToInfo.get(f"{root}/data/{storage.key}")
    if info is None:
        raise _Malformed(f"the record 'data/{storage.key[:40]}' of a weight is missing")
    claimed = storage.numel * storage.dtype.itemsize
    if info.file_size != claimed:
        raise _Malformed(f"the record 'data/{storage.key}' has {info.file_size} bytes, the pickle claims {claimed}")
    elements = claimed // record.dtype.itemsize
    reach = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True)) + 1
    numel = math.prod(record.size)
    if numel > elements or (numel and reach > elements):
        raise _Malformed(f"a tensor of shape {record.size} does not fit its record of {elements} elements")
    if numel == 0:
        return torch.empty(record.size, dtype=record.dtype)
    if storage.key not in storages:
        # bytearray: torch warns about memory it may not write to
        storages[storage.key] = torch.frombuffer(bytearray(archive.read(info)), dtype=torch.uint8)
    whole = storages[storage.key][: elements * record.dtype.itemsize].view(record.dtype)
    return whole.as_strided(record.size, record.stride, record.offset)


# ------------------------------------------------------------------------------------------------------------ flags


def _plain_flags(flags: object) -> dict[str, object]:
    """One flat dict of plain values from a dict, a Namespace, or either of them under `args`."""
    outer = _mapping(flags)
    if outer is None:
        raise _Malformed(f"the flags are {_kind(flags)} instead of a dict or a Namespace")
    inner = _mapping(outer.get("args"))
    if inner is not None:
        outer = {key: value for key, value in outer.items() if key != "args"} | inner
    copier = _PlainCopier()
    copied = {key: copier.copy(value, 1) for key, value in outer.items() if isinstance(key, str)}
    return {key: value for key, value in copied.items() if value is not _LEFT_OUT}


def _mapping(value: object) -> dict[object, object] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, _Foreign) and value.attributes():
        return value.attributes()
    return None


_LEFT_OUT = object()


class _PlainCopier:
    """Copies None, bool, int, float, str, bytes and their lists, tuples and dicts; everything else is left out."""

    def __init__(self) -> None:
        self.count = 0  # values so far: lists that hold themselves, or one another many times over, end here

    def copy(self, value: object, depth: int) -> object:
        self.count += 1
        if self.count > MAX_FLAGS or depth > MAX_FLAG_DEPTH:
            raise _Malformed(f"more than {MAX_FLAGS} flag values, or nested deeper than {MAX_FLAG_DEPTH}")
        if isinstance(value, int) and value.bit_length() > 64:
            return _LEFT_OUT  # no flag is; Python refuses to write such numbers
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if isinstance(value, list | tuple):
            items = [self.copy(item, depth + 1) for item in value]
            kept = [item for item in items if item is not _LEFT_OUT]
            return tuple(kept) if isinstance(value, tuple) else kept
        if isinstance(value, dict):
            pairs = {key: self.copy(item, depth + 1) for key, item in value.items() if isinstance(key, str)}
            return {key: item for key, item in pairs.items() if item is not _LEFT_OUT}
        return _LEFT_OUT


# ----------------------------------------------------------------------------------------------------------- pickle


class _Unpickler(InertUnpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._known: dict[str, Any] = {
            "torch._utils._rebuild_tensor": _tensor_record,
            "torch._utils._rebuild_tensor_v2": lambda *given: _tensor_record(*given[:4]),
            "torch._utils._rebuild_tensor_v3": lambda *given: _tensor_record(*(*given[:4], given[6])),
            "torch._utils._rebuild_parameter": lambda *given: given[0],
            "torch._utils._rebuild_parameter_with_state": lambda *given: given[0],
            "torch.Size": lambda size=(): size,
            "collections.OrderedDict": self.ordered_dict,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if len(full) > MAX_NAME or len(self._known) > MAX_NAMES:
            raise TypeError("classes and functions have names, and few of them")
        if full not in self._known:
            self._known[full] = type("_Foreign", (_Foreign,), {"name": full})
        return self._known[full]

    def persistent_load(self, reference: object) -> object:
        return _storage(reference)


def _unpickle(content: bytes) -> object:
    try:
        return _Unpickler(content).load()
    except MalformedPickle as error:
        raise _Malformed(f"its pickle {error}") from error
    except Exception as error:
        raise _Malformed("its pickle is corrupt or truncated") from error


def _storage(reference: object) -> _Storage | _Foreign:
    """('storage', storage class, record name, device, number of elements) -> a claim about a record."""
    if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
        raise TypeError("only storages can be referred to")
    _, kind, key, _, numel = reference
    if not _is_foreign_class(kind) or not isinstance(key, str) or not _is_count(numel):
        raise TypeError("a storage is named by class, record and length")
    if kind.name in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        return _Storage(key, torch.uint8, numel)  # counted in bytes; the tensor says its dtype
    if kind.name not in _STORAGE_DTYPES:
        return kind()
    return _Storage(key, _STORAGE_DTYPES[kind.name], numel)


def _tensor_record(
    storage: object, offset: object, size: object, stride: object, dtype: object = None
) -> _TensorRecord | _Foreign:
    if isinstance(storage, _Foreign):
        return storage  # of a dtype we do not read: an error only if it is a weight
    if not isinstance(storage, _Storage) or not _is_count(offset):
        raise TypeError("a tensor is a storage, an offset, a size and a stride")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise TypeError("a tensor has as many strides as sizes")
    if len(size) > MAX_DIMENSIONS or not all(_is_count(n) for n in size + stride):
        raise TypeError("sizes and strides are small non-negative integers")
    if dtype is None:
        return _TensorRecord(storage, storage.dtype, offset, size, stride)
    dtypes = {str(each): each for each in _STORAGE_DTYPES.values()}  # "torch.float32"
    if not _is_foreign_class(dtype) or dtype.name not in dtypes:
        return type("_Foreign", (_Foreign,), {"name": "tensor of another dtype"})()
    return _TensorRecord(storage, dtypes[dtype.name], offset, size, stride)


def _is_foreign_class(value: object) -> TypeGuard[type[_Foreign]]:
    return isinstance(value, type) and issubclass(value, _Foreign)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _kind(value: object) -> str:
    """A short name that never walks into the value."""
    if isinstance(value, _Foreign) or _is_foreign_class(value):
        return f"an object of {value.name[:80]!r}"
    return f"a value of {type(value).__name__!r}"
