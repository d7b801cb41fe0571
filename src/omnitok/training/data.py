"""What is trained on: pixels of files for tokenizers, and for generators tokens of shards, or of pixels that the
tokenizer encodes at each step."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from omnitok.data.config import DataConfig
from omnitok.data.image import read_image
from omnitok.data.index import Labels, build_index
from omnitok.data.loader import Batch, PixelDataset
from omnitok.data.modality import MODALITIES, Modality
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.data.sampler import Sampler
from omnitok.data.samples import NO_LABEL, NO_SOURCE, Index, Sample, Samples
from omnitok.data.shard_format import EmbeddingFormat
from omnitok.data.token_shards import TokenDataset, TokenShards
from omnitok.data.video_reader import VideoReader
from omnitok.distributed import Processes
from omnitok.errors import MediaError, OmnitokError
from omnitok.models.conditions import EmbeddingCondition
from omnitok.models.protocol import Tokenizer
from omnitok.padding import pad_embeddings
from omnitok.training.config import AnyGeneratorConfig, learns_captions, learns_classes

MOST_HELD_OUT = 256
"""Files of each modality that a generator's training keeps back at most."""


@dataclass(frozen=True)
class GeneratorData:
    """Batches by step, and what they say about the generator that can be trained on them.

    Attributes:
        dataset: this process's share of each step: tokens, or pixels that the tokenizer is to encode.
        samples: how many there are of each modality.
        pixels: (T, H, W), the largest of each.
        fps: frames per second of the videos, where it is known.
        classes: names of the classes in the order of their labels; empty where they have no names.
        class_count: number of classes; 0 without labels.
        has_captions: whether any of the samples has one.
        embeddings: what the embeddings of shards are; None where there are none.
        held_out: what is kept from training by `config.held_out`: shards or files; None where that is nothing.
    """

    dataset: Dataset[Batch]
    samples: Mapping[Modality, int]
    pixels: tuple[int, int, int]
    fps: float | None
    classes: tuple[str, ...] = ()
    class_count: int = 0
    has_captions: bool = False
    embeddings: EmbeddingFormat | None = None
    held_out: TokenShards | Index | None = None


def build_dataset(
    data: DataConfig,
    accumulation: int,
    seed: int,
    processes: Processes,
    labelled: bool = False,
    samples: Index | None = None,
    pixel_format: PixelFormat = RGB,
) -> PixelDataset:
    """This process's share of the files of `data`, in the order they are drawn in.

    Args:
        accumulation: parts of each process's share, which must be equal.
        seed: of the order, crops and flips.
        labelled: labels are the folders directly below those given, or those of lists; without it there are none.
        samples: those of `list_samples` that are trained on; None takes all.
        pixel_format: channels and ranges of the pixels.

    Raises:
        OmnitokError: no files, or batches that the processes cannot share evenly.
    """
    samples = samples or list_samples(data, labelled, pixel_format)
    if data.ken_burns and not samples.images:
        raise OmnitokError(f"data.ken_burns={data.ken_burns} makes videos from images; give --images DIR")
    weights = _source_weights(samples.videos) if data.balance_sources and samples.videos else None
    sampler = Sampler(len(samples.images), len(samples.videos), data, seed, weights)
    _check_batches(sampler, accumulation, processes)
    return PixelDataset(samples, sampler, data, processes.rank, processes.world_size, labelled, pixel_format)


def list_samples(
    data: DataConfig, labelled: bool = False, pixel_format: PixelFormat = RGB, captions: bool = False
) -> Index:
    """The files of `data`; there must be some."""
    if not data.images and not data.videos:
        raise OmnitokError("there is nothing to train on: give --images DIR, --videos DIR, or both")
    labels: Labels = "folders" if labelled else "none"
    arrays = pixel_format.has_arrays
    return build_index(images=data.images, videos=data.videos, labels=labels, arrays=arrays, captions=captions)


