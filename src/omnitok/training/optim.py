"""Learning rate, the optimizer's state by parameter name, and averaged weights."""

import math
from collections.abc import Collection, Mapping

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

    MOMENTS = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        module: nn.Module,
        config: OptimizerConfig,
        betas: tuple[float, float] | None = None,
        matrices: Collection[str] = (),
    ) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._clip_norm = config.clip_norm
        self._adamw = torch.optim.AdamW(
            [p for name, p in self.parameters.items() if name not in matrices],
            lr=config.lr,
            betas=betas or config.betas,
            weight_decay=config.weight_decay,
        )
        of_muon = {name: p for name, p in self.parameters.items() if name in matrices}
        self._muon = Muon(of_muon, config.weight_decay)
        self._matrix_lr_factor = config.matrix_lr_factor

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def clip(self) -> Tensor:
        """Scale the gradients to the configured norm; the norm before, which is not finite if any gradient is not."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self._clip_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self, rate: float) -> None:
        """One update at this learning rate."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._muon.step(rate * self._matrix_lr_factor)

    def state(self) -> dict[str, Tensor]:
        """ "NAME.exp_avg", "NAME.exp_avg_sq", "NAME.step" or "NAME.momentum" of parameters that have had a gradient."""
        of_adamw = {
            f"{name}.{key}": self._adamw.state[parameter][key]
            for name, parameter in self.parameters.items()
            if parameter in self._adamw.state
            for key in (*self.MOMENTS, "step")
        }
        return of_adamw | {f"{name}.momentum": momentum for name, momentum in self._muon.momentum.items()}

    def blank_state(self, saved: Collection[str]) -> dict[str, Tensor]:
        """Like `state`, with zeros for exactly the saved keys; to be filled, then given to `restore`."""
        blank = {}
        for name, parameter in self.parameters.items():
            for key in (*self.MOMENTS, "step", "momentum"):
                if f"{name}.{key}" in saved:
                    blank[f"{name}.{key}"] = torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach())
        return blank

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for name, parameter in self.parameters.items():
            if f"{name}.step" in state:
                self._adamw.state[parameter] = {key: state[f"{name}.{key}"] for key in ("step", *self.MOMENTS)}
            if f"{name}.momentum" in state:
                self._muon.momentum[name] = state[f"{name}.momentum"]


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> NamedOptimizer:
    """The configured optimizer of a model."""
    return NamedOptimizer(module, config, matrices=matrices_of_blocks(module) if config.name == "muon" else ())


def matrices_of_blocks(module: nn.Module) -> list[str]:
    """Names of the weights of linear maps between hidden features: those inside the lists of blocks.

    Embeddings, heads, patch maps, projections of bottlenecks, biases, tables and convolutions are not among them, nor
    are the modulations of adaLN, which map one vector per sample.
    """
    names = []
    for prefix, child in module.named_modules():
        if isinstance(child, nn.Linear) and ".blocks." in f".{prefix}." and not prefix.endswith(".modulation"):
            names.append(f"{prefix}.weight")
    return names


class Muon:
    """Momentum, orthogonalised, for matrices (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

    The update of an n x m matrix is scaled by 0.2 sqrt(max(n, m)), which gives it the size of AdamW's, so that the
    learning rates of both are alike (Liu et al., 2025, arXiv 2502.16982). `torch.optim.Muon` orthogonalises in
    bfloat16, which is slow on CPUs without instructions for it, and takes no sharded parameters.

    Args:
        parameters: matrices by name; shards of FSDP2 are gathered for the orthogonalisation, and the processes of DDP
            share it.
        weight_decay: decoupled, as AdamW's.
    """

    MOMENTUM = 0.95
    RMS = 0.2

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self._parameters, self._weight_decay = parameters, weight_decay
        self.momentum: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at this learning rate of the parameters that have a gradient."""
        moving, updates = [], []
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            if name not in self.momentum:
                self.momentum[name] = torch.zeros_like(parameter)
            momentum = self.momentum[name]
            momentum.mul_(self.MOMENTUM).add_(parameter.grad)
            moving.append(parameter)
            updates.append(parameter.grad.add(momentum, alpha=self.MOMENTUM))
        for parameter, update in zip(moving, _orthogonalize_together(updates), strict=True):
            scale = self.RMS * max(parameter.shape) ** 0.5
            parameter.mul_(1 - rate * self._weight_decay).add_(update, alpha=-rate * scale)


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
