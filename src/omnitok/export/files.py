"""Graphs as files that run without omnitok: `torch.export` programs (.pt2) and ONNX models (.onnx)."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.errors import OmnitokError
from omnitok.export.graphs import Graph, Tensors
from omnitok.export.onnx_file import load_onnx, write_onnx

NOTE = "omnitok.json"
"""Name of a graph's note among the extra files of a .pt2; an .onnx has it among its metadata."""

LARGEST_ERROR = 1e-4
"""Of pixels or latents beside eager torch; codes whose distances to the features differ by less are tied."""

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


@dataclass(frozen=True)
class Exported:
    """A graph that was written, read again and compared with eager torch."""

    part: str
    path: Path
    bytes: int
    max_error: float  # of pixels or latents, or share of the largest logit; 0 for codes
    codes: int  # compared; 0 where the graph gives none
    ties: int  # codes that differ, both being equally near
    milliseconds: float  # of the first example, the fastest of three
    eager_milliseconds: float


@torch.no_grad()
def export_graph(graph: Graph, path: Path) -> Exported:
    """Write a graph to `path`, whose suffix says how: .pt2 for `torch.export`, .onnx for ONNX.

    The file is loaded again, an ONNX model into onnxruntime, and compared with eager torch on all examples before it
    gets its name.

    Raises:
        OmnitokError: what was written gives other results than the library itself.
        MissingExtraError: the packages of ONNX are not installed.
    """
    program = torch.export.export(
        graph.module,
        graph.examples[0],
        dynamic_shapes=graph.free,
        strict=False,
        # else layouts are compared with what they are for the first example, and other sizes refused
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    program.example_inputs = None  # else they are saved: of videos nearly as large as the weights
    note = json.dumps(graph.note)
    with atomic_path(path) as temporary:
        if path.suffix == ".onnx":
            write_onnx(program, temporary, graph.inputs, graph.outputs, {NOTE: note})
            written = load_onnx(temporary)
        else:
            torch.export.save(program, temporary, extra_files={NOTE: note})
            loaded = torch.export.load(io.BytesIO(temporary.read_bytes())).module()
            written = lambda *inputs: _as_tuple(loaded(*inputs))  # noqa: E731
        error, codes, ties = _compare(graph, written, path)
        times = [_fastest(run, graph.examples[0]) for run in (written, graph.eager)]
        return Exported(graph.name, path, temporary.stat().st_size, error, codes, ties, *times)


def _as_tuple(result: Tensor | Tensors) -> Tensors:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _compare(graph: Graph, written: Callable[..., Tensors], path: Path) -> tuple[float, int, int]:
    """Largest error, codes compared, ties."""
    error, codes, ties = 0.0, 0, 0
    for inputs in graph.examples:
        for name, wanted, found in zip(graph.outputs, graph.eager(*inputs), written(*inputs), strict=True):
            if found.shape != wanted.shape or found.dtype != wanted.dtype:
                given = ", ".join(str(tuple(each.shape)) for each in inputs)
                gives = f"{name} of {found.dtype} {tuple(found.shape)}"
                raise OmnitokError(f"{path}: gives {gives} for {given}, not {wanted.dtype} {tuple(wanted.shape)}")
            if wanted.is_floating_point():
                unit = max(1.0, float(wanted.abs().max())) if name in graph.relative else 1.0
                off = float((found - wanted).abs().max()) / unit
                if not off <= LARGEST_ERROR:  # also where it is NaN
                    raise OmnitokError(f"{path}: differs from the library by {off:.2g}, more than {LARGEST_ERROR:.0e}")
                error = max(error, off)
                continue
            codes += wanted.numel()
            if differs := int((found != wanted).sum()):
                if graph.gap is None or graph.gap(inputs, wanted, found) > LARGEST_ERROR:
                    raise OmnitokError(f"{path}: {differs} of {wanted.numel()} {name} are others than the library's")
                ties += differs
    return error, codes, ties


def _fastest(run: Callable[..., Tensors], inputs: Tensors) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run(*inputs)
        times.append(1000 * (time.perf_counter() - started))
    return min(times)
