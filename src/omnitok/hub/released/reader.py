"""Released checkpoint files -> plain weights and flags, without running anything that is in them.

A Lightning `.ckpt` is a zip archive with one pickle (`data.pkl`) and one record of raw bytes per tensor storage. A
pickle is a program: it may name any function and have it called. `torch.load(weights_only=True)` is no help here. It
refuses every class that is not on its list, so the released files (flags in an `argparse.Namespace`, callbacks of
whatever trainer wrote them) open only after each class was imported and put on the list, and from then on the class's
own code does run; it loads the optimizers' states, two thirds of the file, only to throw them away; and what it accepts
depends on the version of torch. So this module has its own interpreter of the pickle's instructions. It imports nothing
and calls nothing: a name becomes a `_Foreign` object that records what was given to it, a tensor becomes a
`_TensorRecord`, and afterwards the storages of the wanted tensors alone are read, each checked against the archive's
own sizes.

The reference files and our own exports are `.safetensors`: weights under `state_dict.`, flags as JSON in the metadata.
"""

import hashlib
import json
import math
import os
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnitok.errors import CheckpointError, reason

ACCEPTED = (
    "accepted are a released .ckpt (zip archive of torch 1.6 or newer) and a .safetensors file "
    "with flags in its metadata key 'hyper_parameters'"
)
PREFIX = "state_dict."

# What a file may claim. The released files stay two orders of magnitude below each.
MAX_RECORDS = 100_000
MAX_PICKLE_BYTES = 32 * 2**20
MAX_INSTRUCTIONS = 2_000_000
MAX_FLAGS = 10_000
MAX_FLAG_DEPTH = 16
MAX_DIMENSIONS = 16
MAX_NAME = 1_000

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.serialization.MAGIC_NUMBER, pickled
_FOREIGN_BEGINNINGS = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"GIF8": "a GIF picture",
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


def read_released_checkpoint(path: str | os.PathLike[str]) -> ReleasedCheckpoint:
    """Read a released `.ckpt`, or a `.safetensors` with released names; the content decides which, not the suffix.

    Nothing in the file is executed or imported. In a `.ckpt` the weights are under `state_dict` and the flags under
    `hyper_parameters` (Lightning: a dict, a Namespace, or a dict with a Namespace under `args`), or under `ema`, else
    `model`, with the flags under `args` (the diffusion transformers).

    Raises CheckpointError, one sentence beginning with the path, for whatever is not such a file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
            digest = _sha256(file)
            if head.startswith(b"PK\x03\x04"):
                state_dict, flags = _read_zip(file)
            elif head[8:9] == b"{":  # 8 bytes of length, then a JSON header
                state_dict, flags = _read_safetensors(path)
            else:
                raise _Malformed(f"found {_describe(head)}; {ACCEPTED}")
    except _Malformed as error:
        raise CheckpointError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {ACCEPTED}") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: found a folder; {ACCEPTED}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); {ACCEPTED}") from error
    return ReleasedCheckpoint(state_dict, flags, digest)


class _Malformed(Exception):
    """The reason, without the file's name, which only `read_released_checkpoint` knows."""


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    for beginning, name in _FOREIGN_BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    is_text = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
    return "a text file" if is_text else "an unknown format"


# ---------------------------------------------------------------------------------------------------- safetensors


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    try:
        with safe_open(path, framework="pt") as file:
            flags_text = (file.metadata() or {}).get("hyper_parameters")
            if flags_text is None:
                raise _Malformed(f"found a safetensors file without 'hyper_parameters' in its metadata; {ACCEPTED}")
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118 (not a dict)
            state_dict = {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise _Malformed(f"a corrupt or truncated safetensors file ({reason(error)})") from error
    if not state_dict:
        raise _Malformed(f"found a safetensors file without weights under '{PREFIX}'")
    try:
        flags = json.loads(flags_text)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"the metadata key 'hyper_parameters' is not JSON ({error})") from error
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


@dataclass(eq=False)
class _Foreign:
    """A class or function the pickle names (`module.name`), or what a call of it would give; never looked up.

    Keeps the state that BUILD hands over (attributes of a Namespace) and the items of a mapping that is not a dict.
    """

    name: str
    state: object = None
    items: dict[object, object] = field(default_factory=dict)

    def attributes(self) -> dict[object, object]:
        """State as a dict; a pair is (dict of attributes, dict of slots)."""
        states = self.state[:2] if isinstance(self.state, tuple) else (self.state,)
        merged = dict(self.items)
        for state in states:
            if isinstance(state, dict):
                merged.update(state)
        return merged


