"""What every pretrained feature network shares: frozen, in evaluation mode, unusable before its weights are loaded."""

import math
from collections.abc import Callable, Mapping

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


def compare_frames(name: str, distance: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """`distance` of images (b, 3, H, W) as (b,), or of each frame of videos (b, 3, T, H, W) as (b, T).

    Args:
        name: of the distance, for messages.
        distance: takes float32 images, whatever the autocast: a metric means the same under any.

    Raises:
        ValueError: other or unequal shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"{name} compares equal shapes, but got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim not in (4, 5) or a.shape[1] != 3:
        raise ValueError(f"{name} needs (b, 3, H, W) or (b, 3, T, H, W), but got {tuple(a.shape)}")
    with torch.autocast(a.device.type, enabled=False):
        if a.ndim == 4:
            return distance(a.float(), b.float())
        frames = distance(*(x.float().transpose(1, 2).flatten(0, 1) for x in (a, b)))  # (b T,)
        return frames.unflatten(0, (a.shape[0], a.shape[2]))


def unit_difference(a: Tensor, b: Tensor, epsilon: float) -> Tensor:
    """Squared difference (b, c, h, w) of features whose channel vector at every position has unit length.

    Args:
        epsilon: added to the lengths; it bounds the gradient where a position's features are all but zero.
    """
    # vector_norm has a zero (not NaN) gradient where all are zero.
    x, y = (f / (torch.linalg.vector_norm(f, dim=1, keepdim=True) + epsilon) for f in (a, b))
    return (x - y).square()
