"""From what was gathered to a row: a measured number with everything that says how it was made."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from omnitok.data.modality import Modality
from omnitok.metrics.protocols import Protocol
from omnitok.metrics.tables import ShownAsTables, Table
from omnitok.version import VERSION


@dataclass(frozen=True)
class Result(ShownAsTables):
    """A row of `omnitok evaluate --json`; what does not apply is None.

    `n` counts images or videos. `spread` says how far off the value may be, and `spread_is` what kind of figure that
    is. `warning` is a sentence where the value should not be trusted as it stands.
    """

    metric: str
    value: float
    protocol: str
    n: int
    modality: Modality
    resolution: int | None  # pixels per side; None: the files' own
    frames: int  # of each sample; 1 for images
    network: str | None = None
    network_sha256: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    data: str | None = None
    reference: str | None = None  # what `data` was compared with
    n_reference: int | None = None
    seed: int = 0
    version: str = VERSION
    spread: float | None = None
    spread_is: str | None = None
    warning: str | None = None
    chance: float | None = None  # of accuracies, see `Confusion.chance`
    real_value: float | None = None  # of accuracies of classes: what real samples reach that were held out
    by: dict[str, dict[str, float]] | None = None  # of accuracies: value and n for each class or colour
    per_channel: tuple[float, ...] | None = None  # PSNR and SSIM of pixels that are not in colour

    def row(self) -> dict[str, Any]:
        """Plain JSON values; infinite and undefined numbers are None. `medium` is the older name of `modality`."""
        values = {**asdict(self), "medium": self.modality}
        for name in ("chance", "real_value", "by"):
            if values[name] is None:
                del values[name]
        if (of_channels := values.pop("per_channel")) is not None:
            values["per_channel"] = [_finite(value) for value in of_channels]
        return {key: _finite(value) for key, value in values.items()}

    def tables(self) -> list[Table]:
        """See `Results.table`."""
        return Results([self]).tables()

    def notes(self) -> list[str]:
        """The warning, where there is one."""
        return Results([self]).notes()


class Results(ShownAsTables, list[Result]):
    """The rows of an evaluation, which a notebook shows as a table."""

    def table(self, names: Mapping[str, str] | None = None) -> Table:
        """Titles, and cells for people; columns in which no row has anything are left out.

        Args:
            names: of models, in place of their own.
        """
        told = {key for result in self for key in result.row()}
        columns = {title: cell for title, cell in _COLUMNS.items() if _OF_ACCURACIES.get(title, "value") in told}
        rows = [[cell(result) for cell in columns.values()] for result in self]
        if names is not None:
            place = list(columns).index("model")
            for row in rows:
                row[place] = names.get(row[place], row[place])
        return list(columns), rows

    def tables(self) -> list[Table]:
        """The one of `table`."""
        return [self.table()]

    def notes(self) -> list[str]:
        """Warnings."""
        return [f"{result.modality} {result.warning}" for result in self if result.warning]


def _size(result: Result) -> str:
    side = "own" if result.resolution is None else str(result.resolution)
    return side if result.frames == 1 else f"{result.frames}x{side}"


def _accuracy(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


_OF_ACCURACIES = {"real": "real_value", "chance": "chance"}
"""Columns that are shown where a row has such a key."""

_COLUMNS: dict[str, Callable[[Result], str]] = {
    "metric": lambda result: result.metric,
    "of": lambda result: result.modality,
    "model": lambda result: result.model or "-",
    "value": lambda result: f"{result.value:.5g}" if math.isfinite(result.value) else "inf or -",
    "real": lambda result: _accuracy(result.real_value),
    "chance": lambda result: _accuracy(result.chance),
    "±": lambda result: "-" if _finite(result.spread) is None else f"{result.spread:.2g}",
    "n": lambda result: str(result.n),
    "size": _size,
    "protocol": lambda result: result.protocol,
    "network": lambda result: result.network or "-",
}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Gathered:
    """What a metric's rows are made of once every sample is in: the results of its accumulators."""

    row: Result  # all but the number
    real: Any  # None where one side alone is measured
    fake: Any
    protocol: Protocol
    expected: int | None = None  # samples that the protocol asks for, where it asks for a number
    memory: dict[Any, Any] = field(default_factory=dict)  # shared by the metrics of one evaluation

    def result(self, value: float, **fields: Any) -> Result:
        """The row with its number, and with what else the metric knows."""
        return replace(self.row, value=value, **fields)