def hold_out(
    index: Index, share: float, most: int, frames: int, pixel_format: PixelFormat = RGB
) -> tuple[Index, Index]:
    """Every n-th file kept from training, so that all folders are among them.

    Only files that can be read, and videos of at least `frames` frames; at most `most` of each modality, none of tars.

    Returns:
        The samples to train on, and those kept back.
    """

    def is_usable(sample: Sample) -> bool:
        if sample.size is not None or sample.error or not Path(sample.path).is_file():
            return False
        try:
            if modality == "image":
                read_image(sample.path, pixel_format=pixel_format)
            else:
                check_length(Path(sample.path), frames, pixel_format)
        except OmnitokError:
            return False
        return True

    rest, kept = {}, {}
    for modality in MODALITIES:
        samples = index[modality]
        count = min(int(share * len(samples)), most)
        places = [place for place in _spread(count, len(samples)) if is_usable(samples[place])]
        kept[modality] = samples.select(places)
        others = sorted(set(range(len(samples))) - set(places)) if places else None
        rest[modality] = samples if others is None else samples.select(others)
    return (
        dataclasses.replace(index, images=rest["image"], videos=rest["video"]),
        dataclasses.replace(index, images=kept["image"], videos=kept["video"]),
    )


def hold_out_items(shards: TokenShards, share: float) -> tuple[TokenShards, TokenShards]:
    """Every n-th source file of each modality kept from training, with all its views, crops and windows.

    Returns:
        The shards to train on, and those kept back: together all items, and no key in both.
    """
    files = shards.files
    held = np.zeros(int(files.max(initial=-1)) + 1, dtype=bool)
    for rank in (2, 3):
        items = [shards.indices_of(grid) for grid in shards.grids if len(grid) == rank]
        found = np.unique(files[np.concatenate([np.empty(0, dtype=np.int64), *items])])
        held[found[_spread(min(int(share * len(found)), MOST_HELD_OUT), len(found))]] = True
    kept = held[files]
    return shards.only(~kept), shards.only(kept)


def _spread(count: int, n: int) -> np.ndarray:
    """So many of the places 0 to n - 1, evenly apart: int64 (count,)."""
    return (2 * np.arange(count) + 1) * n // max(1, 2 * count)


def check_length(path: Path, frames: int, pixel_format: PixelFormat = RGB) -> None:
    """Raise MediaError where a video says that it has fewer frames."""
    with VideoReader(path, pixel_format=pixel_format) as reader:
        if reader.frame_count is not None and reader.frame_count < frames:
            raise MediaError(
                f"{path}: the video has {reader.frame_count} frames, but validation measures videos of "
                f"data.frames={frames}; leave it out"
            )


def _check_batches(sampler: Sampler, accumulation: int, processes: Processes) -> None:
    parts = processes.world_size * accumulation
    for modality in sampler.modalities:
        size = sampler.batch[modality]
        if size % parts:
            raise OmnitokError(
                f"data.{modality}_batch={size} cannot be shared evenly by {processes.world_size} processes in "
                f"{accumulation} parts each; give a multiple of {parts}"
            )


def _source_weights(videos: Samples) -> list[float]:
    """Square-root balancing: a source with n videos is drawn in proportion to sqrt(n).

    Sources are those of the manifests; videos without one are grouped by their names up to the number at their end.
    """
    sources = [
        Path(sample.name).stem.rstrip("0123456789_") if number == NO_SOURCE else number
        for sample, number in zip(videos, videos.sources.tolist(), strict=True)
    ]
    counts = Counter(sources)
    return [counts[source] ** -0.5 for source in sources]


