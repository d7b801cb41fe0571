"""Our file of MobileNetV2's weights, of the TFLite model that its authors published."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping

import numpy as np

from omnitok.errors import CheckpointError
from omnitok.hub.tflite import read_convolutions

# The first block has no expansion.
_BLOCKS = ["depthwise", "project"], *[["expand", "depthwise", "project"]] * 16
NAMES = ["stem", *(f"blocks.{i}.{part}" for i, parts in enumerate(_BLOCKS) for part in parts), "head", "classifier"]
"""The convolutions of MobileNetV2 1.0, in the order in which they are computed."""

_METADATA = {
    "source": "google-coral/test_data mobilenet_v2_1.0_224_quant.tflite, dequantised, batch norm folded",
    "licence": "Apache-2.0",
}


def convert_mobilenet_v2(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The content of `mobilenet_v2.safetensors`, in float16, of a quantised MobileNetV2 1.0 for TensorFlow Lite.

    There are four, as weights and biases may each be dequantised in float32 or in float64, and a few values then differ
    in their last bit once they are rounded to float16; whose hash is the published one is the one.

    Raises:
        MediaError: no regular file.
        CheckpointError: no TFLite model, or not one of MobileNetV2.
    """
    convolutions = read_convolutions(path)
    kinds = [convolution.is_depthwise for convolution in convolutions]
    if kinds != [name.endswith("depthwise") for name in NAMES]:
        raise CheckpointError(
            f"{os.fspath(path)}: is no MobileNetV2 1.0: its {len(kinds)} convolutions, {sum(kinds)} of them depthwise, "
            f"are not the {len(NAMES)}, with 17, in that order"
        )
    for of_weights, of_biases in itertools.product(("f4", "f8"), repeat=2):
        tensors = {}
        for name, convolution in zip(NAMES, convolutions, strict=True):
            tensors[f"{name}.weight"] = convolution.weight.dequantize(of_weights)
            tensors[f"{name}.bias"] = convolution.bias.dequantize(of_biases)
        yield _safetensors(tensors)


def _safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a file in float16; safetensors itself writes metadata in any order, and hashes are compared."""
    header: dict[str, object] = {"__metadata__": _METADATA}
    content = b""
    with np.errstate(over="ignore", invalid="ignore"):
        for name in sorted(tensors):
            data = tensors[name].astype("<f2").tobytes()
            offsets = [len(content), len(content) + len(data)]
            header[name] = {"dtype": "F16", "shape": tensors[name].shape, "data_offsets": offsets}
            content += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content
