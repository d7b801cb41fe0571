"""What the trainings of all models have in common: opening a run, continuing it, its loop, its result."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from omnitok.data.loader import FailureCounter
from omnitok.distributed import Processes, join_processes
from omnitok.training.checkpoint import Checkpoints, flatten_state
from omnitok.training.logbook import Logbook
from omnitok.training.loop import BatchT, Intervals, Learner, LoopFailures, Outputs, run_loop
from omnitok.training.run_folder import TrainResult, start_step, unreadable_list
from omnitok.training.settings import AnyConfig, write_config
from omnitok.training.stopping import Limits
from omnitok.training.throughput import Throughput, peak_tflops


def ignore(_: object) -> None:
    """What takes sentences for people and the number of steps done, where nobody wants them."""


class Run:
    """A training under way.

    Attributes:
        out: its folder.
        processes: those that train together.
        start: the step to continue at; 0 where it is new.
        logbook: from `begin` on.
    """

    logbook: Logbook

    def __init__(
        self,
        out: Path,
        processes: Processes,
        checkpoints: Checkpoints,
        resume: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.out, self.processes, self.tell = out, processes, tell
        self._checkpoints, self._resume = checkpoints, resume
        self.start = start_step(out, checkpoints, resume)

    def begin(self, config: AnyConfig, learner: Learner[BatchT]) -> None:
        """Write the resolved configuration, and give the learner the checkpoint's state where the run continues."""
        if self.processes.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            write_config(config, self.out / "config.yaml")
        self._checkpoints.clear_partial()
        if self.start:
            state = learner.blank_state(self._checkpoints.keys(self.start))
            self._checkpoints.load(self.start, flatten_state(state))
            learner.restore(state)
            self.tell(f"continuing at step {self.start}")
        elif self._resume:
            self.tell(f"{self.out} holds no checkpoint yet: starting at step 0")
        self.logbook = Logbook(self.out, self.start, config.log.tensorboard, enabled=self.processes.is_main)

    def train(
        self,
        config: AnyConfig,
        learner: Learner[BatchT],
        batches: Callable[[int, int], Iterable[BatchT]],
        limits: Limits,
        forward_flops: Callable[[tuple[int, ...]], int],
        outputs: Outputs,
    ) -> TrainResult:
        """From `start` to the last step or a limit; after `begin`.

        Args:
            batches: of this process, from the first step to before the second one.
            forward_flops: of a batch of pixels of a shape.
        """
        log = config.log
        try:
            result = run_loop(
                learner,
                batches,
                self.start,
                config.steps,
                Intervals(log.every, config.checkpoint_every, log.pictures_every, log.validate_every),
                limits,
                self.processes,
                self._checkpoints,
                self.logbook,
                Throughput(forward_flops, config.engine.peak_tflops or peak_tflops(self.processes.device)),
                LoopFailures(FailureCounter(config.max_failures), unreadable_list(self.out)),
                outputs,
            )
        finally:
            self.logbook.close()
        return TrainResult(
            self.out,
            self.out / "model",
            result.steps,
            result.reason,
            int(learner.skipped),
            result.last_row,
            result.validation,
        )


@contextlib.contextmanager
def open_run(
    config: AnyConfig, out: Path, device: torch.device | None, resume: bool, tell: Callable[[str], None]
) -> Iterator[Run]:
    """Join the processes of `torchrun`, or stay alone, and look what lies in `out`.

    Raises:
        OmnitokError: `out` holds a training, and it is not to be resumed.
    """
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    with join_processes(device or torch.device("cpu")) as processes:
        yield Run(out, processes, Checkpoints(out / "checkpoints", config.keep_checkpoints, processes), resume, tell)
