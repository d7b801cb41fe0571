"""The engine's loop over steps: data, checkpoints, logs, limits. What a step does is the learner's business."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from omnitok.data.loader import Failure, FailureCounter
from omnitok.distributed import Processes
from omnitok.training.checkpoint import Checkpoints, flatten_state
from omnitok.training.logbook import Logbook, Row
from omnitok.training.step import StepReport
from omnitok.training.stopping import Limits, StopWatch
from omnitok.training.throughput import Throughput


class StepBatch(Protocol):
    """What the loop must know of one process's share of a step."""

    @property
    def step(self) -> int:
        """Counted from 0."""

    @property
    def size(self) -> int:
        """Samples in it."""

    @property
    def failures(self) -> Sequence[Failure]:
        """(path, reason) of each file that could not be read and was replaced by another."""


BatchT = TypeVar("BatchT", bound=StepBatch)
BatchIn = TypeVar("BatchIn", bound=StepBatch, contravariant=True)


class Learner(Protocol[BatchIn]):
    """What is trained."""

    skipped: Tensor  # how many steps changed nothing, because something was not finite

    def step(self, batch: BatchIn) -> StepReport:
        """Learn from one batch."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything that a checkpoint must hold."""

    def blank_state(self, keys: set[str]) -> dict[str, dict[str, Tensor]]:
        """Tensors to load a checkpoint with these keys into; then comes `restore`."""

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over a filled `blank_state`."""


@dataclass(frozen=True)
class Intervals:
    """Steps between the things that are done on the way; 0 is never."""

    log: int
    checkpoint: int
    pictures: int = 0
    validate: int = 0


@dataclass(frozen=True)
class Outputs:
    """What the loop calls for its results.

    Attributes:
        publish: write the model, after each checkpoint; the second argument says whether it is the last time.
        pictures, validate: at their intervals and at the end.
        row_details: more entries for a row of the log.
        tell: a sentence for people.
        progress: the number of steps done.
    """

    publish: Callable[[int, bool], None]
    pictures: Callable[[int], None]
    validate: Callable[[int], Mapping[str, float]]
    row_details: Callable[[int], Mapping[str, float]]
    tell: Callable[[str], None]
    progress: Callable[[int], None]


@dataclass(frozen=True)
class LoopResult:
    """How far it came.

    Attributes:
        steps: done so far, earlier processes included.
        reason: "finished", "max steps", "time limit", "SIGTERM" or "SIGINT".
        last_row: the last row of the log of this process.
        validation: the scores at the end.
    """

    steps: int
    reason: str
    last_row: Row
    validation: Mapping[str, float]


class LoopFailures:
    """Files that could not be read: counted, listed once each, and too many of them end the run.

    Args:
        counter: decides what is too many.
        write: takes (path, reason).
    """

    def __init__(self, counter: FailureCounter, write: Callable[[str, str], None]) -> None:
        self.counter = counter
        self._write, self._listed = write, set[str]()

    def update(self, batch: StepBatch) -> None:
        """Take in one batch.

        Raises:
            MediaError: more than the allowed share failed.
        """
        for path, reason in batch.failures:
            if path not in self._listed:
                self._listed.add(path)
                self._write(path, reason)
        self.counter.count(batch.size, batch.failures)
        self.counter.check()


def run_loop(
    learner: Learner[BatchT],
    batches: Callable[[int, int], Iterable[BatchT]],
    start: int,
    steps: int,
    intervals: Intervals,
    limits: Limits,
    processes: Processes,
    checkpoints: Checkpoints,
    logbook: Logbook,
    throughput: Throughput,
    failures: LoopFailures,
    outputs: Outputs,
) -> LoopResult:
    """Steps start … steps, or up to a limit; then a last checkpoint, the model, pictures and validation."""
    stop = steps if limits.max_steps is None else min(steps, limits.max_steps)
    done, reason = start, "finished" if stop == steps else "max steps"
    latest: dict[str, StepReport] = {}
    last_row: Row = {}

    def aside(work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        throughput.pause(time.perf_counter() - began)

    def log(complete: bool = False) -> None:
        nonlocal last_row
        rates = throughput.rates(processes.world_size)
        for report in sorted(latest.values(), key=lambda report: report.step):
            last_row = _row(report, processes, failures) | rates | dict(outputs.row_details(report.step))
            logbook.write(last_row)
        latest.clear()

    def checkpoint(last: bool = False) -> None:
        checkpoints.save(done, flatten_state(learner.state()))
        outputs.publish(done, last)

    def pictures() -> None:
        outputs.pictures(done)

    def validate() -> Mapping[str, float]:
        scores = outputs.validate(done)
        if scores:
            logbook.write({"step": done, "event": "validation", **scores})
        return scores

    try:
        with StopWatch(limits.minutes) as watch:
            for batch in batches(start, stop):
                failures.update(batch)
                report = learner.step(batch)
                done = batch.step + 1
                if report.applied:
                    throughput.update(report.shape, processes.world_size)
                else:
                    _note_skip(report, processes, logbook, outputs)
                latest[report.medium] = report
                outputs.progress(done)
                checkpoints.poll()
                if done % intervals.log == 0 or done == stop:
                    log()
                if done == stop:
                    break
                if intervals.pictures and done % intervals.pictures == 0:
                    aside(pictures)
                if intervals.validate and done % intervals.validate == 0:
                    aside(validate)
                if done % intervals.checkpoint == 0:
                    aside(checkpoint)
                if processes.any(watch.reason() is not None):
                    reason = watch.reason() or "another process"
                    log()
                    break
            checkpoint(last=True)
            checkpoints.finish()
    except BaseException:
        checkpoints.settle()
        raise
    outputs.pictures(done)
    return LoopResult(done, reason, last_row, validate())


def _row(report: StepReport, processes: Processes, failures: LoopFailures) -> Row:
    means = processes.mean(report.scalars)
    if means.get("l2"):
        means["psnr"] = 10 * math.log10(4 / means["l2"])  # pixels span 2
    return {
        "step": report.step + 1,
        "medium": report.medium,
        "lr": report.rate,
        **means,
        "resolution": report.shape[-1],
        "failures": failures.counter.failed,
    }


def _note_skip(report: StepReport, processes: Processes, logbook: Logbook, outputs: Outputs) -> None:
    losses = processes.mean(report.scalars)
    logbook.write({"step": report.step + 1, "event": "skipped", "medium": report.medium, **losses})
    outputs.tell(
        f"step {report.step + 1}: a loss or a gradient is not finite; the step is skipped, nothing was updated"
    )
