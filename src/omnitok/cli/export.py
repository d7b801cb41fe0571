"""`omnitok export`: a tokenizer or a generator as graphs that run without omnitok."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from omnitok.cli.failures import UsageError, naming_options
from omnitok.cli.options import SAID, Output, require_models
from omnitok.cli.report import Column, Report, cell
from omnitok.errors import OmnitokError
from omnitok.hub.header import GENERATORS
from omnitok.hub.names import architecture_of

if TYPE_CHECKING:
    from omnitok.export.graphs import Graph

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
    """Write a model as graphs that run without omnitok.

    Of a tokenizer, encoder and decoder: pixels in [-1, 1] to codes or latents, and back. Of a generator, what its
    sampler calls: a step of a language model with its cache, a step of a masked model, an evaluation of a denoiser.
    The graphs take any batch, of one size and length. Each file is loaded again and must give what the model gives, for
    several batches, before it gets its name; the largest error, tied codes, size and speed are told.
    `torch.export.load` reads .pt2 files, any runtime of ONNX .onnx files; omnitok.json, an extra file of the former and
    an entry in the metadata of the latter, says what the graph takes and gives.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An OmniTokenizer or a generator: a name that `omnitok models` lists, a folder, a hub id, or a released checkpoint
    of a tokenizer."""
    out: Output
    """Folder or URL for the files."""
    format: Literal["torch", "onnx"] = "torch"
    """torch: programs of `torch.export` (.pt2). onnx: ONNX models, tried in onnxruntime."""
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW|any"), SAID] = None
    """Height and width in pixels that the graphs take, in whole patches; any: those above one window, of tokenizers
    (default: 256x256; of a generator, those that it was trained at)."""
    frames: Annotated[str | None, tyro.conf.arg(metavar="INT|any"), SAID] = None
    """Frames of the videos that the graphs take, 1 plus a multiple of the temporal patch; any: from 3 latent frames on,
    of tokenizers; 1 is for images (default: 1; of a generator, as many as it was trained at)."""
    stream: bool = False
    """Of a tokenizer, graphs that take a video latent frame by latent frame: encoder_first and encoder_step,
    decoder_first and decoder_step, with what they remember as tensors."""
    seed: int = 0
    """Seed of what the graphs are tried on."""
    json: bool = False
    """Print the result as JSON on stdout; progress and messages are on stderr either way."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must lie in [0, 2^63), found {self.seed}")
        size, frames = _parse_size(self.size), _parse_frames(self.frames)
        if self.out.exists() and not self.out.is_dir():
            raise OmnitokError(f"{self.out}: is a file; --out must be a folder")
        require_models(self.model)
        from omnitok.export.files import SUFFIXES, export_graph
        from omnitok.export.onnx_file import require_onnx

        if self.format == "onnx":
            require_onnx()
        report = Report(COLUMNS, self.json, name_key="output")
        is_generator = architecture_of(self.model) in GENERATORS
        for graph in self._generator_graphs(size, frames) if is_generator else self._tokenizer_graphs(size, frames):
            done = export_graph(graph, self.out / f"{graph.name}{SUFFIXES[self.format]}")
            report.add({"input": self.model, "output": str(done.path)} | _rounded(asdict(done)))
        return report.finish(f"The graphs are in {self.out}")

    def _tokenizer_graphs(self, size: tuple[int, int] | None, frames: int | None) -> Sequence[Graph]:
        import torch

        from omnitok.cli.loading import load_named
        from omnitok.export.graphs import Shape, tokenizer_graphs
        from omnitok.export.streams import stream_graphs
        from omnitok.models.tokenizer import OmniTokenizer

        tokenizer = load_named(self.model, torch.device("cpu"), "float32").tokenizer
        if not isinstance(tokenizer, OmniTokenizer):
            raise OmnitokError(f"{self.model}: is a {type(tokenizer).__name__}; only an OmniTokenizer can be exported")
        sides = (256, 256) if self.size is None else size
        if self.stream and (sides is None or self.frames is not None):
            raise UsageError("--stream takes one height and width, and frames one by one: no --size any, no --frames")
        with naming_options():
            if self.stream:
                return stream_graphs(tokenizer, sides or (256, 256), self.seed)
            return tokenizer_graphs(tokenizer, Shape(1 if self.frames is None else frames, sides), self.seed)

    def _generator_graphs(self, size: tuple[int, int] | None, frames: int | None) -> Sequence[Graph]:
        if self.stream or "any" in (self.size, self.frames):
            raise UsageError("--stream and any are for tokenizers; a generator's graph has one size and length")
        from omnitok.export.generators import generator_graph
        from omnitok.generation.loading import load_generator

        generator = load_generator(self.model)
        settings = generator.settings
        height, width = size or (settings.height, settings.width)
        count, tokenizer = frames or settings.num_frames, generator.tokenizer
        grid = tokenizer.latent_shape(count, height, width)
        with naming_options():
            graph = generator_graph(generator.model, grid[1:] if count == 1 else grid, self.seed)
        _, p, q = tokenizer.downsample
        if size not in (None, (grid[1] * p, grid[2] * q)):
            raise UsageError(f"--size must be multiples of {p}, the tokenizer's patch, found {self.size}")
        if frames not in (None, tokenizer.num_frames(grid[0])):
            raise UsageError(
                f"--frames must fill latent frames, as {tokenizer.num_frames(grid[0])} do, found {self.frames}"
            )
        return [graph]


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None or text == "any":
        return None
    match = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if match is None:
        raise UsageError(f"--size must be HxW in pixels, such as 256x256, or any, found {text!r}")
    return int(match[1]), int(match[2])


def _parse_frames(text: str | None) -> int | None:
    if text is None or text == "any":
        return None
    if re.fullmatch("[1-9][0-9]{0,5}", text) is None:
        raise UsageError(f"--frames must be a number of frames, or any, found {text!r}")
    return int(text)


def _rounded(row: dict[str, object]) -> dict[str, object]:
    del row["path"]
    return {key: round(value, 3) if key.endswith("milliseconds") else value for key, value in row.items()}  # type: ignore[call-overload]
