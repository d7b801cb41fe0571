"""Shuffled batches of token shards, each of one grid shape, as a pure function of the seed and the step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from omnitok.data.loading import load_batches
from omnitok.data.sampling import Medium, shuffled
from omnitok.data.shard_format import Grid, Kind
from omnitok.errors import ShardError


class TokenSource(Protocol):
    """What batches are made of: `omnitok.data.TokenShards`, which stands on this file."""

    kind: Kind
    grids: dict[Grid, int]

    def indices_of(self, grid: Grid) -> np.ndarray: ...

    def read(self, indices: Sequence[int] | np.ndarray, grid: Grid) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class TokenBatch:
    """One process's share of a step.

    Attributes:
        step: counted from 0.
        codes: int64 (b, h, w) of pictures or (b, t, h, w) of clips; None for latents.
        latents: float32 (b, c, h, w) or (b, c, t, h, w); None for codes.
        labels: int64 (b,), -1 where there is none.
        indices: int64 (b,), which items of the shards.
    """

    step: int
    codes: Tensor | None
    latents: Tensor | None
    labels: Tensor
    indices: tuple[int, ...]

    @property
    def tokens(self) -> Tensor:
        """The codes or the latents."""
        tokens = self.latents if self.codes is None else self.codes
        assert tokens is not None
        return tokens

    @property
    def medium(self) -> Medium:
        """ "image" or "video"."""
        return "image" if self.tokens.ndim == (4 if self.codes is None else 3) else "video"

    @property
    def size(self) -> int:
        """Items in it."""
        return len(self.indices)

    def pin_memory(self) -> "TokenBatch":
        """The same in page-locked memory; a DataLoader with `pin_memory` calls this."""
        codes = None if self.codes is None else self.codes.pin_memory()
        latents = None if self.latents is None else self.latents.pin_memory()
        return replace(self, codes=codes, latents=latents, labels=self.labels.pin_memory())


class TokenSampler:
    """Which items make up step k. Nothing is remembered between steps: the position in the data is the step number.

    The items of each grid are gone through in shuffled epochs, and the batches of all grids of an epoch are shuffled
    together. An epoch has ceil(n / batch_size) batches of a grid of n items.

    Args:
        counts: number of items of each grid.
        batch_size: global.
        seed: of everything; not negative.
        full_batches: what happens to the last, incomplete batch of a grid in an epoch. False: it is smaller, and an
            epoch has every item exactly once. True: it is filled with the first items of the next epoch, which that
            then does without, so that all batches have one size and every item is still seen equally often.

    Raises:
        ValueError: nothing to sample; a batch size or seed out of range.
    """

    def __init__(self, counts: Mapping[Grid, int], batch_size: int, seed: int, full_batches: bool = False) -> None:
        self.counts = {grid: count for grid, count in sorted(counts.items(), key=_order) if count}
        if not self.counts:
            raise ValueError("there is nothing to sample: no items")
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, found {batch_size}")
        if seed < 0:
            raise ValueError(f"the seed must not be negative, found {seed}")
        self.batch_size, self.seed, self.full_batches = batch_size, seed, full_batches
        self.grids = tuple(self.counts)

    def steps_before(self, epoch: int) -> int:
        """Number of steps in all epochs before `epoch`, counted from 0."""
        return sum(self._batches_before(grid, epoch) for grid in self.grids)

    def epoch_of(self, step: int) -> int:
        """The epoch that a step lies in."""
        if step < 0:
            raise ValueError(f"steps are counted from 0, found {step}")
        low, high = 0, step + 1
        while self.steps_before(high) <= step:  # with full batches an epoch of few items may have no step
            high *= 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.steps_before(middle) <= step else (low, middle)
        return low

    def plan(self, step: int) -> tuple[Grid, np.ndarray]:
        """The grid of a step, and places among the items of that grid: int64 (b,)."""
        epoch = self.epoch_of(step)
        place = step - self.steps_before(epoch)
        grid = self._number_of(epoch, place)
        stream = 16 + grid  # beside those that `Sampler` uses
        n, b = self.counts[self.grids[grid]], self.batch_size
        batch = self._batches_before(self.grids[grid], epoch) + int((self._turns(epoch)[:place] == grid).sum())
        if not self.full_batches:
            first = (batch - self._batches_before(self.grids[grid], epoch)) * b
            return self.grids[grid], shuffled(self.seed, stream, epoch, n, np.arange(first, min(first + b, n)))
        draws = [divmod(draw, n) for draw in range(batch * b, (batch + 1) * b)]  # (epoch of the grid, place)
        places = np.empty(b, dtype=np.int64)
        for turn in sorted({turn for turn, _ in draws}):
            chosen = [i for i, (t, _) in enumerate(draws) if t == turn]
            places[chosen] = shuffled(self.seed, stream, turn, n, np.array([draws[i][1] for i in chosen]))
        return self.grids[grid], places

    def _batches_before(self, grid: Grid, epoch: int) -> int:
        n, b = self.counts[grid], self.batch_size
        return -(-epoch * n // b) if self.full_batches else epoch * -(-n // b)

    def _number_of(self, epoch: int, place: int) -> int:
        return int(self._turns(epoch)[place])

    def _turns(self, epoch: int) -> np.ndarray:
        """Which grid each step of an epoch is of, by number: (steps,)."""
        counts = tuple(self._batches_before(g, epoch + 1) - self._batches_before(g, epoch) for g in self.grids)
        return _turns(self.seed, epoch, counts)


def _order(item: tuple[Grid, int]) -> tuple[int, Grid]:
    return len(item[0]), item[0]


@lru_cache(maxsize=4)
def _turns(seed: int, epoch: int, counts: tuple[int, ...]) -> np.ndarray:
    turns = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return turns if len(counts) == 1 else np.random.default_rng((seed, 5, epoch)).permutation(turns)


class TokenDataset(Dataset[TokenBatch]):
    """`dataset[step]` is this process's share of the batch of that step; for `load_batches`, in training.

    Args:
        shards: the items.
        batch_size: global; each process has every world_size-th item from the rank-th on.
        seed, full_batches: see `TokenSampler`.
        rank, world_size: this process among all.
        grids: use the items of these grids only.

    Raises:
        ValueError: as for `TokenSampler`; a batch that cannot be shared evenly; a grid that the shards do not have.
    """

    def __init__(
        self,
        shards: TokenSource,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        full_batches: bool = True,
        grids: Sequence[Grid] | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank must lie in [0, {world_size}), found {rank}")
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} items cannot be shared evenly by {world_size} processes")
        chosen = dict(shards.grids)
        if grids is not None:
            if missing := [grid for grid in grids if grid not in chosen]:
                raise ValueError(f"there are no items of grid {missing[0]}; there are of {', '.join(map(str, chosen))}")
            chosen = {grid: chosen[grid] for grid in grids}
        self.shards, self.rank, self.world_size = shards, rank, world_size
        self.sampler = TokenSampler(chosen, batch_size, seed, full_batches)
        self._indices = {grid: shards.indices_of(grid) for grid in self.sampler.grids}

    def __getitem__(self, step: int) -> TokenBatch:
        """The share of one step; of a last, incomplete batch it may be smaller than others', or empty.

        Raises:
            ShardError: a shard is damaged.
        """
        grid, places = self.sampler.plan(step)
        indices = self._indices[grid][places][self.rank :: self.world_size]
        tokens, labels = self.shards.read(indices, grid)
        codes, latents = (tokens, None) if self.shards.kind == "codes" else (None, tokens)
        return TokenBatch(step, codes, latents, labels, tuple(indices.tolist()))


class TokenLoader:
    """Iterates over the batches of an epoch, then, iterated again, of the next; can stop and go on anywhere.

    The position is that of the batches handed out, whatever worker processes have loaded ahead: `state_dict` in the
    middle of an epoch, given to a loader with any number of workers, gives exactly the rest. Each rank has its own
    loader at the same step.

    Args:
        dataset: the batches by step.
        workers: loading processes; 0 loads in this one.
        pin_memory: for copies to a GPU that do not block.
    """

    def __init__(self, dataset: TokenDataset, workers: int = 0, pin_memory: bool = False) -> None:
        self.dataset, self.workers, self.pin_memory = dataset, workers, pin_memory
        self.step = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next batch lies in."""
        return self.dataset.sampler.epoch_of(self.step)

    def __len__(self) -> int:
        """Batches in the current epoch, those handed out included."""
        sampler = self.dataset.sampler
        return sampler.steps_before(self.epoch + 1) - sampler.steps_before(self.epoch)

    def __iter__(self) -> Iterator[TokenBatch]:
        """The rest of the current epoch."""
        stop = self.dataset.sampler.steps_before(self.epoch + 1)
        for batch in load_batches(self.dataset, self.step, stop, self.workers, pin_memory=self.pin_memory):
            self.step = batch.step + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and of what order."""
        sampler = self.dataset.sampler
        return {
            "step": self.step,
            "seed": sampler.seed,
            "batch_size": sampler.batch_size,
            "full_batches": sampler.full_batches,
            "items": sum(sampler.counts.values()),
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
