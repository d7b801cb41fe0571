"""Training a tokenizer from its configuration to OUT/model: one of the three stages, or all of a baseline."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from omnitok.data.loader import PixelDataset, load_batches
from omnitok.errors import OmnitokError
from omnitok.models.protocol import LatentStatistics, fingerprint
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.training.block_limits import measure_block_limits
from omnitok.training.config import TrainConfig
from omnitok.training.inflate import grow_stacks, inflate_video_patches, swap_bottleneck
from omnitok.training.latent_statistics import latent_statistics
from omnitok.training.loop import Outputs
from omnitok.training.pictures import fixed_samples, write_grids
from omnitok.training.pixel_data import build_dataset
from omnitok.training.run import Run, ignore, open_run
from omnitok.training.run_folder import TrainResult, check_same_recipe, check_unchanged
from omnitok.training.settings import read_config
from omnitok.training.stopping import Limits
from omnitok.training.throughput import forward_flops
from omnitok.training.tokenizer_step import TokenizerLearner, publish

MEASURED_BATCHES = 32
"""Batches that the statistics of latents and the limits of blocks are measured on."""
NO_LIMIT = 1e30  # infinity has no place in JSON
_FREE_ON_RESUME = (
    "steps",
    "engine",
    "log",
    "checkpoint_every",
    "keep_checkpoints",
    "max_failures",
    "init",
    "validation",
)

Validation = Callable[[OmniTokenizer], Mapping[str, float]]
"""Figures of a tokenizer, the same on every process; all of them call it together."""


def train(
    config: TrainConfig,
    out: Path,
    *,
    device: torch.device | None = None,
    resume: bool = False,
    limits: Limits | None = None,
    validation: Validation | None = None,
    tell: Callable[[str], None] = ignore,
    progress: Callable[[int], None] = ignore,
) -> TrainResult:
    """Train by `config` and leave the model in OUT/model (from the first checkpoint on).

    OUT also gets `config.yaml` (resolved), `log.jsonl`, `checkpoints/`, `pictures/` and `unreadable.txt`. Under
    `torchrun` every process calls this; the first one writes.

    Args:
        out: the run's folder.
        device: default the CPU; under `torchrun` any "cuda" becomes the process's own device.
        resume: continue from the latest checkpoint in OUT, or start where there is none yet.
        limits: of this process.
        validation: called with a copy of the model on every process; its figures go to the log.
        tell, progress: take sentences for people, and the number of steps done.

    Raises:
        OmnitokError: nothing to train on, too many unreadable files, OUT holds another run.
        CheckpointError: a checkpoint cannot be written or read.
    """
    with open_run(config, out, device, resume, tell) as run:
        dataset = build_dataset(config.data, config.optimizer.accumulation, config.seed, run.processes)
        torch.manual_seed(config.seed)
        if run.start:
            saved = read_config(out / "config.yaml")
            if not isinstance(saved, TrainConfig):
                raise OmnitokError(f"{out}: holds the training of a generator; choose another --out")
            config = resumed_config(config, saved, out)
            tokenizer = OmniTokenizer.from_config(config.model)
        else:
            tokenizer = initial_tokenizer(config, dataset)
            config = dataclasses.replace(config, model=tokenizer.config)
        learner = TokenizerLearner(config, tokenizer, run.processes)
        run.begin(config, learner)
        return run.train(
            config,
            learner,
            partial(load_batches, dataset, workers=config.data.workers, pin_memory=run.processes.device.type == "cuda"),
            limits or Limits(),
            partial(forward_flops, config.model),
            _outputs(config, run, learner, dataset, validation, progress),
        )


# ------------------------------------------------------------------------------------------------------------- start


def resumed_config(config: TrainConfig, saved: TrainConfig, out: Path) -> TrainConfig:
    """`config` for continuing the run in `out`: with the architecture that was resolved when it started.

    Raises:
        OmnitokError: `config` is of another recipe, architecture, or way to learn.
    """
    check_same_recipe(config.name, saved.name, out)
    if saved.init.model is not None or config.init.model is not None:
        config = dataclasses.replace(config, model=saved.model)
    check_unchanged(config, saved, _FREE_ON_RESUME, out)
    return config


def initial_tokenizer(config: TrainConfig, dataset: PixelDataset | None = None) -> OmniTokenizer:
    """The weights that the run starts from: random, or `config.init.model` inflated, deeper, its bottleneck swapped.

    Args:
        dataset: its first pictures scale the latents where a quantizer is swapped for a Gaussian.
    """
    if config.init.model is None:
        return OmniTokenizer.from_config(config.model)
    tokenizer = OmniTokenizer.from_pretrained(config.init.model)
    compatible = (fingerprint(tokenizer), *tokenizer.compatible_tokenizers) if config.init.keep_encoder else ()
    if config.init.inflate:
        inflate_video_patches(tokenizer)
    if config.init.grow:
        tokenizer = grow_stacks(tokenizer, config.model)
    now, wanted = tokenizer.config.bottleneck, config.model.bottleneck
    if now.type != wanted.type:
        if config.init.keep_encoder:
            raise OmnitokError(
                f"init.keep_encoder keeps the bottleneck {now.type!r} of {config.init.model}, and "
                f"model.bottleneck is {wanted.type!r}"
            )
        tokenizer = swap_bottleneck(tokenizer, wanted, None if dataset is None else dataset.whole()[0].inputs)
    elif not config.init.keep_encoder:
        learning = {name: getattr(wanted, name) for name in wanted.learning}
        tokenizer.configure_bottleneck(dataclasses.replace(now, **learning))
    tokenizer.compatible_tokenizers = compatible
    return tokenizer


# ----------------------------------------------------------------------------------------------------------- outputs


def _outputs(
    config: TrainConfig,
    run: Run,
    learner: TokenizerLearner,
    dataset: PixelDataset,
    validation: Validation | None,
    progress: Callable[[int], None],
) -> Outputs:
    wants_samples = run.processes.is_main and config.log.pictures_every
    samples = fixed_samples(dataset, config.log.pictures) if wants_samples else []

    def publish_model(step: int, last: bool) -> None:
        model = learner.snapshot()
        if model is not None:
            if last and config.limit_room is not None:
                model.limit_blocks(_block_limits(model, dataset, config))
            measure = last and not model.is_discrete and not config.init.keep_encoder
            statistics = _latent_statistics(model, dataset) if measure else None
            publish(model, run.out / "model", statistics)

    def write_pictures(step: int) -> None:
        if config.log.pictures_every:
            model = learner.snapshot()
            if model is not None:
                write_grids(model, samples, run.out / "pictures", step)

    def validate(step: int) -> Mapping[str, float]:
        if validation is None:
            return {}
        model = learner.snapshot(everywhere=True)
        assert model is not None
        return validation(model)

    def row_details(step: int) -> Mapping[str, float]:
        details: dict[str, float] = {"skipped": int(learner.skipped)}
        if learner.use is not None and step >= config.quantize_after:
            share = learner.use.share(step)
            details["codebook_window_usage"] = share
            alarm = learner.use.alarm(step, share)
            if alarm is not None:
                run.logbook.write({"step": step + 1, "event": "collapse", "codebook_window_usage": share})
                run.tell(alarm)
        return details

    return Outputs(publish_model, write_pictures, validate, row_details, run.tell, progress)


def _latent_statistics(model: OmniTokenizer, dataset: PixelDataset) -> LatentStatistics:
    """Over the first batches of the training data."""
    return latent_statistics(model, (dataset.whole()[step].inputs for step in range(MEASURED_BATCHES)))


def _block_limits(model: OmniTokenizer, dataset: PixelDataset, config: TrainConfig) -> tuple[float, ...]:
    """Over the first batches of the training data; an encoder that is kept keeps its own, or none."""
    assert config.limit_room is not None
    batches = (dataset.whole()[step].inputs for step in range(MEASURED_BATCHES))
    limits = measure_block_limits(model, batches, config.limit_room)
    if not config.init.keep_encoder:
        return limits
    of_encoder = len(model.encoder.spatial.blocks) + len(model.encoder.temporal.blocks)
    return (*(model.config.block_limits or [NO_LIMIT] * of_encoder)[:of_encoder], *limits[of_encoder:])


def parameter_counts(config: TokenizerConfig) -> dict[str, int]:
    """Trained parameters of the encoder, bottleneck and decoder; nothing is allocated."""
    with torch.device("meta"):
        tokenizer = OmniTokenizer.from_config(config)
    parts = {"encoder": tokenizer.encoder, "bottleneck": tokenizer.bottleneck, "decoder": tokenizer.decoder}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
