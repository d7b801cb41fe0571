"""`omnitok export`: encoder and decoder of a tokenizer as graphs that run without omnitok."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from omnitok.cli.failures import UsageError, naming_options
from omnitok.cli.options import Output, require_models
from omnitok.cli.report import Column, Report, cell
from omnitok.errors import OmnitokError

COLUMNS = (
    Column("MB", lambda row: f"{row['bytes'] / 1e6:.1f}"),
    Column("largest error", lambda row: f"{row['max_error']:.1e}"),
    Column("codes", cell("codes")),
    Column("ties", cell("ties")),
    Column("ms", cell("milliseconds", 1)),
    Column("eager ms", cell("eager_milliseconds", 1)),
)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write encoder and decoder of a tokenizer: pixels in [-1, 1] to codes or latents, and back.

    The graphs take any number of images or videos of one size and length. Each file is loaded again and must give what
    the tokenizer gives, for several batches, before it gets its name; the largest error, tied codes, size and speed are
    told. `torch.export.load` reads .pt2 files, any runtime of ONNX .onnx files; omnitok.json, an extra file of the
    former and an entry in the metadata of the latter, says what the graph takes and gives.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An OmniTokenizer: a name that `omnitok models` lists, a folder, or a released checkpoint."""
    out: Output
    """Folder or URL for the two files."""
    format: Literal["torch", "onnx"] = "torch"
    """torch: programs of `torch.export` (.pt2). onnx: ONNX models, tried in onnxruntime."""
    size: Annotated[str, tyro.conf.arg(metavar="HxW|any")] = "256x256"
    """Height and width that the graphs take, in whole patches; any: images of any size above one window."""
    frames: int = 1
    """Frames of the videos that the graphs take, 1 plus a multiple of the temporal patch; 1 is for images."""
    seed: int = 0
    """Seed of the pixels that the graphs are tried on."""
    json: bool = False
    """Print the result as JSON on stdout; progress and messages are on stderr either way."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must lie in [0, 2^63), found {self.seed}")
        size = _parse_size(self.size)
        if self.out.exists() and not self.out.is_dir():
            raise OmnitokError(f"{self.out}: is a file; --out must be a folder")
        require_models(self.model)
        import torch

        from omnitok.cli.loading import load_named
        from omnitok.export.files import SUFFIXES, export_graph
        from omnitok.export.graphs import Shape, tokenizer_graphs
        from omnitok.export.onnx_file import require_onnx
        from omnitok.models.tokenizer import OmniTokenizer

        if self.format == "onnx":
            require_onnx()
        tokenizer = load_named(self.model, torch.device("cpu"), "float32").tokenizer
        if not isinstance(tokenizer, OmniTokenizer):
            raise OmnitokError(f"{self.model}: is a {type(tokenizer).__name__}; only an OmniTokenizer can be exported")
        shape = Shape(self.frames, size)
        with naming_options():
            shape.check(tokenizer)
        report = Report(COLUMNS, self.json, name_key="output")
        for graph in tokenizer_graphs(tokenizer, shape, self.seed):
            done = export_graph(graph, self.out / f"{graph.name}{SUFFIXES[self.format]}")
            report.add({"input": self.model, "output": str(done.path)} | _rounded(asdict(done)))
        return report.finish(f"The graphs are in {self.out}")


def _parse_size(text: str) -> tuple[int, int] | None:
    if text == "any":
        return None
    match = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if match is None:
        raise UsageError(f"--size must be HxW in pixels, such as 256x256, or any, found {text!r}")
    return int(match[1]), int(match[2])


def _rounded(row: dict[str, object]) -> dict[str, object]:
    del row["path"]
    return {key: round(value, 3) if key.endswith("milliseconds") else value for key, value in row.items()}  # type: ignore[call-overload]
