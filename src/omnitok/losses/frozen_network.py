"""What every pretrained feature network shares: frozen, in evaluation mode, unusable before its weights are loaded."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omnitok.errors import CheckpointError


class FrozenNetwork(nn.Module):
    """A network that is only ever used with published weights.

    Gradients flow to the input, never to the weights; `train()` has no effect, so that batch norm keeps its published
    statistics inside a model in training. Subclasses end their constructor with `self._freeze()`, which fills the
    weights with NaN: a number computed without loading the weights is NaN and cannot pass for a measurement.
    """

    def _freeze(self) -> None:
        super().train(False)
        self.requires_grad_(False)
        for parameter in self.parameters():
            parameter.data.fill_(math.nan)

    def train(self, mode: bool = True) -> "FrozenNetwork":
        return super().train(False)


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Fill `module` from `state`; every name and shape must fit (CheckpointError, one sentence, where not)."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    # Files written before 2018 lack batch norm's counters, which evaluation does not read.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - counters)
    unknown = sorted(state.keys() - expected.keys())
    reshaped = sorted(name for name in expected.keys() & state.keys() if tuple(state[name].shape) != expected[name])
    if missing or unknown or reshaped:
        raise CheckpointError(
            f"{what}: the weights do not fit the network: missing {missing[:3]}, unknown {unknown[:3]}, "
            f"of another shape {reshaped[:3]}"
        )
    filled = {name: torch.zeros((), dtype=torch.long) for name in counters} | dict(state)
    module.load_state_dict(filled, strict=True)
