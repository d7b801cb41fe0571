"""Whether the run in a folder may be continued."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnitok.errors import OmnitokError
from omnitok.training.config import AnyConfig
from omnitok.training.settings import to_plain

_FREE_ON_RESUME = {
    *("steps", "engine", "log", "checkpoint_every", "keep_checkpoints", "max_failures", "max_skipped", "init"),
    *("validation", "validation_shards", "validation_batches", "data.workers", "perceptual.weights_dir"),
}
"""Settings that a continued run may change: what is learnt does not follow from them. Not so `validation.samples`
where files are held out: it says how many at most."""


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
    new, old = (_by_name(to_plain(each)) for each in (config, saved))
    for name in {**new, **old}:
        before, now = old.get(name), new.get(name)
        is_free = not _FREE_ON_RESUME.isdisjoint((name, name.split(".")[0]))
        is_free &= not (name == "validation.samples" and config.held_out)
        if before != now and not is_free:
            raise OmnitokError(
                f"{out}: was trained with {name}={before}, found {now}; a resumed run must keep its settings"
            )


def _by_name(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"frames": 17}} -> {"data.frames": 17}."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        inside = _by_name(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        named |= inside
    return named
