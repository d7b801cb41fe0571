"""From files to shards: the files of a group are read in pieces of bounded size, encoded in batches, and written.

Reading may be done by worker processes ahead of the encoder. The pieces of a group come in a fixed order, and batches
depend on the group alone, so the tokens are the same for any number of workers.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from omnitok.data.image import image_reader
from omnitok.data.loader import naming_dead_workers, read_ahead
from omnitok.data.samples import Sample, sample_file
from omnitok.data.shard_format import FileFailure, TokenRecord
from omnitok.data.shard_writing import Token
from omnitok.data.token_packing import pack
from omnitok.data.video_reader import VideoReader
from omnitok.errors import MediaError, reading
from omnitok.hub.text_encoders import TextEncoder
from omnitok.models.protocol import Tokenizer
from omnitok.tokenization.augmentations import Augmentation, draw_augmentations
from omnitok.tokenization.coding import VideoEncoder, encode
from omnitok.tokenization.embedding import AUDIO, Sound, embed_captions, given_embeddings
from omnitok.tokenization.job import GroupTokens, Plan, Progress, TokenizeJob, silent

BATCH_BYTES = 2**26
"""A worker hands on what it has read when the pixels reach this."""

CHUNK_FRAMES = 64
"""Whole videos of more frames are streamed in chunks of so many."""

WAITING_BYTES = 2**28
"""Pixels of odd sizes wait for others of their size until they reach this together."""


# ------------------------------------------------------------------------------------------------------------- reading


ItemKey = tuple[int, int, int]
"""Where an item belongs: the number of its file, of the view, and of the window in the video."""


@dataclass(frozen=True)
class Pixels:
    """Pixels to be encoded: (3, H, W) of an image or (3, T, H, W) of a video.

    A long video that is kept whole comes in several, which are encoded as a stream; the last of them has the record and
    the embeddings.
    """

    key: ItemKey
    pixels: Tensor
    record: TokenRecord | None
    embeddings: tuple[np.ndarray, ...] = ()


@dataclass
class WorkerBatch:
    """What a worker has read of a group since the batch before; `samples` counts the files that it is done with."""

    group: int
    items: list[Pixels] = field(default_factory=list)
    errors: dict[int, FileFailure] = field(default_factory=dict)
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
            with sample_file(sample) as path, reading(path, MediaError, modality):
                sample = replace(sample, captions=sample.read_captions())
                given = given_embeddings(plan.format.embeddings, sample)
                for item in read(path, number, sample, plan):
                    batch.items.append(replace(item, embeddings=given) if given else item)
                    size += item.pixels.nbytes
                    if size >= BATCH_BYTES:
                        yield batch
                        batch, size = WorkerBatch(group), 0
        except MediaError as error:
            reason = " ".join(str(error).split()).replace(sample.name, sample.key)  # wherever the collection lies
            batch.errors[number] = FileFailure(key=sample.key, reason=reason)
        batch.samples += 1
    batch.is_last = True
    yield batch


def _read_image(path: str, number: int, sample: Sample, plan: Plan) -> Iterator[Pixels]:
    settings = plan.settings
    with image_reader(path, whole=settings.resolution is None, pixel_format=plan.pixel_format) as reader:
        size = (reader.height, reader.width)
        for drawn in draw_augmentations(settings, number, *size):
            pixels = drawn.mirror(reader.crop(drawn.box, *drawn.size))
            yield Pixels((number, drawn.view, 0), pixels, _record(sample, drawn, size, None, 1, 0))


def _read_video(path: str, number: int, sample: Sample, plan: Plan) -> Iterator[Pixels]:
    settings = plan.settings
    with VideoReader(path, settings.fps, pixel_format=plan.pixel_format) as reader:
        size, frames = (reader.height, reader.width), settings.frames
        # A later start must leave a window; headers may promise more frames than there are, then there are fewer.
        latest = min(max((reader.frame_count or 0) - frames, 0), frames - 1) if frames else 0
        cutters = [
            _Cutter(number, drawn, frames, partial(_record, sample, drawn, size, reader.fps))
            for drawn in draw_augmentations(settings, number, *size, latest)
        ]
        is_heard = plan.format.embeddings is not None and plan.format.embeddings.source == AUDIO
        sound = Sound(path, reader, plan.latent_frames) if is_heard else None
        count = 0
        for frame in reader:
            for cutter in cutters:
                for item in cutter.push(count, frame[:, None]):
                    yield _with(sound, item)
            count += 1
        for cutter in cutters:
            for item in cutter.finish():
                yield _with(sound, item)
        if frames and not cutters[0].taken:
            raise MediaError(f"{path}: {count} frames, at least {frames} are needed")


def _with(sound: Sound | None, item: Pixels) -> Pixels:
    return item if sound is None or item.record is None else replace(item, embeddings=sound.during(item.record))


class _Cutter:
    """Cuts the frames of an augmented video into windows, or (`frames` is 0) hands a whole video on in chunks."""

    def __init__(
        self, number: int, drawn: Augmentation, frames: int, record: Callable[[int, int], TokenRecord]
    ) -> None:
        self._number, self._drawn, self._frames, self._record = number, drawn, frames, record
        self.taken = 0  # frames that were handed on
        self._held: list[Tensor] = []

    def push(self, number: int, frame: Tensor) -> Iterator[Pixels]:
        """Take frame (3, 1, H, W) of that number."""
        if number < self._drawn.start:
            return
        if not self._frames and len(self._held) == CHUNK_FRAMES:  # and there is one more: the video is a long one
            yield self._take(is_item=False)
        self._held.append(self._drawn.apply(frame))
        if len(self._held) == self._frames:
            yield self._take()

    def finish(self) -> Iterator[Pixels]:
        """The rest of a whole video; what is left of windows is less than one, and dropped."""
        if not self._frames:
            yield self._take()

    def _take(self, is_item: bool = True) -> Pixels:
        """What is held, with the record of an item where it completes one."""
        held, self._held = torch.cat(self._held, dim=1), []
        before, self.taken = self.taken, self.taken + held.shape[1]
        window, frames, start = (before // self._frames, self._frames, before) if self._frames else (0, self.taken, 0)
        record = self._record(frames, self._drawn.start + start) if is_item else None
        return Pixels((self._number, self._drawn.view, window), held, record)


def _record(
    sample: Sample, drawn: Augmentation, source: tuple[int, int], fps: float | None, frames: int, start: int
) -> TokenRecord:
    size = (frames, *drawn.size)
    captions = sample.captions or ()
    return TokenRecord(sample.key, sample.label, size, source, fps, drawn.view, start, drawn.box, drawn.flip, captions)


# ------------------------------------------------------------------------------------------------------------ encoding


@torch.inference_mode()
def encode_group(
    plan: Plan,
    tokenizer: Tokenizer,
    batches: Iterable[WorkerBatch],
    group: int,
    text_encoder: TextEncoder | None = None,
) -> GroupTokens:
    """The tokens of a group from all that was read of it, without those of files that turned out to be unreadable."""
    encoder, errors, seconds = _GroupEncoder(plan, tokenizer), dict[int, FileFailure](), 0.0
    for batch in batches:
        started = time.perf_counter()
        for item in batch.items:
            encoder.push(item)
        if batch.is_last:
            encoder.finish()
        errors |= batch.errors
        seconds += time.perf_counter() - started
    tokens = [encoder.done[key] for key in sorted(encoder.done) if key[0] not in errors]
    if text_encoder is not None:
        started = time.perf_counter()
        tokens = embed_captions(tokens, text_encoder)
        seconds += time.perf_counter() - started
    frames = sum(token.record.size[0] for token in encoder.done.values())
    return GroupTokens(group, tokens, list(errors.values()), frames, seconds)


class _GroupEncoder:
    """Batches gather pixels of one shape, in the order they come; the last one of a shape may be smaller. Videos that
    come in chunks are streamed one by one, in memory that does not grow with their length.
    """

    def __init__(self, plan: Plan, tokenizer: Tokenizer) -> None:
        self._plan, self._tokenizer = plan, tokenizer
        self._waiting: dict[torch.Size, list[Pixels]] = {}
        self._waiting_bytes = 0
        self._streams: dict[ItemKey, tuple[VideoEncoder, list[Tensor]]] = {}  # with the tokens so far
        self.done: dict[ItemKey, Token] = {}

    def push(self, item: Pixels) -> None:
        if item.record is None or item.key in self._streams:
            self._stream(item)
            return
        shape = item.pixels.shape
        self._waiting.setdefault(shape, []).append(item)
        self._waiting_bytes += item.pixels.nbytes
        if len(self._waiting[shape]) == self._plan.settings.batch_size:
            self._flush(shape)
        elif self._waiting_bytes > WAITING_BYTES:
            self._flush(max(self._waiting, key=lambda shape: len(self._waiting[shape]) * shape.numel()))

    def finish(self) -> None:
        for shape in list(self._waiting):
            self._flush(shape)

    def _flush(self, shape: torch.Size) -> None:
        items = self._waiting.pop(shape)
        pixels = torch.stack([item.pixels for item in items])
        self._waiting_bytes -= pixels.nbytes
        for item, tokens in zip(items, encode(self._tokenizer, pixels), strict=True):
            self._keep(item, tokens)

    def _stream(self, item: Pixels) -> None:
        encoder, parts = self._streams.setdefault(item.key, (VideoEncoder(self._tokenizer), []))
        parts += [tokens.cpu() for tokens in encoder.push(item.pixels)]
        if item.record is not None:
            parts += [tokens.cpu() for tokens in encoder.finish()]
            del self._streams[item.key]
            self._keep(item, torch.cat(parts, dim=-3)[0])

    def _keep(self, item: Pixels, tokens: Tensor) -> None:
        assert item.record is not None
        self.done[item.key] = Token(item.record, pack(tokens, self._plan.format), item.embeddings)


# ------------------------------------------------------------------------------------------------------- both together


class _Groups(IterableDataset[WorkerBatch]):
    """What a worker reads: some groups, one after another."""

    def __init__(self, plan: Plan, groups: Sequence[int]) -> None:
        self.plan, self.groups = plan, groups

    def __iter__(self) -> Iterator[WorkerBatch]:
        for group in self.groups:
            yield from read_group(self.plan, group)


def _read_groups(plan: Plan, groups: Sequence[int], workers: int) -> Iterator[tuple[int, Iterator[WorkerBatch]]]:
    """The groups in order, with their pixels, read ahead by worker processes; the same for any number of them.

    Each worker takes every workers-th group and may be two batches ahead: memory is bounded, however long videos are.
    """
    workers = min(workers, len(groups))
    readers = [read_ahead(_Groups(plan, groups[worker::workers]), workers=1, prefetch=2) for worker in range(workers)]
    for turn, group in enumerate(groups):
        yield group, _until_last(readers[turn % workers]) if workers else read_group(plan, group)


def _until_last(reader: Iterator[WorkerBatch]) -> Iterator[WorkerBatch]:
    is_last = False
    while not is_last:
        batch = next(reader)
        is_last = batch.is_last
        yield batch


@naming_dead_workers()
def tokenize_here(
    job: TokenizeJob,
    tokenizer: Tokenizer,
    workers: int,
    progress: Progress = silent,
    text_encoder: TextEncoder | None = None,
) -> None:
    """Make the shards of `job` in this process.

    Args:
        workers: reading processes; 0 reads in this one.
        progress: told about the files of every batch.
        text_encoder: of the plan's embeddings, where these are of text.

    Raises:
        ShardError: the tokenizer gives what shards cannot hold.
        OmnitokError: a worker was ended from outside, or may not open enough files.
        OSError: a shard cannot be written.
    """

    def told(batches: Iterator[WorkerBatch]) -> Iterator[WorkerBatch]:
        for batch in batches:
            yield batch
            progress(batch.samples)

    begun = time.perf_counter()
    for group, batches in _read_groups(job.plan, job.groups, workers):
        job.add(encode_group(job.plan, tokenizer, told(batches), group, text_encoder))
    job.summary.seconds += time.perf_counter() - begun
