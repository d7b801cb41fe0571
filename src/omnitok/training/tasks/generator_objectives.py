"""What generators learn: the losses of a batch, as modules whose forward DDP and FSDP2 hook into, and what is random in
them."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch
from omnitok.diffusion import diffusion_losses, draw_times
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.generation.request import Grid
from omnitok.models.bottlenecks.base import group_bases
from omnitok.models.code_transformer import start_from_codebook
from omnitok.models.conditions import TextCondition, drop_conditions, encode_texts
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel, language_model_losses
from omnitok.models.masked_model import MaskedModel, masked_model_losses
from omnitok.models.protocol import LatentStatistics, Tokenizer
from omnitok.models.token_masks import draw_hidden
from omnitok.training.config import (
    AnyGeneratorConfig,
    DiffusionTrainConfig,
    LanguageModelTrainConfig,
    MaskedModelTrainConfig,
)
from omnitok.training.seeds import WHOLE_BATCH, step_seed

Draws = tuple[Tensor, ...]

MOST_CODES = 2**14
"""Masked models learn more codes than these by their digits, where they have any."""


class Objective(nn.Module, ABC):
    """What a kind of generator learns; all that its training does not share with the others'.

    Args:
        config: of the run.
        statistics: of the latents of the tokenizer.

    Raises:
        OmnitokError: latents whose mean and deviation the tokenizer does not know.
    """

    learns_codes = True
    """Whether it learns a quantizer's codes; else the latents of a VAE."""

    def __init__(self, config: Any, model: Any, statistics: LatentStatistics | None) -> None:
        super().__init__()
        self.config, self.model = config, model

    @staticmethod
    @abstractmethod
    def fit(config: Any, tokenizer: Tokenizer, grid: Grid, classes: int) -> dict[str, Any]:
        """Fields of the architecture as the data and their tokenizer have them.

        Raises:
            OmnitokError: the architecture is not for them.
        """

    @staticmethod
    def begin(config: Any, model: Any, tokenizer: Tokenizer) -> None:
        """Change a model's random weights to those that its training begins with."""

    @staticmethod
    @abstractmethod
    def evaluate(model: Any, items: int, grid: Grid, conditions: Tensor | None) -> None:
        """One forward pass as in training, over blank tokens of a grid."""

    @abstractmethod
    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """The random numbers for a batch of tokens of this shape, on the CPU."""


class _CodeObjective(Objective):
    """What language models and masked models have in common."""

    @staticmethod
    def fit(config: Any, tokenizer: Tokenizer, grid: Grid, classes: int) -> dict[str, Any]:
        frames, height, width = grid
        largest = {"latent_frames": frames, "latent_height": height, "latent_width": width}
        return {"codebook_size": tokenizer.vocab_size, **largest}

    @staticmethod
    def begin(config: Any, model: Any, tokenizer: Tokenizer) -> None:
        if config.start_from_codebook and len(model.config.factors) == 1:  # the digits of a code have no vectors
            start_from_codebook(model, tokenizer.code_vectors())


class LanguageModelObjective(_CodeObjective):
    """Cross-entropy of codes, of the next one given those before."""

    @staticmethod
    def fit(config: LanguageModelTrainConfig, tokenizer: Tokenizer, grid: Grid, classes: int) -> dict[str, Any]:
        prefix = config.model.prefix if classes else "start"
        has_null = config.model.null_class and "class" in prefix
        return {**_CodeObjective.fit(config, tokenizer, grid, classes), "prefix": prefix, "null_class": has_null}

    @staticmethod
    def evaluate(model: LanguageModel, items: int, grid: Grid, conditions: Tensor | None) -> None:
        tokens = model.config.prefix_length + math.prod(grid) - 1  # the last one predicts nothing
        model(torch.zeros(items, tokens, dtype=torch.int64), grid=grid[1:], conditions=conditions)

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


class MaskedModelObjective(_CodeObjective):
    """Cross-entropy of hidden codes."""

    @staticmethod
    def fit(config: MaskedModelTrainConfig, tokenizer: Tokenizer, grid: Grid, classes: int) -> dict[str, Any]:
        given = config.model.code_factors
        is_given = given and math.prod(given) == tokenizer.vocab_size
        factors = given if is_given else _factors(tokenizer)
        return {**_CodeObjective.fit(config, tokenizer, grid, classes), "code_factors": factors}

    @staticmethod
    def evaluate(model: MaskedModel, items: int, grid: Grid, conditions: Tensor | None) -> None:
        tokens = model.config.prefix_length + math.prod(grid)
        model(torch.zeros(items, tokens, dtype=torch.int64), grid=grid[1:], conditions=conditions)

    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """Which codes are hidden."""
        return (draw_hidden(tuple(tokens.shape), self.config.tasks, generator),)

    def forward(self, tokens: Tensor, labels: Tensor, drop: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Codes (b, h, w) or (b, t, h, w), and which of them are hidden -> "loss" in nats per hidden code."""
        losses = masked_model_losses(self.model, tokens, hidden, labels, drop, self.config.label_smoothing)
        return {"loss": losses["cross_entropy"]}


class DiffusionObjective(Objective):
    """The diffusion or flow matching losses (the model's config says which) of latents normalised by the tokenizer's
    statistics."""

    learns_codes = False
    mean: Tensor
    std: Tensor

    def __init__(self, config: Any, model: DiffusionTransformer, statistics: LatentStatistics | None) -> None:
        super().__init__(config, model, statistics)
        if statistics is None:
            raise OmnitokError(
                "the tokenizer's config.json has no latent_statistics, which latents are normalised with; a VAE "
                "trained by `omnitok train` has them"
            )
        self.register_buffer("mean", torch.tensor(statistics.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(statistics.std)[:, None, None])

    @staticmethod
    def fit(config: DiffusionTrainConfig, tokenizer: Tokenizer, grid: Grid, classes: int) -> dict[str, Any]:
        if grid[0] > 1 and not config.model.temporal:
            raise OmnitokError(f"{config.name}: the data hold videos, which need --set model.temporal=true")
        return {"latent_channels": tokenizer.latent_channels}

    @staticmethod
    def evaluate(model: DiffusionTransformer, items: int, grid: Grid, conditions: Tensor | None) -> None:
        model(torch.zeros(items, model.config.latent_channels, *grid), torch.zeros(items), conditions)

    def draw(self, tokens: Tensor, generator: torch.Generator) -> Draws:
        """A time per item, and noise."""
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


OBJECTIVES: dict[type[AnyGeneratorConfig], type[Objective]] = {
    LanguageModelTrainConfig: LanguageModelObjective,
    MaskedModelTrainConfig: MaskedModelObjective,
    DiffusionTrainConfig: DiffusionObjective,
}


def _factors(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The digits that a tokenizer's codes are learnt by, where they are too many to be learnt one by one."""
    codes = tokenizer.vocab_size or 0
    factors = group_bases(tokenizer.code_bases, MOST_CODES) if codes > MOST_CODES else ()
    return factors if len(factors) > 1 else ()


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
