"""Training a generator from its configuration to OUT/model: on token shards, or on pixels encoded at each step."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.hub.folder import TrainedGenerator, load_tokenizer, save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.language_model import LanguageModel, start_from_codebook
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.generator_config import AnyGeneratorConfig, DiffusionTrainConfig, LanguageModelTrainConfig
from omnitok.training.generator_data import (
    DataFacts,
    GeneratorData,
    held_out_batches,
    open_data,
    open_shards,
    shards_tokenizer,
)
from omnitok.training.generator_init import load_source, start_from, with_architecture
from omnitok.training.generator_step import (
    AnyGenerator,
    GeneratorLearner,
    build_model,
    draw_for,
    objective_of,
)
from omnitok.training.loop import Outputs
from omnitok.training.run import Run, ignore, open_run
from omnitok.training.run_folder import TrainResult, check_same_recipe, check_unchanged
from omnitok.training.settings import AnyConfig, read_config
from omnitok.training.stopping import Limits

_FREE_ON_RESUME = (
    "steps",
    "engine",
    "log",
    "checkpoint_every",
    "keep_checkpoints",
    "max_failures",
    "init",
    "validation_shards",
    "validation_batches",
)

Pictures = Callable[[AnyGenerator, OmniTokenizer, GeneratorSettings, Path], None]
"""Draws samples of the model into a folder, or a file name's beginning."""


@dataclass(frozen=True)
class Prepared:
    """What a training needs before its first step.

    Attributes:
        config: resolved: the tokenizer's name and the facts of the data are in it.
        tokenizer: in `eval` mode.
        data: this process's batches.
        settings: what is written beside the weights.
        source: the trained generator that the weights come from.
    """

    config: AnyGeneratorConfig
    tokenizer: OmniTokenizer
    data: GeneratorData
    settings: GeneratorSettings
    source: TrainedGenerator | None = None


def train_generator(
    config: AnyGeneratorConfig,
    out: Path,
    *,
    device: torch.device | None = None,
    resume: bool = False,
    limits: Limits | None = None,
    pictures: Pictures | None = None,
    tell: Callable[[str], None] = ignore,
    progress: Callable[[int], None] = ignore,
) -> TrainResult:
    """Train by `config` and leave the model in OUT/model (from the first checkpoint on).

    OUT is as of `omnitok.training.train_tokenizer.train`; so is what `torchrun` does.

    Args:
        out: the run's folder.
        device: default the CPU; under `torchrun` any "cuda" becomes the process's own device.
        resume: continue from the latest checkpoint in OUT, or start where there is none yet.
        limits: of this process.
        pictures: called on the first process at `log.pictures_every`, with a copy of the model.
        tell, progress: take sentences for people, and the number of steps done.

    Raises:
        OmnitokError: nothing to train on, another tokenizer's shards, a generator to start from that does not fit, OUT
            holds another run.
        CheckpointError: a checkpoint cannot be written or read.
    """
    with open_run(config, out, device, resume, tell) as run:
        saved = read_config(out / "config.yaml") if run.start else None
        if saved is not None:
            check_same_recipe(config.name, saved.name, out)
            config = _resumed(config, saved)
        ready = prepare(config, run.processes, fresh=saved is None)
        config = ready.config
        if saved is not None:
            check_unchanged(config, saved, _FREE_ON_RESUME, out)
        torch.manual_seed(config.seed)
        model = initial_generator(ready, run.tell)
        learner = GeneratorLearner(config, model, objective_of(model, ready.tokenizer.latent_statistics), run.processes)
        run.begin(config, learner)
        return run.train(
            config,
            learner,
            partial(ready.data.batches, pin_memory=run.processes.device.type == "cuda"),
            limits or Limits(),
            _flops_of(config, ready.tokenizer),
            _outputs(ready, run, learner, pictures, progress),
        )


# ------------------------------------------------------------------------------------------------------------- start


