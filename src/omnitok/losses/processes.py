"""The mean over the processes of `torch.distributed`, as a function with derivatives of every order."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_processes(x: Tensor) -> Tensor:
    """The elementwise mean of the tensors of all processes, which all call it; `x` itself where there is one process.

    Its gradient is that of the sum of the losses of all processes: right once gradients of weights are averaged over
    the processes, as DDP and FSDP do.
    """
    processes = world_size()
    return x if processes == 1 else _Sum.apply(x) / processes


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
