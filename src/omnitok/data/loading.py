"""Batches for training: step number -> tensors, with what could not be read counted and listed."""

import copy
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from omnitok.data.drawn import drawn_image
from omnitok.data.images import load_training_image
from omnitok.data.index import Index, Sample, read_sample
from omnitok.data.modality import MODALITIES
from omnitok.data.moving_pictures import load_moving_picture, move_over
from omnitok.data.sampling import Draw, Medium, Sampler
from omnitok.data.transforms import CropPolicy
from omnitok.data.video_reader import WindowSampling
from omnitok.data.videos import load_training_video
from omnitok.errors import MediaError, OmnitokError

T = TypeVar("T")

MAX_REPLACEMENTS = 20  # files tried in place of one that cannot be read

DRAWN_MARGIN = 1.5  # the side of a drawn image that a clip moves over, in sides of the clip

Failure = tuple[str, str]  # path, reason


@dataclass(frozen=True)
class Batch:
    """One process's share of a step.

    Attributes:
        step: counted from 0.
        medium: "image" or "video".
        pixels: (b, 3, H, W) or (b, 3, T, H, W), float32 in [-1, 1].
        failures: (path, reason) of each file that could not be read and was replaced by another.
        labels: (b,), int64, -1 where there is none; empty where nobody asked.
    """

    step: int
    medium: Medium
    pixels: Tensor
    failures: list[Failure] = field(default_factory=list)
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def size(self) -> int:
        """Samples in it."""
        return len(self.pixels)

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory; a DataLoader with `pin_memory` calls this."""
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())


class StepDataset(Dataset[Batch]):
    """`dataset[step]` is this process's share of the batch of that step; see `Sampler`.

    Args:
        samples: the images and videos.
        sampler: made for `len(samples.images)` and `len(samples.videos)`.
        frames: length of a clip, or a `WindowSampling`.
        image_policy, video_policy: how frames become squares.
        flip: mirror half of the samples.
        rank, world_size: this process's share is every world_size-th sample from the rank-th on.
        pan_zoom: share of the clips that are made from pictures (`load_moving_picture`) in place of the drawn file;
            they have no label.
        drawn: share of the samples that are drawn (`drawn_image`; clips move over a drawn image) in place of the file;
            they have no label.

    Raises:
        ValueError: the sampler is for other numbers of files, or a batch cannot be shared evenly.
    """

    def __init__(
        self,
        samples: Index,
        sampler: Sampler,
        frames: int | WindowSampling,
        image_policy: CropPolicy,
        video_policy: CropPolicy,
        flip: bool,
        rank: int = 0,
        world_size: int = 1,
        pan_zoom: float = 0.0,
        drawn: float = 0.0,
    ) -> None:
        self.samples = samples
        for medium in MODALITIES:
            if len(samples[medium]) != sampler.counts[medium]:
                raise ValueError(
                    f"the sampler is for {sampler.counts[medium]} {medium}s, but there are {len(samples[medium])}"
                )
            if len(samples[medium]) and sampler.batch[medium] % world_size:
                raise ValueError(
                    f"a batch of {sampler.batch[medium]} {medium}s cannot be shared evenly by {world_size} processes"
                )
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank must lie in [0, {world_size}), found {rank}")
        if pan_zoom and not samples.images:
            raise ValueError(f"pan_zoom is {pan_zoom}, but there are no pictures to make clips from")
        self.pan_zoom, self.drawn = pan_zoom, drawn
        self.sampler = sampler
        self.sampling = WindowSampling(frames) if isinstance(frames, int) else frames
        self.flip = flip
        self.image_policy, self.video_policy = image_policy, video_policy
        self.rank, self.world_size = rank, world_size

    def whole(self) -> "StepDataset":
        """The same batches unshared, for what must not depend on the number of processes."""
        whole = copy.copy(self)
        whole.rank, whole.world_size = 0, 1
        return whole

    def __getitem__(self, step: int) -> Batch:
        """The share of one step.

        Raises:
            MediaError: too many files in a row cannot be read.
        """
        plan = self.sampler.plan(step)
        failures: list[Failure] = []
        loaded = [
            self._load(plan.medium, draw, plan.resolution, failures)
            for draw in plan.draws[self.rank :: self.world_size]
        ]
        labels = torch.tensor([label for _, label in loaded], dtype=torch.int64)
        return Batch(step, plan.medium, torch.stack([pixels for pixels, _ in loaded]), failures, labels)

    def _load(self, medium: Medium, draw: Draw, resolution: int, failures: list[Failure]) -> tuple[Tensor, int]:
        """Pixels and label of the drawn sample, or of the next ones that its seed gives while files cannot be read."""
        if self.drawn and np.random.default_rng((draw.seed, 3)).random() < self.drawn:
            return self._draw(medium, draw, resolution), -1
        if medium == "video" and (moving := self._load_moving(draw, resolution, failures)) is not None:
            return moving, -1
        samples = self.samples[medium]
        index = draw.index
        replacements: list[int] = []
        for attempt in range(MAX_REPLACEMENTS):
            sample = samples[index]
            try:
                return self._read(medium, sample, resolution, draw.seed), sample.label
            except MediaError as error:
                failures.append((sample.name, str(error)))
                replacements = replacements or self.sampler.replacements(medium, draw, MAX_REPLACEMENTS)
                index = replacements[attempt]
        reason = failures[-1][1]
        raise MediaError(f"{MAX_REPLACEMENTS} files in a row could not be read as {medium}s; the last: {reason}")

    def _draw(self, medium: Medium, draw: Draw, resolution: int) -> Tensor:
        if medium == "image":
            return drawn_image(resolution, draw.seed)
        image = drawn_image(round(DRAWN_MARGIN * resolution), draw.seed)
        return move_over(image, self.sampling.frames, resolution, flip=False, seed=draw.seed)

    def _load_moving(self, draw: Draw, resolution: int, failures: list[Failure]) -> Tensor | None:
        """A clip made from a picture, where the draw's seed says so and the picture can be read."""
        rng = np.random.default_rng((draw.seed, 2))
        if rng.random() >= self.pan_zoom:
            return None
        sample = self.samples["image"][int(rng.integers(len(self.samples["image"])))]
        try:
            return read_sample(
                sample,
                lambda path: load_moving_picture(path, self.sampling.frames, resolution, self.flip, draw.seed),
            )
        except MediaError as error:
            failures.append((sample.name, str(error)))
            return None

    def _read(self, medium: Medium, sample: Sample, resolution: int, seed: int) -> Tensor:
        if medium == "image":
            return read_sample(
                sample, lambda path: load_training_image(path, resolution, self.image_policy, self.flip, seed)
            )
        return read_sample(
            sample,
            lambda path: load_training_video(path, self.sampling, resolution, self.video_policy, self.flip, seed),
        )


