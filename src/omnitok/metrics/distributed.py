"""Sums and concatenations across the processes of `torch.distributed`; without a process group they change nothing."""

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a default process group of more than one process is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shard(n: int) -> range:
    """The indices of this process among `n` items: every index in exactly one process, none repeated to even out.

    (`DistributedSampler` repeats items so that all processes get equally many; repeated items would bias every metric.)
    """
    if not is_distributed():
        return range(n)
    return range(dist.get_rank(), n, dist.get_world_size())


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, on x's own device."""
    if not is_distributed():
        return x
    summed = x.to(_collective_device(), copy=True)
    dist.all_reduce(summed)
    return summed.to(x.device)


def all_gather_rows(x: Tensor) -> Tensor:
    """The rows (n_i, d) of all processes, in the order of their ranks; the n_i may differ and may be 0."""
    if not is_distributed():
        return x
    device = _collective_device()
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.long, device=device)
    sizes[dist.get_rank()] = len(x)
    dist.all_reduce(sizes)
    padded = torch.zeros(int(sizes.max()), *x.shape[1:], dtype=x.dtype, device=device)
    padded[: len(x)] = x.to(device)
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes.tolist(), strict=True)]).to(x.device)


def _collective_device() -> torch.device:
    # NCCL moves tensors of the GPU only, whatever device a metric keeps its sums on.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