def open_data(config: AnyGeneratorConfig, tokenizer: Tokenizer, processes: Processes) -> GeneratorData:
    """The shards of `config`, each batch of one grid and the modalities mixed by `Sampler`; or its files.

    Args:
        tokenizer: whose tokens those of shards must be.

    Raises:
        OmnitokError: both or neither are given, no usable labels, tokens of another tokenizer, or batches that the
            processes cannot share evenly.
    """
    has_pixels = bool(config.data.images or config.data.videos)
    if config.shards and has_pixels:
        raise OmnitokError("give --shards, or --images and --videos, but not both")
    if not config.shards and not has_pixels:
        raise OmnitokError("there is nothing to train on: give --shards DIR, or --images DIR, --videos DIR, or both")
    data = (_shard_data if config.shards else _pixel_data)(config, tokenizer, processes)
    if learns_classes(config) and not data.class_count:
        raise OmnitokError(
            "there are no labels to learn: give data with labels (`omnitok tokenize --labels folders`, folders per "
            "class), or --set class_conditional=false"
        )
    if isinstance(config.model.condition, EmbeddingCondition) and data.embeddings is None:
        raise OmnitokError(
            "there are no embeddings to learn: give shards with some (`omnitok tokenize --embed audio`, for example)"
        )
    if learns_captions(config) and not data.has_captions:
        raise OmnitokError(
            "there are no captions to learn: give shards with captions (`omnitok tokenize --captions`), lists with a "
            "column caption, or images and videos with text files beside them"
        )
    return data


def pixel_format_of(tokenizer: Tokenizer, data: DataConfig) -> PixelFormat:
    """How files are read for a tokenizer.

    Raises:
        OmnitokError: `data.ranges` are not as many as it has channels.
    """
    try:
        return PixelFormat(tokenizer.channels, data.ranges or tokenizer.channel_ranges)
    except ValueError as error:
        raise OmnitokError(f"data.ranges: {error}") from error


def open_shards(folders: Sequence[str], tokenizer: Tokenizer, name: str) -> TokenShards:
    """Token shards that are this tokenizer's, also several of tokenizers whose tokens it shares.

    Raises:
        ShardError: damaged, or of another tokenizer.
    """
    sha256 = tokenizer.fingerprint
    shards = TokenShards(folders, same_tokens=(sha256, *tokenizer.compatible_tokenizers))
    shards.check_tokenizer(name, sha256)
    return shards


def _shard_data(config: AnyGeneratorConfig, tokenizer: Tokenizer, processes: Processes) -> GeneratorData:
    shards = open_shards(config.shards, tokenizer, config.tokenizer or "the tokenizer")
    if not shards.grids:
        raise OmnitokError(f"{config.shards[0]}: the shards hold no items")
    data, labelled = config.data, learns_classes(config)
    part, held_out = hold_out_items(shards, config.held_out) if config.held_out else (shards, None)
    images, videos = ({grid: n for grid, n in part.grids.items() if len(grid) == rank} for rank in (2, 3))
    sampler = Sampler(images, videos, data, config.seed)
    _check_batches(sampler, config.optimizer.accumulation, processes)
    records = [shards.record(int(shards.indices_of(grid)[0])) for grid in shards.grids]
    frames, height, width = (max(record.size[axis] for record in records) for axis in range(3))
    return GeneratorData(
        TokenDataset(part, sampler, processes.rank, processes.world_size, labelled),
        sampler.counts,
        (frames, height, width),
        next((record.fps for record in records if record.fps), None),
        *((shards.classes, shards.class_count) if labelled else ((), 0)),
        shards.captioned > 0,
        shards.embedding_format,
        held_out if held_out and held_out.grids else None,
    )


def _pixel_data(config: AnyGeneratorConfig, tokenizer: Tokenizer, processes: Processes) -> GeneratorData:
    data, labelled = config.data, learns_classes(config)
    pixel_format = pixel_format_of(tokenizer, data)
    samples = list_samples(data, labelled, pixel_format, learns_captions(config))
    part, held_out = hold_out(samples, config.held_out, MOST_HELD_OUT, data.frames, pixel_format)
    dataset = build_dataset(data, config.optimizer.accumulation, config.seed, processes, labelled, part, pixel_format)
    of_videos = data.video_resolutions or data.resolutions
    resolution = max((*(data.resolutions if samples.images else ()), *(of_videos if samples.videos else ())))
    return GeneratorData(
        dataset,
        dataset.sampler.counts,
        (data.frames if samples.videos else 1, resolution, resolution),
        data.fps,
        *((samples.classes, samples.class_count) if labelled else ((), 0)),
        samples.captions,
        None,
        held_out if len(held_out) else None,
    )


