"""What is trained: how a batch becomes a loss, what is measured, shown and published. `Trainer` does the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch
from omnitok.data.modality import Modality
from omnitok.distributed import Processes
from omnitok.training.config import AnyConfig
from omnitok.training.optim import NamedOptimizer, build_optimizer
from omnitok.training.parallel import parallelize, prepare_blocks
from omnitok.training.settings import to_plain

Say = Callable[[str], None]
"""Takes a sentence for people."""


@dataclass(frozen=True)
class StepLoss:
    """What one part of a batch gives.

    Attributes:
        total: the scalar that is minimised, with its graph.
        scalars: what is logged: unweighted losses and statistics.
    """

    total: Tensor
    scalars: Mapping[str, Tensor]


class Task(ABC):
    """A model with its data, losses and optimizers.

    Attributes:
        config: resolved by `resolve`: the architecture, and what the data say, are in it.
        processes: those that train together; from `resolve` on.
        model: trained in place; with FSDP2 its parameters become shards.
        module: what computes the forward pass: `model` with its losses, wrapped for several processes.
        optimizer: of the model.
        validates_together: every process takes part in `validate`, or the first one alone.
    """

    config: AnyConfig
    processes: Processes
    model: nn.Module
    module: nn.Module
    optimizer: NamedOptimizer
    validates_together = False

    # ---------------------------------------------------------------------------------------------------------- start

    @abstractmethod
    def resolve(self, processes: Processes, saved: AnyConfig | None, say: Say) -> None:
        """Open the data and complete the configuration, before anything is written.

        Args:
            saved: the configuration of the run that continues; its weights then come from a checkpoint.

        Raises:
            OmnitokError: whatever can be known to fail, in one sentence.
        """

    @abstractmethod
    def build(self, say: Say) -> None:
        """Make the model with its first weights, and the optimizers; after `resolve`."""

    def prepare(self, model: nn.Module, objective: nn.Module) -> None:
        """Let the processes train `model`, whose forward is that of `objective`."""
        self.model = model
        prepare_blocks(model, self.config.engine)
        self.module = parallelize(objective.to(self.processes.device), self.processes, self.config.engine.parallel)
        self.optimizer = build_optimizer(model, self.config.optimizer)

    @property
    @abstractmethod
    def sample_counts(self) -> Mapping[Modality, int]:
        """How many images and videos there are; after `resolve`."""

    @abstractmethod
    def parts_of(self, model: Any) -> Mapping[str, nn.Module]:
        """What the parameters of a model are counted by."""

    def describe(self) -> dict[str, Any]:
        """What would be trained, after `resolve`: "config", "parameters" by part, "data"; nothing is allocated."""
        with torch.device("meta"):
            parts = self.parts_of(self.blank_copy())
        return {
            "config": to_plain(self.config),
            "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
            "data": {f"{modality}s": count for modality, count in self.sample_counts.items()},
        }

    # ----------------------------------------------------------------------------------------------------------- step

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterable[Batch]:
        """This process's batches of steps start, ..., stop - 1."""

    @abstractmethod
    def split(self, batch: Batch) -> list[Any]:
        """The parts of a batch, each computed at a time; their gradients are averaged."""

    @abstractmethod
    def inputs(self, part: Any, step: int) -> tuple[Any, ...]:
        """The arguments of `module` for a part."""

    @abstractmethod
    def loss(self, outputs: Any, part: Any, step: int) -> StepLoss:
        """The loss of the outputs of `module`."""

    def opponent_losses(self, step: int, parts: int) -> Mapping[str, Tensor]:
        """Add the gradients of a second player for the part whose loss was asked for last; its losses, to log."""
        return {}

    def step_buffers(self) -> list[Tensor]:
        """What a forward in training mode changes, and a skipped step must put back."""
        return []

    def clip_gradients(self) -> dict[str, Tensor]:
        """Scale the gradients to the configured norm; the norms before, which are not finite if a gradient is not."""
        return {"grad_norm": self.optimizer.clip()}

    def update(self, step: int, rate: float) -> None:
        """Step the optimizers; the gradients are finite on every process."""
        self.optimizer.step(rate)

    def row_details(self, step: int) -> Mapping[str, float]:
        """More entries for a row of the log."""
        return {}

    def alarm(self, step: int) -> str | None:
        """What is wrong with the training, and what to do; asked for with each row."""
        return None

    @abstractmethod
    def forward_flops(self, shape: tuple[int, ...]) -> int:
        """Floating-point operations of a forward pass for pixels of a shape (b, 3, (T,) H, W)."""

    # ---------------------------------------------------------------------------------------------------------- state

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds and fills in place, in groups."""
        return {"model": tensors_of(self.model)}

    def optimizers(self) -> dict[str, NamedOptimizer]:
        """Those whose state a checkpoint holds, by the group's name."""
        return {"optimizer": self.optimizer}

    # -------------------------------------------------------------------------------------------------------- results

    @abstractmethod
    def blank_copy(self) -> nn.Module:
        """A model of the same architecture, to be filled with weights."""

    def finish_copy(self, copy: Any) -> None:
        """Give a copy with the model's weights what the model knows besides."""
        return

    def recall(self, folder: Path) -> None:
        """Take over from the model folder of the run that continues what no checkpoint holds."""
        return

    @abstractmethod
    def export(self, model: Any, folder: Path, last: bool) -> None:
        """Write the model folder; `last` says whether this is the end of the run."""

    def preview(self, model: Any) -> Mapping[str, Tensor]:
        """Images (3, H, W) and videos (3, T, H, W) to look at, by name; on the first process."""
        return {}

    @property
    def preview_fps(self) -> float:
        """Frames per second of the videos of `preview`."""
        return 8.0

    @property
    def has_validation(self) -> bool:
        """Whether there is something to validate on."""
        return False

    def validate(self, model: Any) -> Mapping[str, float]:
        """Scores of the model on held-out data."""
        return {}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without their history."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


@torch.no_grad()
def side_by_side(samples: Tensor) -> Tensor:
    """(n, 3, ..., H, W) -> (3, ..., H, n W)."""
    return torch.cat(list(samples), dim=-1)
