"""One training step of a generator: the losses of its kind, one update, averaged weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch
from omnitok.diffusion import diffusion_losses, draw_times
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel, language_model_losses
from omnitok.models.protocol import LatentStatistics
from omnitok.training.blocks import prepare_blocks
from omnitok.training.checkpoint import counter, keys_of_group
from omnitok.training.generator_config import AnyGeneratorConfig, LanguageModelTrainConfig
from omnitok.training.optim import AveragedWeights, build_optimizer, learning_rate
from omnitok.training.parallel import gather, gradient_sync, parallelize
from omnitok.training.precision import autocast
from omnitok.training.step import StepReport, Sums, step_seed, tensors_of

AnyGenerator = LanguageModel | DiffusionTransformer
Draws = tuple[Tensor, ...]


class Objective(nn.Module, ABC):
    """A model with its losses, as a module whose forward DDP and FSDP2 hook into."""

    @abstractmethod
    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """Random numbers for a batch of tokens of this shape, items first, on the CPU."""

    @abstractmethod
    def forward(self, tokens: Tensor, labels: Tensor, drop: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Losses of tokens with labels (b,), -1 for none, taken away where `drop` (b,) says so; "loss" is minimised."""


class LanguageModelObjective(Objective):
    """Cross-entropy of codes; draws nothing."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """No random numbers."""
        return ()

    def forward(self, tokens: Tensor, labels: Tensor, drop: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Codes (b, h, w) or (b, t, h, w) -> "loss" in nats a code, labels dropped where `drop` (b,) says so."""
        losses = language_model_losses(self.model, tokens, labels, drop)
        return {"loss": losses["cross_entropy"]}


class DiffusionObjective(Objective):
    """The diffusion or flow matching losses of latents normalised by the tokenizer's statistics.

    Args:
        model: its config says which objective.
        mean, std: of each latent channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: DiffusionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """A time an item, and noise."""
        times = draw_times(self.model.config.objective, len(tokens), generator)
        return times, torch.randn(tokens.shape, generator=generator)

    def forward(self, tokens: Tensor, labels: Tensor, drop: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        """Latents (b, c, h, w) or (b, c, t, h, w) with draws t (b,) and noise -> "loss" and its terms."""
        t, noise = draws
        null = self.model.config.null_label
        known = None if null is None else labels.masked_fill(drop | (labels < 0), null)
        statistics = (part if tokens.ndim == 4 else part[:, None] for part in (self.mean, self.std))
        mean, std = statistics
        latents = (tokens - mean) / std
        losses = diffusion_losses(self.model, latents, known, t, noise, self.model.config.objective)
        terms = {name: loss.mean() for name, loss in losses.items()}
        return {"loss": torch.stack(list(terms.values())).sum(), **(terms if len(terms) > 1 else {})}


def build_model(config: AnyGeneratorConfig) -> AnyGenerator:
    """A model with random weights, from torch's current random state."""
    if isinstance(config, LanguageModelTrainConfig):
        return LanguageModel(config.model)
    return DiffusionTransformer(config.model)


def objective_of(model: AnyGenerator, statistics: LatentStatistics | None) -> Objective:
    """The losses of this kind of model, on the tokens of a tokenizer whose latents have these statistics.

    Raises:
        OmnitokError: latents whose mean and deviation the tokenizer does not know.
    """
    if isinstance(model, LanguageModel):
        return LanguageModelObjective(model)
    if statistics is None:
        raise OmnitokError(
            "the tokenizer's config.json has no latent_statistics, which latents are normalised with; a VAE "
            "trained by `omnitok train` has them"
        )
    return DiffusionObjective(model, statistics.mean, statistics.std)


