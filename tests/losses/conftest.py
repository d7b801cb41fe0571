"""A function on two processes."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp


def _one_of_two(rank: int, port: int, function: Callable[[int], Any], results: dict[int, Any]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo")
    results[rank] = function(rank)
    dist.destroy_process_group()


@pytest.fixture
def on_two_processes() -> Callable[[Callable[[int], Any]], tuple[Any, Any]]:
    """`on_two_processes(function)`: what `function(rank)` gives on each; plain Python values, no tensors."""

    def run(function: Callable[[int], Any]) -> tuple[Any, Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with mp.Manager() as manager:
            results = manager.dict()
            mp.start_processes(_one_of_two, (port, function, results), nprocs=2, start_method="fork")
            return results[0], results[1]

    return run
