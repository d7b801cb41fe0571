"""Which files make up step k, as a pure function of the seed and k.

Because nothing is remembered between steps, the position in the data is the step number: resuming, with any number of
processes or workers, is asking for the next step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np

Medium = Literal["image", "video"]

BLOCK_STEPS = 64
"""With `video_share`, every block of so many steps has its exact share of video steps, in a random order."""

LARGEST_TABLE = 2**20
"""Up to so many files an epoch's order is a table; beyond, it is computed place by place, in no memory."""

_FEISTEL_ROUNDS = 4


@dataclass(frozen=True)
class Draw:
    """One sample of a batch: the file's index in its list, and the seed of its crop, flip and start."""

    index: int
    seed: int


@dataclass(frozen=True)
class BatchPlan:
    """What to load for one step. The whole batch, of which each process takes its share."""

    step: int
    medium: Medium
    resolution: int
    draws: tuple[Draw, ...]


class Sampler:
    """Deterministic mixture of image and video batches.

    Files are gone through in shuffled epochs, each file once an epoch, also where batches straddle two of them. Clips
    with weights are drawn with replacement instead.

    Args:
        images, videos: how many files there are of each.
        image_batch, video_batch: global batch sizes.
        resolutions: one is drawn for each step and shared by the whole batch.
        seed: of everything; not negative.
        video_share: share of the steps that are of videos, in a random order and exact over every `BLOCK_STEPS` steps
            (rounded so that the error never adds up); None alternates strictly (image first, as in the paper). Where
            there are files of one medium only, every step is of that.
        video_weights: sampling weight of each clip, for drawing with replacement; None goes through shuffled epochs.
        video_resolutions: those of video steps, where they are others.

    Raises:
        ValueError: nothing to sample, or a size, share, weight or seed out of range.
    """

    def __init__(
        self,
        images: int,
        videos: int,
        image_batch: int,
        video_batch: int,
        resolutions: Sequence[int],
        seed: int,
        video_share: float | None = None,
        video_weights: Sequence[float] | None = None,
        video_resolutions: Sequence[int] | None = None,
    ) -> None:
        if images < 0 or videos < 0 or images + videos == 0:
            raise ValueError(f"there is nothing to sample: {images} images and {videos} videos")
        if image_batch < 1 or video_batch < 1:
            raise ValueError(f"batch sizes must be at least 1, found {image_batch} (images) and {video_batch} (videos)")
        if seed < 0:
            raise ValueError(f"the seed must not be negative, found {seed}")
        if video_share is not None and not 0 <= video_share <= 1:
            raise ValueError(f"video_share must lie in [0, 1], found {video_share}")
        self.counts: dict[Medium, int] = {"image": images, "video": videos}
        self.batch: dict[Medium, int] = {"image": image_batch, "video": video_batch}
        self.resolutions: dict[Medium, tuple[int, ...]] = {
            "image": tuple(resolutions),
            "video": tuple(resolutions if video_resolutions is None else video_resolutions),
        }
        for sizes in self.resolutions.values():
            if not sizes or min(sizes) < 1:
                raise ValueError(f"resolutions must be at least one positive number of pixels, found {sizes}")
        self.seed = seed
        self.video_share = video_share
        self._share = None if video_share is None else Fraction(video_share)
        self._video_weights = None if video_weights is None else _cumulative(video_weights, videos)

    def plan(self, step: int) -> BatchPlan:
        """The batch of step `step`, counted from 0."""
        if step < 0:
            raise ValueError(f"steps are counted from 0, found {step}")
        rng = self._rng(1, step)
        medium = self.medium(step)
        resolution = int(rng.choice(self.resolutions[medium]))
        n = self.batch[medium]
        if medium == "video" and self._video_weights is not None:
            # What Generator.choice(p=weights) does, without adding up all weights again at every step.
            indices = self._video_weights.searchsorted(rng.random(n), side="right")
        else:
            indices = self._in_epochs(medium, self.steps_before(step, medium) * n, n)
        seeds = rng.integers(0, 2**62, size=n)
        draws = tuple(Draw(int(i), int(s)) for i, s in zip(indices, seeds, strict=True))
        return BatchPlan(step, medium, resolution, draws)

    def replacements(self, medium: Medium, draw: Draw, n: int) -> list[int]:
        """Files to try, in order, in place of a drawn one that cannot be read. They depend on the draw alone."""
        rng = np.random.default_rng((draw.seed, 1))
        if medium == "video" and self._video_weights is not None:
            return [int(self._video_weights.searchsorted(rng.random(), side="right")) for _ in range(n)]
        return [int(rng.integers(self.counts[medium])) for _ in range(n)]

    def medium(self, step: int) -> Medium:
        """Whether step `step` is of images or of videos."""
        if not self.counts["video"]:
            return "image"
        if not self.counts["image"]:
            return "video"
        if self._share is None:
            return "video" if step % 2 else "image"
        block, place = divmod(step, BLOCK_STEPS)
        return "video" if self._block(block)[place] else "image"

    def steps_before(self, step: int, medium: Medium) -> int:
        """How many steps before `step` are of this medium."""
        if not (self.counts["image"] and self.counts["video"]):
            return step
        if self._share is None:
            videos = step // 2
        else:
            block, place = divmod(step, BLOCK_STEPS)
            videos = _videos_before(self._share, block) + int(self._block(block)[:place].sum())
        return videos if medium == "video" else step - videos

    def _block(self, block: int) -> np.ndarray:
        assert self._share is not None
        return _video_steps(self.seed, self._share, block)

    def _in_epochs(self, medium: Medium, first: int, count: int) -> np.ndarray:
        """Files of the draws first, first + 1, ... of a medium: their places in shuffled epochs."""
        n = self.counts[medium]
        draws = [divmod(first + i, n) for i in range(count)]  # (epoch, place); Python's integers do not overflow
        indices = np.empty(count, dtype=np.int64)
        for epoch in sorted({epoch for epoch, _ in draws}):
            chosen = [i for i, (e, _) in enumerate(draws) if e == epoch]
            places = np.array([draws[i][1] for i in chosen], dtype=np.int64)
            indices[chosen] = shuffled(self.seed, int(medium == "video"), epoch, n, places)
        return indices

    def _rng(self, stream: int, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, step))


def _cumulative(weights: Sequence[float], n: int) -> np.ndarray:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"each of the {n} videos needs a weight, found {values.shape[0] if values.ndim else 1}")
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError("weights of videos must be finite, not negative, and not all 0")
    # twice normalised, as Generator.choice does, so that its draws are reproduced to the last bit
    cumulative = (values / values.sum()).cumsum()
    return cumulative / cumulative[-1]


def _videos_before(share: Fraction, block: int) -> int:
    """Video steps in all blocks before: the exact share, rounded once."""
    return math.floor(share * block * BLOCK_STEPS + Fraction(1, 2))


@lru_cache(maxsize=16)
def _video_steps(seed: int, share: Fraction, block: int) -> np.ndarray:
    """Whether each step of a block is of videos: bool (BLOCK_STEPS,)."""
    count = _videos_before(share, block + 1) - _videos_before(share, block)
    order = np.random.default_rng((seed, 2, block)).permutation(BLOCK_STEPS)
    return order < count


def shuffled(seed: int, stream: int, epoch: int, n: int, places: np.ndarray) -> np.ndarray:
    """What lies at these places of the order of 0 ... n - 1 in an epoch: int64, as `places`.

    Args:
        stream: tells apart what is shuffled under one seed.
    """
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