class GeneratorLearner:
    """A generator with its optimizer, averaged weights and counters.

    Args:
        config: `config.model` is the architecture of `model`.
        model: trained in place; with FSDP2 its parameters become shards.
        objective: of `model`.
        processes: those that train together.
    """

    def __init__(
        self, config: AnyGeneratorConfig, model: AnyGenerator, objective: Objective, processes: Processes
    ) -> None:
        self.config, self.processes = config, processes
        self.model = model.to(processes.device).train()
        prepare_blocks(model, config.engine)
        self._objective = objective.to(processes.device)
        self._wrapped = parallelize(self._objective, processes, config.engine.parallel)
        self._optimizer = build_optimizer(model, config.optimizer)
        decay = config.optimizer.ema_decay
        self._average = None if decay is None else AveragedWeights(model, decay)
        self.updates = counter(0)
        self.skipped = counter(0)

    def step(self, batch: Batch) -> StepReport:
        """One forward and backward of the batch, then the update, unless something is not finite."""
        config = self.config
        torch.manual_seed(step_seed(config.seed, batch.step, self.processes.rank))  # of dropout
        rate = learning_rate(config.optimizer, batch.step, config.steps)
        sums = self._backward(batch)
        sums.values["grad_norm"] = self._optimizer.clip()
        finite = bool(torch.isfinite(sums.values["grad_norm"]) and torch.isfinite(sums.total))
        applied = not self.processes.any(not finite)
        if applied:
            self._optimizer.step(rate)
            if self._average is not None:
                self._average.update(int(self.updates))
            self.updates += 1
        else:
            self.skipped += 1
        self._optimizer.zero_grad()
        return StepReport(batch.step, batch.modality, batch.pixel_shape, rate, applied, sums.values)

    def _backward(self, batch: Batch) -> Sums:
        config, device = self.config, self.processes.device
        draws = draw_for(self._objective, batch, config, self.processes)
        whole = [tensor.to(device, non_blocking=True) for tensor in (batch.inputs, batch.labels, *draws)]
        parts = [tensor.chunk(config.optimizer.accumulation) for tensor in whole]
        sums = Sums(len(parts[0]))
        for i, part in enumerate(zip(*parts, strict=True)):
            with gradient_sync(self._wrapped, enabled=i == sums.parts - 1):
                with autocast(device, config.engine.precision):
                    losses = self._wrapped(*part)
                (losses["loss"] / sums.parts).backward()
            sums.add(losses)
            sums.total = sums.total + losses["loss"].detach().cpu()
        return sums

    # ----------------------------------------------------------------------------------------------------------- state

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything that a checkpoint holds; restoring it continues the run bit for bit."""
        return self._plain_state() | {"optimizer": self._optimizer.state()}

    def _plain_state(self) -> dict[str, dict[str, Tensor]]:
        groups = {"model": tensors_of(self.model), "progress": {"updates": self.updates, "skipped": self.skipped}}
        if self._average is not None:
            groups["ema"] = dict(self._average.items())
        return groups

    def blank_state(self, keys: set[str]) -> dict[str, dict[str, Tensor]]:
        """Tensors to load a checkpoint with these keys into; then call `restore`."""
        return self._plain_state() | {"optimizer": self._optimizer.blank_state(keys_of_group(keys, "optimizer"))}

    def restore(self, state: Mapping[str, dict[str, Tensor]]) -> None:
        """Take over a filled `blank_state`."""
        self._optimizer.restore(state["optimizer"])

    def snapshot(self) -> AnyGenerator | None:
        """A copy of the model to publish and to measure, in `eval` mode on this process's device, with the averaged
        weights where there are any. On the first process; None on the others, which must call it too."""
        tensors = tensors_of(self.model) | (dict(self._average.items()) if self._average is not None else {})
        whole = {name: gather(tensor) for name, tensor in tensors.items()}
        if not self.processes.is_main:
            return None
        with torch.random.fork_rng(devices=[]):  # building draws weights; the run's random numbers stay as they were
            copy = build_model(self.config)
        copy.load_state_dict({name: whole[name] for name in copy.state_dict()})
        return copy.to(self.processes.device).eval()


def draw_for(
    objective: Objective, batch: Batch, config: AnyGeneratorConfig, processes: Processes
) -> tuple[Tensor, ...]:
    """Which labels are dropped, and the objective's own random numbers, for this process's share of a batch.

    They are drawn for the whole batch and shared out as its items are, so that they do not depend on the number of
    processes.
    """
    world_size, rank = processes.world_size, processes.rank
    generator = torch.Generator().manual_seed(step_seed(config.seed, batch.step, 2**20))  # no process has this rank
    everywhere = batch.inputs[:1].cpu().expand(batch.size * world_size, *batch.inputs.shape[1:])
    drop = torch.rand(len(everywhere), generator=generator) < config.label_dropout
    return tuple(whole[rank::world_size] for whole in (drop, *objective.draw(everywhere, generator)))
