"""From what was gathered to a row: a measured number with everything that says how it was made."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from omnitok.data.modality import Modality
from omnitok.metrics.protocols import Protocol
from omnitok.version import VERSION


@dataclass(frozen=True)
class Result:
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
