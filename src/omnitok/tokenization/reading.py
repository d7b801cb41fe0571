"""The reading stage: a group of files becomes pixels, in pieces of bounded size and in a fixed order."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omnitok.data.image import ImageReader
from omnitok.data.index import Sample, sample_file
from omnitok.data.modality import Modality
from omnitok.data.shard_format import FileFailure, TokenRecord
from omnitok.data.video_reader import VideoReader
from omnitok.errors import MediaError
from omnitok.tokenization.augmentations import Augmentation, draw_augmentations
from omnitok.tokenization.job import Plan, ReadError, TokenizeSettings

PIECE_BYTES = 2**26
"""A piece is handed on when its pixels reach this."""

CHUNK_FRAMES = 64
"""Whole videos of more frames are streamed in chunks of so many."""


@dataclass(frozen=True)
class _Item:
    number: int
    modality: Modality
    sample: Sample


@dataclass(frozen=True)
class Place:
    """Where an item belongs: the numbers of the sample, of the augmentation, and of the window in the video."""

    sample: int
    view: int
    window: int


@dataclass(frozen=True)
class Pixels:
    """An item to be encoded: (3, H, W) of an image, (3, T, H, W) of a video."""

    place: Place
    record: TokenRecord
    pixels: Tensor


@dataclass(frozen=True)
class Chunk:
    """Some frames (3, n, H, W) of a video that is encoded as a stream; `record` comes with the last."""

    place: Place
    frames: Tensor
    record: TokenRecord | None


@dataclass
class Piece:
    """Part of a group, in order."""

    group: int
    units: list[Pixels | Chunk] = field(default_factory=list)
    errors: list[ReadError] = field(default_factory=list)
    samples: int = 0  # files dealt with in this piece
    is_last: bool = False

    def share(self) -> "Piece":
        """The same with the pixels of each shape in one block: a tensor travels between processes at a fixed cost."""
        shapes: dict[torch.Size, list[tuple[int, Pixels]]] = {}
        for i, unit in enumerate(self.units):
            if isinstance(unit, Pixels):
                shapes.setdefault(unit.pixels.shape, []).append((i, unit))
        units = list(self.units)
        for alike in shapes.values():
            block = torch.stack([unit.pixels for _, unit in alike])
            for (i, unit), pixels in zip(alike, block, strict=True):
                units[i] = replace(unit, pixels=pixels)
        return replace(self, units=units)


def read_group(plan: Plan, group: int) -> Iterator[Piece]:
    """The pieces of a group; the last one says so. Files that cannot be read are in `errors`, and never raise."""
    piece, size = Piece(group), 0
    for number in plan.samples_of(group):
        item = _Item(number, *plan.collection.locate(number))
        try:
            for unit in _read(item, plan.settings):
                piece.units.append(unit)
                size += (unit.pixels if isinstance(unit, Pixels) else unit.frames).nbytes
                if size >= PIECE_BYTES:
                    yield piece
                    piece, size = Piece(group), 0
        except MediaError as error:
            reason = " ".join(str(error).split()).replace(item.sample.name, item.sample.key)  # wherever DATA lies
            piece.errors.append(ReadError(number, FileFailure(key=item.sample.key, reason=reason)))
        piece.samples += 1
    piece.is_last = True
    yield piece


def _read(item: _Item, settings: TokenizeSettings) -> Iterator[Pixels | Chunk]:
    with sample_file(item.sample) as path:
        if item.modality == "image":
            yield from _read_image(item, path, settings)
        else:
            yield from _read_video(item, path, settings)


def _read_image(item: _Item, path: str, settings: TokenizeSettings) -> Iterator[Pixels]:
    with ImageReader(path, whole=settings.resolution is None) as reader:
        source, seed = (reader.height, reader.width), (settings.seed, item.number)
        for drawn in draw_augmentations(settings.views, *source, settings.resolution, 0, seed, settings.crop_range):
            pixels = drawn.mirror(reader.crop(drawn.box, *drawn.size))
            yield Pixels(Place(item.number, drawn.number, 0), _record(item, drawn, 1, source, None, 0), pixels)


def _read_video(item: _Item, path: str, settings: TokenizeSettings) -> Iterator[Pixels | Chunk]:
    with VideoReader(path, settings.fps) as reader:
        source = (reader.height, reader.width)
        # A later start must leave a window; headers may promise more frames than there are, then the view has fewer.
        spare = max((reader.frame_count or 0) - settings.frames, 0)
        latest = min(spare, settings.frames - 1) if settings.frames else 0
        seed = (settings.seed, item.number)
        drawn = draw_augmentations(settings.views, *source, settings.resolution, latest, seed, settings.crop_range)
        cutters = [_Cutter(item, one, source, reader.fps, settings.frames) for one in drawn]
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

    def __init__(self, item: _Item, drawn: Augmentation, source: tuple[int, int], fps: float, frames: int) -> None:
        self.item, self.drawn, self.source, self.fps, self.frames = item, drawn, source, fps, frames
        self.windows = self.streamed = 0
        self._held: list[Tensor] = []

    def push(self, number: int, frame: Tensor) -> Iterator[Pixels | Chunk]:
        """Take frame (3, 1, H, W) of that number."""
        if number < self.drawn.start:
            return
        if not self.frames and len(self._held) == CHUNK_FRAMES:  # and there is one more: the video is a long one
            yield Chunk(Place(self.item.number, self.drawn.number, 0), self._take(), None)
            self.streamed += CHUNK_FRAMES
        self._held.append(self.drawn.apply(frame))
        if len(self._held) == self.frames:
            start = self.drawn.start + self.windows * self.frames
            record = _record(self.item, self.drawn, self.frames, self.source, self.fps, start)
            yield Pixels(Place(self.item.number, self.drawn.number, self.windows), record, self._take())
            self.windows += 1

    def finish(self) -> Iterator[Pixels | Chunk]:
        """The rest of a whole video; what is left of windows is less than one, and dropped."""
        if self.frames:
            return
        total = self.streamed + len(self._held)
        record = _record(self.item, self.drawn, total, self.source, self.fps, self.drawn.start)
        place = Place(self.item.number, self.drawn.number, 0)
        yield Chunk(place, self._take(), record) if self.streamed else Pixels(place, record, self._take())

    def _take(self) -> Tensor:
        frames = torch.cat(self._held, dim=1)
        self._held = []
        return frames


def _record(
    item: _Item, drawn: Augmentation, frames: int, source: tuple[int, int], fps: float | None, start: int
) -> TokenRecord:
    key, label, size = item.sample.key, item.sample.label, (frames, *drawn.size)
    return TokenRecord(key, label, size, source, fps, drawn.number, start, drawn.box, drawn.flip)
