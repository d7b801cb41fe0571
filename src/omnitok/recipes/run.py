"""Running a recipe: the training engine together with the metrics and samplers that it may not know itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.data.images import load_training_image
from omnitok.data.media import VideoReader, list_media, write_image, write_video
from omnitok.data.transforms import fit_square
from omnitok.generation.loading import make_generator
from omnitok.generator_settings import GeneratorSettings
from omnitok.metrics import CodebookAccumulator, psnr_per_frame, ssim_per_frame
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import TrainConfig
from omnitok.training.distributed import Processes
from omnitok.training.generator_step import AnyGenerator, build_model
from omnitok.training.pictures import FPS
from omnitok.training.pixel_data import find_files
from omnitok.training.run_folder import TrainResult
from omnitok.training.settings import AnyConfig, to_plain
from omnitok.training.stopping import Limits
from omnitok.training.tokenizer_step import load_perceptual
from omnitok.training.train_generator import prepare, train_generator
from omnitok.training.train_tokenizer import (
    Validation,
    initial_tokenizer,
    parameter_counts,
    train,
)


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


def validation_of(config: TrainConfig) -> Validation | None:
    """PSNR, SSIM, codebook usage and a perceptual distance over the files of `config.validation`; None without any.

    Pictures and the first frames of clips are cut to their largest centred square and resized.

    Raises:
        OmnitokError: a folder that does not exist or is empty.
        MissingWeightsError: the files of the perceptual network are missing or have another hash.
    """
    chosen = config.validation
    images = [str(path) for path in list_media(chosen.images)][: chosen.samples] if chosen.images else []
    videos = [str(path) for path in list_media(chosen.videos)][: chosen.samples] if chosen.videos else []
    if not images and not videos:
        return None

    def load_image(path: str) -> Tensor:
        return load_training_image(path, chosen.image_resolution, "center_crop", flip=False, seed=0)

    def load_clip(path: str) -> Tensor:
        with VideoReader(path) as reader:
            frames = torch.stack(list(islice(reader, config.data.frames)), dim=1)  # 3 T H W
        return fit_square(frames, chosen.video_resolution, "center_crop")

    distance = None
    if chosen.perceptual is not None:
        distance = load_perceptual(replace(config.perceptual, network=chosen.perceptual))

    def validate(tokenizer: OmniTokenizer) -> Mapping[str, float]:
        return {
            **_score(tokenizer, images, load_image, "image", distance),
            **_score(tokenizer, videos, load_clip, "video", distance),
        }

    return validate


@torch.no_grad()
def _score(
    tokenizer: OmniTokenizer,
    paths: Sequence[str],
    load: Callable[[str], Tensor],
    medium: str,
    distance: nn.Module | None,
) -> dict[str, float]:
    if not paths:
        return {}
    codes = CodebookAccumulator(tokenizer.config.codebook_size) if tokenizer.config.bottleneck == "vq" else None
    psnr, ssim, distances = [], [], []
    for path in paths:
        pixels = load(path).unsqueeze(0).to(tokenizer.device)
        encoding = tokenizer.encode(pixels, check_range=False)
        if encoding.codes is not None and codes is not None:
            codes.update(encoding.codes.cpu())
        result = tokenizer.decode(encoding.latents, encoding.size).float().clamp(-1, 1)
        psnr.append(psnr_per_frame(result, pixels).mean())
        ssim.append(ssim_per_frame(result, pixels).mean())
        if distance is not None:
            distances.append(distance.to(pixels.device)(result, pixels).mean())
    scores = {f"{medium}_psnr": float(torch.stack(psnr).mean()), f"{medium}_ssim": float(torch.stack(ssim).mean())}
    if distances:
        scores[f"{medium}_perceptual"] = float(torch.stack(distances).mean())
    if codes is not None:
        scores[f"{medium}_codebook_usage"] = codes.compute().usage
    return scores


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
    images, videos = find_files(config.data)
    model = config.model if config.init.model is None else initial_tokenizer(config).config
    return {
        "config": to_plain(config) | {"model": to_plain(model)},
        "parameters": parameter_counts(model),
        "data": {"images": len(images), "videos": len(videos)},
    }