def _resumed(config: AnyGeneratorConfig, saved: AnyConfig) -> AnyGeneratorConfig:
    """`config` for continuing a run: where it started from a trained model, with that architecture."""
    if saved.init is None and config.init is None:
        return config
    if isinstance(saved, LanguageModelTrainConfig) and isinstance(config, LanguageModelTrainConfig):
        return dataclasses.replace(config, model=saved.model)
    if isinstance(saved, DiffusionTrainConfig) and isinstance(config, DiffusionTrainConfig):
        return dataclasses.replace(config, model=saved.model)
    return config


def initial_generator(ready: Prepared, tell: Callable[[str], None] = ignore) -> AnyGenerator:
    """The weights that a run starts from: random ones, from torch's current random state, or those of `ready.source`.

    Raises:
        OmnitokError: the weights of `ready.source` do not fit the data.
    """
    config, source = ready.config, ready.source
    model = build_model(config)
    if source is not None:
        unknown = start_from(model, source, ready.settings.classes)
        if unknown:
            tell(f"{config.init} does not know the classes {', '.join(unknown)}: they begin anew")
        same = ("", ready.settings.tokenizer_sha256, *ready.tokenizer.compatible_tokenizers)
        if source.settings.tokenizer_sha256 not in same:
            known = source.settings.tokenizer
            tell(f"{config.init} learnt tokens of another tokenizer ({known}, or other weights of it)")
    elif isinstance(config, LanguageModelTrainConfig) and config.start_from_codebook:
        assert isinstance(model, LanguageModel)
        start_from_codebook(model, ready.tokenizer.code_vectors())
    return model


# ----------------------------------------------------------------------------------------------------------- prepare


def prepare(config: AnyGeneratorConfig, processes: Processes, fresh: bool = True) -> Prepared:
    """Load the tokenizer and what the run starts from, open the data, and complete the configuration from them.

    Args:
        fresh: False for a run that continues: its weights come from a checkpoint, so that `config.init` is not needed.

    Raises:
        OmnitokError: as `train_generator`.
    """
    name = config.tokenizer or (shards_tokenizer(config.shards) if config.shards else None)
    if name is None:
        raise OmnitokError("pixels need a tokenizer: give --tokenizer NAME")
    tokenizer = load_tokenizer(name)
    sha256 = fingerprint(tokenizer)
    tokenizer = tokenizer.to(processes.device).requires_grad_(False)
    config = dataclasses.replace(config, tokenizer=name)
    data = open_data(config, tokenizer, processes)
    facts = data.facts
    source = None
    if fresh and config.init is not None:
        source = load_source(config.init)
        config = with_architecture(config, source)
    config = complete(config, facts)
    frames, height, width = facts.pixels
    settings = GeneratorSettings(
        tokenizer=name,
        tokenizer_sha256=sha256,
        # A model may have room for more classes than the data name; then only numbers tell them.
        classes=facts.classes if len(facts.classes) == config.model.num_classes else (),
        height=height,
        width=width,
        num_frames=frames,
        sampling=config.sampling,
        fps=facts.fps,
    )
    return Prepared(config, tokenizer, data, settings, source)


def complete(config: AnyGeneratorConfig, facts: DataFacts) -> AnyGeneratorConfig:
    """`config` with the model's classes, codebook, channels and grid as the data have them.

    Raises:
        OmnitokError: tokens of the wrong kind, or more classes than the model is said to have.
    """
    wanted = "codes" if isinstance(config, LanguageModelTrainConfig) else "latents"
    if facts.kind != wanted:
        other = "quantizer" if wanted == "codes" else "VAE"
        raise OmnitokError(f"{config.name} learns {wanted}, found {facts.kind}: use the tokens of a {other}")
    if 0 < config.model.num_classes < facts.class_count:
        raise OmnitokError(
            f"model.num_classes is {config.model.num_classes}, but the data have {facts.class_count} classes; "
            "0 takes the number from the data"
        )
    classes = (config.model.num_classes or facts.class_count) if config.class_conditional else 0
    if isinstance(config, LanguageModelTrainConfig):
        frames, height, width = facts.grid
        prefix = config.model.prefix if classes else "start"
        return dataclasses.replace(
            config,
            model=dataclasses.replace(
                config.model,
                codebook_size=facts.size,
                num_classes=classes,
                prefix=prefix,
                null_class=config.model.null_class and "class" in prefix,
                latent_frames=frames,
                latent_height=height,
                latent_width=width,
            ),
        )
    if facts.grid[0] > 1 and not config.model.temporal:
        raise OmnitokError(f"{config.name}: the data hold clips, which need --set model.temporal=true")
    model = dataclasses.replace(config.model, latent_channels=facts.size, num_classes=classes)
    return dataclasses.replace(config, model=model)


