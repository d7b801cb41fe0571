"""Batches for training: step number -> tensors, with what could not be read counted and listed."""

import contextlib
import copy
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from omnitok.data.captions import draw as draw_one
from omnitok.data.config import DataConfig
from omnitok.data.drawn import drawn_image, drawn_mask
from omnitok.data.image import image_reader, read_image
from omnitok.data.ken_burns import ken_burns
from omnitok.data.modality import Modality
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.data.sampler import Draw, Sampler
from omnitok.data.samples import NO_LABEL, Index, sample_file
from omnitok.data.transforms import CropPolicy, choose_crop, fit_square
from omnitok.data.video_reader import WindowSampling, read_window
from omnitok.errors import MediaError, OmnitokError

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

T = TypeVar("T")

MAX_REPLACEMENTS = 20  # files tried in place of one that cannot be read
_FILES_PER_BATCH = 8  # that are open while a batch travels between processes: one for each of its tensors, and a pipe
_WORKER_DEATH = "DataLoader worker"  # what torch's message of a worker that is gone begins with
_FILES_BESIDE = 64  # that everything else may have open, where it is no more
DRAWN_MARGIN = 1.5  # the side of a drawn image that a video moves over, in sides of the video

Failure = tuple[str, str]  # path, reason


@dataclass(frozen=True)
class Batch:
    """One process's share of a step.

    Attributes:
        step: counted from 0.
        modality: "image" or "video".
        inputs: what is learnt from: pixels (b, c, H, W) or (b, c, T, H, W), float32 in [-1, 1]; or codes (b, h, w) or
            (b, t, h, w), int64; or latents (b, c, h, w) or (b, c, t, h, w), float32.
        labels: (b,), int64, -1 where there is none; empty where nobody asked.
        pixel_shape: of the pixels that it holds or stands for.
        failures: (path, reason) of each file that could not be read and was replaced by another.
        indices: which items of token shards these are.
        captions: one for each sample, of several one that the step decides, "" where there is none; empty where there
            are none at all, or nobody asked.
        embeddings: of token shards that have some, else None: float32 (b, n, d), NaN after the end of a sequence and
            where there is none; of several sequences, one for each caption, that of the caption.
        drawn: of pixels, which samples are drawn images in place of files.
    """

    step: int
    modality: Modality
    inputs: Tensor
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    pixel_shape: tuple[int, ...] = ()
    failures: Sequence[Failure] = field(default_factory=list)
    indices: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()
    embeddings: Tensor | None = None
    drawn: tuple[bool, ...] = ()

    @property
    def codes(self) -> Tensor | None:
        """The inputs, where they are integers."""
        return None if self.inputs.is_floating_point() else self.inputs

    @property
    def latents(self) -> Tensor | None:
        """The inputs, where they are latents."""
        return self.inputs if self.inputs.is_floating_point() else None

    @property
    def size(self) -> int:
        """Samples in it."""
        return len(self.inputs)

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory; a DataLoader with `pin_memory` calls this."""
        embeddings = None if self.embeddings is None else self.embeddings.pin_memory()
        return replace(self, inputs=self.inputs.pin_memory(), labels=self.labels.pin_memory(), embeddings=embeddings)


@dataclass(slots=True)
class _Loaded:
    """A sample of a batch; what no file has said is none."""

    pixels: Tensor
    label: int = NO_LABEL
    caption: str = ""
    is_drawn: bool = False


class PixelDataset(Dataset[Batch]):
    """`dataset[step]` is this process's share of the batch of that step; see `Sampler`.

    Args:
        samples: the images and videos.
        sampler: made for `len(samples.images)` and `len(samples.videos)`.
        config: how files become samples.
        rank, world_size: this process's share is every world_size-th sample from the rank-th on.
        labelled: False gives every sample the label -1; what is drawn, or made from an image, has none, and no caption.
        pixel_format: channels and ranges of the pixels.
    """

    def __init__(
        self,
        samples: Index,
        sampler: Sampler,
        config: DataConfig,
        rank: int = 0,
        world_size: int = 1,
        labelled: bool = True,
        pixel_format: PixelFormat = RGB,
    ) -> None:
        self.pixel_format = pixel_format
        self.samples, self.sampler, self.config = samples, sampler, config
        self.rank, self.world_size, self.labelled = rank, world_size, labelled
        self._sampling = WindowSampling(config.frames, config.fps, config.stride)
        self._policies: dict[Modality, CropPolicy] = {"image": config.image_policy, "video": config.video_policy}

    def whole(self) -> "PixelDataset":
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
            self._load(plan.modality, draw, plan.resolution, failures)
            for draw in plan.draws[self.rank :: self.world_size]
        ]
        pixels = torch.stack([each.pixels for each in loaded])
        labels = torch.tensor([each.label if self.labelled else NO_LABEL for each in loaded], dtype=torch.int64)
        captions = tuple(each.caption for each in loaded) if self.samples.captions else ()
        drawn = tuple(each.is_drawn for each in loaded)
        return Batch(step, plan.modality, pixels, labels, tuple(pixels.shape), failures, captions=captions, drawn=drawn)

    def _load(self, modality: Modality, draw: Draw, resolution: int, failures: list[Failure]) -> _Loaded:
        """The drawn sample, or the first of the next ones that its seed gives whose files can be read."""
        loaded = self._read(modality, draw, resolution, failures)
        if self.config.alpha_masks:
            loaded.pixels = self._mask(loaded.pixels, draw.seed)
        return loaded

    def _mask(self, pixels: Tensor, seed: int) -> Tensor:
        """With a drawn mask as alpha, where the seed says so and all is opaque; over a video it moves."""
        rng = np.random.default_rng((seed, 4))
        if pixels.shape[0] != 4 or rng.random() >= self.config.alpha_masks or bool((pixels[3] < 1).any()):
            return pixels
        resolution = pixels.shape[-1]
        if pixels.ndim == 3:
            return torch.cat([pixels[:3], drawn_mask(resolution, seed)])
        mask = drawn_mask(round(DRAWN_MARGIN * resolution), seed)
        return torch.cat([pixels[:3], ken_burns(mask, pixels.shape[1], resolution, flip=False, seed=seed)])

    def _read(self, modality: Modality, draw: Draw, resolution: int, failures: list[Failure]) -> _Loaded:
        if self.config.drawn and np.random.default_rng((draw.seed, 3)).random() < self.config.drawn:
            if modality == "image":
                return _Loaded(self.pixel_format.from_color(drawn_image(resolution, draw.seed)), is_drawn=True)
            image = self.pixel_format.from_color(drawn_image(round(DRAWN_MARGIN * resolution), draw.seed))
            window = ken_burns(image, self.config.frames, resolution, flip=False, seed=draw.seed)
            return _Loaded(window, is_drawn=True)
        if modality == "video" and (moving := self._pan_and_zoom(draw, resolution, failures)) is not None:
            return _Loaded(moving)
        samples = self.samples[modality]
        index = draw.index
        replacements: list[int] = []
        for attempt in range(MAX_REPLACEMENTS):
            sample = samples[index]
            try:
                with sample_file(sample) as path:
                    how = (resolution, self._policies[modality], self.config.flip, draw.seed, self.pixel_format)
                    if modality == "image":
                        pixels = load_training_image(path, *how)
                    else:
                        pixels = load_training_video(path, self._sampling, *how)
                    return _Loaded(pixels, sample.label, draw_one(sample.read_captions(), (draw.seed, 5)) or "")
            except MediaError as error:
                failures.append((sample.name, str(error)))
                replacements = replacements or self.sampler.replacements(modality, draw, MAX_REPLACEMENTS)
                index = replacements[attempt]
        reason = failures[-1][1]
        raise MediaError(f"{MAX_REPLACEMENTS} files in a row could not be read as {modality}s; the last: {reason}")

    def _pan_and_zoom(self, draw: Draw, resolution: int, failures: list[Failure]) -> Tensor | None:
        """A video made from an image, where the draw's seed says so and the image can be read."""
        rng = np.random.default_rng((draw.seed, 2))
        if rng.random() >= self.config.ken_burns:
            return None
        sample = self.samples.images[int(rng.integers(len(self.samples.images)))]
        try:
            with sample_file(sample) as path:
                image = read_image(path, pixel_format=self.pixel_format)
                return ken_burns(image, self.config.frames, resolution, self.config.flip, draw.seed)
        except MediaError as error:
            failures.append((sample.name, str(error)))
            return None


