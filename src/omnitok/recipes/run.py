"""Running a recipe: the training engine together with the metrics that it may not know itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.data.images import load_training_image
from omnitok.data.media import VideoReader, list_media
from omnitok.data.transforms import fit_square
from omnitok.metrics import CodebookAccumulator, psnr_per_frame, ssim_per_frame
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import TrainConfig
from omnitok.training.settings import to_plain
from omnitok.training.stopping import Limits
from omnitok.training.tokenizer_step import load_perceptual
from omnitok.training.train_tokenizer import (
    TrainResult,
    Validation,
    find_files,
    initial_tokenizer,
    parameter_counts,
    train,
)


def run_recipe(
    config: TrainConfig,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    limits: Limits | None = None,
    tell: Callable[[str], None],
    progress: Callable[[int], None],
) -> TrainResult:
    """`omnitok.training.train_tokenizer.train` with the validation that `config.validation` asks for."""
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


def describe(config: TrainConfig) -> dict[str, Any]:
    """What a training would do: "config", "parameters" and "data"; nothing is trained.

    Raises:
        OmnitokError: as the training itself would.
    """
    images, videos = find_files(config.data)
    model = config.model if config.init.model is None else initial_tokenizer(config).config
    return {
        "config": to_plain(config) | {"model": to_plain(model)},
        "parameters": parameter_counts(model),
        "data": {"images": len(images), "videos": len(videos)},
    }
