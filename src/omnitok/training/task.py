"""What is trained: how a batch becomes gradients, what is measured, shown and published. `Trainer` does the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch
from omnitok.data.modality import Modality
from omnitok.distributed import Processes
from omnitok.training.config import AnyConfig
from omnitok.training.optim import NamedOptimizer, matrices_of_blocks
from omnitok.training.parallel import autocast, parallelize, prepare_blocks
from omnitok.training.settings import to_plain

Say = Callable[[str], None]
"""Takes a sentence for people."""
Snapshot = Callable[[bool], Any]
"""A copy of the model to measure: on every process where the argument is true, else on the first one and None on
others. All processes call it."""


class Task(ABC):
    """A model with its data, losses and optimizers.

    Attributes:
        config: resolved by `resolve`: the architecture, and what the data say, are in it.
        processes: those that train together; from `resolve` on.
        sample_counts: how many images and videos there are; from `resolve` on.
        model: trained in place; with FSDP2 its parameters become shards.
        module: what computes the forward pass: `model` with its losses, wrapped for several processes.
        optimizer: of the model.
        preview_fps: frames per second of the videos of `preview`.
    """

    config: AnyConfig
    processes: Processes
    sample_counts: Mapping[Modality, int]
    model: nn.Module
    module: nn.Module
    optimizer: NamedOptimizer
    preview_fps = 8.0

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
        chosen = self.config.optimizer
        self.optimizer = NamedOptimizer(
            model, chosen, matrices=matrices_of_blocks(model) if chosen.name == "muon" else ()
        )

    @abstractmethod
    def blank_copy(self) -> nn.Module:
        """A model of the same architecture, to be filled with weights."""

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
    def split(self, batch: Batch) -> list[tuple[tuple[Any, ...], Any]]:
        """The parts of a batch, each computed at a time, whose gradients are averaged: the arguments of `module`, and
        what `learn` needs of the part besides."""

    @abstractmethod
    def learn(self, outputs: Any, part: Any, step: int, parts: int) -> dict[str, Tensor]:
        """Add the gradients of a part, one of `parts`, from what `module` gave for it.

        Returns:
            "loss", which was minimised, and what else is logged: unweighted losses and statistics.
        """

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass."""
        return autocast(self.processes.device, self.config.engine.precision)

    def step_buffers(self) -> list[Tensor]:
        """What a forward in training mode changes, and a skipped step must put back."""
        return []

    def clip_gradients(self) -> dict[str, Tensor]:
        """Scale the gradients to the configured norm; the norms before, which are not finite if a gradient is not."""
        return {"grad_norm": self.optimizer.clip()}

    def update(self, step: int, rate: float) -> None:
        """Step the optimizers; the gradients are finite on every process."""
        self.optimizer.step(rate)

    def row_details(self, step: int) -> dict[str, float]:
        """More entries for a row of the log."""
        return {}

    def alarm(self, step: int, details: Mapping[str, float]) -> str | None:
        """What these details say is wrong with the training, and what to do."""
        return None

    @abstractmethod
    def forward_flops(self, shape: tuple[int, ...]) -> int:
        """Floating-point operations of a forward pass for pixels (b, 3, (T,) H, W); nothing is computed."""

    # ---------------------------------------------------------------------------------------------------------- state

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds and fills in place, in groups, beside the states of the optimizers."""
        return {"model": tensors_of(self.model)}

    def optimizers(self) -> dict[str, NamedOptimizer]:
        """Those whose state a checkpoint holds, by the group's name."""
        return {"optimizer": self.optimizer}

    # -------------------------------------------------------------------------------------------------------- results

    def recall(self, folder: Path) -> None:
        """Take over from the model folder of the run that continues what no checkpoint holds."""
        return

    @abstractmethod
    def export(self, model: Any, folder: Path, last: bool) -> None:
        """Write the model folder; `last` says whether this is the end of the run."""

    def preview(self, model: Any) -> Mapping[str, Tensor]:
        """Images (3, H, W) and videos (3, T, H, W) to look at, by name; on the first process."""
        return {}

    def validate(self, snapshot: Snapshot) -> Mapping[str, float]:
        """Scores of the model on held-out data; of none on processes that take no part. All processes call it."""
        return {}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without their history."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


@torch.no_grad()
def side_by_side(samples: Tensor) -> Tensor:
    """(n, 3, ..., H, W) -> (3, ..., H, n W)."""
    return torch.cat(list(samples), dim=-1)
