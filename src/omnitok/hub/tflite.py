"""TFLite models, as far as weights need them: the quantised convolutions, in the order of the graph.

Such a file is a flatbuffer of TensorFlow Lite's public schema (tensorflow/lite/schema/schema.fbs, version 3). It may
come from anywhere: every offset and count is compared with the file before anything is read, and tensors must not share
bytes, so what is read is never larger than the file.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from omnitok.errors import CheckpointError, reading
from omnitok.files import require_regular

MAX_BYTES = 2**26
"""Of a file; MobileNetV2 has 3.6 MB."""

_MAX_TABLES = 10_000  # operators, tensors or buffers
_CONV_2D, _DEPTHWISE_CONV_2D = 3, 4  # BuiltinOperator
_TYPES = {2: "<i4", 3: "u1"}  # TensorType
_OIHW, _C1HW = (0, 3, 1, 2), (3, 0, 1, 2)  # of OHWI and of 1HWC

Item = TypeVar("Item")


@dataclass(frozen=True)
class QuantizedTensor:
    """Whole numbers that stand for `scale * (values - zero_point)`."""

    values: np.ndarray
    scale: np.float32
    zero_point: int

    def dequantize(self, dtype: np.dtype | str) -> np.ndarray:
        """The numbers it stands for, computed in `dtype`."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (self.values.astype(dtype) - np.array(self.zero_point, dtype)) * np.array(self.scale, dtype)


@dataclass(frozen=True)
class Convolution:
    """A convolution: weight (out, in, h, w), or (channels, 1, h, w) of a depthwise one, and bias (out,)."""

    is_depthwise: bool
    weight: QuantizedTensor
    bias: QuantizedTensor


def read_convolutions(path: str | os.PathLike[str]) -> list[Convolution]:
    """CONV_2D and DEPTHWISE_CONV_2D of a TFLite model, in the order in which they are computed.

    Weights are uint8, biases int32, each with one scale.

    Raises:
        MediaError: no regular file.
        CheckpointError: not such a model, or a damaged one; one sentence that begins with the path.
    """
    require_regular(path, "a TFLite model")
    with reading(path, CheckpointError, "TFLite model"):
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, and at most {MAX_BYTES} are read")
        data = Path(path).read_bytes()
        if data[4:8] != b"TFL3":
            raise ValueError("it does not have the identifier TFL3")
        return _Model(data).convolutions()


class _Table:
    """A table of a flatbuffer: fields by slot, each of which may be absent."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - self._number("<i", place)

    def scalar(self, slot: int, format: str = "<i") -> int:
        """A number; 0 where it is absent."""
        place = self._field(slot)
        return self._number(format, place) if place else 0

    def table(self, slot: int) -> "_Table":
        return _Table(self._data, self._target(self._required(slot)))

    def tables(self, slot: int) -> list["_Table"]:
        start, count = self._vector(self._required(slot), 4)
        if count > _MAX_TABLES:
            raise ValueError(f"a list of {count} tables, where at most {_MAX_TABLES} are read")
        return [_Table(self._data, self._target(start + 4 * i)) for i in range(count)]

    def array(self, slot: int, dtype: np.dtype | str) -> np.ndarray:
        """A list of numbers; empty where it is absent."""
        place, dtype = self._field(slot), np.dtype(dtype)
        start, count = self._vector(place, dtype.itemsize) if place else (0, 0)
        return np.frombuffer(self._data, dtype, count, start)

    def _number(self, format: str, place: int) -> int:
        if not 0 <= place <= len(self._data) - struct.calcsize(format):
            raise ValueError(f"offset {place} lies outside the {len(self._data)} bytes")
        number: int = struct.unpack_from(format, self._data, place)[0]
        return number

    def _field(self, slot: int) -> int:
        """Where a field is; 0 where it is absent."""
        if 6 + 2 * slot > self._number("<H", self._fields):
            return 0
        offset = self._number("<H", self._fields + 4 + 2 * slot)
        return self._place + offset if offset else 0

    def _required(self, slot: int) -> int:
        place = self._field(slot)
        if not place:
            raise ValueError(f"field {slot} of a table is missing")
        return place

    def _target(self, place: int) -> int:
        return place + self._number("<I", place)

    def _vector(self, place: int, item_size: int) -> tuple[int, int]:
        """Start and length of a list."""
        start = self._target(place)
        count = self._number("<I", start)
        if start + 4 + count * item_size > len(self._data):
            raise ValueError(f"a list of {count} at {start} does not end within the {len(self._data)} bytes")
        return start + 4, count


class _Model:
    """The root table, and its first graph."""

    def __init__(self, data: bytes) -> None:
        root = _Table(data, int.from_bytes(data[:4], "little"))
        # BuiltinOperator was a byte once; later ones are in a field of their own.
        self._kinds = [max(code.scalar(0, "<b"), code.scalar(3)) for code in root.tables(1)]
        graph = _only(root.tables(2), "graph")
        self._tensors, self._operators, self._buffers = graph.tables(0), graph.tables(3), root.tables(4)
        self._unread = len(data)

    def convolutions(self) -> list[Convolution]:
        found = []
        for operator in self._operators:
            kind = _at(self._kinds, operator.scalar(0, "<I"), "kind of operator")
            if kind not in (_CONV_2D, _DEPTHWISE_CONV_2D):
                continue
            inputs = operator.array(1, "<i4")
            if len(inputs) != 3:
                raise ValueError(f"a convolution has {len(inputs)} inputs, where 3 are wanted, with a bias")
            weight, bias = (self._tensor(int(index)) for index in inputs[1:])
            if weight.values.ndim != 4 or weight.values.dtype != np.uint8 or bias.values.dtype != np.int32:
                raise ValueError("a convolution's weight is not uint8 of four dimensions, or its bias not int32")
            is_depthwise = kind == _DEPTHWISE_CONV_2D
            values = weight.values.transpose(_C1HW if is_depthwise else _OIHW)
            found.append(Convolution(is_depthwise, QuantizedTensor(values, weight.scale, weight.zero_point), bias))
        return found

    def _tensor(self, index: int) -> QuantizedTensor:
        tensor = _at(self._tensors, index, "tensor")
        kind = tensor.scalar(1, "<b")
        if kind not in _TYPES:
            raise ValueError(f"a weight or bias has the type {kind}, where UINT8 or INT32 are wanted")
        values = _at(self._buffers, tensor.scalar(2, "<I"), "buffer").array(0, "u1")
        self._unread -= len(values)
        if self._unread < 0:
            raise ValueError("tensors share bytes")
        quantization = tensor.table(4)
        scale = _only(quantization.array(2, "<f4").tolist(), "scale of a tensor")
        zero_points = quantization.array(3, "<i8").tolist()
        zero_point = _only(zero_points, "zero point of a tensor") if zero_points else 0
        shape = tuple(map(int, tensor.array(0, "<i4")))
        if min(shape, default=1) < 0:
            raise ValueError(f"a tensor has the shape {shape}")
        return QuantizedTensor(values.view(_TYPES[kind]).reshape(shape), np.float32(scale), zero_point)


def _only(items: Sequence[Item], what: str) -> Item:
    if len(items) != 1:
        raise ValueError(f"it has {len(items)} of what there must be one of: {what}")
    return items[0]


def _at(items: list[Item], index: int, what: str) -> Item:
    if not 0 <= index < len(items):
        raise ValueError(f"there is no {what} {index} among {len(items)}")
    return items[index]
