"""Running a recipe: the training engine together with the metrics and samplers that it may not know itself."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok.data.image import write_image
from omnitok.data.video_writer import write_video
from omnitok.distributed import Processes
from omnitok.generation.loading import make_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.recipes.validation import validation_of
from omnitok.training.config import TrainConfig
from omnitok.training.generator_step import AnyGenerator, build_model
from omnitok.training.pictures import FPS
from omnitok.training.pixel_data import find_files
from omnitok.training.run_folder import TrainResult
from omnitok.training.settings import AnyConfig, to_plain
from omnitok.training.stopping import Limits
from omnitok.training.train_generator import prepare, train_generator
from omnitok.training.train_tokenizer import initial_tokenizer, parameter_counts, train


def run_recipe(
    config: AnyConfig,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    limits: Limits | None = None,
    tell: Callable[[str], None],
    progress: Callable[[int], None],
) -> TrainResult:
    """Train a tokenizer, with the validation that `config.validation` asks for, or a generator, with sample grids."""
    if not isinstance(config, TrainConfig):
        return train_generator(
            config,
            out,
            device=device,
            resume=resume,
            limits=limits,
            pictures=partial(write_samples, count=config.log.pictures),
            tell=tell,
            progress=progress,
        )
    return train(
        config,
        out,
        device=device,
        resume=resume,
        limits=limits,
        validation=validation_of(config),
        tell=tell,
        progress=progress,
    )


@torch.no_grad()
def write_samples(
    model: AnyGenerator, tokenizer: OmniTokenizer, settings: GeneratorSettings, beginning: Path, count: int
) -> None:
    """Write `BEGINNING-image.png` and, of a model of clips, `BEGINNING-video.mp4`: samples of one class each, side by
    side."""
    generator = make_generator(model, tokenizer, settings)
    classes = model.config.num_classes
    labels = [i * classes // count if count < classes else i % classes for i in range(count)] if classes else None
    chosen: list[int | None] = [None] * count if labels is None else [*labels]

    def row(num_frames: int) -> Tensor:
        return torch.cat(list(generator.sample(chosen, num_frames=num_frames).cpu().float().clamp(-1, 1)), dim=-1)

    write_image(beginning.with_name(f"{beginning.name}-image.png"), row(1))
    if settings.num_frames > 1:
        clips = row(settings.num_frames)
        height, width = (side - side % 2 for side in clips.shape[-2:])  # H.264 wants even sides
        path = beginning.with_name(f"{beginning.name}-video.mp4")
        write_video(path, clips[..., :height, :width], fps=settings.fps or FPS)


def describe(config: AnyConfig) -> dict[str, Any]:
    """What a training would do: "config", "parameters" and "data"; nothing is trained.

    Raises:
        OmnitokError: as the training itself would.
    """
    if not isinstance(config, TrainConfig):
        ready = prepare(config, Processes(0, 1, torch.device("cpu")))
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in build_model(ready.config).parameters())
        samples = ready.data.facts.samples
        return {
            "config": to_plain(ready.config),
            "parameters": {"model": parameters},
            "data": {"images": samples["image"], "videos": samples["video"]},
        }
    files = find_files(config.data)
    validation_of(config)  # says what is missing
    model = config.model if config.init.model is None else initial_tokenizer(config).config
    return {
        "config": to_plain(config) | {"model": to_plain(model)},
        "parameters": parameter_counts(model),
        "data": {"images": len(files.images), "videos": len(files.videos)},
    }
