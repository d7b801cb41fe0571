"""Sums of an unfinished evaluation on disk, so that it continues where it was stopped."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from omnitok.atomic import atomic_path
from omnitok.distributed import rank, world_size
from omnitok.errors import OmnitokError, reading
from omnitok.metrics.accumulator import Accumulator

SECONDS = 60.0  # between two savings


class SavedState:
    """The accumulators of one process, saved now and then; with `folder` None nothing is ever written or read.

    A state of other files, settings, model or number of processes is ignored and overwritten, and so is a damaged one.

    Args:
        settings: everything that the sums depend on beside the files, as JSON values.
        files: what is measured; the path, size and time of change of each count.
    """

    def __init__(self, folder: Path | None, name: str, settings: Mapping[str, Any], files: Sequence[Path]) -> None:
        self.path: Path | None = None
        if folder is None:
            return
        place = f"{rank()}-of-{world_size()}"
        self.path = folder / f"{name}-{place}.safetensors"
        listed = []
        for path in files:
            with reading(path):
                status = os.stat(path)
            listed.append((str(path), status.st_size, status.st_mtime_ns))
        everything = json.dumps([dict(settings), listed, place], sort_keys=True)
        self._key, self._saved_at = hashlib.sha256(everything.encode()).hexdigest(), time.monotonic()

    def load(self, accumulators: Mapping[str, Accumulator], total: int) -> int:
        """Fill the accumulators from a state of the very same run of `total` samples; how many are in it."""
        if self.path is None or not self.path.is_file():
            return 0
        empty = {name: accumulator.state_dict() for name, accumulator in accumulators.items()}
        with contextlib.suppress(OmnitokError), reading(self.path, what="saved evaluation"):
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key or not 0 < int(metadata["done"]) <= total:
                    return 0
                for name, state in empty.items():
                    accumulators[name].load_state_dict({key: file.get_tensor(f"{name}:{key}") for key in state})
            return int(metadata["done"])
        for name, accumulator in accumulators.items():  # some may have been filled before the damage showed
            accumulator.load_state_dict(empty[name])
        return 0

    def save(self, accumulators: Mapping[str, Accumulator], done: int) -> None:
        """Write the sums over the first `done` samples, if the last time is long enough ago."""
        if self.path is None or time.monotonic() - self._saved_at < SECONDS:
            return
        tensors = {
            f"{name}:{key}": value.cpu().contiguous()
            for name, accumulator in accumulators.items()
            for key, value in accumulator.state_dict().items()
        }
        with atomic_path(self.path, apart=True) as temporary:
            save_file(tensors, temporary, {"key": self._key, "done": str(done)})
        self._saved_at = time.monotonic()

    def clear(self) -> None:
        """Remove the state: the run is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
