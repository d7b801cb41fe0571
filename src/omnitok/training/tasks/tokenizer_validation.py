"""What is measured while a tokenizer trains: held-out files, as `omnitok evaluate reconstruction` measures them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from omnitok.data.index import list_media
from omnitok.data.modality import MODALITIES, Modality, detect_modality
from omnitok.data.pixel_format import PixelFormat
from omnitok.data.samples import Index
from omnitok.errors import MediaError, OmnitokError
from omnitok.losses.perceptual import load_perceptual
from omnitok.metrics.average import AverageAccumulator
from omnitok.metrics.evaluate import EvaluationConfig
from omnitok.metrics.networks import Network, load_networks, require_weights
from omnitok.metrics.reconstruction import EvaluatedModel, check_frames, check_reconstruction, evaluate_reconstruction
from omnitok.metrics.registry import METRICS, check_metrics, networks_for
from omnitok.metrics.ssim import WINDOW
from omnitok.models.protocol import Tokenizer
from omnitok.training.config import TrainConfig
from omnitok.training.data import check_length

_NAMES = {"usage": "codebook_usage", "perplexity": "codebook_perplexity"}
_LEFT_OUT = frozenset({"entropy"})  # the logarithm of the perplexity

Validation = Callable[[Tokenizer], Mapping[str, float]]
"""Scores of a tokenizer, the same on every process; all of them call it together."""


def plan_validation(config: TrainConfig, held_out: Index) -> Validation | None:
    """PSNR, SSIM, codebook usage and `config.validation.metrics` over its files, or those held out from training, by
    the protocol `clean`; None without files.

    The function takes a tokenizer, on every process of a training together, and gives "image_psnr", "video_rfvd" and
    so on, the same on each. Whatever could make it fail is looked for here, before the first step.

    Raises:
        OmnitokError: a folder that does not exist or is empty, a file that cannot be read, a video that is too short, a
            metric that there is not or that has nothing to measure.
        MissingWeightsError: the files of a network are missing or have another hash.
    """
    chosen, weights_dir = config.validation, config.perceptual.weights_dir
    pixel_format = PixelFormat(config.model.channels, config.data.ranges)
    is_discrete = config.model.bottleneck.is_discrete
    named: dict[Modality, Sequence[str]] = {"image": chosen.images, "video": chosen.videos}
    found = {modality: _files(sources, modality, chosen.samples, pixel_format) for modality, sources in named.items()}
    if not any(found.values()):
        found = {modality: [Path(sample.path) for sample in held_out[modality]] for modality in MODALITIES}
    files = {modality: paths for modality, paths in found.items() if paths}
    if not files:
        if chosen.metrics:
            raise OmnitokError("validation.metrics needs files: --set validation.images=DIR or validation.videos=DIR")
        return None
    whole = EvaluationConfig(frames=config.data.frames)
    try:
        metrics = check_metrics(
            ("psnr", "ssim", *(("usage",) if is_discrete else ()), *chosen.metrics), "reconstruction"
        )
        check_frames(metrics, whole)
    except ValueError as error:
        raise OmnitokError(f"validation: {error}") from error
    check_reconstruction(metrics, whole, files, is_discrete, "validation", pixel_format.channels)
    for path in files.get("video", []):
        check_length(path, whole.video_frames, pixel_format)
    needed = networks_for(metrics, whole.protocol)
    require_weights(needed, weights_dir)
    distance = None
    if chosen.perceptual is not None:
        seen = config.perceptual.seen(pixel_format.channels)
        distance = load_perceptual(chosen.perceptual, weights_dir, config.perceptual.resolution, seen)
    sizes: dict[Modality, int] = {"image": chosen.image_resolution, "video": chosen.video_resolution}
    for modality in files:
        if sizes[modality] < WINDOW:
            raise OmnitokError(
                f"validation.{modality}_resolution must be at least {WINDOW}, SSIM's window, found {sizes[modality]}"
            )

    @cache
    def networks(device: torch.device) -> dict[str, Network]:
        return load_networks(needed, weights_dir, device)

    def validate(tokenizer: Tokenizer) -> Mapping[str, float]:
        model, device = EvaluatedModel(tokenizer, config.name, sha256=""), tokenizer.device
        scores: dict[str, float] = {}
        for modality, paths in files.items():
            average = AverageAccumulator()  # of the perceptual distance that is trained with

            def observe(original: Tensor, reconstruction: Tensor, average: AverageAccumulator = average) -> None:
                assert distance is not None
                average.update(distance.to(device)(reconstruction.to(device), original.to(device)))

            results = evaluate_reconstruction(
                model,
                {modality: paths},
                [name for name in metrics if modality in METRICS[name].modalities],
                replace(whole, resolution=sizes[modality]),
                networks=networks(device),
                observe=None if distance is None else observe,
            )
            for result in results:
                if result.metric not in _LEFT_OUT:
                    scores[f"{modality}_{_NAMES.get(result.metric, result.metric)}"] = result.value
            if distance is not None:
                average.all_reduce()
                scores[f"{modality}_perceptual"] = average.compute().mean
        return scores

    return validate


def _files(sources: Sequence[str], modality: Modality, count: int, pixel_format: PixelFormat) -> list[Path]:
    """The first `count` files of this modality."""
    if not sources:
        return []
    listed = list_media(sources, pixel_format.has_arrays)
    files = list(islice((path for path in listed if detect_modality(path) == modality), count))
    if not files:
        raise MediaError(f"{', '.join(sources)}: validation.{modality}s names no {modality}s")
    return files
