"""From what was gathered to a row: a measured number with everything that says how it was made."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from omnitok.data.modality import Modality
from omnitok.metrics.protocols import Protocol

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Setup:
    """What accumulators are made for."""

    protocol: Protocol
    n: int = 0  # samples of the set
    vocab_size: int = 0  # of the tokenizer
    dimension: int = 0  # of the network's features
    classes: int = 0  # of the network's logits
    network: str = ""  # its identity, which statistics files remember


@dataclass(frozen=True)
class Gathered:
    """What a metric's score is computed from once every sample is in: the results of its accumulators."""

    metric: str
    real: Any  # None where one side alone is measured
    fake: Any
    protocol: Protocol
    seed: int = 0
    expected: int | None = None  # samples that the protocol asks for, where it asks for a number
    memory: dict[Any, Any] = field(default_factory=dict)  # shared by the metrics of one evaluation

    def once(self, function: Callable[..., _Value], *arguments: Any) -> _Value:
        """`function(real, fake, *arguments)`, computed for the first metric that asks."""
        key = (function, *arguments)
        if key not in self.memory:
            self.memory[key] = function(self.real, self.fake, *arguments)
        return self.memory[key]


@dataclass(frozen=True)
class Score:
    """A metric's number; fields as in `Result`, None where the evaluation itself knows them."""

    value: float
    spread: float | None = None
    spread_is: str | None = None
    warning: str | None = None
    name: str | None = None  # where one metric gives several numbers
    n: int | None = None
    n_reference: int | None = None


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
    version: str = ""
    spread: float | None = None
    spread_is: str | None = None
    warning: str | None = None

    def row(self) -> dict[str, Any]:
        """Plain JSON values; infinite and undefined numbers are None. `medium` is the older name of `modality`."""
        values = {**asdict(self), "medium": self.modality}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
