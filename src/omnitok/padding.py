"""Sequences of several lengths as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_embeddings(sequences: Sequence[Tensor | None], channels: int) -> Tensor:
    """Sequences (n, channels) of any lengths as one float32 tensor (b, longest, channels) on the CPU, with NaN after
    their ends; None is NaN everywhere.
    """
    length = max([1, *(len(x) for x in sequences if x is not None)])
    padded = torch.full((len(sequences), length, channels), torch.nan)
    for row, x in zip(padded, sequences, strict=True):
        if x is not None:
            row[: len(x)] = x
    return padded
