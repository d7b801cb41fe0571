"""Functions in processes of their own, forked, so that nothing has to be imported again."""

import contextlib
import io
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch.distributed as dist
import torch.multiprocessing

from omnitok.cli import main

TIMEOUT = 600.0
"""Seconds that no process takes, however loaded the machine is: it only ends what hangs."""


def heed_interrupts() -> None:
    """Let SIGINT stop this process, for `preexec_fn`: children of tests in the background inherit it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail, in this process too, as they do on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def on_two_processes(function: Callable[[int], Any]) -> tuple[Any, Any]:
    """What `function(rank)` gives on each of two processes that can meet, as those of `torchrun`; plain values, no
    tensors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.get_context("fork").Manager() as manager:
        results = manager.dict()
        context = torch.multiprocessing.start_processes(
            _one_of_two, (port, function, results), nprocs=2, join=False, start_method="fork"
        )
        deadline = time.monotonic() + TIMEOUT
        try:
            while not context.join(timeout=1.0):
                assert time.monotonic() < deadline, "the two processes wait for one another"
        finally:
            for process in context.processes:
                process.kill()
        return results[0], results[1]


def _one_of_two(rank: int, port: int, function: Callable[[int], Any], results: dict[int, Any]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)  # the threads of the parent do not survive the fork, and work for them would wait for ever
    results[rank] = function(rank)


def printed(lines: Iterable[Sequence[str]]) -> str:
    """What command lines of omnitok print, all of which must succeed; for `on_two_processes`."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        for line in lines:
            assert main(list(line)) == 0, line
    return told.getvalue()


def in_process_group(function: Callable[[int], Any]) -> Callable[[int], Any]:
    """The function within a process group of gloo."""

    def within(rank: int) -> Any:
        dist.init_process_group("gloo")
        try:
            return function(rank)
        finally:
            dist.destroy_process_group()

    return within


def kill_at(step: int, work: Callable[[Callable[[int], None]], object]) -> None:
    """Run `work(progress)`, which calls `progress` with the number of steps done, and kill -9 it at `step` or soon
    after."""
    context = multiprocessing.get_context("fork")
    reached, progress = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(progress.send,))
    process.start()
    progress.close()
    while reached.recv() < step:  # EOFError: it ended by itself
        pass
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
