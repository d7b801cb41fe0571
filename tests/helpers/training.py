"""Trainings from a configuration, whole or on batches that a test makes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok.distributed import Processes
from omnitok.training.config import AnyConfig
from omnitok.training.task import Task
from omnitok.training.tasks import make_task
from omnitok.training.trainer import Trainer, TrainResult

ALONE = Processes(0, 1, torch.device("cpu"))


def train(config: AnyConfig, out: Path, **options: Any) -> TrainResult:
    """Train by a configuration; `options` as of `Trainer`."""
    return Trainer(make_task(config), config, out, **options).fit()


def resolved(config: AnyConfig) -> Any:
    """The task after it has looked at its data."""
    task = make_task(config)
    task.resolve(ALONE, None, lambda _: None)
    return task


def built(config: AnyConfig, say: Callable[[str], None] = lambda _: None) -> Any:
    """The task with its model."""
    task = resolved(config)
    task.build(say)
    return task


@dataclass(frozen=True)
class Report:
    """What a step did, and a copy of everything that a checkpoint would then hold."""

    applied: bool
    scalars: dict[str, Tensor]
    state: dict[str, dict[str, Tensor]]


def learn(
    config: AnyConfig, out: Path, batches: Callable[[Any], Iterator[Any]], prepare: Callable[[Any], None] | None = None
) -> tuple[Trainer, list[Report]]:
    """Train on `batches(task)`, after `prepare(task)`."""
    task: Task = make_task(config)
    reports: list[Report] = []
    build = task.build

    def build_and_prepare(say: Callable[[str], None]) -> None:
        build(say)
        if prepare is not None:
            prepare(task)

    def note(done: int, line: str | None) -> None:
        if line is None:
            newest = max(trainer.latest.values(), key=lambda noted: noted["step"])
            state = trainer._tensors()
            copies = {group: {name: x.clone() for name, x in tensors.items()} for group, tensors in state.items()}
            reports.append(Report(trainer.streak == 0, dict(newest["means"]), copies))

    task.build = build_and_prepare  # type: ignore[method-assign]
    task.batches = lambda start, stop: batches(task)  # type: ignore[method-assign]
    trainer = Trainer(task, config, out, progress=note)
    trainer.fit()
    return trainer, reports
