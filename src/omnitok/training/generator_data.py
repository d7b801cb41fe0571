"""What a generator is trained on: tokens from shards, or of pixels that the tokenizer encodes at each step."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from omnitok.data.index import NO_LABEL
from omnitok.data.loading import Batch, Failure, load_batches
from omnitok.data.sampling import Medium, Sampler
from omnitok.data.token_batches import TokenDataset
from omnitok.data.token_shards import Grid, TokenShards
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.hub.folder import fingerprint
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import DataConfig
from omnitok.training.generator_config import AnyGeneratorConfig
from omnitok.training.pixel_data import build_dataset, check_batches


@dataclass(frozen=True)
class GeneratorBatch:
    """One process's share of a step.

    Attributes:
        step: counted from 0.
        medium: "image" or "video".
        tokens: codes (b, h, w) or (b, t, h, w), int64; or latents (b, c, h, w) or (b, c, t, h, w), float32.
        labels: (b,), int64, -1 where there is none.
        pixels: shape of the pixels that they stand for: (b, 3, H, W) or (b, 3, T, H, W).
        failures: (path, reason) of each file that could not be read and was replaced by another.
    """

    step: int
    medium: Medium
    tokens: Tensor
    labels: Tensor
    pixels: tuple[int, ...]
    failures: Sequence[Failure] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Samples in it."""
        return len(self.tokens)

    def pin_memory(self) -> "GeneratorBatch":
        """The same in page-locked memory; a DataLoader with `pin_memory` calls this."""
        return dataclasses.replace(self, tokens=self.tokens.pin_memory(), labels=self.labels.pin_memory())


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
        samples: how many there are of each medium.
    """

    kind: Literal["codes", "latents"]
    size: int
    classes: tuple[str, ...]
    class_count: int
    pixels: tuple[int, int, int]
    grid: tuple[int, int, int]
    fps: float | None
    samples: Mapping[Medium, int]


class GeneratorData(Protocol):
    """Batches by step."""

    facts: DataFacts

    def batches(self, start: int, stop: int, pin_memory: bool = False) -> Iterator[GeneratorBatch]:
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
    return TokenShards.of_tokenizer(folders, name, fingerprint(tokenizer), tokenizer.config.tokens_of)


class ShardData(Dataset[GeneratorBatch]):
    """Batches of token shards: the media as `Sampler` mixes them, each batch of one grid, in shuffled epochs.

    Args:
        config: its shards, batch sizes, share of clips and seed.
        tokenizer: for comparison with the one that made the shards.
        processes: this process's share is every world_size-th sample from the rank-th on.
    """

    def __init__(self, config: AnyGeneratorConfig, tokenizer: OmniTokenizer, processes: Processes) -> None:
        self.shards = open_shards(config.shards, tokenizer, config.tokenizer or "the tokenizer")
        self.workers = config.data.workers
        self._labelled = config.class_conditional
        grids: dict[Medium, list[Grid]] = {
            "image": [grid for grid in self.shards.grids if len(grid) == 2],
            "video": [grid for grid in self.shards.grids if len(grid) == 3],
        }
        counts: dict[Medium, int] = {m: sum(self.shards.grids[g] for g in chosen) for m, chosen in grids.items()}
        if not any(counts.values()):
            raise OmnitokError(f"{config.shards[0]}: the shards hold no items")
        data = config.data
        self._mixture = Sampler(
            counts["image"], counts["video"], data.image_batch, data.video_batch, (1,), config.seed, data.video_share
        )
        self._of: dict[Medium, TokenDataset] = {
            medium: TokenDataset(
                self.shards,
                self._mixture.batch[medium],
                config.seed,
                processes.rank,
                processes.world_size,
                full_batches=True,
                grids=chosen,
            )
            for medium, chosen in grids.items()
            if chosen
        }
        self._sizes = {grid: self.shards.record(int(self.shards.indices_of(grid)[0])) for grid in self.shards.grids}
        sizes = [record.size for record in self._sizes.values()]
        largest = tuple(max(size[axis] for size in sizes) for axis in range(3))
        self.facts = DataFacts(
            self.shards.kind,
            self.shards.size,
            self.shards.classes if self._labelled else (),
            self.shards.class_count if self._labelled else 0,
            (largest[0], largest[1], largest[2]),
            tokenizer.config.latent_shape(*largest),
            next((record.fps for record in self._sizes.values() if record.fps), None),
            counts,
        )

    def __getitem__(self, step: int) -> GeneratorBatch:
        """The share of one step.

        Raises:
            ShardError: a shard is damaged.
        """
        medium = self._mixture.medium(step)
        batch = self._of[medium][self._mixture.steps_before(step, medium)]
        grid = tuple(batch.tokens.shape[-2 if medium == "image" else -3 :])
        frames, height, width = self._sizes[grid].size
        labels = batch.labels if self._labelled else torch.full_like(batch.labels, NO_LABEL)
        shape = (batch.size, 3, height, width) if medium == "image" else (batch.size, 3, frames, height, width)
        return GeneratorBatch(step, medium, batch.tokens, labels, shape)

    def batches(self, start: int, stop: int, pin_memory: bool = False) -> Iterator[GeneratorBatch]:
        """Those of steps start, ..., stop - 1."""
        return load_batches(self, start, stop, self.workers, pin_memory=pin_memory)


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
            "codes" if tokenizer.config.bottleneck == "vq" else "latents",
            tokenizer.config.codebook_size if tokenizer.config.bottleneck == "vq" else tokenizer.config.latent_channels,
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

    def batches(self, start: int, stop: int, pin_memory: bool = False) -> Iterator[GeneratorBatch]:
        """Those of steps start, ..., stop - 1."""
        for batch in load_batches(self._dataset, start, stop, self.workers, pin_memory=pin_memory):
            yield self._encode(batch)

    @torch.no_grad()
    def _encode(self, batch: Batch) -> GeneratorBatch:
        pixels = batch.pixels.to(self.tokenizer.device, non_blocking=True)
        encoding = self.tokenizer.encode(pixels, check_range=False)
        tokens = encoding.codes if encoding.posterior is None else encoding.posterior.mean.float()  # as in shards
        assert tokens is not None
        labels = batch.labels if self._labelled else torch.full_like(batch.labels, NO_LABEL)
        return GeneratorBatch(batch.step, batch.medium, tokens, labels, tuple(batch.pixels.shape), batch.failures)


def shards_tokenizer(folders: Sequence[str]) -> str:
    """Name of the tokenizer that made these shards, by the first folder; `open_shards` holds the others against it."""
    return TokenShards(folders[0]).tokenizer


def held_out_batches(
    shards: TokenShards, config: AnyGeneratorConfig, classes: tuple[str, ...]
) -> Iterator[GeneratorBatch]:
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
        medium: Medium = "image" if len(grid) == 2 else "video"
        size = config.data.image_batch if medium == "image" else config.data.video_batch
        indices = shards.indices_of(grid)[: size * config.validation_batches]
        for first in range(0, len(indices), size):
            tokens, labels = shards.read(indices[first : first + size], grid)
            if not config.class_conditional:
                labels = torch.full_like(labels, NO_LABEL)
            elif len(table) > 1:
                labels = table[labels]
            yield GeneratorBatch(first, medium, tokens, labels, ())
