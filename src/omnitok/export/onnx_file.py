"""ONNX models: how a program of `torch.export` becomes one, and how onnxruntime runs it."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok.errors import MissingExtraError, OmnitokError

LARGEST_WEIGHTS = 2**31 - 2**24
"""Bytes of weights that an .onnx can hold: protobuf ends at 2 GiB, and the graph needs some of it."""

OPSET = 18


def require_onnx() -> None:
    """Raise MissingExtraError where one of the packages that write and run ONNX models is not installed."""
    try:
        import onnx  # noqa: F401 (torch.onnx uses it, and onnxscript)
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of(error.name or "onnx", "onnx onnxscript onnxruntime") from error


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    notes: Mapping[str, str],
) -> None:
    """Write a program as an ONNX model in one file, with names for its tensors and `notes` among its metadata.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        OmnitokError: more weights than a file can hold.
    """
    require_onnx()
    weights = sum(x.numel() * x.element_size() for x in program.state_dict.values())
    if weights > LARGEST_WEIGHTS:
        raise OmnitokError(f"{path}: an ONNX file holds 2 GiB, and the weights have {weights / 2**30:.1f}; use .pt2")
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # or it says four times that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.onnx.export(
                program, input_names=inputs, output_names=outputs, opset_version=OPSET, dynamo=True, verbose=False
            )
    finally:
        registration.setLevel(level)
    assert model is not None
    model.model.metadata_props.update(notes)
    model.save(path, external_data=False)


def load_onnx(path: Path) -> Callable[..., tuple[Tensor, ...]]:
    """A function that runs the model in onnxruntime on the CPU, with as many threads as torch has now.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # else its threads take torch's cores
    session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: each.contiguous().numpy() for name, each in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(each) for each in session.run(None, feeds))

    return run
