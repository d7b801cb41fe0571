"""Learning rate, the optimizer's state by parameter name, and averaged weights."""

import math
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from omnitok.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`: linear warm-up, then a constant or half a cosine to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class NamedAdamW:
    """AdamW whose state is told by the names of the parameters, so that it can be resharded.

    Parameters without a gradient in a step are left alone: those of the other medium, in a batch of one.
    """

    MOMENTS = ("exp_avg", "exp_avg_sq")

    def __init__(self, module: nn.Module, config: OptimizerConfig, betas: tuple[float, float] | None = None) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._clip_norm = config.clip_norm
        self._adamw = torch.optim.AdamW(
            self.parameters.values(), lr=config.lr, betas=betas or config.betas, weight_decay=config.weight_decay
        )

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scale the gradients to the configured norm; the norm before, which is not finite if any gradient is not."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self._clip_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self, rate: float) -> None:
        """One update at this learning rate."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        """ "NAME.exp_avg", "NAME.exp_avg_sq", "NAME.step" of every parameter that has had a gradient."""
        return {
            f"{name}.{key}": self._adamw.state[parameter][key]
            for name, parameter in self.parameters.items()
            if parameter in self._adamw.state
            for key in (*self.MOMENTS, "step")
        }

    def blank_state(self, saved: Collection[str]) -> dict[str, Tensor]:
        """Like `state`, with zeros for exactly the saved keys; to be filled, then given to `restore`."""
        blank = {}
        for name, parameter in self.parameters.items():
            for key in (*self.MOMENTS, "step"):
                if f"{name}.{key}" in saved:
                    blank[f"{name}.{key}"] = torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach())
        return blank

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name, parameter in self.parameters.items():
            if f"{name}.step" in state:
                self._adamw.state[parameter] = {key: state[f"{name}.{key}"] for key in ("step", *self.MOMENTS)}


class AveragedWeights:
    """Exponential moving average of a module's parameters; buffers (codebooks) follow the live ones.

    The decay ramps up as (1 + n) / (10 + n), so that the random start is forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}
        self._live = dict(module.named_parameters())

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the live weights after `updates` earlier updates."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for name, average in self.weights.items():
            average.lerp_(self._live[name].detach(), 1 - decay)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and averages."""
        return iter(self.weights.items())
