"""The folder of a run: where it stands, whether it may be continued, and its list of unreadable files."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnitok.errors import OmnitokError
from omnitok.training.checkpoint import Checkpoints
from omnitok.training.logbook import Row
from omnitok.training.settings import to_plain


@dataclass(frozen=True)
class TrainResult:
    """What a training gave; `steps`, `reason`, `last_row` and `validation` as in `LoopResult`."""

    out: Path
    model: Path
    steps: int
    reason: str
    skipped: int
    last_row: Row
    validation: Mapping[str, float]


def start_step(out: Path, checkpoints: Checkpoints, resume: bool) -> int:
    """The step to continue at; 0 starts anew.

    Raises:
        OmnitokError: the folder holds a training, and it is not to be resumed.
    """
    latest = checkpoints.latest()
    if latest is not None and not resume:
        raise OmnitokError(
            f"{out}: holds a training at step {latest}; continue it with --resume, or choose another --out"
        )
    return latest or 0


def check_same_recipe(name: str, saved: str, out: Path) -> None:
    """Raise OmnitokError unless the run in `out` is of the recipe `name`."""
    if name != saved:
        raise OmnitokError(
            f"{out}: holds a training of the recipe {saved!r}, which {name!r} cannot resume; choose another --out"
        )


def check_unchanged(config: Any, saved: Any, free: Collection[str], out: Path) -> None:
    """Compare the configuration of a resumed run with that of its start, but for the top-level keys in `free`.

    Raises:
        OmnitokError: the first setting that changed, with both values.
    """
    new, old = to_plain(config), to_plain(saved)
    for key in new:
        if key not in free and new[key] != old[key]:
            name, before, now = _first_difference(key, old[key], new[key])
            raise OmnitokError(
                f"{out}: was trained with {name}={before}, found {now}; a resumed run must keep its settings"
            )


def _first_difference(key: str, old: object, new: object) -> tuple[str, object, object]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                return _first_difference(f"{key}.{name}", old.get(name), new.get(name))
    return key, old, new


def unreadable_list(out: Path) -> Callable[[str, str], None]:
    """Appends (path, reason) to OUT/unreadable.txt."""

    def write(path: str, reason: str) -> None:
        with (out / "unreadable.txt").open("a", encoding="utf-8", errors="surrogateescape") as listing:
            listing.write(f"{path}\t{' '.join(reason.split())}\n")

    return write
