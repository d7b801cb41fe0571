"""Checkpoints for resuming: sharded, written in the background, and visible only when complete.

Each holds the SHA-256 of its files, so that a damaged one is told and not resumed from. Nothing in one is trusted: see
`omnitok.training.checkpoint_reader`.
"""

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from omnitok.distributed import Processes
from omnitok.errors import CheckpointError, reading, reason
from omnitok.training.checkpoint_reader import CheckpointReader, check_records, verify, write_checksums

_NAME = re.compile(r"step-(\d{9})")

FlatState = dict[str, Tensor]


class Checkpoints:
    """The folder OUT/checkpoints with one folder `step-000001000` per checkpoint (torch.distributed.checkpoint).

    A checkpoint is written under a hidden name and renamed when every process has written its share, so what has the
    final name is complete: a process killed at any moment leaves at most a hidden folder, which the next start removes.

    Args:
        folder: where they are.
        keep: how many of the latest stay.
        processes: those that write together.
    """

    def __init__(self, folder: Path, keep: int, processes: Processes) -> None:
        self.folder, self.keep, self.processes = folder, keep, processes
        self._pending: tuple[int, Future[Any]] | None = None
        # Background writing has a group of its own, so that its messages never mix with the training's.
        self._group = dist.new_group(backend="gloo") if processes.world_size > 1 else None
        self._finisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        # torch warns (from the writing thread too, where no context manager reaches) that one process saves for itself.
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> int | None:
        """Step of the latest complete checkpoint, the same on every process."""
        step = self.processes.from_main(max(self.steps(), default=-1))
        return None if step < 0 else step

    def clear_partial(self) -> None:
        """Remove what a killed process left half-written, and the checkpoints that it did not come to remove."""
        if self.processes.is_main and self.folder.is_dir():
            for path in self.folder.glob(".step-*"):
                shutil.rmtree(path, ignore_errors=True)
            self._discard_old()
        self.processes.barrier()

    def save(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Copy `state` and write it in the background. Waits for the write before, if that is not yet done.

        Raises:
            CheckpointError: the write before failed.
        """
        self.finish()
        if step == self.latest():
            return
        partial = self._partial(step)
        if self.processes.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        self.processes.barrier()
        try:
            saving = dcp.async_save(
                dict(state),
                storage_writer=FileSystemWriter(partial),
                process_group=self._group,
                no_dist=self._group is None,
            )
        except Exception as error:
            raise self._failed(step, error) from error
        written = saving.upload_completion if isinstance(saving, AsyncSaveResponse) else saving
        self._pending = step, self._finisher.submit(self._seal, partial, written)

    def _seal(self, partial: Path, written: Future[Any]) -> None:
        """Wait until every process has written (and the first one the index), then add the checksums."""
        written.result()
        if self.processes.is_main:
            write_checksums(partial)

    def poll(self) -> None:
        """Give a finished background write its final name."""
        if self._pending is not None and self._pending[1].done():
            self._complete()

    def finish(self) -> None:
        """Wait for the background write.

        Raises:
            CheckpointError: it failed.
        """
        self._complete()
        self.processes.barrier()

    def settle(self) -> None:
        """Let the background write come to its end, whichever, while an error is on its way out."""
        with contextlib.suppress(CheckpointError):
            self._complete()

    def _complete(self) -> None:
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()  # on the first process: after all have written and the metadata is on the disk
        except (Exception, CheckpointException) as error:  # the latter, of all processes, is a BaseException
            if self.processes.is_main:
                shutil.rmtree(self._partial(step), ignore_errors=True)
            raise self._failed(step, error) from error
        if self.processes.is_main:
            os.rename(self._partial(step), self.folder / _name(step))
            self._discard_old()

    def _discard_old(self) -> None:
        for old in self.steps()[: -self.keep]:
            self.discard(old)

    def discard(self, step: int) -> None:
        """Remove the checkpoint of a step; on the first process."""
        retired = self.folder / f".{_name(step)}.retired"
        os.rename(self.folder / _name(step), retired)
        shutil.rmtree(retired)

    def _partial(self, step: int) -> Path:
        return self.folder / f".{_name(step)}.partial"

    def _failed(self, step: int, error: BaseException) -> CheckpointError:
        complete = self.steps()
        kept = f"the one of step {complete[-1]} is complete" if complete else "there is none before it"
        return CheckpointError(
            f"{self.folder}: the checkpoint of step {step} could not be written ({_reason(error)}); {kept}"
        )

    # ----------------------------------------------------------------------------------------------------------- load

    def keys(self, step: int) -> set[str]:
        """Names of the tensors in a checkpoint."""
        return set(self._index(step).state_dict_metadata)

    def load(self, step: int, state: FlatState) -> None:
        """Fill the tensors of `state` in place, each with its part where it is sharded.

        Raises:
            CheckpointError: unreadable, changed since it was written, or without one of the tensors.
        """
        folder = self.folder / _name(step)
        index = self._index(step)
        missing = sorted(state.keys() - index.state_dict_metadata.keys())
        if missing:
            raise CheckpointError(f"{folder}: holds no {missing[0]} ({len(missing)} tensors are missing)")
        if self.processes.is_main:
            with reading(folder, CheckpointError, "checkpoint"):
                verify(folder)
                check_records(folder, index.storage_data.values())
        try:
            dcp.load(state, storage_reader=CheckpointReader(folder), no_dist=self._group is None)
        except (Exception, CheckpointException) as error:
            raise CheckpointError(f"{folder}: cannot be read ({_reason(error)})") from error

    def _index(self, step: int) -> Metadata:
        folder = self.folder / _name(step)
        try:
            return CheckpointReader(folder).read_metadata()
        except Exception as error:  # whatever a damaged pickle brings about
            raise CheckpointError(f"{folder}: cannot be read: {reason(error)}") from error


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _reason(error: BaseException) -> str:
    """The first line that says something; torch's wrapper lists a traceback per process."""
    failures = getattr(error, "failures", None)
    if failures:
        return _reason(next(iter(failures.values()))[0])
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def flatten_state(groups: Mapping[str, Mapping[str, Tensor]]) -> FlatState:
    """{"model": {"a": x}} -> {"model/a": x}. Flat names can be compared with what a checkpoint holds."""
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def keys_of_group(keys: set[str], group: str) -> set[str]:
    """Names within one group of a flat state."""
    return {key.removeprefix(f"{group}/") for key in keys if key.startswith(f"{group}/")}
