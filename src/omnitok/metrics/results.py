"""One measured number with everything that says how it was made."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """A row of `omnitok evaluate --json`; what does not apply is None.

    `n` counts pictures or clips. `spread` says how far off the value may be, and `spread_is` what kind of figure that
    is. `warning` is a sentence where the value should not be trusted as it stands.
    """

    metric: str
    value: float
    protocol: str
    n: int
    medium: str
    resolution: int | None  # pixels a side; None: the files' own
    frames: int  # of each sample; 1 for pictures
    network: str | None = None
    network_sha256: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    data: str | None = None
    reference: str | None = None  # what `data` was compared with
    n_reference: int | None = None
    seed: int = 0
    version: str = ""
    spread: float | None = None
    spread_is: str | None = None
    warning: str | None = None

    def row(self) -> dict[str, Any]:
        """Plain JSON values; infinite and undefined numbers are None."""
        return {key: _finite(value) for key, value in asdict(self).items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def undersampled_warning(metric: str, n: int, dimension: int) -> str | None:
    """A sentence where there are too few samples for a covariance of full rank."""
    if n > dimension:
        return None
    return (
        f"{metric} over {n} samples is biased upwards: the features have {dimension} dimensions, so compare it only "
        f"with numbers over the same {n} samples"
    )
