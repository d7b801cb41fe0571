"""TFLite files of convolutions, written by a small builder of flatbuffers."""

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from omnitok.hub.mobilenet_v2 import NAMES
from omnitok.hub.tflite import Convolution, QuantizedTensor

CONV_2D, DEPTHWISE_CONV_2D, ADD = 3, 4, 0
TO_OHWI, TO_1HWC = (0, 2, 3, 1), (1, 2, 3, 0)


def flatbuffer(root: dict[int, Any]) -> bytes:
    """A table as a dict from slots to values: whole numbers, arrays, tables, lists of tables."""
    out = bytearray(b"\0\0\0\0TFL3")

    def refer(place: int, value: object) -> None:
        struct.pack_into("<I", out, place, put(value) - place)

    def put(value: Any) -> int:
        if isinstance(value, np.ndarray):
            out.extend(bytes(-(len(out) + 4) % 16))
            out.extend(struct.pack("<I", value.size) + value.tobytes())
            return len(out) - value.nbytes - 4
        if isinstance(value, list):
            out.extend(bytes(-len(out) % 4))
            start = len(out)
            out.extend(struct.pack("<I", len(value)) + bytes(4 * len(value)))
            for i, item in enumerate(value):
                refer(start + 4 + 4 * i, item)
            return start
        places = {slot: 4 + 4 * i for i, slot in enumerate(value)}
        slots = [places.get(slot, 0) for slot in range(max(value, default=-1) + 1)]
        out.extend(bytes(-len(out) % 4))
        start = len(out)
        out.extend(struct.pack(f"<{len(slots) + 2}H", 4 + 2 * len(slots), 4 + 4 * len(value), *slots))
        out.extend(bytes(-len(out) % 4))
        table = len(out)
        out.extend(struct.pack("<i", table - start) + bytes(4 * len(value)))
        for slot, field in value.items():
            if isinstance(field, int):
                struct.pack_into("<i", out, table + places[slot], field)
            else:
                refer(table + places[slot], field)
        return table

    struct.pack_into("<I", out, 0, put(root))
    return bytes(out)


def tflite(convolutions: Iterable[Convolution]) -> bytes:
    """A model of these convolutions, an addition after each of them, whose tensors are stored from the last to the
    first: neither their order nor their names say what they are."""
    tensors: list[dict[int, Any]] = [{0: np.array([1, 8, 8, 3], "<i4"), 1: 3, 2: 0}]  # an activation
    buffers: list[dict[int, Any]] = [{}]
    operators: list[dict[int, Any]] = []
    for convolution in reversed(list(convolutions)):
        layout = TO_1HWC if convolution.is_depthwise else TO_OHWI
        inputs = [0]
        for tensor, values in (
            (convolution.weight, convolution.weight.values.transpose(layout)),
            (convolution.bias, convolution.bias.values),
        ):
            inputs.append(len(tensors))
            quantization = {2: np.array([tensor.scale], "<f4"), 3: np.array([tensor.zero_point], "<i8")}
            kind = 3 if values.dtype == np.uint8 else 2
            shape = np.array(values.shape, "<i4")
            tensors.append({0: shape, 1: kind, 2: len(buffers), 4: quantization})
            buffers.append({0: np.frombuffer(values.tobytes(), "u1")})
        operators.insert(0, {0: 0, 1: np.array([0, 0], "<i4"), 2: np.array([0], "<i4")})
        kind = 2 if convolution.is_depthwise else 1
        operators.insert(0, {0: kind, 1: np.array(inputs, "<i4"), 2: np.array([0], "<i4")})
    kinds = [{0: code, 2: 1} for code in (ADD, CONV_2D, DEPTHWISE_CONV_2D)]
    graph = {0: tensors, 1: np.array([0], "<i4"), 2: np.array([0], "<i4"), 3: operators}
    return flatbuffer({0: 3, 1: kinds, 2: [graph], 4: buffers})


def random_convolution(rng: np.random.Generator, *shape: int, is_depthwise: bool = False) -> Convolution:
    """Of a weight of this shape (out, in, h, w)."""
    weight = QuantizedTensor(rng.integers(0, 256, shape, np.uint8), np.float32(rng.uniform(1e-3, 1e-1)), 117)
    bias = QuantizedTensor(rng.integers(-(2**20), 2**20, shape[:1], np.int32), np.float32(1e-5), 0)
    return Convolution(is_depthwise, weight, bias)


def small_mobilenet_v2() -> list[Convolution]:
    """MobileNetV2's convolutions in their order, of two channels each."""
    rng = np.random.default_rng(0)
    return [
        random_convolution(
            rng, 2, 1 if name.endswith("depthwise") else 2, 1, 3, is_depthwise=name.endswith("depthwise")
        )
        for name in NAMES
    ]


def quantize(values: np.ndarray) -> QuantizedTensor:
    """What was dequantised to these float16 values, whose whole numbers had a range of 1 to 255."""
    exact = values.astype(np.float64)
    numbers = np.round(exact / ((exact.max() - exact.min()) / 254))
    known = numbers != 0
    size, values16 = np.abs(numbers[known]), np.abs(values[known])
    above, below = np.nextafter(values16, np.float16(np.inf)), np.nextafter(values16, np.float16(0))
    least = ((values16.astype(np.float64) + below) / 2 / size).max()
    most = ((values16.astype(np.float64) + above) / 2 / size).min()
    zero_point = int(1 - numbers.min())
    return QuantizedTensor((numbers + zero_point).astype(np.uint8), np.float32((least + most) / 2), zero_point)
