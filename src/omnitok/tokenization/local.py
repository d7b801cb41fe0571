"""The engine of one process that encodes, with processes that read ahead of it."""

import time
from collections.abc import Iterator, Sequence

from torch.utils.data import IterableDataset

from omnitok.data.loader import read_ahead
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization.encoding import GroupEncoder
from omnitok.tokenization.job import Plan, Progress, TokenizeJob
from omnitok.tokenization.reading import Piece, read_group


class _Groups(IterableDataset[Piece]):
    """The pieces of some groups, one after another."""

    def __init__(self, plan: Plan, groups: Sequence[int]) -> None:
        self.plan, self.groups = plan, groups

    def __iter__(self) -> Iterator[Piece]:
        for group in self.groups:
            for piece in read_group(self.plan, group):
                yield piece.share()


def read_groups(plan: Plan, groups: Sequence[int], workers: int) -> Iterator[Piece]:
    """The pieces of the groups in order, read ahead by worker processes; the same for any number of them.

    Each worker takes every workers-th group and may be two pieces ahead: memory is bounded, however long clips are.
    """
    workers = min(workers, len(groups))
    if not workers:
        for group in groups:
            yield from read_group(plan, group)
        return
    readers = [read_ahead(_Groups(plan, groups[worker::workers]), workers=1, prefetch=2) for worker in range(workers)]
    for turn in range(len(groups)):
        is_last = False
        while not is_last:
            piece = next(readers[turn % workers])
            is_last = piece.is_last
            yield piece


def tokenize_here(job: TokenizeJob, tokenizer: OmniTokenizer, workers: int, progress: Progress | None = None) -> None:
    """Make the shards of `job` in this process.

    Args:
        workers: reading processes; 0 reads in this one.
        progress: told about the files and frames of every piece.

    Raises:
        ShardError: the tokenizer gives what shards cannot hold.
        OSError: a shard cannot be written.
    """
    begun = time.perf_counter()
    encoder: GroupEncoder | None = None
    started = time.perf_counter()
    for piece in read_groups(job.plan, job.groups, workers):
        job.summary.reading += time.perf_counter() - started
        encoder = encoder or GroupEncoder(job.plan, tokenizer, piece.group)
        before = encoder.frames
        encoder.push(piece)
        if piece.is_last:
            done = encoder.finish()
            job.add(done)
            frames, encoder = done.frames, None
        else:
            frames = encoder.frames
        if progress is not None:
            progress(piece.samples, frames - before)
        started = time.perf_counter()
    job.summary.seconds += time.perf_counter() - begun