def load_training_image(
    path: str | os.PathLike[str],
    resolution: int,
    policy: CropPolicy,
    flip: bool,
    seed: int,
    pixel_format: PixelFormat = RGB,
) -> Tensor:
    """An image as (c, resolution, resolution) in [-1, 1]; crop and flip depend on `seed` only.

    Raises:
        MediaError: the file cannot be read.
    """
    rng = np.random.default_rng(seed)
    with image_reader(path, pixel_format=pixel_format) as reader:
        box = choose_crop(reader.height, reader.width, resolution, policy, rng)
        pixels = reader.crop(box, resolution, resolution)
    return pixels.flip(-1) if flip and rng.random() < 0.5 else pixels


def load_training_video(
    path: str | os.PathLike[str],
    sampling: WindowSampling,
    resolution: int,
    policy: CropPolicy,
    flip: bool,
    seed: int,
    pixel_format: PixelFormat = RGB,
) -> Tensor:
    """A window of a video as (c, frames, resolution, resolution) in [-1, 1].

    Start, crop and flip depend on `seed` only and are the same for all frames.

    Raises:
        MediaError: the file cannot be read or has fewer frames.
    """
    rng = np.random.default_rng(seed)
    window = read_window(path, sampling, rng.random(), pixel_format)
    pixels = fit_square(window.pixels, resolution, policy, rng)
    return pixels.flip(-1) if flip and rng.random() < 0.5 else pixels


