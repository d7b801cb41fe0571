"""What is done already, what is left, and what became of it: the state of the work is the finished shards."""

import ctypes
import functools
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnitok.data.shard_format import INDEX_NAME, PLAN_NAME
from omnitok.data.shard_writing import read_plan, read_shard_entry, shard_name, write_index, write_plan, write_shard
from omnitok.errors import ShardError
from omnitok.tokenization.encoding import GroupTokens
from omnitok.tokenization.planning import Plan

Progress = Callable[[int, int], None]
"""Told about samples and frames that are done."""


@dataclass
class Summary:
    """What one command did: its own part of the shards, those found finished included.

    Attributes:
        items, tokens: in the shards.
        skipped: files that could not be read.
        shards, resumed: shards, and how many of them were there before.
        complete: whether all parts are done, so that `index.json` is written.
        seconds: of wall time; `reading` waiting for pixels, `encoding` and `writing`.
        frames: encoded now, pictures included.
        encoded: items encoded now.
    """

    items: int = 0
    tokens: int = 0
    skipped: int = 0
    shards: int = 0
    resumed: int = 0
    complete: bool = False
    seconds: float = 0.0
    reading: float = 0.0
    encoding: float = 0.0
    writing: float = 0.0
    frames: int = 0
    encoded: int = 0
    errors: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def encoder_share(self) -> float:
        """Share of the time that was spent in encoding."""
        return self.encoding / self.seconds if self.seconds else 0.0

    @property
    def limiting_stage(self) -> str | None:
        """The stage that took most of the time; None where nothing was left to do."""
        times = {"reading": self.reading, "encoding": self.encoding, "writing": self.writing}
        return max(times, key=lambda stage: times[stage]) if self.encoded else None

    def count(self, entry: Mapping[str, Any]) -> None:
        """Take in a finished shard."""
        self.items += entry["items"]
        self.tokens += entry["tokens"]
        self.skipped += entry["skipped"]
        self.shards += 1
        self.errors += entry["errors"]


class Work:
    """The shards that this command has to make.

    Args:
        plan: of all the work.
        folder: for the shards.
        part, parts: this command makes every parts-th shard from the part-th on.
        resume: keep the shards that are finished; without it there must be none.

    Raises:
        ShardError: the folder was begun with other options or another tokenizer, or has shards and `resume` is not set.
        OSError: the folder cannot be written.
    """

    def __init__(self, plan: Plan, folder: Path, part: int = 0, parts: int = 1, resume: bool = False) -> None:
        self.plan, self.folder = plan, folder
        own = plan.shards_of(part, parts)
        _agree(plan, folder)
        self.summary = Summary()
        self.shards: list[int] = []
        self._gathered: dict[int, dict[int, GroupTokens]] = {}
        for shard in own:
            path = folder / shard_name(shard)
            if not resume and path.exists():
                raise ShardError(
                    f"{folder}: holds shards already; --resume keeps them and goes on, or give another folder"
                )
            entry = read_shard_entry(folder, shard) if resume else None
            if entry is not None:
                self.summary.count(entry)
                self.summary.resumed += 1
                continue
            if path.exists():  # truncated; what was renamed to its name was whole
                shutil.rmtree(path)
            for left in folder.glob(f".{path.name}.*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
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
        _give_memory_back()
        if len(gathered) < len(self.plan.groups_of(shard)):
            return
        started = time.perf_counter()
        del self._gathered[shard]
        groups = [gathered[group] for group in sorted(gathered)]
        errors = [{"key": unread.key, "reason": unread.reason} for group in groups for unread in group.unread]
        tokens = (token for group in groups for token in group.tokens)
        entry = write_shard(self.folder, shard, self.plan.format, tokens, errors)
        self.summary.count({**entry, "errors": errors})
        self.summary.writing += time.perf_counter() - started

    def finish(self) -> bool:
        """Write the index if all shards, the others' too, are there; whether they are.

        Raises:
            OSError: it cannot be written.
        """
        entries = [read_shard_entry(self.folder, shard) for shard in range(self.plan.shard_count)]
        present = [entry for entry in entries if entry is not None]  # of all parts
        self.summary.complete = len(present) == len(entries)
        if self.summary.complete:
            write_index(self.folder, self.plan.format, present)
            for left in self.folder.glob(f".{Path(INDEX_NAME).stem}.*.partial.json"):
                left.unlink(missing_ok=True)
        return self.summary.complete

    def wait_for(self, part: int, parts: int) -> None:
        """Wait until processes beside this one have made all shards of a part, and count these in the summary too."""
        own = self.plan.shards_of(part, parts)
        if len(own) == self.summary.shards:
            return
        while missing := [s for s in own if not (self.folder / shard_name(s)).exists()]:
            time.sleep(0.2 if len(missing) < 2 else 1.0)
        total = Summary()
        for shard in own:
            entry = read_shard_entry(self.folder, shard)
            if entry is not None:
                total.count(entry)
        for name in ("items", "tokens", "skipped", "shards", "errors"):
            setattr(self.summary, name, getattr(total, name))
        self.finish()


def _give_memory_back() -> None:
    """After each group, where glibc runs it: tokens that wait for their shard to be full lie between what batches free,
    and the holes would be kept. (Mapping large blocks on their own, as for long clips, costs small batches half their
    speed.)
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library, such as musl
        return None


def _agree(plan: Plan, folder: Path) -> None:
    """Write `plan.json`, or compare it with the one that is there."""
    own, found = plan.to_json(), read_plan(folder)
    if found is None:
        write_plan(folder, own)
        return
    for place, theirs, ours in _differences("", found, own):
        raise ShardError(f"{folder / PLAN_NAME}: was begun with {place} {theirs}, not {ours}; give another folder")


def _differences(name: str, found: Any, own: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(own, dict):
        keys = sorted(found.keys() | own.keys())
        return [
            difference
            for key in keys
            for difference in _differences(f"{name}.{key}" if name else key, found.get(key), own.get(key))
        ]
    return [] if found == own else [(name, found, own)]
