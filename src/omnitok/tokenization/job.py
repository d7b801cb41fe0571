"""What a run of `omnitok tokenize` has to do, and what is done already.

The plan is a pure function of the collection and the options: a group is a fixed slice of the list of files, read by
one process and encoded in batches that mix nothing from outside it; a shard is a fixed run of groups. So no byte
depends on the number of processes or on a bad file elsewhere, and the state of the work is the finished shards.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnitok.data.modality import MODALITIES
from omnitok.data.pixel_format import RGB, PixelFormat
from omnitok.data.samples import Index
from omnitok.data.shard_format import EmbeddingFormat, FileFailure, ShardReport, TokenFormat, codes_dtype
from omnitok.data.shard_writing import (
    Token,
    begin_folder,
    read_shard,
    remove_damaged_shard,
    shard_name,
    write_index,
    write_shard,
)
from omnitok.errors import ShardError
from omnitok.memory import return_freed_blocks
from omnitok.models.protocol import Tokenizer
from omnitok.tokenization.settings import TokenizeSettings

Progress = Callable[[int], object]
"""Told how many more files are done."""


def silent(files: int) -> None:
    """Tells nobody."""


def check_apart(collection: Index, folder: Path) -> None:
    """Refuse a folder for the shards that lies in the collection, or has files of it inside.

    Raises:
        ShardError: naming both.
    """
    out = Path(os.path.realpath(folder))
    for root in collection.roots:
        if out.is_relative_to(os.path.realpath(root)):
            raise ShardError(f"{folder}: the shards would lie in the collection {root}; name a folder outside it")
    places = {os.path.dirname(sample.path) for modality in MODALITIES for sample in collection[modality]}
    for place in [*collection.roots, *sorted(places)]:
        if Path(os.path.realpath(place)).is_relative_to(out):
            raise ShardError(f"{folder}: files of the collection lie there ({place}); name another folder")


@dataclass(frozen=True)
class Plan:
    """The whole work: which samples make which group and which shard, and who does which shard."""

    collection: Index
    settings: TokenizeSettings
    format: TokenFormat
    pixel_format: PixelFormat = RGB
    latent_frames: tuple[int, int] = (1, 1)
    """Frames of a video's first latent frame, and of each later one."""

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
        channels, ranges = self.pixel_format.channels, list(map(list, self.pixel_format.ranges))  # as JSON has them
        pixels = {"channels": channels, "ranges": ranges} if self.pixel_format != RGB else {}
        captions = {"captions": True} if self.collection.captions else {}
        return {
            **self.format.to_json(),
            **pixels,
            **captions,
            "samples": len(self.collection),
            "samples_sha256": self.collection.sha256(),
            "shard_count": self.shard_count,
        }


def make_plan(
    collection: Index,
    settings: TokenizeSettings,
    tokenizer: Tokenizer,
    name: str,
    tokenizer_sha256: str,
    latent_dtype: str = "float16",
    embeddings: EmbeddingFormat | None = None,
) -> Plan:
    """The plan of a collection for a tokenizer.

    Args:
        tokenizer, name, tokenizer_sha256: the tokenizer, its name, and its fingerprint in float32.
        latent_dtype: how a VAE's latents are stored, float16 or bfloat16.
        embeddings: what is kept beside tokens.

    Raises:
        ValueError: another latent_dtype.
    """
    format = TokenFormat(
        kind="codes" if tokenizer.is_discrete else "latents",
        dtype=latent_dtype if tokenizer.vocab_size is None else codes_dtype(tokenizer.vocab_size),
        size=tokenizer.vocab_size or tokenizer.latent_channels,
        tokenizer=name,
        tokenizer_sha256=tokenizer_sha256,
        classes=collection.classes,
        settings=asdict(settings),
        embeddings=embeddings,
    )
    pixel_format = PixelFormat(tokenizer.channels, tokenizer.channel_ranges)
    return Plan(collection, settings, format, pixel_format, (tokenizer.num_frames(1), tokenizer.downsample[0]))


@dataclass(frozen=True)
class GroupTokens:
    """What became of a group.

    Attributes:
        tokens: in the order of its files.
        errors: the files that could not be read.
        frames: encoded; an image is one.
        seconds: spent in encoding.
    """

    group: int
    tokens: list[Token]
    errors: list[FileFailure]
    frames: int
    seconds: float


