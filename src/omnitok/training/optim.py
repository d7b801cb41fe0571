"""Learning rate, the optimizer's state by parameter name, and averaged weights."""

import math
from collections.abc import Collection, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from omnitok.distributed import rank, world_size
from omnitok.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`: linear warm-up, then a constant or half a cosine to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class NamedOptimizer:
    """AdamW, or Muon and AdamW, with a state told by the names of the parameters, so that it can be resharded.

    Parameters without a gradient in a step are left alone: those of the other modality, in a batch of one.

    Args:
        betas: of AdamW; None takes the configuration's.
        matrices: names of the parameters that Muon updates; AdamW updates the others.
    """

    def __init__(
        self,
        module: nn.Module,
        config: OptimizerConfig,
        betas: tuple[float, float] | None = None,
        matrices: Collection[str] = (),
    ) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._config = config
        self._of_muon = [p for name, p in self.parameters.items() if name in matrices]
        others = [p for name, p in self.parameters.items() if name not in matrices]
        self._adamw = torch.optim.AdamW(
            others, lr=config.lr, betas=betas or config.betas, weight_decay=config.weight_decay
        )
        self._momentum: dict[nn.Parameter, dict[str, Tensor]] = {}  # of Muon

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def clip(self) -> Tensor:
        """Scale the gradients to the configured norm; the norm before, which is not finite if any gradient is not."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self._config.clip_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self, rate: float) -> None:
        """One update at this learning rate."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        muon_step(self._of_muon, self._momentum, rate * self._config.matrix_lr_factor, self._config.weight_decay)

    def state(self) -> dict[str, Tensor]:
        """ "NAME.exp_avg", "NAME.exp_avg_sq", "NAME.step" or "NAME.momentum" of parameters that have had a gradient."""
        return {
            f"{name}.{key}": value
            for states in (self._adamw.state, self._momentum)
            for name, parameter in self.parameters.items()
            for key, value in states.get(parameter, {}).items()
        }

    def allocate(self, saved: Collection[str]) -> None:
        """Make room for exactly the saved keys of a `state`, to be filled in place."""
        self._adamw.state.clear()
        self._momentum.clear()
        for name, parameter in self.parameters.items():
            for key in ("step", "exp_avg", "exp_avg_sq", "momentum"):
                if f"{name}.{key}" in saved:
                    state = self._momentum if key == "momentum" else self._adamw.state
                    blank = torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach())
                    state.setdefault(parameter, {})[key] = blank


def matrices_of_blocks(module: nn.Module) -> list[str]:
    """Names of the weights of linear maps between hidden features: those inside the lists of blocks.

    Embeddings, heads, patch maps, projections of bottlenecks, biases, tables and convolutions are not among them, nor
    are the modulations of adaLN, which map one vector per sample.
    """
    return [
        f"{prefix}.weight"
        for prefix, child in module.named_modules()
        if isinstance(child, nn.Linear) and ".blocks." in f".{prefix}." and not prefix.endswith(".modulation")
    ]


@torch.no_grad()
def muon_step(
    matrices: Sequence[nn.Parameter],
    states: dict[nn.Parameter, dict[str, Tensor]],
    rate: float,
    weight_decay: float,
    decay: float = 0.95,
    rms: float = 0.2,
) -> None:
    """Momentum, orthogonalised, for matrices (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

    The update of an n x m matrix is scaled by 0.2 sqrt(max(n, m)), which gives it the size of AdamW's, so that the
    learning rates of both are alike (Liu et al., 2025, arXiv 2502.16982). `torch.optim.Muon` orthogonalises in
    bfloat16, which is slow on CPUs without instructions for it, and takes no sharded parameters.

    Args:
        matrices: those without a gradient are left alone; shards of FSDP2 are gathered for the orthogonalisation, and
            the processes of DDP share it.
        states: the "momentum" of each, begun at its first gradient.
        weight_decay: decoupled, as AdamW's.
        decay: of the momentum.
    """
    moving, updates = [], []
    for matrix in matrices:
        if matrix.grad is not None:
            if matrix not in states:
                states[matrix] = {"momentum": torch.zeros_like(matrix)}
            momentum = states[matrix]["momentum"].mul_(decay).add_(matrix.grad)
            moving.append(matrix)
            updates.append(matrix.grad.add(momentum, alpha=decay))
    for matrix, update in zip(moving, _orthogonalize_together(updates), strict=True):
        scale = rms * max(matrix.shape) ** 0.5
        matrix.mul_(1 - rate * weight_decay).add_(update, alpha=-rate * scale)


def _orthogonalize_together(matrices: list[Tensor]) -> list[Tensor]:
    """`orthogonalize` of each matrix. Processes that all hold the same ones (DDP) share the work."""
    workers = world_size()
    if workers == 1 or not matrices or any(isinstance(matrix, DTensor) for matrix in matrices):
        return [_orthogonalized(matrix) for matrix in matrices]
    loads = [0] * workers
    results = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
    places = results.split([matrix.numel() for matrix in matrices])
    for i in sorted(range(len(matrices)), key=lambda i: -matrices[i].numel()):  # to whom has least
        worker = loads.index(min(loads))
        loads[worker] += matrices[i].numel() * min(matrices[i].shape)
        if worker == rank():
            places[i].copy_(orthogonalize(matrices[i]).flatten())
    dist.all_reduce(results)  # each place is zero on all processes but one
    return [place.view_as(matrix) for place, matrix in zip(places, matrices, strict=True)]


def _orthogonalized(matrix: Tensor) -> Tensor:
    """`orthogonalize` of a matrix or of the whole whose shards these are."""
    if not isinstance(matrix, DTensor):
        return orthogonalize(matrix)
    whole = orthogonalize(matrix.full_tensor())
    copies = DTensor.from_local(whole, matrix.device_mesh, [Replicate()] * matrix.device_mesh.ndim, run_check=False)
    return copies.redistribute(placements=matrix.placements)


def orthogonalize(matrix: Tensor) -> Tensor:
    """A matrix (n, m) with its singular values brought near 1 (0.7 to 1.2), by five Newton-Schulz steps.

    The quintic and its coefficients are Jordan's. Float32 on CPUs, bfloat16 elsewhere.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.float() if matrix.device.type == "cpu" else matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


class EMA:
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
