"""What is measured of a trained tokenizer: statistics of its latents, and how long tokens become in its blocks."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer


@torch.no_grad()
def latent_statistics(tokenizer: OmniTokenizer, batches: Iterable[Tensor]) -> LatentStatistics:
    """Per-channel mean and standard deviation of latents drawn from the posteriors of pixels (b, 3, (T,) H, W), which
    generators normalise with.

    The deviation includes the posterior's own: Var[z] = Var[mean] + E[exp(logvar)]. Every latent position counts alike.
    """
    channels = tokenizer.latent_channels
    count, first, second = 0, *torch.zeros(2, channels, dtype=torch.float64)
    for pixels in batches:
        posterior = tokenizer.encode(pixels, check_range=False).posterior
        assert posterior is not None
        mean = posterior.mean.double().cpu().movedim(1, -1).reshape(-1, channels)  # n c
        variance = posterior.logvar.double().exp().cpu().movedim(1, -1).reshape(-1, channels)
        count += len(mean)
        first += mean.sum(0)
        second += (mean.square() + variance).sum(0)
    average = first / count
    deviation = (second / count - average.square()).clamp_min(0).sqrt()
    return LatentStatistics(tuple(average.tolist()), tuple(deviation.tolist()))


@torch.no_grad()
def measure_block_limits(tokenizer: OmniTokenizer, batches: Iterable[Tensor], room: float) -> tuple[float, ...]:
    """`room` times the longest token after each block over pixels (b, 3, (T,) H, W): `TokenizerConfig.block_limits`.

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
