"""What generators learn: the losses of a batch, as modules whose forward DDP and FSDP2 hook into, and what is random in
them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch
from omnitok.diffusion import diffusion_losses, draw_times
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.models.conditions import TextCondition, drop_conditions, encode_texts
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel, language_model_losses
from omnitok.models.masked_model import MaskedModel, masked_model_losses
from omnitok.models.protocol import LatentStatistics
from omnitok.models.token_masks import Task as MaskTask
from omnitok.models.token_masks import draw_hidden
from omnitok.training.config import AnyGeneratorConfig, LanguageModelTrainConfig, MaskedModelTrainConfig
from omnitok.training.seeds import WHOLE_BATCH, step_seed
from omnitok.training.transfer import AnyGenerator

Draws = tuple[Tensor, ...]


class LanguageModelObjective(nn.Module):
    """Cross-entropy of codes, of the next one given those before."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """No random numbers."""
        return ()

    def forward(self, tokens: Tensor, labels: Tensor, drop: Tensor) -> dict[str, Tensor]:
        """Codes (b, h, w) or (b, t, h, w) -> "loss" in nats per code.

        Args:
            labels: (b,), -1 for none; or the conditions of a conditioned model.
            drop: (b,), which of them are taken away.
        """
        return {"loss": language_model_losses(self.model, tokens, labels, drop)["cross_entropy"]}


class MaskedModelObjective(nn.Module):
    """Cross-entropy of hidden codes.

    Args:
        tasks, label_smoothing: as of `MaskedModelTrainConfig`.
    """

    def __init__(self, model: MaskedModel, tasks: Mapping[MaskTask, float], label_smoothing: float) -> None:
        super().__init__()
        self.model, self.tasks, self.label_smoothing = model, tasks, label_smoothing

    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """Which codes are hidden, for a batch of tokens of this shape; on the CPU."""
        return (draw_hidden(tuple(tokens.shape), self.tasks, generator),)

    def forward(self, tokens: Tensor, labels: Tensor, drop: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Codes (b, h, w) or (b, t, h, w), and which of them are hidden -> "loss" in nats per hidden code."""
        losses = masked_model_losses(self.model, tokens, hidden, labels, drop, self.label_smoothing)
        return {"loss": losses["cross_entropy"]}


class DiffusionObjective(nn.Module):
    """The diffusion or flow matching losses (the model's config says which) of latents normalised by the tokenizer's
    statistics.

    Args:
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
        """A time per item, and noise, for a batch of tokens of this shape; on the CPU."""
        times = draw_times(self.model.config.objective, len(tokens), generator)
        return times, torch.randn(tokens.shape, generator=generator)

    def forward(self, tokens: Tensor, labels: Tensor, drop: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Latents (b, c, h, w) or (b, c, t, h, w) with times (b,) and noise -> "loss" and, of several, its terms."""
        known: Tensor | None = None
        if self.model.config.condition is not None:
            known = drop_conditions(labels, drop)
        elif (null := self.model.config.null_label) is not None:
            known = labels.masked_fill(drop | (labels < 0), null)
        mean, std = (part if tokens.ndim == 4 else part[:, None] for part in (self.mean, self.std))
        losses = diffusion_losses(self.model, (tokens - mean) / std, known, t, noise, self.model.config.objective)
        terms = {name: loss.mean() for name, loss in losses.items()}
        return {"loss": torch.stack(list(terms.values())).sum(), **(terms if len(terms) > 1 else {})}


Objective = LanguageModelObjective | MaskedModelObjective | DiffusionObjective


def build_model(config: AnyGeneratorConfig) -> AnyGenerator:
    """A model with random weights, from torch's current random state."""
    if isinstance(config, LanguageModelTrainConfig):
        return LanguageModel(config.model)
    if isinstance(config, MaskedModelTrainConfig):
        return MaskedModel(config.model)
    return DiffusionTransformer(config.model)


def build_objective(config: AnyGeneratorConfig, model: AnyGenerator, statistics: LatentStatistics | None) -> Objective:
    """The losses of this kind of model, on the tokens of a tokenizer whose latents have these statistics.

    Raises:
        OmnitokError: latents whose mean and deviation the tokenizer does not know.
    """
    if isinstance(model, LanguageModel):
        return LanguageModelObjective(model)
    if isinstance(model, MaskedModel):
        assert isinstance(config, MaskedModelTrainConfig)
        return MaskedModelObjective(model, config.tasks, config.label_smoothing)
    if statistics is None:
        raise OmnitokError(
            "the tokenizer's config.json has no latent_statistics, which latents are normalised with; a VAE "
            "trained by `omnitok train` has them"
        )
    return DiffusionObjective(model, statistics.mean, statistics.std)


def conditions_of(config: AnyGeneratorConfig, batch: Batch) -> Tensor:
    """What each item of a batch is conditioned on: a class, or a text or embeddings of a conditioned model.

    Longer texts are cut at the last whole character that the model has room for, sequences at the last embedding.

    Raises:
        OmnitokError: no embeddings, or of another width: of shards for validation.
    """
    condition = config.model.condition
    if condition is None:
        return batch.labels
    if isinstance(condition, TextCondition):
        return encode_texts(batch.captions, condition.max_length, cut=True)
    if batch.embeddings is None or batch.embeddings.shape[2] != condition.channels:
        found = "none" if batch.embeddings is None else f"embeddings of {batch.embeddings.shape[2]}"
        raise OmnitokError(f"the model learns embeddings of {condition.channels} channels, a batch has {found}")
    return batch.embeddings[:, : condition.max_length]


def draw_batch(objective: Objective, batch: Batch, config: AnyGeneratorConfig, processes: Processes) -> Draws:
    """Which labels are dropped, and the objective's own random numbers, for this process's share of a batch.

    They are drawn for the whole batch and shared out as its items are, so that they do not depend on the number of
    processes.
    """
    world_size, rank = processes.world_size, processes.rank
    generator = torch.Generator().manual_seed(step_seed(config.seed, batch.step, WHOLE_BATCH))
    everywhere = batch.inputs[:1].cpu().expand(batch.size * world_size, *batch.inputs.shape[1:])
    drop = torch.rand(len(everywhere), generator=generator) < config.label_dropout
    return tuple(whole[rank::world_size] for whole in (drop, *objective.draw(everywhere, generator)))