class FailureCounter:
    """Stops a run whose data cannot be read, and not one with a few bad files.

    Args:
        maximum_share: of the samples tried that may fail.
        patience: judged as if at least so many samples had been tried, so that one bad file at the start is fine.
    """

    EXAMPLES = 5

    def __init__(self, maximum_share: float, patience: int = 100) -> None:
        if not 0 <= maximum_share <= 1:
            raise ValueError(f"the share of failures must lie in [0, 1], found {maximum_share}")
        self.maximum_share, self.patience = maximum_share, patience
        self.loaded = self.failed = 0
        self.examples: list[Failure] = []

    def count(self, loaded: int, failures: Sequence[Failure]) -> None:
        """Take in a batch: how many samples it has, and what failed on the way."""
        self.loaded += loaded
        self.failed += len(failures)
        self.examples += list(failures)[: self.EXAMPLES - len(self.examples)]

    def check(self) -> None:
        """Raise if too many failed. In a distributed run, first put the sums over processes into `loaded` and `failed`.

        Raises:
            MediaError: how many of how many failed, how many may, and examples.
        """
        tried = self.loaded + self.failed
        if self.failed <= self.maximum_share * max(tried, self.patience):
            return
        reasons = "; ".join(reason for _, reason in self.examples)
        raise MediaError(
            f"{self.failed} of {tried} files could not be read, at most {self.maximum_share:.1%} may fail; "
            f"such as {reasons or 'those listed by other processes'}"
        )


@dataclass(frozen=True)
class _Unreadable:
    """An error of the data on its way out of a loading process, where raising it would wrap it into a traceback."""

    kind: type[OmnitokError]
    message: str


class _Guarded(Dataset[T | _Unreadable]):
    def __init__(self, dataset: Dataset[T]) -> None:
        self.dataset = dataset

    def __getitem__(self, step: int) -> T | _Unreadable:
        try:
            return self.dataset[step]
        except OmnitokError as error:
            return _Unreadable(type(error), str(error))


def leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the process that started the workers ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler that a forked worker inherits


def load_batches(
    dataset: Dataset[T], start: int, stop: int, workers: int = 0, prefetch: int = 4, pin_memory: bool = False
) -> Iterator[T]:
    """The batches of steps start, ..., stop - 1 in order, loaded ahead by worker processes; the same for any number.

    Args:
        dataset: `dataset[step]` is the batch of a step.
        workers: loading processes; 0 loads in this one.
        prefetch: batches that each worker is ahead.
        pin_memory: for copies to a GPU that do not block.

    Raises:
        OmnitokError: what the dataset raises (MediaError: too many files in a row cannot be read); in its own words,
            also from a worker.
    """
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    loader = DataLoader(
        _Guarded(dataset),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context=method if workers else None,
        worker_init_fn=leave_signals_to_the_parent,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, _Unreadable):
            raise batch.kind(batch.message)
        yield batch
