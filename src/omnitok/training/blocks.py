"""The blocks of all trained models: what is recomputed, compiled and sharded as one."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from omnitok.models.diffusion_transformer import DiffusionBlock
from omnitok.models.language_model import LanguageModelBlock
from omnitok.models.transformer import Block
from omnitok.training.config import EngineConfig

BLOCKS = (Block, LanguageModelBlock, DiffusionBlock)

COMPILED_SHAPES = 128  # kinds of blocks times media times resolutions, each compiled once


def prepare_blocks(model: nn.Module, engine: EngineConfig) -> None:
    """Recompute and compile block by block, without changing the names of parameters."""
    if engine.compile:
        torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    for block in model.modules():
        if isinstance(block, BLOCKS):
            if engine.activation_checkpointing:
                # On the instance, not by a wrapping module, which would rename every parameter.
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
            if engine.compile:
                block.compile(dynamic=False)  # symbolic sizes fail in inductor's layout of the windows (torch 2.13)
