"""What is to be done: the samples of a collection, cut into groups and shards, as a pure function of the options.

A group is a fixed slice of the list of samples: it is read by one process and encoded in batches that mix nothing from
outside it. A shard is a fixed run of groups. So no byte depends on the number of processes or on a bad file elsewhere.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omnitok.data.sampling import Medium
from omnitok.data.shard_format import TokenFormat, codes_dtype
from omnitok.data.sources import NO_LABEL, Sample, SampleList, find_samples
from omnitok.errors import MediaError
from omnitok.models.tokenizer import TokenizerConfig

MIXED_GROUP = 4
"""Where sizes differ, a group has so many batches' worth of samples, to find pixels of one size in."""

Labels = Literal["auto", "folders", "none"]


@dataclass(frozen=True)
class TokenizeSettings:
    """Everything that the bytes of the shards depend on, beside the collection and the tokenizer.

    Attributes:
        resolution: side of the square that pictures and frames are brought to; None keeps sizes.
        frames: length of the windows that clips are cut into; 0 keeps clips whole.
        fps: frames a second that clips are sampled at; None takes every frame.
        views: views of each file (`draw_views`).
        crop_range: the short side of a file over the smallest side of a crop; None: crops of `resolution` or more.
        batch_size: items encoded at a time.
        shard_size: files in a shard, rounded up to whole groups.
        seed: of the views.
        precision: of the encoder, "float32" or "bfloat16".

    Raises:
        ValueError: a number out of range.
    """

    resolution: int | None = None
    frames: int = 17
    fps: float | None = None
    views: int = 1
    crop_range: float | None = None
    batch_size: int = 16
    shard_size: int = 1024
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("resolution", "views", "batch_size", "shard_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        if self.frames < 0:
            raise ValueError(f"frames must not be negative, found {self.frames}")
        if self.crop_range is not None and not 1 <= self.crop_range < math.inf:
            raise ValueError(f"crop_range must be a number of at least 1, found {self.crop_range}")
        if self.crop_range is not None and (self.resolution is None or self.views < 2):
            raise ValueError("crop_range needs a resolution and at least 2 views: the first is never cropped at random")

    @property
    def group_size(self) -> int:
        """Samples in a group."""
        return self.batch_size if self.resolution is not None else self.batch_size * MIXED_GROUP


@dataclass(frozen=True)
class WorkItem:
    """One file of the collection."""

    number: int
    medium: Medium
    sample: Sample
    label: int


class Collection:
    """All pictures, then all clips, with labels that agree.

    Attributes:
        classes: names of the classes, sorted; empty where labels are numbers or there are none.
    """

    def __init__(self, lists: Iterable[tuple[Medium, SampleList]]) -> None:
        self._lists = [(medium, samples) for medium, samples in lists if len(samples)]
        named = [samples for _, samples in self._lists if samples.classes]
        if named and any(samples.has_labels and not samples.classes for _, samples in self._lists):
            raise MediaError("pictures have labels by number and clips by name, or the reverse: give them separately")
        self.classes = tuple(sorted({name for samples in named for name in samples.classes}))
        self._numbers = [
            np.array([*(self.classes.index(name) for name in samples.classes), NO_LABEL]) for _, samples in self._lists
        ]
        self._ends = np.cumsum([len(samples) for _, samples in self._lists]).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> WorkItem:
        turn = int(np.searchsorted(self._ends, number, side="right"))
        medium, samples = self._lists[turn]
        sample = samples[number - (self._ends[turn] - len(samples))]
        label = int(self._numbers[turn][sample.label]) if samples.classes else sample.label
        return WorkItem(number, medium, sample, label)

    def __iter__(self) -> Iterator[WorkItem]:
        return (self[number] for number in range(len(self)))

    def count(self, medium: Medium) -> int:
        """How many there are of a medium."""
        return sum(len(samples) for found, samples in self._lists if found == medium)

    def sha256(self) -> str:
        """Of media, names and labels in order: tells whether two lists are of the same collection."""
        digest = hashlib.sha256()
        for item in self:
            digest.update(os.fsencode(f"{item.medium}\0{item.sample.key}\0{item.label}\n"))
        return digest.hexdigest()


def find_collection(paths: Iterable[str | os.PathLike[str]], labels: Labels = "auto") -> Collection:
    """The pictures and clips in folders, manifests, lists and tar shards (see `omnitok.data.sources`).

    In a folder a file is a picture or a clip by its suffix; so is one listed in a list or manifest.

    Args:
        labels: "folders": classes are the folders directly below a given folder; "none": there are none but those that
            lists, manifests and tars give; "auto": as "folders" where every file lies in such a folder and there are
            at least two of them.

    Raises:
        MediaError: something is missing, empty or malformed.
    """
    given = [Path(path) for path in paths]
    lists = _lists(given, folder_labels=labels == "folders")
    if labels == "auto" and all(path.is_dir() for path in given) and _all_in_classes(lists):
        lists = _lists(given, folder_labels=True)
    collection = Collection(lists)
    if not len(collection):
        raise MediaError(f"{', '.join(map(str, given))}: no pictures, clips or .tar shards of them are there")
    return collection


def _lists(paths: list[Path], folder_labels: bool) -> list[tuple[Medium, SampleList]]:
    media: tuple[Medium, ...] = ("image", "video")
    return [(m, find_samples(paths, m, folder_labels=folder_labels, mixed=True)) for m in media]


def _all_in_classes(lists: list[tuple[Medium, SampleList]]) -> bool:
    """Whether every file lies in a folder below the given one, and not all in the same."""
    classes: set[str] = set()
    for _, samples in lists:
        for sample in samples:
            name, separator, _ = sample.key.partition(os.sep)
            if sample.size is not None or not separator:
                return False
            classes.add(name)
    return len(classes) > 1


@dataclass(frozen=True)
class Plan:
    """The whole work: which samples make which group and which shard, and who does which shard."""

    collection: Collection
    settings: TokenizeSettings
    format: TokenFormat

    @property
    def groups_in_shard(self) -> int:
        """Of every shard but the last."""
        return -(-self.settings.shard_size // self.settings.group_size)

    @property
    def group_count(self) -> int:
        """Groups in all."""
        return -(-len(self.collection) // self.settings.group_size)

    @property
    def shard_count(self) -> int:
        """Shards in all."""
        return -(-self.group_count // self.groups_in_shard)

    def groups_of(self, shard: int) -> range:
        """The groups of a shard."""
        first = shard * self.groups_in_shard
        return range(first, min(first + self.groups_in_shard, self.group_count))

    def samples_of(self, group: int) -> range:
        """The samples of a group."""
        first = group * self.settings.group_size
        return range(first, min(first + self.settings.group_size, len(self.collection)))

    def shards_of(self, part: int, parts: int) -> range:
        """The shards that one of several takes."""
        return range(part, self.shard_count, parts)

    def to_json(self) -> dict[str, Any]:
        """What `plan.json` holds: equal for two plans exactly when they make the same shards."""
        return {
            **self.format.to_json(),
            "samples": len(self.collection),
            "samples_sha256": self.collection.sha256(),
            "shard_count": self.shard_count,
        }


def make_plan(
    collection: Collection,
    settings: TokenizeSettings,
    config: TokenizerConfig,
    tokenizer: str,
    tokenizer_sha256: str,
    latent_dtype: str = "float16",
) -> Plan:
    """The plan of a collection for a tokenizer.

    Args:
        config, tokenizer, tokenizer_sha256: of the tokenizer, its name and its fingerprint.
        latent_dtype: how a VAE's latents are stored, float16 or bfloat16.

    Raises:
        ValueError: another latent_dtype.
    """
    is_quantizer = config.bottleneck == "vq"
    format = TokenFormat(
        kind="codes" if is_quantizer else "latents",
        dtype=codes_dtype(config.codebook_size) if is_quantizer else latent_dtype,
        size=config.codebook_size if is_quantizer else config.latent_channels,
        tokenizer=tokenizer,
        tokenizer_sha256=tokenizer_sha256,
        classes=collection.classes,
        settings=asdict(settings),
    )
    return Plan(collection, settings, format)
