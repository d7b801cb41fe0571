"""Several processes: who is who, wrapping of modules, and the few collectives that the engine needs."""

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omnitok.losses.objective import entropy_loss
from omnitok.models.bottlenecks import VectorQuantizer
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.blocks import BLOCKS

TIMEOUT = datetime.timedelta(hours=2)  # the others wait while the first process validates


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
        stacked = torch.stack([value.detach().to("cpu", torch.float64) for value in values.values()])
        if self.world_size > 1:
            dist.all_reduce(stacked)
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
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # A store of its own for each elastic restart: torch's would hand out the addresses of the processes that have died.
    store, rank, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, timeout=TIMEOUT, store=attempt, rank=rank, world_size=world_size)
    try:
        yield Processes(dist.get_rank(), world_size, device)
    finally:
        dist.destroy_process_group()


def is_first_process() -> bool:
    """Whether this is the process that speaks, before any of them has met the others."""
    return os.environ.get("RANK", "0") == "0"


class Autoencoder(nn.Module):
    """`tokenizer.autoencode` as a forward, which is what DDP and FSDP2 hook into.

    Args:
        entropy_temperature: of the loss "entropy" of a quantizer, whose scores of every position with every code take
            memory; None leaves it out.
    """

    def __init__(self, tokenizer: OmniTokenizer, entropy_temperature: float | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.entropy_temperature = entropy_temperature

    def forward(
        self, pixels: Tensor, quantize: bool, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """Pixels -> reconstruction, codes, losses and statistics of the bottleneck."""
        result = self.tokenizer.autoencode(pixels, quantize, seeds)
        inner = result.bottleneck
        losses = inner.losses
        quantizer = self.tokenizer.bottleneck
        if self.entropy_temperature is not None and isinstance(quantizer, VectorQuantizer):
            with torch.autocast(pixels.device.type, enabled=False):
                losses = losses | {"entropy": self._entropy(quantizer, inner.unquantized, pixels)}
        # A copy, because the reconstruction is a view (cropped), to which FSDP2 cannot safely tie its backward hook.
        return result.reconstruction.clone(), inner.codes, losses, inner.statistics

    def _entropy(self, quantizer: VectorQuantizer, z: Tensor | None, pixels: Tensor) -> Tensor:
        if z is None or self.entropy_temperature is None:  # latents pass unquantized
            return pixels.new_zeros((), dtype=torch.float32)
        return entropy_loss(quantizer.similarity(z.flatten(0, -2)), self.entropy_temperature)


def parallelize(module: nn.Module, processes: Processes, mode: Literal["ddp", "fsdp"]) -> nn.Module:
    """Let the processes train `module` together; alone it stays as it is.

    FSDP2 shards each block on its own and the rest together, in place. Parameter names do not change in either mode.
    """
    if processes.world_size == 1:
        return module
    if mode == "fsdp":
        for block in module.modules():
            if isinstance(block, BLOCKS):
                fully_shard(block)
        fully_shard(module)
        return module
    # A batch of one medium leaves the embedding of the other without gradients. Buffers are equal by construction.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames broadcast_buffers to what 2.6 does not know
        return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)


@contextlib.contextmanager
def gradient_sync(module: nn.Module, enabled: bool) -> Iterator[None]:
    """Average gradients over the processes in the backward passes inside, or (while accumulating) not yet."""
    if isinstance(module, DistributedDataParallel) and not enabled:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(enabled)
    yield


def gather(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded, on the CPU; a copy. All processes call it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().to("cpu", copy=True)
