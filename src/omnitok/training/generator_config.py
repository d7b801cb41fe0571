"""Configuration of a generator's training: shared parts, and one class a kind of generator."""

from dataclasses import field
from typing import Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformerConfig
from omnitok.models.sampling import DiffusionSampling, TokenSampling
from omnitok.training.config import DataConfig, EngineConfig, LogConfig, OptimizerConfig

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class GeneratorTrainConfig:
    """What the trainings of all generators have in common.

    Attributes:
        name: of the recipe.
        shards: folders that `omnitok tokenize` wrote (`--shards`); none trains on the pixels of `data.images` and
            `data.videos`, encoded by the tokenizer at each step.
        tokenizer: name or folder of the tokenizer; None takes the one that the shards name. The model's settings keep
            it, so a folder should be where the model's users find it.
        init: name or folder of a trained generator to start from (`--init`); None starts from random weights. Its
            architecture is kept. Classes are found by their names; those that it does not know begin anew.
        class_conditional: whether labels are learnt: of the shards, of lists, or the folders directly below those of
            `data`. Where `model.num_classes` is 0, it becomes the number of classes found.
        label_dropout: share of the labels replaced by the null class, each drawn for itself; guidance needs some.
        data: batch sizes and the share of clips; for pixels also how they are read.
        validation_shards: of held-out samples, whose loss is logged at `log.validate_every` and at the end.
        validation_batches: at most this many batches of each grid.
        steps: optimizer steps.
        seed: of weights, order of the data, dropped labels, noise.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the latest stay.
        max_failures: share of samples that may be unreadable (and are replaced by others) before the run stops.
    """

    name: str
    shards: tuple[str, ...] = ()
    tokenizer: str | None = None
    init: str | None = None
    class_conditional: bool = True
    label_dropout: float = 0.1
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    validation_shards: tuple[str, ...] = ()
    validation_batches: int = 4
    steps: int = 1000
    seed: int = 0
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    max_failures: float = 0.05

    @model_validator(mode="after")
    def _check(self) -> "GeneratorTrainConfig":
        for name in ("steps", "checkpoint_every", "keep_checkpoints", "validation_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must lie in [0, 1], found {self.label_dropout}")
        return self


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class LanguageModelTrainConfig(GeneratorTrainConfig):
    """One training run of a language model over a tokenizer's codes.

    Attributes:
        kind: which of the configurations this is, for files.
        model: the architecture; its codebook, classes and largest grid are taken from the data.
        start_from_codebook: let the embeddings of codes begin as features of their vectors in the tokenizer's codebook,
            where the model does not start from a trained one.
        sampling: what the model samples with by default.
    """

    kind: Literal["language_model"] = "language_model"
    model: LanguageModelConfig
    start_from_codebook: bool = False
    sampling: TokenSampling = field(default_factory=TokenSampling)


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class DiffusionTrainConfig(GeneratorTrainConfig):
    """One training run of a diffusion transformer over a tokenizer's latents.

    Attributes:
        kind: which of the configurations this is, for files.
        model: the architecture, and what it predicts; its channels and classes are taken from the data.
        sampling: what the model samples with by default.
    """

    kind: Literal["diffusion"] = "diffusion"
    model: DiffusionTransformerConfig
    sampling: DiffusionSampling = field(default_factory=DiffusionSampling)


AnyGeneratorConfig = LanguageModelTrainConfig | DiffusionTrainConfig
