"""Graphs as files: `torch.export` programs (.pt2), which run without omnitok."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from omnitok.atomic import atomic_path
from omnitok.errors import OmnitokError
from omnitok.export.graphs import DecoderGraph, EncoderGraph, Shape
from omnitok.models.bottlenecks.base import Quantizer
from omnitok.models.tokenizer import OmniTokenizer

METADATA = "omnitok.json"
"""Name of the metadata among the extra files of a .pt2."""

LARGEST_ERROR = 1e-4
"""Of pixels or latents beside eager torch; codes whose distances to the features differ by less are tied."""

BATCHES = (2, 1, 3)
"""Samples that a graph is tried on: the first are traced."""

PARTS = ("encoder", "decoder")


@dataclass(frozen=True)
class Exported:
    """A graph that was written, read again and compared with eager torch."""

    part: str
    path: Path
    bytes: int
    max_error: float  # of pixels or latents; 0 for codes
    codes: int  # compared; 0 where the graph gives none
    ties: int  # codes that differ, both being equally near
    milliseconds: float  # of the first example, the fastest of three
    eager_milliseconds: float


def export_part(tokenizer: OmniTokenizer, part: str, shape: Shape, path: Path, seed: int = 0) -> Exported:
    """Write the "encoder" or "decoder" of a float32 tokenizer in `eval` mode on the CPU to `path`, a .pt2.

    The file is loaded again and compared with the tokenizer on several batches before it gets its name.

    Raises:
        ValueError: a shape that is not whole patches.
        OmnitokError: what was written gives other results than the tokenizer.
    """
    shape.check(tokenizer)
    examples = [shape.pixels(tokenizer, batch, seed + batch) for batch in BATCHES]
    graph: nn.Module = EncoderGraph(tokenizer) if part == "encoder" else DecoderGraph(tokenizer)
    with torch.no_grad():
        if part == "decoder":
            examples = [tokenizer.encode(pixels, check_range=False).tokens.contiguous() for pixels in examples]
        axes = {0: torch.export.Dim.DYNAMIC}
        program = torch.export.export(graph, (examples[0],), dynamic_shapes=(axes,), strict=False)
        program.example_inputs = None  # else they are saved: of videos nearly as large as the weights
        with atomic_path(path) as temporary:
            note = json.dumps(shape.metadata(tokenizer, part))
            torch.export.save(program, temporary, extra_files={METADATA: note})
            written = torch.export.load(io.BytesIO(temporary.read_bytes())).module()
            measured = _compare(tokenizer, part, written, examples, path)
            return Exported(part, path, temporary.stat().st_size, *measured)


def _compare(
    tokenizer: OmniTokenizer, part: str, written: Callable[[Tensor], Tensor], examples: list[Tensor], path: Path
) -> tuple[float, int, int, float, float]:
    """Largest error, codes compared, ties, milliseconds of the graph and of eager torch."""

    def eager(x: Tensor) -> Tensor:
        if part == "encoder":
            return tokenizer.encode(x, check_range=False).tokens
        return tokenizer.decode_codes(x) if tokenizer.is_discrete else tokenizer.decode(x)

    error, codes, ties = 0.0, 0, 0
    for example in examples:
        wanted, found = eager(example), written(example)
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            gives = f"{found.dtype} {tuple(found.shape)}"
            raise OmnitokError(f"{path}: gives {gives} for {tuple(example.shape)}, not {tuple(wanted.shape)}")
        if wanted.is_floating_point():
            error = max(error, float((found - wanted).abs().max()))
            continue
        codes += wanted.numel()
        if differs := int((found != wanted).sum()):
            if _gap(tokenizer, example, wanted, found) > LARGEST_ERROR:
                raise OmnitokError(f"{path}: {differs} of {wanted.numel()} codes are others than the tokenizer's")
            ties += differs
    if not error <= LARGEST_ERROR:
        raise OmnitokError(f"{path}: differs from the tokenizer by {error:.2g}, more than {LARGEST_ERROR:.0e}")
    return error, codes, ties, _fastest(written, examples[0]), _fastest(eager, examples[0])


def _gap(tokenizer: OmniTokenizer, pixels: Tensor, wanted: Tensor, found: Tensor) -> float:
    """How much farther from the features the codes that were found are than those that were wanted, at most."""
    bottleneck = tokenizer.bottleneck
    assert isinstance(bottleneck, Quantizer)
    video = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
    z = bottleneck.project(tokenizer.encoder(video)).reshape(-1, tokenizer.latent_channels)
    far, near = ((bottleneck.lookup(each.reshape(-1)) - z).norm(dim=-1) for each in (found, wanted))
    return float((far - near).max())


def _fastest(run: Callable[[Tensor], Tensor], example: Tensor) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run(example)
        times.append(1000 * (time.perf_counter() - started))
    return min(times)
