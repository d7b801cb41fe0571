"""Sums of an unfinished evaluation on disk, so that it continues where it was stopped."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.distributed import rank, world_size


class Resumable(Protocol):
    """An accumulator."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


def run_key(settings: Mapping[str, Any], files: Sequence[Path]) -> str:
    """A hash of everything that a sum depends on: settings, and each file's path, size and time of change."""
    listed = [(str(path), (status := os.stat(path)).st_size, status.st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([dict(settings), listed], sort_keys=True).encode()).hexdigest()


class SavedState:
    """The accumulators of one process, saved now and then; with `folder` None nothing is ever written or read.

    A state of other files, settings, model or number of processes is ignored and overwritten.
    """

    def __init__(self, folder: Path | None, name: str, key: str, seconds: float = 60.0) -> None:
        place = f"{rank()}-of-{world_size()}"
        self.path = folder / f"{name}-{place}.safetensors" if folder is not None else None
        self._key, self._seconds, self._saved_at = f"{key}-{place}", seconds, time.monotonic()

    def load(self, accumulators: Mapping[str, Resumable]) -> int:
        """Fill the accumulators from a state of the very same run; the number of samples in it, 0 without one."""
        if self.path is None or not self.path.is_file():
            return 0
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        except (SafetensorError, OSError):
            return 0  # not ours, or damaged: the run starts over
        for name, accumulator in accumulators.items():
            prefix = f"{name}:"
            accumulator.load_state_dict(
                {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            )
        return int(metadata["done"])

    def save(self, accumulators: Mapping[str, Resumable], done: int, force: bool = False) -> None:
        """Write the sums over the first `done` samples, if the last time is long enough ago or `force` says so."""
        if self.path is None or (not force and time.monotonic() - self._saved_at < self._seconds):
            return
        tensors = {
            f"{name}:{key}": value.cpu().contiguous()
            for name, accumulator in accumulators.items()
            for key, value in accumulator.state_dict().items()
        }
        with atomic_path(self.path) as temporary:
            save_file(tensors, temporary, {"key": self._key, "done": str(done)})
        self._saved_at = time.monotonic()

    def clear(self) -> None:
        """Remove the state: the run is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
