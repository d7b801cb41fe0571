"""What a generator is trained on: tokens from shards, or of pixels that the tokenizer encodes at each step."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from omnitok.data.loader import Batch, load_batches
from omnitok.data.modality import Modality
from omnitok.data.sampler import Sampler
from omnitok.data.samples import NO_LABEL
from omnitok.data.token_loader import TokenDataset
from omnitok.data.token_shards import TokenShards
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import AnyGeneratorConfig, DataConfig
from omnitok.training.pixel_data import build_dataset, check_batches


@dataclass(frozen=True)
class DataFacts:
    """What the data say about the model that can be trained on them.

    Attributes:
        kind: "codes" or "latents".
        size: codes in the codebook, or channels of the latents.
        classes: names of the classes in the order of their labels; empty where they have no names.
        class_count: number of classes; 0 without labels.
        pixels: (T, H, W), the largest of each.
        grid: (t, h, w) of their latents.
        fps: frames a second of the clips, where it is known.
        samples: how many there are of each modality.
    """

    kind: Literal["codes", "latents"]
    size: int
    classes: tuple[str, ...]
    class_count: int
    pixels: tuple[int, int, int]
    grid: tuple[int, int, int]
    fps: float | None
    samples: Mapping[Modality, int]


class GeneratorData(Protocol):
    """Batches by step."""

    facts: DataFacts

    def batches(self, start: int, stop: int, pin_memory: bool = False) -> Iterator[Batch]:
        """Those of steps start, ..., stop - 1."""


def open_data(config: AnyGeneratorConfig, tokenizer: OmniTokenizer, processes: Processes) -> GeneratorData:
    """The shards of `config`, or its pictures and clips.

    Args:
        tokenizer: in `eval` mode; on the processes' device where pixels are to be encoded.

    Raises:
        OmnitokError: both or neither are given, no usable labels, tokens of another tokenizer, or batches that the
            processes cannot share evenly.
    """
    has_pixels = bool(config.data.images or config.data.videos)
    if config.shards and has_pixels:
        raise OmnitokError("give --shards, or --images and --videos, but not both")
    if not config.shards and not has_pixels:
        raise OmnitokError("there is nothing to train on: give --shards DIR, or --images DIR, --videos DIR, or both")
    check_batches(config.data, config.optimizer.accumulation, processes)
    data = ShardData(config, tokenizer, processes) if config.shards else PixelData(config, tokenizer, processes)
    if config.class_conditional and not data.facts.class_count:
        raise OmnitokError(
            "there are no labels to learn: give data with labels (`omnitok tokenize --labels folders`, folders a "
            "class), or --set class_conditional=false"
        )
    return data


def open_shards(folders: Sequence[str], tokenizer: OmniTokenizer, name: str) -> TokenShards:
    """Token shards that are this tokenizer's, also several of tokenizers whose tokens it shares.

    Raises:
        ShardError: damaged, or of another tokenizer.
    """
    return TokenShards.of_tokenizer(folders, name, fingerprint(tokenizer), tokenizer.compatible_tokenizers)


class ShardData:
    """Batches of token shards: the modalities as `Sampler` mixes them, each batch of one grid, in shuffled epochs.

    Args:
        config: its shards, batch sizes, share of videos and seed.
        tokenizer: for comparison with the one that made the shards.
        processes: this process's share is every world_size-th sample from the rank-th on.
    """

    def __init__(self, config: AnyGeneratorConfig, tokenizer: OmniTokenizer, processes: Processes) -> None:
        self.shards = open_shards(config.shards, tokenizer, config.tokenizer or "the tokenizer")
        if not self.shards.grids:
            raise OmnitokError(f"{config.shards[0]}: the shards hold no items")
        data, self.workers = config.data, config.data.workers
        grids = self.shards.grids.items()
        images, videos = ({grid: n for grid, n in grids if len(grid) == rank} for rank in (2, 3))
        sampler = Sampler(images, videos, data.image_batch, data.video_batch, (1,), config.seed, data.video_share)
        labelled = config.class_conditional
        self._dataset = TokenDataset(self.shards, sampler, processes.rank, processes.world_size, labelled)
        records = [self.shards.record(int(self.shards.indices_of(grid)[0])) for grid in self.shards.grids]
        frames, height, width = (max(record.size[axis] for record in records) for axis in range(3))
        self.facts = DataFacts(
            self.shards.kind,
            self.shards.size,
            self.shards.classes if labelled else (),
            self.shards.class_count if labelled else 0,
            (frames, height, width),
            tokenizer.config.latent_shape(frames, height, width),
            next((record.fps for record in records if record.fps), None),
            sampler.counts,
        )

    def batches(self, start: int, stop: int, pin_memory: bool = False) -> Iterator[Batch]:
        """Those of steps start, ..., stop - 1."""
        return load_batches(self._dataset, start, stop, self.workers, pin_memory=pin_memory)


class PixelData:
    """Batches of pictures and clips, encoded when their step comes.

    Args:
        config: its data and seed; labels are the folders directly below those given, or of lists.
        tokenizer: on the processes' device, in `eval` mode.
        processes: as in `ShardData`.
    """

    def __init__(self, config: AnyGeneratorConfig, tokenizer: OmniTokenizer, processes: Processes) -> None:
        self.tokenizer, self.workers = tokenizer, config.data.workers
        self._labelled = config.class_conditional
        data = config.data
        self._dataset = build_dataset(data, config.optimizer.accumulation, config.seed, processes, self._labelled)
        samples = self._dataset.samples
        images, videos = samples.images, samples.videos
        resolution = max((*(data.resolutions if images else ()), *self._video_resolutions(data, len(videos))))
        pixels = (data.frames if videos else 1, resolution, resolution)
        self.facts = DataFacts(
            "codes" if tokenizer.is_discrete else "latents",
            tokenizer.vocab_size or tokenizer.latent_channels,
            samples.classes if self._labelled else (),
            samples.class_count if self._labelled else 0,
            pixels,
            tokenizer.config.latent_shape(*pixels),
            data.fps,
            {"image": len(images), "video": len(videos)},
        )

    @staticmethod
    def _video_resolutions(data: DataConfig, videos: int) -> tuple[int, ...]:
        return (data.video_resolutions or data.resolutions) if videos else ()

    def batches(self, start: int, stop: int, pin_memory: bool = False) -> Iterator[Batch]:
        """Those of steps start, ..., stop - 1."""
        for batch in load_batches(self._dataset, start, stop, self.workers, pin_memory=pin_memory):
            yield self._encode(batch)

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Batch:
        pixels = batch.inputs.to(self.tokenizer.device, non_blocking=True)
        encoding = self.tokenizer.encode(pixels, check_range=False)
        tokens = encoding.codes if encoding.posterior is None else encoding.posterior.mean.float()  # as in shards
        assert tokens is not None
        labels = batch.labels if self._labelled else torch.full_like(batch.labels, NO_LABEL)
        return dataclasses.replace(batch, inputs=tokens, labels=labels)


def shards_tokenizer(folders: Sequence[str]) -> str:
    """Name of the tokenizer that made these shards, by the first folder; `open_shards` holds the others against it."""
    return TokenShards(folders[0]).tokenizer


def held_out_batches(shards: TokenShards, config: AnyGeneratorConfig, classes: tuple[str, ...]) -> Iterator[Batch]:
    """The first `config.validation_batches` batches of each grid, in order.

    Args:
        classes: names of the training data's classes, by whose numbers labels are given.

    Raises:
        OmnitokError: a class that the training data do not have.
    """
    if unknown := [name for name in shards.classes if classes and name not in classes]:
        raise OmnitokError(f"{shards.folders[0]}: has the class {unknown[0]!r}, which the training data do not have")
    table = torch.tensor([*(classes.index(name) for name in shards.classes if classes), NO_LABEL])
    for grid in shards.grids:
        modality: Modality = "image" if len(grid) == 2 else "video"
        size = config.data.image_batch if modality == "image" else config.data.video_batch
        indices = shards.indices_of(grid)[: size * config.validation_batches]
        for first in range(0, len(indices), size):
            tokens, labels = shards.read(indices[first : first + size], grid)
            if not config.class_conditional:
                labels = torch.full_like(labels, NO_LABEL)
            elif len(table) > 1:
                labels = table[labels]
            yield Batch(first, modality, tokens, labels, ())