class FailureCounter:
    """Stops a run whose data cannot be read, and not one with a few bad files.

    Args:
        maximum_share: of the samples tried that may fail. It is judged as if at least `PATIENCE` had been tried, so
            that one bad file at the start is fine.
    """

    EXAMPLES, PATIENCE = 5, 100

    def __init__(self, maximum_share: float) -> None:
        self.maximum_share = maximum_share
        self.loaded = self.failed = 0
        self.examples: list[Failure] = []

    def count(self, loaded: int, failures: Sequence[Failure]) -> None:
        """Take in a batch: how many samples it has, and what failed on the way."""
        self.loaded += loaded
        self.failed += len(failures)
        self.examples = list(dict.fromkeys([*self.examples, *failures]))[: self.EXAMPLES]  # a bad file comes again

    def check(self) -> None:
        """Raise if too many failed. In a distributed run, first put the sums over processes into `loaded` and `failed`.

        Raises:
            MediaError: how many of how many failed, how many may, and examples.
        """
        tried = self.loaded + self.failed
        if self.failed <= self.maximum_share * max(tried, self.PATIENCE):
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


class _GuardedStream(IterableDataset[T | _Unreadable]):
    def __init__(self, dataset: IterableDataset[T]) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[T | _Unreadable]:
        try:
            yield from self.dataset
        except OmnitokError as error:
            yield _Unreadable(type(error), str(error))


def load_batches(
    dataset: Dataset[T], start: int, stop: int, workers: int = 0, prefetch: int = 4, pin_memory: bool = False
) -> Iterator[T]:
    """The batches of steps start, ..., stop - 1 in order; the same for any number of workers. See `read_ahead`."""
    return read_ahead(dataset, workers, prefetch, range(start, stop), pin_memory)


def read_ahead(
    dataset: Dataset[T], workers: int, prefetch: int, items: Sequence[int] | None = None, pin_memory: bool = False
) -> Iterator[T]:
    """What a dataset gives, read ahead by worker processes.

    Args:
        dataset: `dataset[item]`, or an `IterableDataset`, which each worker goes through on its own.
        workers: loading processes; 0 loads in this one.
        prefetch: what each worker is ahead by.
        items: those wanted, in order; None for an `IterableDataset`.
        pin_memory: for copies to a GPU that do not block.

    Raises:
        OmnitokError: what the dataset raises (MediaError: too many files in a row cannot be read), in its own words
            also from a worker. A worker was ended from outside, or may not open enough files.
    """
    _allow_open_files(workers * (prefetch + 1) * _FILES_PER_BATCH)
    fork = "fork" in multiprocessing.get_all_start_methods()
    loader: DataLoader[T | _Unreadable] = DataLoader(
        _GuardedStream(dataset) if isinstance(dataset, IterableDataset) else _Guarded(dataset),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context="fork" if workers and fork else None,
        worker_init_fn=_leave_signals_to_the_parent,
        pin_memory=pin_memory,
    )
    batches = iter(loader)  # the workers start here

    def unwrapped() -> Iterator[T]:
        try:
            with naming_dead_workers():
                for batch in batches:
                    if isinstance(batch, _Unreadable):
                        raise batch.kind(batch.message)
                    yield batch
        finally:
            _end_workers(batches)

    return unwrapped()


def _end_workers(batches: Iterator[object]) -> None:
    """What torch does when the iterator is destroyed: there, the news of a worker's death would be a traceback."""
    if end := getattr(batches, "__del__", None):
        with contextlib.suppress(RuntimeError, OSError, AssertionError, EOFError):
            end()


@contextlib.contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Say in a sentence that a worker is gone, which torch raises wherever the program happens to be."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:  # the latter where it died while its batch was on the way
        if isinstance(error, RuntimeError) and not str(error).startswith(_WORKER_DEATH):
            raise
        raise OmnitokError(
            "a process that reads data was ended from outside; if memory ran short, fewer workers take less"
        ) from error


def _allow_open_files(count: int) -> None:
    """Raise this process's own limit where the system lets it: a worker that cannot open a file hangs in silence.

    Args:
        count: files to be opened beside those that are open, by other workers for one.
    """
    if not count or resource is None:
        return
    count += max(_FILES_BESIDE, len(os.listdir("/dev/fd")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise OmnitokError(
            f"this process may open {hard} files (`ulimit -Hn`), but reading ahead with workers needs {count}; "
            "0 workers need no more than this"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the process that started the workers ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler that a forked worker inherits