def open_held_out(config: AnyGeneratorConfig, tokenizer: Tokenizer, data: GeneratorData) -> TokenShards | Index | None:
    """What a training validates on: `config.validation_shards`, or what `data` hold out.

    Raises:
        OmnitokError: shards that are missing or of another tokenizer, or a class that the training data do not have.
    """
    if not config.validation_shards:
        return data.held_out
    shards = open_shards(config.validation_shards, tokenizer, config.tokenizer or "the tokenizer")
    if unknown := [name for name in shards.classes if data.classes and name not in data.classes]:
        raise OmnitokError(f"{shards.folders[0]}: has the class {unknown[0]!r}, which the training data do not have")
    return shards


def held_out_batches(
    source: TokenShards | Index,
    config: AnyGeneratorConfig,
    classes: tuple[str, ...],
    pixel_format: PixelFormat = RGB,
) -> Iterator[Batch]:
    """Tokens of shards, or pixels of files: up to `config.validation_batches` batches of each grid or modality, the
    same at every call. Of `config.validation_shards` these are the first, of what training kept back they are spread.

    Args:
        classes: names of the training data's classes, by whose numbers labels are given.
        pixel_format: channels and ranges of the pixels.
    """
    if isinstance(source, Index):
        return _pixel_batches(source, config, pixel_format)
    return _token_batches(source, config, classes)


def _pixel_batches(files: Index, config: AnyGeneratorConfig, pixel_format: PixelFormat) -> Iterator[Batch]:
    """Each file at most once, cropped as in training."""
    none = files.images.select([])
    for modality in MODALITIES:
        if not (count := len(files[modality])):
            continue
        size = min(_batch_size(config, modality), count)
        data = dataclasses.replace(
            config.data, image_batch=size, video_batch=size, balance_sources=False, ken_burns=0.0, drawn=0.0
        )
        images, videos = (files.images, none) if modality == "image" else (none, files.videos)
        samples = dataclasses.replace(files, images=images, videos=videos)
        alone = Processes(0, 1, torch.device("cpu"))
        dataset = build_dataset(data, 1, config.seed, alone, learns_classes(config), samples, pixel_format)
        yield from (dataset[step] for step in range(min(config.validation_batches, count // size)))


def _token_batches(shards: TokenShards, config: AnyGeneratorConfig, classes: tuple[str, ...]) -> Iterator[Batch]:
    table = torch.tensor([*(classes.index(name) for name in shards.classes if classes), NO_LABEL])
    for grid in shards.grids:
        modality: Modality = "image" if len(grid) == 2 else "video"
        size = _batch_size(config, modality)
        indices = shards.indices_of(grid)
        count = min(len(indices), size * config.validation_batches)
        indices = indices[:count] if config.validation_shards else indices[_spread(count, len(indices))]
        for first in range(0, len(indices), size):
            tokens, labels = shards.read(indices[first : first + size], grid)
            if not learns_classes(config):
                labels = torch.full_like(labels, NO_LABEL)
            elif len(table) > 1:
                labels = table[labels]
            items = indices[first : first + size].tolist()
            captions = tuple(next(iter(shards.captions(i)), "") for i in items)
            embeddings = None
            if (format := shards.embedding_format) is not None:
                embeddings = pad_embeddings([shards.embedding(i) for i in items], format.width)
            yield Batch(first, modality, tokens, labels, captions=captions, embeddings=embeddings)


def _batch_size(config: AnyGeneratorConfig, modality: Modality) -> int:
    return config.data.image_batch if modality == "image" else config.data.video_batch
