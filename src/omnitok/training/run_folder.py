"""The folder of a run: whether it may be continued, and its list of unreadable files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnitok.data.loader import Failure
from omnitok.errors import OmnitokError
from omnitok.training.config import AnyConfig
from omnitok.training.settings import to_plain

_FREE_ON_RESUME = {
    *("steps", "engine", "log", "checkpoint_every", "keep_checkpoints", "max_failures", "max_skipped", "init"),
    *("validation", "validation_shards", "validation_batches"),
}
"""Settings that a continued run may change: what is learnt does not follow from them."""


def check_same_recipe(name: str, saved: str, out: Path) -> None:
    """Raise OmnitokError unless the run in `out` is of the recipe `name`."""
    if name != saved:
        raise OmnitokError(
            f"{out}: holds a training of the recipe {saved!r}, which {name!r} cannot resume; choose another --out"
        )


def check_unchanged(config: AnyConfig, saved: AnyConfig, out: Path) -> None:
    """Compare the configuration of a resumed run with that of its start.

    Raises:
        OmnitokError: the first setting that changed and must not, with both values.
    """
    new, old = to_plain(config), to_plain(saved)
    for key in new:
        if key not in _FREE_ON_RESUME and new[key] != old[key]:
            name, before, now = _first_difference(key, old[key], new[key])
            raise OmnitokError(
                f"{out}: was trained with {name}={before}, found {now}; a resumed run must keep its settings"
            )


def _first_difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                return _first_difference(f"{key}.{name}", old.get(name), new.get(name))
    return key, old, new


class UnreadableList:
    """OUT/unreadable.txt: the path and reason of each file that could not be read, once per process.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._path, self._listed = out / "unreadable.txt", set[str]()

    def add(self, failures: Sequence[Failure]) -> None:
        """Append those that are new."""
        for path, reason in failures:
            if path not in self._listed:
                self._listed.add(path)
                with self._path.open("a", encoding="utf-8", errors="surrogateescape") as listing:
                    listing.write(f"{path}\t{' '.join(reason.split())}\n")
