"""Weights of released models drawn as those of the reference tensors were (their README, "Regenerating").

A value is a scale times standard normal (float32) from numpy's PCG64, seeded by 8 bytes of SHA-256 of "seed:name".
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def normal(name: str, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """What the value of that name is drawn from."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
    return torch.from_numpy(np.random.Generator(np.random.PCG64(number)).standard_normal(shape, dtype=np.float32))


def seeded_weights(like: Mapping[str, Tensor], scales: Mapping[str, float], seed: int = 1) -> dict[str, Tensor]:
    """Values for weights of those released names and shapes.

    Args:
        scales: end of a name -> what its values are multiplied with, where it is not the usual.
    """
    return {name: _draw(name, each, scales, seed) for name, each in like.items()}


def _draw(name: str, like: Tensor, scales: Mapping[str, float], seed: int) -> Tensor:
    shape, kind = tuple(like.shape), name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.tensor(100)
    value = normal(name, shape, seed)
    scale = next((scale for end, scale in scales.items() if name.endswith(end)), None)
    if scale is not None:
        return scale * value
    if len(shape) > 1:
        return value / math.sqrt(math.prod(shape[1:]))
    if kind == "weight":
        return 1 + 0.1 * value
    return 1 + 0.2 * value.abs() if kind == "running_var" else 0.1 * value
