"""Codes and latents as shards store them, and back; see `omnitok.data.shard_format`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omnitok.data.shard_format import STORED, Grid, TokenFormat, map_array
from omnitok.errors import ShardError

_BLOCK = 2**20  # numbers that are checked at a time


def pack(tokens: Tensor, format: TokenFormat) -> np.ndarray:
    """Codes or float latents, of any shape, as they are stored.

    Raises:
        ShardError: codes outside the codebook; latents that are not finite, or too large for float16.
    """
    tokens = tokens.detach().cpu()
    if format.kind == "codes":
        codes = tokens.numpy()
        if codes.size and not (codes.min() >= 0 and codes.max() < format.size):
            raise ShardError(f"codes must lie in [0, {format.size}), found [{codes.min()}, {codes.max()}]")
        return codes.astype(STORED[format.dtype])
    if not torch.isfinite(tokens).all():
        raise ShardError("the tokenizer gives latents that are NaN or infinite")
    if format.dtype == "bfloat16":
        return tokens.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(STORED["bfloat16"])
    half = tokens.to(torch.float16)
    if not torch.isfinite(half).all():
        raise ShardError(f"latents reach {float(tokens.abs().max()):.4g}, beyond float16: store them as bfloat16")
    return half.numpy()


def unpack(values: np.ndarray, format: TokenFormat) -> Tensor:
    """Codes int64 or latents float32, of the same shape."""
    if format.kind == "codes":
        return torch.from_numpy(values.astype(np.int64))
    if format.dtype == "bfloat16":
        return torch.from_numpy(values.astype(np.uint32) << np.uint32(16)).view(torch.float32)
    return torch.from_numpy(values.astype(np.float32))


def packed_shape(grid: Grid, format: TokenFormat) -> tuple[int, ...]:
    """Of one item: codes `grid`, latents `(c, *grid)`."""
    return grid if format.kind == "codes" else (format.size, *grid)


def map_tokens(path: Path, count: int, grid: Grid, format: TokenFormat) -> np.ndarray:
    """So many items of one grid as they are stored, mapped and checked.

    Raises:
        ShardError: of another shape or type; codes outside the codebook, or latents that are not finite.
    """
    values = map_array(path, (count, *packed_shape(grid, format)), STORED[format.dtype])
    if format.kind == "codes" and (highest := int(values.max(initial=0))) >= format.size:
        raise ShardError(
            f"{path}: holds the code {highest}, but the codebook of {format.tokenizer!r} has {format.size}; "
            "the index or the shard was changed"
        )
    flat = values.reshape(-1)
    for first in range(0, 0 if format.kind == "codes" else flat.size, _BLOCK):
        if not torch.isfinite(unpack(flat[first : first + _BLOCK], format)).all():
            raise ShardError(f"{path}: holds latents that are NaN or infinite; the shard was changed")
    return values
