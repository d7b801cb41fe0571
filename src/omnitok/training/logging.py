"""What a training leaves to be looked at: log.jsonl, curves.png, previews, and TensorBoard events on request."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.data.image import write_image
from omnitok.data.video_writer import write_video
from omnitok.errors import MissingExtraError
from omnitok.metrics.samples import to_uint8
from omnitok.training.curves import write_curves

Row = dict[str, Any]

_LONGEST_ROW = 2**20  # bytes; ours have about 1000


class JsonlLogger:
    """Appends rows to OUT/log.jsonl, and their numbers, images and videos to TensorBoard event files.

    Rows of steps after `step` are removed first: a killed process may have written them after its last checkpoint,
    and the resumed run writes them again. Lines that are no rows (cut off by a kill, damaged) are dropped too.

    Args:
        out: the run's folder.
        step: from which the run continues; 0 starts anew.
        tensorboard: write event files to OUT/tensorboard (the package `tensorboard`).
        enabled: False writes nothing (all processes but the first).

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, out: Path, step: int, tensorboard: bool, enabled: bool = True) -> None:
        self._out, self._path = out, out / "log.jsonl"
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
                raise MissingExtraError.of("tensorboard") from error
            self._events = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def _drop_rows_after(self, step: int) -> None:
        kept = [row for row in read_rows(self._path) if row["step"] <= step]
        seconds = (row.get("seconds") for row in kept)
        self._earlier = max((value for value in seconds if isinstance(value, float)), default=0.0)
        with atomic_path(self._path) as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def write(self, row: Row) -> None:
        """Append a row; it needs the key "step"."""
        if not self._enabled:
            return
        row = row | {"seconds": round(self._earlier + time.perf_counter() - self._began, 3)}
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}  # JSON has none
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if self._events is not None:
            prefix = row.get("modality", "run")
            for key, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
                    self._events.add_scalar(f"{prefix}/{key}", value, row["step"])

    def write_preview(self, step: int, preview: Mapping[str, Tensor], fps: float) -> None:
        """Write `previews/step-…-NAME.png` for images (3, H, W) in [-1, 1], `.mp4` for videos (3, T, H, W)."""
        for name, pixels in preview.items():
            path = self._out / "previews" / f"step-{step:09d}-{name}"
            if pixels.ndim == 3:
                write_image(path.with_suffix(".png"), pixels)
            else:
                height, width = (side - side % 2 for side in pixels.shape[-2:])  # H.264 wants even sides
                write_video(path.with_suffix(".mp4"), pixels[..., :height, :width], fps=fps)
            if self._events is not None:
                frames = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels  # 3 t h w
                shown = to_uint8(frames).transpose(0, 1)  # t 3 h w
                if pixels.ndim == 3:
                    self._events.add_image(f"preview/{name}", shown[0], step)
                else:
                    # add_video wants moviepy for its GIF; the frames below one another need nothing.
                    self._events.add_images(f"preview/{name}", shown, step)

    def draw_curves(self) -> None:
        """Draw OUT/curves.png from the log."""
        if self._enabled and self._path.exists():
            write_curves(read_rows(self._path), self._out / "curves.png")

    def close(self) -> None:
        """Finish the event files."""
        if self._events is not None:
            self._events.close()


def read_rows(path: Path) -> list[Row]:
    """The rows of a log.jsonl, without what is none: the line that a kill cut off, a damaged one. "modality" was once
    called "medium"."""
    rows = []
    with path.open("rb") as log:
        while line := log.readline(_LONGEST_ROW):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # no JSON, no UTF-8, nested without end
                continue
            if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**63:
                rows.append({"modality" if key == "medium" else key: value for key, value in row.items()})
    return rows


def describe_progress(row: Row, steps: int, seconds_per_step: float) -> str:
    """A row of the log as a line for people: "step 120/1100 image: loss 0.0312, lr 0.0015, 4.1 steps/s, 4 min left"."""
    remaining = max(0, steps - row["step"]) * seconds_per_step
    speed = f"{1 / seconds_per_step:.3g} steps/s" if seconds_per_step > 0 else ""
    return (
        f"step {row['step']}/{steps} {row['modality']}: loss {row['loss']:.4g}, lr {row['lr']:.2g}, {speed}, "
        f"{_duration(remaining)} left"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
