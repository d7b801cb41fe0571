"""What gathers a metric batch by batch: it can be merged, summed over processes, saved and continued."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from omnitok.distributed import all_reduce_sum


class Accumulator(ABC):
    """Tensors that are sums over samples, named in `SUMS`; memory does not grow with the set.

    Subclasses add `update`, which takes a batch, and `what`: what is gathered and how large it is, since only equals
    can be merged.
    """

    SUMS: ClassVar[tuple[str, ...]]
    what: str

    @abstractmethod
    def compute(self) -> Any:
        """The result over all samples so far; ValueError where there are too few."""

    def merge(self, other: "Accumulator") -> None:
        """Add the samples of `other`, which must not have been counted here already."""
        if self.what != other.what:
            raise ValueError(f"cannot merge {self.what} with {other.what}")
        for name in self.SUMS:
            mine: Tensor = getattr(self, name)
            mine += getattr(other, name).to(mine.device)

    def all_reduce(self) -> None:
        """Every process gets the sums over all processes; call once, before `compute`."""
        for name in self.SUMS:
            setattr(self, name, all_reduce_sum(getattr(self, name)))

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, for a run that continues later."""
        return {name: getattr(self, name).clone() for name in self.SUMS}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from saved sums; ValueError where they have other shapes."""
        for name in self.SUMS:
            mine: Tensor = getattr(self, name)
            if state[name].shape != mine.shape:
                raise ValueError(f"{name} is saved with the shape {tuple(state[name].shape)}, not {tuple(mine.shape)}")
            mine.copy_(state[name])
