"""Several processes that train one model: DDP and FSDP2, gradients, and whole weights from shards."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omnitok.distributed import Processes
from omnitok.losses.objective import entropy_loss
from omnitok.models.bottlenecks import Bottleneck
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.blocks import BLOCKS


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
        if self.entropy_temperature is not None:
            with torch.autocast(pixels.device.type, enabled=False):
                losses = losses | {"entropy": self._entropy(quantizer, inner.unquantized, pixels)}
        # A copy, because the reconstruction is a view (cropped), to which FSDP2 cannot safely tie its backward hook.
        return result.reconstruction.clone(), inner.codes, losses, inner.statistics

    def _entropy(self, quantizer: Bottleneck, z: Tensor | None, pixels: Tensor) -> Tensor:
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
