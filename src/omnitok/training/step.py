"""What the training steps of all models have in common: the report of a step, means over its parts, its seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from omnitok.data.modality import Modality


@dataclass(frozen=True)
class StepReport:
    """What one step did. Scalars are of this process."""

    step: int
    medium: Modality
    shape: tuple[int, ...]  # of the pixels of this process's share of the batch, or of those its tokens stand for
    rate: float
    applied: bool  # False: something was not finite, and nothing was updated
    scalars: dict[str, Tensor]  # unweighted losses, statistics, norms


@dataclass
class Sums:
    """Means over the parts of a batch."""

    parts: int
    values: dict[str, Tensor] = field(default_factory=dict)
    total: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in one part's scalars."""
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value.detach() / self.parts


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of everything random inside a step, so that resuming needs no stored random state."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def sample_seeds(seed: int, step: int, places: Iterable[int], use: int = 1) -> list[int]:
    """Seeds of the samples at these places of a step's whole batch, whichever process has them; others for each `use`
    (from 1)."""
    states = (np.random.SeedSequence((seed, step, place), spawn_key=(use,)) for place in places)
    return [int(state.generate_state(1, np.uint64)[0] >> np.uint64(1)) for state in states]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without their history."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}
