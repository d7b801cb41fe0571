"""The flags of a released file, read with their types: one sentence that names the flag for whatever is wrong."""

import math
from collections.abc import Mapping

from omnitok.errors import CheckpointError

LARGEST = 2**31 - 1


class Flags:
    """Typed access to the flags; a flag that is None counts as absent. All methods raise CheckpointError."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def get(self, name: str, default: object = None) -> object:
        """The value as it is."""
        value = self._values.get(name)
        return default if value is None else value

    def spelling(self, *names: str) -> str:
        """The name under which a flag is present; some files spell `casual_`."""
        return next((name for name in names if name in self._values), names[0])

    def only(self, accepted: Mapping[str, object]) -> None:
        """Refuse a flag with another value than the one that all released models have."""
        for name, value in accepted.items():
            if self.get(name, value) != value:
                raise CheckpointError(f"flag {name} is {self._values[name]!r}; only {value!r} can be converted")

    def agree(self, found: Mapping[str, object]) -> None:
        """Refuse a flag that says something else than the weights do."""
        for name, value in found.items():
            if self.get(name, value) != value:
                raise CheckpointError(f"flag {name} is {self._values[name]!r}, but the weights have {value!r}")

    def integer(self, name: str, default: int | None = None, lowest: int = 0, highest: int = LARGEST) -> int:
        """A whole number."""
        value = self._needed(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise CheckpointError(f"flag {name} must be a whole number from {lowest} to {highest}, found {value!r}")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._needed(name, None)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise CheckpointError(f"flag {name} must be a number, found {value!r}")
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._needed(name, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"flag {name} must be true or false, found {value!r}")
        return value

    def text(self, name: str, default: str) -> str:
        """Text."""
        value = self._needed(name, default)
        if not isinstance(value, str):
            raise CheckpointError(f"flag {name} must be text, found {value!r}")
        return value

    def _needed(self, name: str, default: object) -> object:
        value = self.get(name, default)
        if value is None:
            raise CheckpointError(f"flag {name} is missing; it is needed to build the model")
        return value
