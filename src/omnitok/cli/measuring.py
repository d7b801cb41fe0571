"""What the ways of measuring share: their options, the table, and results.json."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

import omnitok
from omnitok.atomic import atomic_path
from omnitok.cli.failures import UsageError, naming_options
from omnitok.cli.options import SAID, CommonOptions, resolve_device
from omnitok.cli.report import Row, print_json, print_table, progress_bar, say
from omnitok.hub.names import short_names
from omnitok.memory import keep_freed_blocks

if TYPE_CHECKING:
    import torch

    from omnitok.distributed import Processes
    from omnitok.metrics import EvaluatedModel, EvaluationConfig, Protocol
    from omnitok.metrics.evaluate import Progress
    from omnitok.metrics.results import Results

OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N")]


@contextlib.contextmanager
def counting(what: str, unit: str) -> Iterator[Progress]:
    """The update of a bar; arguments that the library refuses meanwhile are errors of the command line."""
    with progress_bar(None, what, unit) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            yield advance
        except ValueError as error:
            raise UsageError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CommonOptions):
    """What every way of evaluating takes."""

    protocol: Literal["official", "clean"] = "clean"
    """How numbers are made: official as the authors' released code, clean as recommended; `omnitok evaluate protocols`
    spells both out. Numbers of different protocols cannot be compared."""
    weights_dir: Annotated[OptionalFolder, SAID] = None
    """Folder with the weights of LPIPS, Inception, I3D or MobileNetV2 (default: the one OMNITOK_WEIGHTS names)."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Images at a time."""
    resolution: Annotated[int | None, tyro.conf.arg(metavar="PIXELS"), SAID] = None
    """Resize every sample to this side (default: the protocol's; sets of samples keep their size, which must be the
    same)."""
    frames: Annotated[Count, SAID] = None
    """Frames of each video (default: the protocol's 17)."""

    def config(self, samples: int | None = None) -> EvaluationConfig:
        """The options as the library takes them.

        Raises:
            UsageError: a number out of bounds.
        """
        keep_freed_blocks()
        protocol = omnitok.metrics.PROTOCOLS[self.protocol]
        with naming_options():
            return omnitok.metrics.EvaluationConfig(
                protocol=protocol,
                resolution=self.resolution,
                frames=self.frames,
                samples=samples,
                seed=self.seed,
                batch_size=self.batch_size,
            )

    @contextlib.contextmanager
    def measuring(self, what: str) -> Iterator[tuple[Processes, Progress | None]]:
        """The processes that measure together, and the update of a bar that the first of them shows; see `counting`."""
        with omnitok.distributed.join_processes(resolve_device(self.device)) as processes:
            if not processes.is_main:
                yield processes, None
                return
            with counting(what, "sample") as advance:
                yield processes, advance


@dataclass(frozen=True, kw_only=True)
class MetricsOptions(EvaluateOptions):
    """What the ways of evaluating take that choose among metrics."""

    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAMES"), SAID] = ()
    """Which metrics, in this order, with commas or spaces between them (default: those that need no weights; of sets of
    samples fid,is,precision,recall, with --video fvd)."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Folder or URL for results.json; a folder also keeps the state of an unfinished run, which the same command
    continues."""

    def measure(self, what: str, config: EvaluationConfig, evaluate: Callable[..., Results]) -> int:
        """Show the rows that `evaluate` gives, called with the device and what all evaluations take; the exit code."""
        with self.measuring(what) as (processes, advance):
            results = evaluate(
                device=processes.device, weights_dir=self.weights_dir, state_folder=self.out, progress=advance
            )
        if processes.is_main:
            show_results(results, config.protocol, self.out, self.json)
        return 0


def parse_names(given: Sequence[str]) -> tuple[str, ...] | None:
    """The names after --metrics, with commas or spaces between them; None where there are none.

    Raises:
        UsageError: commas alone.
    """
    names = tuple(name for part in given for name in part.replace(",", " ").split())
    if given and not names:
        raise UsageError("--metrics names no metric; --help shows them")
    return names or None


def load_model(name: str, device: torch.device, ranges: str | None) -> EvaluatedModel:
    """The tokenizer of that name in float32; see `loading.load_named`."""
    from omnitok.cli.loading import load_named

    model = load_named(name, device, "float32", ranges)
    return omnitok.metrics.EvaluatedModel(model.tokenizer, model.name, model.sha256)


def show_results(results: Results, protocol: Protocol, out: Path | None, as_json: bool) -> None:
    """Warnings on stderr, the rows as a table or as JSON on stdout, and results.json in OUT."""
    for note in results.notes():
        say(f"warning: {note}")
    if as_json:
        print_json([result.row() for result in results])
    else:
        print_table(*results.table(short_names([result.model or "-" for result in results])))
        print(f"`omnitok evaluate protocols` spells out what {protocol.name} means")
    if out is not None:
        write_results([result.row() for result in results], protocol, out)


def write_results(rows: Sequence[Row], protocol: Protocol, out: Path) -> None:
    """Write results.json in OUT."""
    with atomic_path(out / "results.json") as temporary:
        content = {"results": rows, "protocol": protocol.describe()}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
