"""Batches of token shards, each of one grid, and a loader that can stop and go on anywhere."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from omnitok.data.loader import Batch, check_share, load_batches
from omnitok.data.modality import Modality
from omnitok.data.sampler import EpochOrder
from omnitok.data.shard_format import Grid, Kind, TokenRecord
from omnitok.errors import ShardError


class TokenSource(Protocol):
    """What batches are made of: `omnitok.data.TokenShards`, which stands on this file."""

    kind: Kind
    grids: dict[Grid, int]

    def indices_of(self, grid: Grid) -> np.ndarray: ...

    def record(self, index: int) -> TokenRecord: ...

    def read(self, indices: Sequence[int] | np.ndarray, grid: Grid) -> tuple[Tensor, Tensor]: ...


class Order(Protocol):
    """Which items make up a step: an `EpochOrder`, or a `Sampler` of groups."""

    def places(self, step: int) -> tuple[Grid, np.ndarray]: ...


class TokenDataset(Dataset[Batch]):
    """`dataset[step]` is this process's share of the batch of that step.

    Args:
        shards: the items.
        order: of the shards' grids, by a global batch size.
        rank, world_size: this process has every world_size-th item of a batch from the rank-th on.
        labelled: False gives every item the label -1.
    """

    def __init__(
        self, shards: TokenSource, order: Order, rank: int = 0, world_size: int = 1, labelled: bool = True
    ) -> None:
        check_share(rank, world_size)
        self.shards, self.order, self.rank, self.world_size, self.labelled = shards, order, rank, world_size, labelled
        self._indices = {grid: shards.indices_of(grid) for grid in shards.grids}
        self._sizes = {grid: shards.record(int(indices[0])).size for grid, indices in self._indices.items()}

    def __getitem__(self, step: int) -> Batch:
        """The share of one step; of a last, incomplete batch it may be smaller than others', or empty.

        Raises:
            ShardError: a shard is damaged.
        """
        grid, places = self.order.places(step)
        indices = self._indices[grid][places][self.rank :: self.world_size]
        tokens, labels = self.shards.read(indices, grid)
        if not self.labelled:
            labels = torch.full_like(labels, -1)
        frames, height, width = self._sizes[grid]
        size = (height, width) if len(grid) == 2 else (frames, height, width)
        modality: Modality = "image" if len(grid) == 2 else "video"
        return Batch(step, modality, tokens, labels, (len(indices), 3, *size), indices=tuple(indices.tolist()))


class TokenLoader:
    """Iterates over the batches of an epoch, then, iterated again, of the next; can stop and go on anywhere.

    The position is that of the batches handed out, whatever worker processes have loaded ahead: `state_dict` in the
    middle of an epoch, given to a loader with any number of workers, gives exactly the rest. Each rank has its own
    loader at the same step.

    Args:
        shards: the items.
        batch_size, seed, full_batches: as for `EpochOrder`.
        rank, world_size: as for `TokenDataset`.
        workers: loading processes; 0 loads in this one.
        grids: use the items of these grids only.
        pin_memory: for copies to a GPU that do not block.

    Raises:
        ValueError: a batch that cannot be shared evenly; a grid that the shards do not have; nothing to sample.
    """

    def __init__(
        self,
        shards: TokenSource,
        batch_size: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        full_batches: bool = False,
        grids: Sequence[Grid] | None = None,
        pin_memory: bool = False,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} items cannot be shared evenly by {world_size} processes")
        chosen = shards.grids if grids is None else {grid: shards.grids.get(grid, 0) for grid in grids}
        if missing := [grid for grid, count in chosen.items() if not count]:
            known = ", ".join(map(str, shards.grids))
            raise ValueError(f"there are no items of grid {missing[0]}; there are of {known}")
        self.order = EpochOrder(chosen, batch_size, seed, full_batches)
        self.dataset = TokenDataset(shards, self.order, rank, world_size)
        self.workers, self.pin_memory = workers, pin_memory
        self.step = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next batch lies in."""
        return self.order.epoch_of(self.step)

    def __len__(self) -> int:
        """Batches in the current epoch, those handed out included."""
        return self.order.steps_before(self.epoch + 1) - self.order.steps_before(self.epoch)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        stop = self.order.steps_before(self.epoch + 1)
        for batch in load_batches(self.dataset, self.step, stop, self.workers, pin_memory=self.pin_memory):
            self.step = batch.step + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and of what order."""
        order = self.order
        return {
            "step": self.step,
            "seed": order.seed,
            "batch_size": order.batch_size,
            "full_batches": order.full_batches,
            "items": sum(order.counts.values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a loader of the same items, batch size and seed was, on any number of ranks.

        Raises:
            ShardError: the state is of another order.
        """
        own = self.state_dict()
        for name in ("seed", "batch_size", "full_batches", "items"):
            if state.get(name) != own[name]:
                raise ShardError(f"this position is of a loader with {name} {state.get(name)}, not {own[name]}")
        self.step = int(state["step"])
