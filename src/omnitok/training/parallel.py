"""How a model is computed: precision, recomputed and compiled blocks, several processes with DDP or FSDP2."""

import contextlib
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omnitok.distributed import Processes
from omnitok.models.code_transformer import CodeBlock
from omnitok.models.conditions import CrossAttention
from omnitok.models.diffusion_transformer import DiffusionBlock
from omnitok.models.transformer import Block, recompute
from omnitok.training.config import EngineConfig, Precision

BLOCKS = (Block, CodeBlock, DiffusionBlock)
COMPILED_SHAPES = 128  # kinds of blocks times modalities times resolutions, each compiled once


def prepare_blocks(model: nn.Module, engine: EngineConfig) -> None:
    """Recompute and compile block by block, without changing the names of parameters."""
    if engine.compile:
        torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    for block in model.modules():
        if isinstance(block, BLOCKS):
            if engine.activation_checkpointing:
                recompute(block)
            if engine.compile:
                block.compile(dynamic=False)  # symbolic sizes fail in inductor's layout of the windows (torch 2.13)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions; without them a CPU is a hundred times slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass: bfloat16 where it is asked for, or where "auto" finds that the device has it."""
    enabled = precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def parallelize(module: nn.Module, processes: Processes, mode: Literal["ddp", "fsdp"]) -> nn.Module:
    """Let the processes train `module` together; alone it stays as it is.

    FSDP2 shards each block on its own and the rest together, in place. Parameter names do not change in either mode.
    """
    if processes.world_size == 1:
        return module
    if mode == "fsdp":
        for part in module.modules():
            if isinstance(part, CrossAttention):
                fully_shard(part.keys_values)  # which is called before its block is, and for all blocks at once
        for block in module.modules():
            if isinstance(block, BLOCKS):
                fully_shard(block)
        fully_shard(module)
        return module
    # A batch of one modality leaves the embedding of the other without gradients. Buffers are equal by construction.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames broadcast_buffers to what 2.6 does not know
        return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)


def gradient_sync(module: nn.Module, enabled: bool) -> contextlib.AbstractContextManager[None]:
    """Average gradients over the processes in the backward passes inside, or (while accumulating) not yet."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(enabled)
    if isinstance(module, DistributedDataParallel) and not enabled:
        return module.no_sync()
    return contextlib.nullcontext()


def gather(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded, on the CPU; a copy. All processes call it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().to("cpu", copy=True)