# ----------------------------------------------------------------------------------------------------------- outputs


def _outputs(
    ready: Prepared, run: Run, learner: GeneratorLearner, pictures: Pictures | None, progress: Callable[[int], None]
) -> Outputs:
    config = ready.config

    def publish_model(step: int, last: bool) -> None:
        model = learner.snapshot()
        if model is not None:
            save_generator(model, ready.settings, run.out / "model")

    def write_pictures(step: int) -> None:
        if config.log.pictures_every and pictures is not None:
            model = learner.snapshot()
            if model is not None:
                pictures(model, ready.tokenizer, ready.settings, run.out / "pictures" / f"step-{step:09d}")
            run.processes.barrier()

    def validate(step: int) -> Mapping[str, float]:
        if not config.validation_shards:
            return {}
        model = learner.snapshot()
        scores = {} if model is None else held_out_losses(model, ready)
        run.processes.barrier()
        return scores

    def row_details(step: int) -> Mapping[str, float]:
        return {"skipped": int(learner.skipped)}

    return Outputs(publish_model, write_pictures, validate, row_details, run.tell, progress)


@torch.no_grad()
def held_out_losses(model: AnyGenerator, ready: Prepared) -> dict[str, float]:
    """ "image_loss" and "video_loss", those that are there, over the shards kept back from training.

    Every label is kept, and what is random is the same at every call.
    """
    config = dataclasses.replace(ready.config, label_dropout=0.0)
    device = next(model.parameters()).device
    alone = Processes(0, 1, device)
    shards = open_shards(config.validation_shards, ready.tokenizer, config.tokenizer or "")
    objective = objective_of(model, ready.tokenizer.latent_statistics).to(device)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch in held_out_batches(shards, config, ready.data.facts.classes):
        draws = draw_for(objective, batch, config, alone)
        tensors = [tensor.to(device) for tensor in (batch.inputs, batch.labels, *draws)]
        name = f"{batch.modality}_loss"
        sums[name] = sums.get(name, 0.0) + float(objective(*tensors)["loss"]) * batch.size
        counts[name] = counts.get(name, 0) + batch.size
    return {name: total / counts[name] for name, total in sums.items()}


def _flops_of(config: AnyGeneratorConfig, tokenizer: OmniTokenizer) -> Callable[[tuple[int, ...]], int]:
    """Floating-point operations of a forward on the tokens of pixels of a shape, counted without computing them."""

    @lru_cache(maxsize=64)
    def flops(shape: tuple[int, ...]) -> int:
        grid = tokenizer.config.latent_shape(shape[2] if len(shape) == 5 else 1, *shape[-2:])
        with FakeTensorMode(), torch.random.fork_rng(devices=[]), torch.no_grad():
            model = build_model(config)
            with FlopCounterMode(display=False) as counter:
                _forward(model, shape[0], grid)
        return counter.get_total_flops()

    return flops


def _forward(model: AnyGenerator, batch: int, grid: tuple[int, int, int]) -> Tensor:
    frames, height, width = grid
    if isinstance(model, LanguageModel):
        tokens = model.config.prefix_length + frames * height * width - 1
        return model(torch.zeros(batch, tokens, dtype=torch.int64), grid=(height, width))
    return model(torch.zeros(batch, model.config.latent_channels, *grid), torch.zeros(batch))
