"""What the pickle of a checkpoint claims: plain data, tensors as views of storages, and nothing of what it names.

Every name in the pickle stands for a `Foreign` class that records what it is given, every tensor for a `TensorRecord`
(see `omnitok.inert_pickle`). Whether the claims hold is for the reader of the file to find out.
"""

from dataclasses import dataclass
from typing import Any, TypeGuard

import torch

from omnitok.inert_pickle import MAX_NAME, InertUnpickler, MalformedPickle, Mapping

# What a pickle may claim. The released files stay two orders of magnitude below each.
MAX_NAMES = 10_000
MAX_DIMENSIONS = 16

STORAGE_DTYPES = {
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
    "torch.UntypedStorage": torch.uint8,  # counted in bytes; the tensor says its dtype
    "torch.storage.UntypedStorage": torch.uint8,
}
_DTYPES = {str(dtype): dtype for dtype in STORAGE_DTYPES.values()}  # "torch.float32"


class Malformed(Exception):
    """Why a file cannot be read, without its name."""


@dataclass(frozen=True)
class Storage:
    """A claim: the file holds `numel` elements of `dtype` under this key."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A claim: a strided view (in elements of `dtype`) of a storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Foreign:
    """What stands for an object of a class, or the result of a function, that the pickle names; never looked up.

    Keeps the state that it is given (attributes of a Namespace) and the items of a mapping that is not a dict. Each
    name has a subclass of its own.
    """

    name = ""

    def __new__(cls, *_: object, **__: object) -> "Foreign":
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


class Unpickler(InertUnpickler):
    """One pickle of a checkpoint.

    Attributes:
        storages: what it claims the file to hold, by key; None for a type of storage that is not known.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.storages: dict[str, Storage | None] = {}
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
        """What a name stands for; an unknown one gets a class of its own."""
        full = f"{module}.{name}"
        if len(full) > MAX_NAME or len(self._known) > MAX_NAMES:
            raise TypeError("classes and functions have names, and few of them")
        if full not in self._known:
            self._known[full] = type("Foreign", (Foreign,), {"name": full})
        return self._known[full]

    def persistent_load(self, reference: object) -> object:
        """('storage', storage class, key, device, number of elements) -> a claim; old files add what is always None."""
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise TypeError("only storages can be referred to")
        _, kind, key, _, numel, *view = reference
        if not _is_foreign_class(kind) or not isinstance(key, str) or not _is_count(numel) or view not in ([], [None]):
            raise TypeError("a storage is named by class, key and length")
        dtype = STORAGE_DTYPES.get(kind.name)
        storage = None if dtype is None else Storage(key, dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise TypeError("a storage has one type and length")
        return kind() if storage is None else storage


def unpickle(content: bytes) -> tuple[object, Unpickler]:
    """The data of the first pickle in `content`, and what read it.

    Raises:
        Malformed: a pickle that is damaged or asks for what no data needs.
    """
    unpickler = Unpickler(content)
    try:
        return unpickler.load(), unpickler
    except MalformedPickle as error:
        raise Malformed(f"its pickle {error}") from error
    except Exception as error:
        raise Malformed("its pickle is corrupt or truncated") from error


def _tensor_record(
    storage: object, offset: object, size: object, stride: object, dtype: object = None
) -> TensorRecord | Foreign:
    if isinstance(storage, Foreign):
        return storage  # of a dtype we do not read: an error only if it is a weight
    if not isinstance(storage, Storage) or not _is_count(offset):
        raise TypeError("a tensor is a storage, an offset, a size and a stride")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise TypeError("a tensor has as many strides as sizes")
    if len(size) > MAX_DIMENSIONS or not all(_is_count(n) for n in size + stride):
        raise TypeError("sizes and strides are small non-negative integers")
    if dtype is None:
        return TensorRecord(storage, storage.dtype, offset, size, stride)
    if not _is_foreign_class(dtype) or dtype.name not in _DTYPES:
        return type("Foreign", (Foreign,), {"name": "tensor of another dtype"})()
    return TensorRecord(storage, _DTYPES[dtype.name], offset, size, stride)


def _is_foreign_class(value: object) -> TypeGuard[type[Foreign]]:
    return isinstance(value, type) and issubclass(value, Foreign)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def kind_of_value(value: object) -> str:
    """A short name that never walks into the value."""
    if isinstance(value, Foreign) or _is_foreign_class(value):
        return f"an object of {value.name[:80]!r}"
    return f"a value of {type(value).__name__!r}"