@dataclass
class Summary:
    """What one command did: its own part of the shards, those found finished included.

    Attributes:
        items, tokens: in the shards; `images` and `videos` of the items.
        captioned, embedded: items with captions, and with embeddings.
        skipped: files that could not be read.
        shards, resumed: shards, and how many of them were there before.
        complete: whether all parts are done, so that `index.json` is written.
        seconds: of wall time, with those of `encoding` and `writing`; the rest waits for pixels.
        frames: encoded now, images included.
        encoded: items encoded now.
    """

    items: int = 0
    images: int = 0
    videos: int = 0
    tokens: int = 0
    captioned: int = 0
    embedded: int = 0
    skipped: int = 0
    shards: int = 0
    resumed: int = 0
    complete: bool = False
    seconds: float = 0.0
    encoding: float = 0.0
    writing: float = 0.0
    frames: int = 0
    encoded: int = 0
    errors: list[FileFailure] = field(default_factory=list)

    @property
    def encoder_share(self) -> float:
        """Share of the time that was spent in encoding."""
        return self.encoding / self.seconds if self.seconds else 0.0

    @property
    def limiting_stage(self) -> str | None:
        """The stage that took most of the time; None where nothing was left to do."""
        reading = self.seconds - self.encoding - self.writing
        times = {"reading": reading, "encoding": self.encoding, "writing": self.writing}
        return max(times, key=lambda stage: times[stage]) if self.encoded else None

    def count(self, report: ShardReport) -> None:
        """Take in a finished shard."""
        for array in report.arrays:
            if len(array.grid) == 2:
                self.images += array.count
            else:
                self.videos += array.count
        self.items += report.items
        self.tokens += report.tokens
        self.captioned += report.captions.items if report.captions else 0
        self.embedded += report.embeddings.items if report.embeddings else 0
        self.skipped += report.skipped
        self.shards += 1
        self.errors += report.errors


class TokenizeJob:
    """The shards that this command has to make.

    Args:
        plan: of all the work.
        folder: for the shards.
        part, parts: this command makes every parts-th shard from the part-th on.
        resume: keep the shards that are finished; without it there must be none.

    Raises:
        ShardError: the folder lies in the collection or the reverse; it holds something else, was begun with other
            options or another tokenizer, or has shards and `resume` is not set.
        OSError: the folder cannot be written.
    """

    def __init__(self, plan: Plan, folder: Path, part: int = 0, parts: int = 1, resume: bool = False) -> None:
        self.plan, self.folder, self._own = plan, folder, plan.shards_of(part, parts)
        check_apart(plan.collection, folder)
        begin_folder(folder, plan.to_json())
        self.summary = Summary()
        self.shards: list[int] = []
        self._gathered: dict[int, dict[int, GroupTokens]] = {}
        for shard in self._own:
            if not resume and (folder / shard_name(shard)).exists():
                raise ShardError(
                    f"{folder}: holds shards already; --resume keeps them and goes on, or give another folder"
                )
            report = read_shard(folder, shard) if resume else None
            if report is not None:
                self.summary.count(report)
                self.summary.resumed += 1
                continue
            remove_damaged_shard(folder, shard)
            self.shards.append(shard)

    @property
    def groups(self) -> list[int]:
        """The groups of the shards that are to be made, in order."""
        return [group for shard in self.shards for group in self.plan.groups_of(shard)]

    @property
    def sample_count(self) -> int:
        """Files in the shards that are to be made."""
        return sum(len(self.plan.samples_of(group)) for group in self.groups)

    def add(self, done: GroupTokens) -> None:
        """Take in a finished group; the last one of a shard writes it.

        Raises:
            OSError: the shard cannot be written; nothing is left under its name.
        """
        shard = done.group // self.plan.groups_in_shard
        gathered = self._gathered.setdefault(shard, {})
        gathered[done.group] = done
        self.summary.encoding += done.seconds
        self.summary.frames += done.frames
        self.summary.encoded += len(done.tokens)
        return_freed_blocks()
        if len(gathered) < len(self.plan.groups_of(shard)):
            return
        started = time.perf_counter()
        del self._gathered[shard]
        groups = [gathered[group] for group in sorted(gathered)]
        errors = [error for group in groups for error in group.errors]
        tokens = (token for group in groups for token in group.tokens)
        self.summary.count(write_shard(self.folder, shard, self.plan.format, tokens, errors))
        self.summary.writing += time.perf_counter() - started

    def finish(self) -> bool:
        """Write the index if all shards, the others' too, are there; whether they are.

        Raises:
            OSError: it cannot be written.
        """
        reports = [read_shard(self.folder, shard) for shard in range(self.plan.shard_count)]
        present = [report for report in reports if report is not None]  # of all parts
        self.summary.complete = len(present) == len(reports)
        if self.summary.complete:
            write_index(self.folder, self.plan.format, present)
        return self.summary.complete

    def wait_for(self, part: int, parts: int) -> None:
        """Wait until processes beside this one have made all shards of a part, and count these in the summary too."""
        own = self.plan.shards_of(part, parts)
        if own == self._own:
            return
        while missing := [s for s in own if not (self.folder / shard_name(s)).exists()]:
            time.sleep(0.2 if len(missing) < 2 else 1.0)
        total = Summary()
        for shard in own:
            report = read_shard(self.folder, shard)
            if report is not None:
                total.count(report)
        for name in ("items", "images", "videos", "tokens", "captioned", "embedded", "skipped", "shards", "errors"):
            setattr(self.summary, name, getattr(total, name))
        self.finish()