def _read_zip(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, object]]:
    try:
        with zipfile.ZipFile(file) as archive:
            root = _checked_root(archive, file)
            payload = _Interpreter(archive.read(f"{root}/data.pkl")).run()
            weights, flags = _weights_and_flags(payload)
            # flags first: they are cheap, and tell a foreign file before its gigabytes are read
            return _read_tensors(archive, root, weights), _plain_flags(flags)
    except (zipfile.BadZipFile, EOFError) as error:
        raise _Malformed(f"a corrupt or truncated checkpoint ({reason(error)})") from error
    except (
        NotImplementedError,
        RuntimeError,
        ValueError,
        OverflowError,
    ) as error:  # zipfile: exotic or senseless headers
        raise _Malformed(f"not a checkpoint that torch wrote ({error})") from error


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


def _weights_and_flags(payload: object) -> tuple[dict[object, object], object]:
    if not isinstance(payload, dict):
        raise _Malformed(f"the checkpoint holds {_kind(payload)} instead of a dict with 'state_dict'")
    if "state_dict" in payload:
        weights, flags = payload["state_dict"], payload.get("hyper_parameters", payload.get("args"))
    else:
        weights, flags = payload.get("ema", payload.get("model")), payload.get("args")
    if not isinstance(weights, dict) or not weights:
        keys = ", ".join(sorted(repr(key) for key in payload if isinstance(key, str))[:10]) or "none"
        raise _Malformed(f"the checkpoint has no weights under 'state_dict' (its keys: {keys})")
    if flags is None:
        raise _Malformed("the checkpoint has no flags under 'hyper_parameters'")
    return weights, flags


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


# ----------------------------------------------------------------------------------------------- the pickle's program


# fmt: off
_PUSH_ARGUMENT = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})
# fmt: on


_GIVES_ITS_ARGUMENT = ("torch.Size", "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")


