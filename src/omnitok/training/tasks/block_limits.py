"""How long tokens become after each block, for `TokenizerConfig.block_limits`."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.models.tokenizer import OmniTokenizer


@torch.no_grad()
def measure_block_limits(tokenizer: OmniTokenizer, batches: Iterable[Tensor], room: float) -> tuple[float, ...]:
    """`room` times the longest token after each block, over pixels (b, 3, (T,) H, W).

    Limits that are there already bound the blocks before, and are never widened: what needs longer tokens than they
    allow has learnt to do without.
    """
    blocks = [block for stack in tokenizer.stacks for block in stack.blocks]
    longest = dict.fromkeys(blocks, torch.zeros(()))

    def watch(block: nn.Module, _: Any, tokens: Tensor) -> None:
        longest[block] = torch.maximum(longest[block], tokens.float().norm(dim=-1).max().cpu())

    handles = [block.register_forward_hook(watch) for block in blocks]
    try:
        for pixels in batches:
            tokenizer(pixels.to(tokenizer.device))
    finally:
        for handle in handles:
            handle.remove()
    limits = [room * float(length) for length in longest.values()]
    before = tokenizer.config.block_limits
    return tuple(limits if before is None else map(min, limits, before))
