"""The training loop of every model: `Trainer(task, config, out).fit()`."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from omnitok.atomic import lock_folder
from omnitok.data.loader import Batch, FailureCounter
from omnitok.distributed import Processes, join_processes
from omnitok.errors import OmnitokError
from omnitok.training.checkpoint import Checkpoints, flatten_state, keys_of_group
from omnitok.training.config import AnyConfig
from omnitok.training.logging import JsonlLogger, Row, describe_progress
from omnitok.training.optim import EMA, learning_rate
from omnitok.training.parallel import gather, gradient_sync
from omnitok.training.run_folder import check_same_recipe, check_unchanged
from omnitok.training.seeds import step_seed
from omnitok.training.settings import read_run, write_config
from omnitok.training.stopping import Limits, stop_signals
from omnitok.training.task import Say, Task, tensors_of
from omnitok.training.throughput import Throughput, peak_tflops

Progress = Callable[[int, str | None], None]
"""Takes the number of steps done, and now and then a line about them."""


@dataclass(frozen=True)
class TrainResult:
    """What a training gave.

    Attributes:
        out: its folder.
        model: the published model folder.
        steps: done so far, earlier processes included.
        reason: why it ended: "finished", "max steps", "time limit", "SIGTERM", "SIGINT", or "another process".
        skipped: steps that changed nothing, because something was not finite.
        last_row: the last row of the log of this process.
        validation: the scores at the end.
    """

    out: Path
    model: Path
    steps: int
    reason: str
    skipped: int
    last_row: Row
    validation: Mapping[str, float]


class Trainer:
    """Trains the model of `task` and leaves it in OUT/model, from the first checkpoint on.

    OUT also gets `config.yaml` (resolved), `log.jsonl`, `curves.png`, `checkpoints/`, `previews/` and
    `unreadable.txt`. Under `torchrun` every process does the same, and the first one writes.

    Args:
        task: what is trained.
        config: of the run.
        out: the run's folder, of which a second process is kept out.
        device: default the CPU; under `torchrun` any "cuda" becomes the process's own device.
        resume: continue from the latest checkpoint in OUT, or start where there is none yet.
        limits: of this process.
        say, progress: take sentences for people, and the number of steps done.
    """

    processes: Processes
    checkpoints: Checkpoints
    logger: JsonlLogger

    def __init__(
        self,
        task: Task,
        config: AnyConfig,
        out: Path,
        *,
        device: torch.device | None = None,
        resume: bool = False,
        limits: Limits | None = None,
        say: Say = lambda _: None,
        progress: Progress = lambda done, line: None,
    ) -> None:
        self.task, self.config, self.out = task, config, out
        self.device, self.resume, self.limits = device or torch.device("cpu"), resume, limits or Limits()
        self.say, self.progress = say, progress
        self.start = self.done = 0
        self.streak = 0  # steps in a row that were skipped
        self.updates, self.skipped = torch.tensor(0), torch.tensor(0)
        self.ema: EMA | None = None
        self.latest: dict[str, Row] = {}  # by modality, rows that wait to be written
        self.last_row: Row = {}

    def fit(self) -> TrainResult:
        """Train from the first step, or the checkpoint, to the last step or a limit.

        Raises:
            OmnitokError: nothing to train on, too many unreadable files, OUT holds another run or another process
                trains in it, or `max_skipped` steps in a row were not finite.
            CheckpointError: a checkpoint cannot be written or read.
        """
        with self._open():
            task, config, processes = self.task, self.config, self.processes
            stop = min(config.steps, self.limits.max_steps or config.steps)
            reason = "finished" if stop == config.steps else "max steps"
            with stop_signals(self.limits.time_limit) as why_stop:
                for batch in task.batches(self.start, stop):
                    self._count_failures(batch)
                    # Everything random in a step follows from the seed, the step and the sample or process.
                    torch.manual_seed(step_seed(config.seed, batch.step, processes.rank))
                    rate = learning_rate(config.optimizer, batch.step, config.steps)
                    buffers = [buffer.clone() for buffer in task.step_buffers()]

                    # Gradients: one forward per part of the batch, from which both sides of a game learn.
                    parts = task.split(batch)
                    means: dict[str, Tensor] = {}  # of what is logged, over the parts
                    for number, (inputs, part) in enumerate(parts, 1):
                        with gradient_sync(task.module, enabled=number == len(parts)):
                            with task.autocast():
                                outputs = task.module(*inputs)
                            for name, value in task.learn(outputs, part, batch.step, len(parts)).items():
                                means[name] = means.get(name, 0.0) + value.detach() / len(parts)
                    means |= (norms := task.clip_gradients())

                    # Update, unless something is not finite on any process: then the step leaves no trace.
                    finite = all(bool(torch.isfinite(x)) for x in (means["loss"], *norms.values()))
                    if not processes.any(not finite):
                        task.update(batch.step, rate)
                        if self.ema is not None:
                            self.ema.update(int(self.updates))
                        self.updates += 1
                        self.streak = 0
                        self.throughput.update(batch.pixel_shape)
                    else:
                        for buffer, before in zip(task.step_buffers(), buffers, strict=True):
                            buffer.copy_(before)
                        self.skipped += 1
                        self.streak += 1
                    for optimizer in task.optimizers().values():
                        optimizer.zero_grad()

                    # Tell, show, save.
                    self.done = batch.step + 1
                    self._note(batch, rate, means)
                    self.checkpoints.poll()
                    if self.streak >= config.max_skipped:
                        self._give_up(f"{self.streak} steps in a row were skipped: a loss or a gradient is not finite")
                    if self.done % config.log.every == 0 or self.done == stop:
                        self._log()
                    if self.done == stop:
                        break
                    if config.log.images_every and self.done % config.log.images_every == 0:
                        self._aside(self._preview)
                    if config.log.validate_every and self.done % config.log.validate_every == 0:
                        self._aside(self._validate)
                    if self.done % config.checkpoint_every == 0 and not self.streak:
                        self._aside(self._checkpoint)
                    if processes.any(why_stop() is not None):
                        reason = why_stop() or "another process"
                        self._log()
                        break
                self._checkpoint(last=True)
                self.checkpoints.finish()
            self._preview()
            scores = self._validate()
            self.logger.draw_curves()
            model = self.out / "model"
            return TrainResult(self.out, model, self.done, reason, int(self.skipped), self.last_row, scores)

    # ---------------------------------------------------------------------------------------------------------- start

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        """Join the other processes, resolve and build the task, and take over the checkpoint where the run continues.

        Nothing is written before everything that can be known to fail has been looked at.
        """
        if self.config.engine.threads is not None:
            torch.set_num_threads(self.config.engine.threads)
        with join_processes(self.device) as self.processes, contextlib.ExitStack() as stack:
            self.checkpoints = Checkpoints(self.out / "checkpoints", self.config.keep_checkpoints, self.processes)
            self.start = self.done = self._first_step()
            saved = read_run(self.out) if self.start else None
            if saved is not None:
                check_same_recipe(self.config.name, saved.name, self.out)
                if type(saved) is not type(self.config):
                    raise OmnitokError(f"{self.out}: holds the training of another kind of model; choose another --out")
            self.task.resolve(self.processes, saved, self.say)
            self.config = config = self.task.config
            if saved is not None:
                check_unchanged(config, saved, self.out)
            self.task.build(self.say)
            if config.optimizer.ema_decay is not None:
                self.ema = EMA(self.task.model, config.optimizer.ema_decay)
            if self.processes.is_main:
                stack.enter_context(lock_folder(self.out, "omnitok train"))
                write_config(config, self.out / "config.yaml")
            if self._first_step() != self.start:
                raise OmnitokError(f"{self.out}: another process has trained here in the meantime; start again")
            self.checkpoints.clear_partial()
            if self.start:
                self._load(self.start)
                self.task.recall(self.out / "model")
                self.say(f"continuing at step {self.start}")
            elif self.resume:
                self.say(f"{self.out} holds no checkpoint yet: starting at step 0")
            self.logger = JsonlLogger(self.out, self.start, config.log.tensorboard, enabled=self.processes.is_main)
            stack.callback(self.logger.close)
            self.failures, self.unreadable = FailureCounter(config.max_failures), set[str]()
            peak = config.engine.peak_tflops or peak_tflops(self.processes.device)
            self.throughput = Throughput(self.task.forward_flops, peak, self.processes.world_size)
            self._row_began, self._row_step = time.perf_counter(), self.start
            try:
                yield
            except BaseException:
                self.checkpoints.settle()
                raise

    def _first_step(self) -> int:
        """The step to continue at; 0 starts anew."""
        latest = self.checkpoints.latest()
        if latest is not None and not self.resume:
            raise OmnitokError(
                f"{self.out}: holds a training at step {latest}; continue it with --resume, or choose another --out"
            )
        return latest or 0

    # ---------------------------------------------------------------------------------------------------------- state

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint fills in place."""
        states = {name: optimizer.state() for name, optimizer in self.task.optimizers().items()}
        progress = {"updates": self.updates, "skipped": self.skipped}
        averages = {} if self.ema is None else {"ema": self.ema.weights}
        return {**self.task.tensors(), **states, "progress": progress, **averages}

    def _load(self, step: int) -> None:
        """Take over the checkpoint of a step; the run then goes on bit for bit."""
        keys = self.checkpoints.keys(step)
        for name, optimizer in self.task.optimizers().items():
            optimizer.allocate(keys_of_group(keys, name))
        self.checkpoints.load(step, flatten_state(self._tensors()))

    def _checkpoint(self, last: bool = False) -> None:
        """Write a checkpoint and publish the model, which is not replaced while steps are being skipped."""
        if not self._is_finite():
            self._give_up("the weights are not finite")
        self.checkpoints.save(self.done, flatten_state(self._tensors()))
        if not self.streak or not (self.out / "model").exists():
            self._publish(last)
        self.logger.draw_curves()

    def _is_finite(self) -> bool:
        tensors = [*tensors_of(self.task.model).values(), *(self.ema.weights.values() if self.ema is not None else ())]
        return not self.processes.any(not all(bool(torch.isfinite(_local(tensor)).all()) for tensor in tensors))

    def _publish(self, last: bool) -> None:
        model = self._snapshot(everywhere=False)
        if model is not None:
            self.task.export(model, self.out / "model", last)

    def _give_up(self, why: str) -> None:
        """End the run. What was saved since the weights were last seen to be good goes; what is older stays.

        Raises:
            OmnitokError: always.
        """
        self.checkpoints.finish()
        for step in self.checkpoints.steps():
            if step >= self.done - self.streak and self.processes.is_main:
                self.checkpoints.discard(step)
        self.processes.barrier()
        good = self.checkpoints.latest()
        if good is None:
            if self.processes.is_main:
                shutil.rmtree(self.out / "model", ignore_errors=True)
            kept = "no checkpoint had been written before"
        else:
            self._load(good)
            self._publish(last=False)
            kept = f"the checkpoint of step {good} and its model are kept"
        raise OmnitokError(
            f"{self.out}: ended at step {self.done}: {why}; {kept}; a lower optimizer.lr, a longer warm-up or "
            "engine.precision=float32 may help"
        )

    def _snapshot(self, everywhere: bool) -> nn.Module | None:
        """A copy of the model to publish and to measure, in `eval` mode on this process's device, with the averaged
        weights where there are any. On the first process, or `everywhere`; None on others, which must call it too."""
        tensors = tensors_of(self.task.model) | (self.ema.weights if self.ema is not None else {})
        whole = {name: gather(tensor) for name, tensor in tensors.items()}
        if not (everywhere or self.processes.is_main):
            return None
        with torch.random.fork_rng(devices=[]):  # building draws weights; the run's random numbers stay as they were
            copy = self.task.blank_copy()
        copy.load_state_dict({name: whole[name] for name in copy.state_dict()})
        return copy.to(self.processes.device).eval()

    # ------------------------------------------------------------------------------------------------------------ log

    def _count_failures(self, batch: Batch) -> None:
        """List each unreadable file with the reason, once per process; too many of them end the run (MediaError)."""
        for path, reason in batch.failures:
            if path not in self.unreadable:
                self.unreadable.add(path)
                with (self.out / "unreadable.txt").open("a", encoding="utf-8", errors="surrogateescape") as listing:
                    listing.write(f"{path}\t{' '.join(reason.split())}\n")
        self.failures.count(batch.size, batch.failures)
        self.failures.check()

    def _note(self, batch: Batch, rate: float, means: Mapping[str, Tensor]) -> None:
        """Keep the latest row of each modality; a skipped step is written at once."""
        row = {"step": self.done, "modality": batch.modality, "lr": rate, "means": means, "at": batch.pixel_shape}
        self.latest[batch.modality] = row
        if self.streak:
            losses = self.processes.mean(means)
            self.logger.write({"step": self.done, "event": "skipped", "modality": batch.modality, **losses})
            self.say(f"step {self.done}: a loss or a gradient is not finite; the step is skipped, nothing was updated")
        self.progress(self.done, None)

    def _log(self) -> None:
        rates = self.throughput.rates()
        now = time.perf_counter()
        seconds = (now - self._row_began) / max(1, self.done - self._row_step)
        self._row_began, self._row_step = now, self.done
        for noted in sorted(self.latest.values(), key=lambda noted: noted["step"]):
            scalars = self.processes.mean(noted.pop("means"))
            resolution = noted.pop("at")[-1]
            if 0 < scalars.get("l2", 0.0) < math.inf:
                scalars["psnr"] = 10 * math.log10(4 / scalars["l2"])  # pixels span 2
            step = noted["step"] - 1
            counts = {"resolution": resolution, "failures": self.failures.failed}
            details = self.task.row_details(step)
            self.last_row = {**noted, **scalars, **counts, **rates, "skipped": int(self.skipped), **details}
            self.logger.write(self.last_row)
            if alarm := self.task.alarm(step, details):
                self.logger.write({"step": step + 1, "event": "collapse", **details})
                self.say(alarm)
        if self.latest:
            self.progress(self.done, describe_progress(self.last_row, self.config.steps, seconds))
        self.latest.clear()

    def _preview(self) -> None:
        if self.config.log.images_every:
            model = self._snapshot(everywhere=False)
            if model is not None:
                self.logger.write_preview(self.done, self.task.preview(model), self.task.preview_fps)
            self.processes.barrier()

    def _validate(self) -> Mapping[str, float]:
        scores = self.task.validate(self._snapshot)
        self.processes.barrier()
        if scores:
            self.logger.write({"step": self.done, "event": "validation", **scores})
        return scores

    def _aside(self, work: Any) -> None:
        """Do something that does not count as training time."""
        began = time.perf_counter()
        work()
        self.throughput.pause(seconds := time.perf_counter() - began)
        self._row_began += seconds


def _local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, or the whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
