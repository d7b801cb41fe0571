"""Which samples make up step k, as a pure function of the seed and k.

Because nothing is remembered between steps, the position in the data is the step number: resuming, with any number of
processes or workers, is asking for the next step.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from omnitok.data.config import DataConfig
from omnitok.data.modality import MODALITIES, Modality

Group = tuple[int, ...]
"""Items that may share a batch: those of one grid of tokens."""

BLOCK_STEPS = 64
"""With `video_share`, every block of so many steps has its exact share of video steps, in a random order."""

LARGEST_TABLE = 2**20
"""Up to so many files an epoch's order is a table; beyond, it is computed place by place, in no memory."""

_FEISTEL_ROUNDS = 4
_GROUPS_STREAM = 16  # random streams of groups begin beside those of files, which have 0 (images) and 1 (videos)


@dataclass(frozen=True)
class Draw:
    """One sample of a batch: its index among those of its modality, and the seed of its crop, flip and start."""

    index: int
    seed: int


@dataclass(frozen=True)
class BatchPlan:
    """What to load for one step. The whole batch, of which each process takes its share."""

    step: int
    modality: Modality
    resolution: int
    draws: tuple[Draw, ...]


class EpochOrder:
    """Batches of the items of several groups, each batch of one group, in shuffled epochs.

    The items of each group are gone through in shuffled epochs, and the batches of all groups of an epoch are shuffled
    together.

    Args:
        counts: number of items of each group.
        batch_size: global.
        seed: of everything; not negative.
        full_batches: what happens to the last, incomplete batch of a group in an epoch. False: it is smaller, and an
            epoch has every item exactly once, in ceil(n / batch_size) batches of a group of n. True: it is filled with
            the first items of the next epoch, which that then does without, so that all batches have one size and every
            item is still seen equally often.
        stream: tells apart what is shuffled under one seed; each group takes the next.

    Raises:
        ValueError: nothing to sample; a batch size or seed out of range.
    """

    def __init__(
        self,
        counts: Mapping[Group, int],
        batch_size: int,
        seed: int,
        full_batches: bool = True,
        stream: int = _GROUPS_STREAM,
    ) -> None:
        self.counts = {group: counts[group] for group in sorted(counts, key=lambda g: (len(g), g)) if counts[group]}
        if not self.counts or min(self.counts.values()) < 0:
            raise ValueError("there is nothing to sample: no items")
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, found {batch_size}")
        if seed < 0:
            raise ValueError(f"the seed must not be negative, found {seed}")
        self.batch_size, self.seed, self.full_batches, self._stream = batch_size, seed, full_batches, stream
        self.groups = tuple(self.counts)

    def steps_before(self, epoch: int) -> int:
        """Number of steps in all epochs before `epoch`, counted from 0."""
        return sum(self._batches_before(group, epoch) for group in self.groups)

    def epoch_of(self, step: int) -> int:
        """The epoch that a step lies in."""
        if step < 0:
            raise ValueError(f"steps are counted from 0, found {step}")
        epochs = range((step + 1) * self.batch_size + 1)  # with full batches an epoch of few items may have no step
        return bisect_right(epochs, step, key=self.steps_before) - 1

    def places(self, step: int) -> tuple[Group, np.ndarray]:
        """The group of a step, and places among the items of that group: int64 (b,)."""
        b = self.batch_size
        if len(self.groups) == 1 and self.full_batches:  # batches straddle epochs: every step is the next stretch
            return self.groups[0], self._in_epochs(0, step * b, b)
        epoch = self.epoch_of(step)
        batches = tuple(self._batches_before(g, epoch + 1) - self._batches_before(g, epoch) for g in self.groups)
        turns, place = _turns(self.seed, epoch, batches), step - self.steps_before(epoch)
        number = int(turns[place])
        group = self.groups[number]
        before, batch = self._batches_before(group, epoch), int((turns[:place] == number).sum())
        if self.full_batches:
            return group, self._in_epochs(number, (before + batch) * b, b)
        n, first = self.counts[group], batch * b
        return group, _shuffled(self.seed, self._stream + number, epoch, n, np.arange(first, min(first + b, n)))

    def _in_epochs(self, number: int, first: int, count: int) -> np.ndarray:
        """Items first, first + 1, ... of a group, over all of its epochs."""
        n = self.counts[self.groups[number]]
        epochs, places = np.divmod(np.arange(first, first + count), n)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            places[chosen] = _shuffled(self.seed, self._stream + number, epoch, n, places[chosen])
        return places

    def _batches_before(self, group: Group, epoch: int) -> int:
        n, b = self.counts[group], self.batch_size
        return -(-epoch * n // b) if self.full_batches else epoch * -(-n // b)


class Sampler:
    """Deterministic mixture of image and video batches, each in its `EpochOrder`.

    Args:
        images, videos: how many samples there are of each, or how many of each group.
        config: batch sizes, resolutions and the share of videos, which is exact over every `BLOCK_STEPS` steps (rounded
            so that the error never adds up).
        seed: of everything; not negative.
        video_weights: sampling weight of each video, for drawing with replacement; None goes through epochs.

    Raises:
        ValueError: nothing to sample, or a negative seed.
    """

    def __init__(
        self,
        images: int | Mapping[Group, int],
        videos: int | Mapping[Group, int],
        config: DataConfig,
        seed: int,
        video_weights: Sequence[float] | None = None,
    ) -> None:
        self.batch: dict[Modality, int] = {"image": config.image_batch, "video": config.video_batch}
        self.resolutions: dict[Modality, tuple[int, ...]] = {
            "image": config.resolutions,
            "video": config.video_resolutions or config.resolutions,
        }
        self.counts: dict[Modality, int] = {}
        self._orders: dict[Modality, EpochOrder] = {}
        for stream, (modality, found) in enumerate(zip(MODALITIES, (images, videos), strict=True)):
            groups: Mapping[Group, int] = {(): found} if isinstance(found, int) else found
            self.counts[modality] = sum(groups.values())
            if self.counts[modality]:
                stream = stream if isinstance(found, int) else _GROUPS_STREAM
                self._orders[modality] = EpochOrder(groups, self.batch[modality], seed, stream=stream)
        if not self._orders:
            raise ValueError("there is nothing to sample: 0 images and 0 videos")
        self.seed = seed
        self._share = None if config.video_share is None else Fraction(config.video_share)
        self._video_weights: np.ndarray | None = None
        if video_weights is not None:  # twice normalised, as Generator.choice does, to reproduce its draws exactly
            cumulative = (np.asarray(video_weights) / np.sum(video_weights)).cumsum()
            self._video_weights = cumulative / cumulative[-1]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that there are steps of."""
        unused = {Fraction(0): "video", Fraction(1): "image"}.get(self._share) if self._share is not None else None
        return tuple(name for name in self._orders if name != unused or len(self._orders) == 1)

    def places(self, step: int) -> tuple[Group, np.ndarray]:
        """The group of a step, and places among the items of that group: int64 (b,)."""
        modality = self.modality(step)
        return self._orders[modality].places(self.steps_before(step, modality))

    def plan(self, step: int) -> BatchPlan:
        """The batch of step `step`, counted from 0, of samples without groups."""
        rng = np.random.default_rng((self.seed, 1, step))
        modality = self.modality(step)
        resolution = int(rng.choice(self.resolutions[modality]))
        n = self.batch[modality]
        if modality == "video" and self._video_weights is not None:
            # What Generator.choice(p=weights) does, without adding up all weights again at every step.
            indices = self._video_weights.searchsorted(rng.random(n), side="right")
        else:
            indices = self.places(step)[1]
        seeds = rng.integers(0, 2**62, size=n)
        draws = tuple(Draw(int(i), int(s)) for i, s in zip(indices, seeds, strict=True))
        return BatchPlan(step, modality, resolution, draws)

    def replacements(self, modality: Modality, draw: Draw, n: int) -> list[int]:
        """Samples to try, in order, in place of a drawn one that cannot be read. They depend on the draw alone."""
        rng = np.random.default_rng((draw.seed, 1))
        if modality == "video" and self._video_weights is not None:
            return [int(self._video_weights.searchsorted(rng.random(), side="right")) for _ in range(n)]
        return [int(rng.integers(self.counts[modality])) for _ in range(n)]

    def modality(self, step: int) -> Modality:
        """Whether step `step` is of images or of videos."""
        if len(self._orders) == 1:
            return next(iter(self._orders))
        if self._share is None:
            return "video" if step % 2 else "image"
        block, place = divmod(step, BLOCK_STEPS)
        return "video" if _video_steps(self.seed, self._share, block)[place] else "image"

    def steps_before(self, step: int, modality: Modality) -> int:
        """How many steps before `step` are of this modality."""
        if len(self._orders) == 1:
            return step
        if self._share is None:
            videos = step // 2
        else:
            block, place = divmod(step, BLOCK_STEPS)
            within = _video_steps(self.seed, self._share, block)[:place]
            videos = _videos_before(self._share, block) + int(within.sum())
        return videos if modality == "video" else step - videos


@lru_cache(maxsize=4)
def _turns(seed: int, epoch: int, counts: tuple[int, ...]) -> np.ndarray:
    """Which group each step of an epoch is of, by number, where each has so many: (steps,)."""
    turns = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return turns if len(counts) == 1 else np.random.default_rng((seed, 5, epoch)).permutation(turns)


def _videos_before(share: Fraction, block: int) -> int:
    """Video steps in all blocks before: the exact share, rounded once."""
    return math.floor(share * block * BLOCK_STEPS + Fraction(1, 2))


@lru_cache(maxsize=16)
def _video_steps(seed: int, share: Fraction, block: int) -> np.ndarray:
    """Whether each step of a block is of videos: bool (BLOCK_STEPS,)."""
    count = _videos_before(share, block + 1) - _videos_before(share, block)
    order = np.random.default_rng((seed, 2, block)).permutation(BLOCK_STEPS)
    return order < count


def _shuffled(seed: int, stream: int, epoch: int, n: int, places: np.ndarray) -> np.ndarray:
    """What lies at these places of the order of 0 ... n - 1 in an epoch: int64, as `places`."""
    if n <= LARGEST_TABLE:
        return _permutation(seed, stream, epoch, n)[places]
    return _feistel(np.random.default_rng((seed, 4, stream, epoch)), n, places)


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, epoch: int, n: int) -> np.ndarray:
    """The order of one epoch; of a few streams the current one and the next are kept."""
    return np.random.default_rng((seed, 3, stream, epoch)).permutation(n)


def _feistel(rng: np.random.Generator, n: int, places: np.ndarray) -> np.ndarray:
    """A random permutation of 0 ... n - 1 at these places: a Feistel network on the next even number of bits, whose
    results beyond n are sent through again until they fall below it (cycle walking; Black & Rogaway, 2002).
    """
    half = np.uint64(((n - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    keys = rng.integers(0, 2**64, size=_FEISTEL_ROUNDS, dtype=np.uint64)
    x = places.astype(np.uint64)
    outside = np.ones(x.shape, dtype=bool)
    while outside.any():
        left, right = x[outside] >> half, x[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        x[outside] = left << half | right
        outside = x >= np.uint64(n)
    return x.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., 2014): every bit depends on every other. Overflow is meant."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
