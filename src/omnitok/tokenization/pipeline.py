"""From files to shards: the files of a group are read in pieces of bounded size, encoded in batches, and written.

Reading may be done by worker processes ahead of the encoder. The pieces of a group come in a fixed order, and batches
depend on the group alone, so the tokens are the same for any number of workers.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from omnitok.data.image import ImageReader
from omnitok.data.loader import naming_dead_workers, read_ahead
from omnitok.data.samples import Sample, sample_file
from omnitok.data.shard_format import FileFailure, TokenRecord
from omnitok.data.shard_writing import Token, pack
from omnitok.data.video_reader import VideoReader
from omnitok.errors import MediaError
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization.augmentations import Augmentation, draw_augmentations
from omnitok.tokenization.job import GroupTokens, Plan, Progress, ReadError, TokenizeJob
from omnitok.tokenization.settings import TokenizeSettings

BATCH_BYTES = 2**26
"""A worker hands on what it has read when the pixels reach this."""

CHUNK_FRAMES = 64
"""Whole videos of more frames are streamed in chunks of so many."""

WAITING_BYTES = 2**28
"""Pixels of odd sizes wait for others of their size until they reach this together."""


# ------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, order=True)
class ItemKey:
    """Where an item belongs: the number of its file, of the view, and of the window in the video."""

    sample: int
    view: int = 0
    window: int = 0


@dataclass(frozen=True)
class Pixels:
    """Pixels to be encoded: (3, H, W) of an image or (3, T, H, W) of a video.

    A long video that is kept whole comes in several, which are encoded as a stream; the last of them has the record.
    """

    key: ItemKey
    pixels: Tensor
    record: TokenRecord | None


@dataclass
class WorkerBatch:
    """What a worker has read of a group since the batch before; `samples` counts the files that it is done with."""

    group: int
    items: list[Pixels] = field(default_factory=list)
    errors: list[ReadError] = field(default_factory=list)
    samples: int = 0
    is_last: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """All pixels in one block: a tensor travels between processes at a fixed cost, and costs an open file."""
        pixels = [item.pixels for item in self.items]
        block = torch.cat([each.reshape(-1) for each in pixels]) if pixels else torch.empty(0)
        shapes = [each.shape for each in pixels]
        items = [replace(item, pixels=torch.empty(0)) for item in self.items]
        return {**self.__dict__, "items": items, "block": block, "shapes": shapes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        shapes, block = state.pop("shapes"), state.pop("block")
        parts = block.split([shape.numel() for shape in shapes]) if shapes else ()
        state["items"] = [
            replace(item, pixels=part.view(shape))
            for item, part, shape in zip(state["items"], parts, shapes, strict=True)
        ]
        self.__dict__.update(state)


def read_group(plan: Plan, group: int) -> Iterator[WorkerBatch]:
    """The pixels of a group; the last batch says so. Files that cannot be read are in `errors`, and never raise."""
    batch, size = WorkerBatch(group), 0
    for number in plan.samples_of(group):
        modality, sample = plan.collection.locate(number)
        read = _read_image if modality == "image" else _read_video
        try:
            with sample_file(sample) as path:
                for item in read(path, number, sample, plan.settings):
                    batch.items.append(item)
                    size += item.pixels.nbytes
                    if size >= BATCH_BYTES:
                        yield batch
                        batch, size = WorkerBatch(group), 0
        except MediaError as error:
            reason = " ".join(str(error).split()).replace(sample.name, sample.key)  # wherever the collection lies
            batch.errors.append(ReadError(number, FileFailure(key=sample.key, reason=reason)))
        batch.samples += 1
    batch.is_last = True
    yield batch


def _read_image(path: str, number: int, sample: Sample, settings: TokenizeSettings) -> Iterator[Pixels]:
    with ImageReader(path, whole=settings.resolution is None) as reader:
        source, seed = (reader.height, reader.width), (settings.seed, number)
        for drawn in draw_augmentations(settings.views, *source, settings.resolution, 0, seed, settings.crop_range):
            pixels = drawn.mirror(reader.crop(drawn.box, *drawn.size))
            yield Pixels(ItemKey(number, drawn.number), pixels, _record(sample, drawn, 1, source, None, 0))


def _read_video(path: str, number: int, sample: Sample, settings: TokenizeSettings) -> Iterator[Pixels]:
    with VideoReader(path, settings.fps) as reader:
        source, seed = (reader.height, reader.width), (settings.seed, number)
        # A later start must leave a window; headers may promise more frames than there are, then there are fewer.
        spare = max((reader.frame_count or 0) - settings.frames, 0)
        latest = min(spare, settings.frames - 1) if settings.frames else 0
        drawn = draw_augmentations(settings.views, *source, settings.resolution, latest, seed, settings.crop_range)
        cutters = [_Cutter(number, sample, one, source, reader.fps, settings.frames) for one in drawn]
        count = 0
        for frame in reader:
            for cutter in cutters:
                yield from cutter.push(count, frame[:, None])
            count += 1
        for cutter in cutters:
            yield from cutter.finish()
        if settings.frames and not cutters[0].windows:
            raise MediaError(f"{path}: {count} frames, at least {settings.frames} are needed")


class _Cutter:
    """Cuts the frames of an augmented video into windows, or hands a whole video on in chunks."""

    def __init__(
        self, number: int, sample: Sample, drawn: Augmentation, source: tuple[int, int], fps: float, frames: int
    ) -> None:
        self._number, self._sample, self._drawn = number, sample, drawn
        self._source, self._fps, self._frames = source, fps, frames
        self.windows = self._streamed = 0
        self._held: list[Tensor] = []

    def push(self, number: int, frame: Tensor) -> Iterator[Pixels]:
        """Take frame (3, 1, H, W) of that number."""
        if number < self._drawn.start:
            return
        if not self._frames and len(self._held) == CHUNK_FRAMES:  # and there is one more: the video is a long one
            yield self._take()
            self._streamed += CHUNK_FRAMES
        self._held.append(self._drawn.apply(frame))
        if len(self._held) == self._frames:
            yield self._take(self._frames, self._drawn.start + self.windows * self._frames)
            self.windows += 1

    def finish(self) -> Iterator[Pixels]:
        """The rest of a whole video; what is left of windows is less than one, and dropped."""
        if not self._frames:
            yield self._take(self._streamed + len(self._held), self._drawn.start)

    def _take(self, frames: int = 0, start: int = 0) -> Pixels:
        """What is held, with the record of an item of so many frames, or of none yet."""
        record = _record(self._sample, self._drawn, frames, self._source, self._fps, start) if frames else None
        held, self._held = torch.cat(self._held, dim=1), []
        return Pixels(ItemKey(self._number, self._drawn.number, self.windows), held, record)


def _record(
    sample: Sample, drawn: Augmentation, frames: int, source: tuple[int, int], fps: float | None, start: int
) -> TokenRecord:
    size = (frames, *drawn.size)
    return TokenRecord(sample.key, sample.label, size, source, fps, drawn.number, start, drawn.box, drawn.flip)


# ------------------------------------------------------------------------------------------------------------ encoding


class GroupEncoder:
    """Takes what was read of one group and gives its tokens.

    Batches gather pixels of one shape, in the order they come; the last one of a shape may be smaller. Videos that come
    in chunks are streamed one by one, in memory that does not grow with their length (where the tokenizer cannot
    stream, they are gathered first).
    """

    def __init__(self, plan: Plan, tokenizer: OmniTokenizer, group: int) -> None:
        self._plan, self._tokenizer = plan, tokenizer
        self._waiting: dict[torch.Size, list[Pixels]] = {}
        self._waiting_bytes = 0
        self._streams: dict[ItemKey, _VideoStream] = {}
        self._done: dict[ItemKey, Token] = {}
        self._result = GroupTokens(group)

    @property
    def frames(self) -> int:
        """Frames encoded so far; an image is one."""
        return self._result.frames

    def push(self, batch: WorkerBatch) -> None:
        """Take what was read next."""
        started = time.perf_counter()
        for item in batch.items:
            if item.record is None or item.key in self._streams:
                self._stream(item, item.record)
            else:
                self._gather(item)
        self._result.errors += batch.errors
        self._result.seconds += time.perf_counter() - started

    def finish(self) -> GroupTokens:
        """Encode what waits; the tokens of the group, without those of files that turned out to be unreadable."""
        started = time.perf_counter()
        for shape in list(self._waiting):
            self._flush(shape)
        self._result.seconds += time.perf_counter() - started
        unreadable = {error.sample for error in self._result.errors}
        self._result.tokens = [self._done[key] for key in sorted(self._done) if key.sample not in unreadable]
        return self._result

    def _gather(self, item: Pixels) -> None:
        waiting = self._waiting.setdefault(item.pixels.shape, [])
        waiting.append(item)
        self._waiting_bytes += item.pixels.nbytes
        if len(waiting) == self._plan.settings.batch_size:
            self._flush(item.pixels.shape)
        elif self._waiting_bytes > WAITING_BYTES:
            self._flush(max(self._waiting, key=lambda shape: len(self._waiting[shape]) * shape.numel()))

    def _flush(self, shape: torch.Size) -> None:
        items = self._waiting.pop(shape)
        pixels = torch.stack([item.pixels for item in items])
        self._waiting_bytes -= pixels.nbytes
        for item, values in zip(items, encode_batch(self._tokenizer, pixels), strict=True):
            self._keep(item.key, item.record, values)

    def _stream(self, item: Pixels, record: TokenRecord | None) -> None:
        stream = self._streams.setdefault(item.key, _VideoStream(self._tokenizer))
        stream.push(item.pixels)
        if record is not None:
            self._keep(item.key, record, self._streams.pop(item.key).finish())

    def _keep(self, key: ItemKey, record: TokenRecord | None, tokens: Tensor) -> None:
        assert record is not None
        self._done[key] = Token(record, pack(tokens, self._plan.format))
        self._result.frames += record.size[0]


class _VideoStream:
    """One long video on its way through the encoder."""

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = tokenizer.encoder_stream() if tokenizer.causal else None
        self._parts: list[Tensor] = []  # tokens, or pixels where the tokenizer cannot stream

    def push(self, frames: Tensor) -> None:
        """Take the next frames (3, n, H, W)."""
        self._parts.append(frames if self._stream is None else self._stream.push(frames[None]).tokens[0].cpu())

    def finish(self) -> Tensor:
        """The tokens of the whole video: (t, h, w) or (c, t, h, w)."""
        if self._stream is None:
            return encode_batch(self._tokenizer, torch.cat(self._parts, dim=1)[None])[0]
        return torch.cat([*self._parts, self._stream.flush().tokens[0].cpu()], dim=-3)


@torch.inference_mode()
def encode_batch(tokenizer: OmniTokenizer, pixels: Tensor) -> Tensor:
    """Pixels (b, 3, H, W) or (b, 3, T, H, W) -> codes, or means of the posterior, on the CPU."""
    return tokenizer.encode(pixels.to(tokenizer.device), check_range=False).tokens.cpu()


def encode_group(plan: Plan, tokenizer: OmniTokenizer, batches: Iterable[WorkerBatch], group: int) -> GroupTokens:
    """The tokens of a group from all that was read of it."""
    encoder = GroupEncoder(plan, tokenizer, group)
    for batch in batches:
        encoder.push(batch)
    return encoder.finish()


# ------------------------------------------------------------------------------------------------------- both together


class _Groups(IterableDataset[WorkerBatch]):
    """What a worker reads: some groups, one after another."""

    def __init__(self, plan: Plan, groups: Sequence[int]) -> None:
        self.plan, self.groups = plan, groups

    def __iter__(self) -> Iterator[WorkerBatch]:
        for group in self.groups:
            yield from read_group(self.plan, group)


def read_groups(plan: Plan, groups: Sequence[int], workers: int) -> Iterator[WorkerBatch]:
    """The pixels of the groups in order, read ahead by worker processes; the same for any number of them.

    Each worker takes every workers-th group and may be two batches ahead: memory is bounded, however long videos are.

    Raises:
        OmnitokError: a worker was ended from outside, or may not open enough files.
    """
    workers = min(workers, len(groups))
    if not workers:
        yield from _Groups(plan, groups)
        return
    readers = [read_ahead(_Groups(plan, groups[worker::workers]), workers=1, prefetch=2) for worker in range(workers)]
    for turn in range(len(groups)):
        is_last = False
        while not is_last:
            batch = next(readers[turn % workers])
            is_last = batch.is_last
            yield batch


@naming_dead_workers()
def tokenize_here(job: TokenizeJob, tokenizer: OmniTokenizer, workers: int, progress: Progress | None = None) -> None:
    """Make the shards of `job` in this process.

    Args:
        workers: reading processes; 0 reads in this one.
        progress: told about the files and frames of every batch.

    Raises:
        ShardError: the tokenizer gives what shards cannot hold.
        OmnitokError: as of `read_groups`.
        OSError: a shard cannot be written.
    """
    begun = started = time.perf_counter()
    encoder: GroupEncoder | None = None
    for batch in read_groups(job.plan, job.groups, workers):
        job.summary.reading += time.perf_counter() - started
        encoder = encoder or GroupEncoder(job.plan, tokenizer, batch.group)
        before = encoder.frames
        encoder.push(batch)
        frames = encoder.frames
        if batch.is_last:
            done, encoder = encoder.finish(), None
            job.add(done)
            frames = done.frames
        if progress is not None:
            progress(batch.samples, frames - before)
        started = time.perf_counter()
    job.summary.seconds += time.perf_counter() - begun
