"""log.jsonl: one JSON object a row; TensorBoard on request."""

import json
import math
import time
from pathlib import Path
from typing import Any

from omnitok.atomic import atomic_path
from omnitok.errors import MissingExtraError

Row = dict[str, Any]


class Logbook:
    """Appends rows to OUT/log.jsonl, and their numbers to TensorBoard event files.

    Rows of steps after `step` are removed first: a killed process may have written them after its last checkpoint,
    and the resumed run writes them again.

    Args:
        out: the run's folder.
        step: from which the run continues; 0 starts anew.
        tensorboard: write event files to OUT/tensorboard (the extra `logging`).
        enabled: False writes nothing (all processes but the first).

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, out: Path, step: int, tensorboard: bool, enabled: bool = True) -> None:
        self._path = out / "log.jsonl"
        self._enabled = enabled
        self._earlier = 0.0  # seconds of training before this process
        self._began = time.perf_counter()
        self._events: Any = None
        if not enabled:
            return
        if self._path.exists():
            self._drop_rows_after(step)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError("tensorboard") from error
            self._events = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def _drop_rows_after(self, step: int) -> None:
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line that a kill cut off
                continue
            if row["step"] <= step:
                kept.append(line + "\n")
                self._earlier = max(self._earlier, row.get("seconds") or 0.0)
        with atomic_path(self._path) as path:
            path.write_text("".join(kept), encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Of training so far, earlier processes included."""
        return self._earlier + time.perf_counter() - self._began

    def write(self, row: Row) -> None:
        """Append a row; it needs the key "step"."""
        if not self._enabled:
            return
        row = {key: _json_number(value) for key, value in row.items()} | {"seconds": round(self.seconds, 3)}
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if self._events is not None:
            prefix = row.get("medium", "run")
            for key, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
                    self._events.add_scalar(f"{prefix}/{key}", value, row["step"])

    def close(self) -> None:
        """Finish the event files."""
        if self._events is not None:
            self._events.close()


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
