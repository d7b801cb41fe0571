"""The processes that work together: who this one is, its share of the work, and the few collectives that are needed.

Without a process group everything here means one process that has it all.
"""

import contextlib
import datetime
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = datetime.timedelta(hours=2)  # the others wait while the first process validates

_meetings = itertools.count()


# ------------------------------------------------------------------------------------------------------------ identity


def launched_place() -> tuple[int, int]:
    """Rank and number of the processes that `torchrun` started, before they have met; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def launched_device(name: str) -> str:
    """The device of this process of `torchrun`: of "auto" and "cuda" the GPU of its LOCAL_RANK, where there is one."""
    if name in ("auto", "cuda") and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


def is_distributed() -> bool:
    """Whether a default process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process among those that have met; 0 where there is no process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes have met; 1 where there is no process group."""
    return dist.get_world_size() if is_distributed() else 1


def shard(n: int) -> range:
    """The indices of this process among `n` items: every index in exactly one process, none repeated to even out.

    (`DistributedSampler` repeats items so that all processes get equally many; repeated items would bias every metric.)
    """
    return range(rank(), n, world_size())


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and models."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over the processes; every process gives the same keys."""
        if not values:
            return {}
        stacked = all_reduce_sum(torch.stack([value.detach().to("cpu", torch.float64) for value in values.values()]))
        return dict(zip(values, (stacked / self.world_size).tolist(), strict=True))

    def from_main(self, value: int) -> int:
        """The first process's number, on all."""
        if self.world_size == 1:
            return value
        number = torch.tensor(value)
        dist.broadcast(number, src=0)
        return int(number)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone.

    On CUDA each process takes the device of its LOCAL_RANK. CPU tensors travel by gloo, CUDA ones by NCCL.
    """
    _, count = launched_place()
    if count == 1:
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # Keys of its own for each elastic restart and for each time that these processes meet: a store may outlive both,
    # and would hand out the addresses of process groups that are gone.
    store, place, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    attempt = dist.PrefixStore(f"attempt-{restart}-{next(_meetings)}", store)
    dist.init_process_group(backend, timeout=TIMEOUT, store=attempt, rank=place, world_size=count)
    try:
        yield Processes(dist.get_rank(), count, device)
    finally:
        dist.destroy_process_group()


# --------------------------------------------------------------------------------------------------------- collectives


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, on x's own device; `x` itself where there is one process."""
    if world_size() == 1:
        return x
    summed = x.to(_collective_device(), copy=True)
    dist.all_reduce(summed)
    return summed.to(x.device)


def all_gather_rows(x: Tensor) -> Tensor:
    """The rows (n_i, ...) of all processes, in the order of their ranks; the n_i may differ and may be 0."""
    if world_size() == 1:
        return x
    device = _collective_device()
    sizes = torch.zeros(world_size(), dtype=torch.long, device=device)
    sizes[rank()] = len(x)
    dist.all_reduce(sizes)
    padded = torch.zeros(int(sizes.max()), *x.shape[1:], dtype=x.dtype, device=device)
    padded[: len(x)] = x.to(device)
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes.tolist(), strict=True)]).to(x.device)


def _collective_device() -> torch.device:
    # NCCL moves tensors of the GPU only, whatever device a metric keeps its sums on.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def mean_over_processes(x: Tensor) -> Tensor:
    """The elementwise mean of the tensors of all processes, which all call it, with derivatives of every order.

    Its gradient is that of the sum of the losses of all processes: right once gradients of weights are averaged over
    the processes, as DDP and FSDP do. `x` itself where there is one process.
    """
    count = world_size()
    return x if count == 1 else _Sum.apply(x) / count


class _Sum(torch.autograd.Function):
    """The sum over processes, whose derivative is the same sum, and so on (torch's own changes between versions)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.apply(*gradients)
