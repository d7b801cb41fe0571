"""Whether a model is being written as a graph, where what is fast on tensors at hand may not hold for all sizes."""

import torch

is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has only the latter


def is_free(*sizes: int | torch.SymInt) -> bool:
    """Whether any of these sizes of an exported graph's tensors is free, so that nothing may depend on its value."""
    return is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes)