class _Interpreter:
    """Runs a pickle's instructions on inert data. Values are plain Python values, `_Foreign` and `_TensorRecord`.

    Sets are kept as lists and frozen sets as tuples, so that nothing the file made up is hashed (see `_checked_key`).
    """

    def __init__(self, program: bytes) -> None:
        self.program = program
        self.stack: list[object] = []
        self.below: list[list[object]] = []  # stacks under the open marks
        self.memo: dict[int, object] = {}
        self.copied = 0
        self.instructions: dict[str, Callable[[], None]] = {
            "MARK": self.mark,
            "POP": self.pop_value,
            "POP_MARK": self.pop_value_mark,
            "DUP": lambda: self.push(self.stack[-1]),
            "NONE": lambda: self.push(None),
            "NEWTRUE": lambda: self.push(True),
            "NEWFALSE": lambda: self.push(False),
            "EMPTY_TUPLE": lambda: self.push(()),
            "EMPTY_LIST": lambda: self.push([]),
            "EMPTY_SET": lambda: self.push([]),
            "EMPTY_DICT": lambda: self.push({}),
            "TUPLE": lambda: self.push(tuple(self.pop_mark())),
            "TUPLE1": lambda: self.push(tuple(self.pop(1))),
            "TUPLE2": lambda: self.push(tuple(self.pop(2))),
            "TUPLE3": lambda: self.push(tuple(self.pop(3))),
            "FROZENSET": lambda: self.push(tuple(self.pop_mark())),
            "LIST": lambda: self.push(self.pop_mark()),
            "DICT": self.make_dict,
            "APPEND": lambda: self.extend(self.pop(1)),
            "APPENDS": lambda: self.extend(self.pop_mark()),
            "ADDITEMS": lambda: self.extend(self.pop_mark()),
            "SETITEM": lambda: self.set_items(self.pop(2)),
            "SETITEMS": lambda: self.set_items(self.pop_mark()),
            "MEMOIZE": lambda: self.memo.__setitem__(len(self.memo), self.stack[-1]),
            "STACK_GLOBAL": lambda: self.push(self.foreign(*self.pop(2))),
            "REDUCE": lambda: self.call(*self.pop(2)),
            "NEWOBJ": lambda: self.call(*self.pop(2)),
            "NEWOBJ_EX": lambda: self.call(*self.pop(3)[:2]),
            "OBJ": lambda: self.call(*self.first_and_rest(self.pop_mark())),
            "BUILD": self.build,
            "BINPERSID": lambda: self.push(_storage(*self.pop(1))),
        }

    def run(self) -> object:
        """The value the pickle would give, inert."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # pickletools' own, about escapes in damaged strings
                for count, (opcode, argument, _) in enumerate(pickletools.genops(self.program)):
                    if count > MAX_INSTRUCTIONS:
                        raise _Malformed(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")
                    self.step(opcode.name, argument)
            (value,) = self.stack
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _Malformed("its pickle is corrupt or truncated") from error
        return value

    def step(self, name: str, argument: object) -> None:
        if name in _PUSH_ARGUMENT:
            self.push(argument)
        elif name in self.instructions:
            self.instructions[name]()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.push(self.memo[argument])  # type: ignore[index]  # genops gives an int
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]  # type: ignore[index]
        elif name in ("GLOBAL", "INST"):
            foreign = self.foreign(*str(argument).split(" ", 1))
            if name == "GLOBAL":
                self.push(foreign)
            else:
                self.call(foreign, tuple(self.pop_mark()))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Malformed(f"its pickle has the instruction {name}, which torch never writes")

    def push(self, value: object) -> None:
        self.stack.append(value)  # a method, so that the stack is looked up after `pop_mark` has changed it

    def pop(self, count: int) -> list[object]:
        if len(self.stack) < count:
            raise IndexError("the pickle's stack is empty")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[object]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def pop_value(self) -> None:
        if self.stack:
            self.stack.pop()
        else:  # the mark itself
            self.stack = self.below.pop()

    def pop_value_mark(self) -> None:
        self.pop_mark()

    @staticmethod
    def foreign(module: object, name: object) -> _Foreign:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
            raise TypeError("classes and functions have names")
        return _Foreign(f"{module}.{name}")

    def ordered_dict(self, pairs: object = ()) -> dict[object, object]:
        if not isinstance(pairs, list | tuple):
            raise TypeError("an OrderedDict is made from pairs")
        self.copied += len(pairs)  # one list can be copied by every instruction
        if self.copied > MAX_INSTRUCTIONS:
            raise _Malformed(f"its pickle copies more than {MAX_INSTRUCTIONS} values")
        return {_checked_key(key): value for key, value in pairs}

    @staticmethod
    def first_and_rest(values: list[object]) -> tuple[object, tuple[object, ...]]:
        return values[0], tuple(values[1:])

    def make_dict(self) -> None:
        values = self.pop_mark()
        self.push({})
        self.set_items(values)

    def extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, _Foreign):
            raise TypeError("only lists can be extended")

    def set_items(self, values: list[object]) -> None:
        target = self.stack[-1]
        mapping = target.items if isinstance(target, _Foreign) else target
        if not isinstance(mapping, dict):
            raise TypeError("only dicts have items")
        for key, value in zip(values[::2], values[1::2], strict=True):
            mapping[_checked_key(key)] = value

    def build(self) -> None:
        (state,) = self.pop(1)
        target = self.stack[-1]
        if isinstance(target, _Foreign):
            target.state = state  # of anything else (an OrderedDict's `_metadata`) the state is not needed

    def call(self, function: object, arguments: object) -> None:
        """Push what a call gives: a record for the few functions that torch writes, else an inert object."""
        if not isinstance(function, _Foreign) or not isinstance(arguments, tuple):
            raise TypeError("only named functions can be called, with a tuple")
        made: object
        if function.name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            made = _tensor_record(*arguments[:4])
        elif function.name == "torch._utils._rebuild_tensor_v3":
            made = _tensor_record(*[*arguments[:4], arguments[6]])
        elif function.name in _GIVES_ITS_ARGUMENT:
            made = arguments[0]
        elif function.name == "collections.OrderedDict":
            made = self.ordered_dict(*arguments)
        else:
            made = _Foreign(function.name)
        self.push(made)


def _checked_key(key: object) -> object:
    """Hashing a tuple hashes what it holds, so a few nested ones could take forever, or overrun the C stack."""
    if key is None or isinstance(key, bool | int | float | str | bytes | _Foreign | _TensorRecord | _Storage):
        return key
    if (
        isinstance(key, tuple)
        and len(key) <= MAX_DIMENSIONS
        and all(isinstance(item, bool | int | float | str | bytes) for item in key)
    ):
        return key
    raise _Malformed(f"its pickle has a dict with {_kind(key)} as a key")


def _storage(reference: object) -> _Storage | _Foreign:
    """('storage', storage class, record name, device, number of elements) -> a claim about a record."""
    if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
        raise TypeError("only storages can be referred to")
    _, kind, key, _, numel = reference
    if not isinstance(kind, _Foreign) or not isinstance(key, str) or not _is_count(numel):
        raise TypeError("a storage is named by class, record and length")
    if kind.name in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        return _Storage(key, torch.uint8, numel)  # counted in bytes; the tensor says its dtype
    if kind.name not in _STORAGE_DTYPES:
        return _Foreign(kind.name)
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
    if not isinstance(dtype, _Foreign) or dtype.name not in dtypes:
        return _Foreign("tensor of another dtype")
    return _TensorRecord(storage, dtypes[dtype.name], offset, size, stride)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _kind(value: object) -> str:
    """A short name that never walks into the value."""
    return (
        f"an object of {value.name[:80]!r}" if isinstance(value, _Foreign) else f"a value of {type(value).__name__!r}"
    )
