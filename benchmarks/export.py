"""Exported graphs beside eager torch: bytes, largest difference, and processor seconds as a ratio to eager, in one run.

Four ways to run each graph: eager, the program of `torch.export` (.pt2), the same compiled ahead of time by
AOTInductor (where a C++ compiler is found), and ONNX in onnxruntime. Rounds alternate, so that other work on the
machine meets all of them alike. Graphs that are in the file of results already, of the same torch, stay there: they
can be measured one after another.

    python benchmarks/export.py [--models omnitok-tiny-vq ...] [--frames 1 17] [--repeats 15] [-o export.json]
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alternating import medians
from omnitok import OmniTokenizer, load_generator
from omnitok.errors import reason
from omnitok.export.files import export_graph
from omnitok.export.generators import generator_graph
from omnitok.export.graphs import Graph, Shape, Tensors, tokenizer_graphs
from omnitok.export.onnx_file import load_onnx
from omnitok.hub.names import model_info

SIZE = (128, 128)


def graphs_of(name: str, lengths: Sequence[int]) -> Iterator[tuple[str, Graph]]:
    """What is exported of a model, and what it is called here."""
    if model_info(name).kind == "tokenizer":
        tokenizer = OmniTokenizer.from_pretrained(name)
        for frames in lengths:
            for graph in tokenizer_graphs(tokenizer, Shape(frames, SIZE)):
                yield f"{name} {graph.name}, {frames} x {SIZE[0]} x {SIZE[1]}", graph
        return
    generator = load_generator(name)
    settings = generator.settings
    grid = generator.tokenizer.latent_shape(settings.num_frames, settings.height, settings.width)
    yield f"{name} {'x'.join(map(str, grid))} codes or latents", generator_graph(generator.model, grid)


def ahead_of_time(program: Path, inputs: Tensors, package: Path) -> Path:
    """The package of AOTInductor that a program of `torch.export` becomes."""
    loaded = torch.export.load(program)
    loaded.example_inputs = (inputs, {})  # our files go without
    return Path(torch._inductor.aoti_compile_and_package(loaded, package_path=str(package)))


def measure(title: str, graph: Graph, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each way to run a graph on its first example."""
    inputs = graph.examples[0]
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        folder = Path(scratch)
        files = {"torch.export": folder / "graph.pt2", "onnxruntime": folder / "graph.onnx"}
        for path in files.values():
            export_graph(graph, path)
        program = torch.export.load(files["torch.export"]).module()
        runs = {
            "eager": lambda: graph.eager(*inputs),
            "torch.export": lambda: as_tuple(program(*inputs)),
            "onnxruntime": (lambda run: lambda: run(*inputs))(load_onnx(files["onnxruntime"])),
        }
        if shutil.which("g++"):
            try:
                files["AOTInductor"] = ahead_of_time(files["torch.export"], inputs, folder / "compiled.pt2")
                compiled = torch._inductor.aoti_load_package(str(files["AOTInductor"]))
                runs["AOTInductor"] = lambda: as_tuple(compiled(*inputs))
            except Exception as error:  # its own, of any of its parts
                yield {"graph": title, "way": "AOTInductor", "error": reason(error)}
        wanted = graph.eager(*inputs)[0]
        seconds = medians(runs, repeats)
        for way, run in runs.items():
            found = run()[0]
            yield {
                "graph": title,
                "way": way,
                "bytes": files[way].stat().st_size if way in files else None,
                "differs": float((found.double() - wanted.double()).abs().max())
                if wanted.is_floating_point()
                else int((found != wanted).sum()),
                "seconds": round(seconds[way], 5),
                "to_eager": round(seconds[way] / seconds["eager"], 3),
            }


def as_tuple(result: Tensor | Tensors | list[Tensor]) -> Tensors:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["omnitok-tiny-vq", "omnitok-tiny-lm", "omnitok-tiny-dit"])
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 17], help="of what tokenizers are measured on")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        for title, graph in graphs_of(name, arguments.frames):
            for row in measure(title, graph, arguments.repeats):
                rows.append(row)
                print(json.dumps(row), flush=True)
            if arguments.out:  # each time: it takes minutes
                write_results(arguments.out, rows)


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows, after those that the file has of other graphs."""
    result: dict[str, Any] = {"torch": torch.__version__, "threads": 1, "rows": []}
    if path.exists() and (before := json.loads(path.read_text()))["torch"] == result["torch"]:
        measured = {row["graph"] for row in rows}
        result["rows"] = [row for row in before["rows"] if row["graph"] not in measured]
    result["rows"] += rows
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
