"""What is measured while a tokenizer trains: held-out files, as `omnitok evaluate reconstruction` measures them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from omnitok.data.image import read_image
from omnitok.data.index import list_media
from omnitok.data.modality import MODALITIES, Modality, detect_modality
from omnitok.data.samples import Index, Sample
from omnitok.data.video_reader import VideoReader
from omnitok.errors import MediaError, OmnitokError
from omnitok.losses.perceptual import load_perceptual
from omnitok.metrics.average import AverageAccumulator
from omnitok.metrics.evaluate import EvaluationConfig
from omnitok.metrics.networks import Network, load_networks, require_weights
from omnitok.metrics.reconstruction import (
    EvaluatedModel,
    check_frames,
    check_reconstruction,
    evaluate_reconstruction,
)
from omnitok.metrics.registry import METRICS, check_metrics, networks_for
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import TrainConfig, ValidationConfig

_NAMES = {"usage": "codebook_usage", "perplexity": "codebook_perplexity"}
_LEFT_OUT = frozenset({"entropy"})  # the logarithm of the perplexity

Validation = Callable[[OmniTokenizer], Mapping[str, float]]
"""Scores of a tokenizer, the same on every process; all of them call it together."""


class HoldOut:
    """Keeps a share of the files from training, where the configuration names none to validate on.

    Attributes:
        files: those kept back, after a call; only files that can be read, and videos that are long enough.
    """

    def __init__(self, config: TrainConfig) -> None:
        chosen = config.validation
        self._share = 0.0 if chosen.images or chosen.videos else config.held_out
        self._most, self._frames = chosen.samples, config.data.frames
        self.files: dict[Modality, list[Path]] = {}

    def __call__(self, index: Index) -> Index:
        """The samples to train on: every n-th file is kept back, so that all folders are among them."""
        kept = {}
        for modality in MODALITIES:
            samples = index[modality]
            count = min(int(self._share * len(samples)), self._most)
            places = [(2 * i + 1) * len(samples) // (2 * count) for i in range(count)]
            places = [place for place in places if self._is_usable(samples[place], modality)]
            self.files[modality] = [Path(samples[place].path) for place in places]
            rest = set(range(len(samples))) - set(places) if places else None
            kept[modality] = samples if rest is None else samples.select(sorted(rest))
        return replace(index, images=kept["image"], videos=kept["video"])

    def _is_usable(self, sample: Sample, modality: Modality) -> bool:
        if sample.size is not None or sample.error or not Path(sample.path).is_file():
            return False
        try:
            if modality == "image":
                read_image(sample.path)
            else:
                _check_length(Path(sample.path), self._frames)
        except OmnitokError:
            return False
        return True


def plan_validation(
    config: TrainConfig, held_out: Mapping[Modality, Sequence[Path]] | None = None
) -> Validation | None:
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
    found: dict[Modality, list[Path]] = {
        "image": _files(chosen.images, "image", chosen.samples),
        "video": _files(chosen.videos, "video", chosen.samples),
    }
    if not any(found.values()):
        found = {modality: list(paths) for modality, paths in (held_out or {}).items()}
    files = {modality: paths for modality, paths in found.items() if paths}
    if not files:
        if chosen.metrics:
            raise OmnitokError("validation.metrics needs files: --set validation.images=DIR or validation.videos=DIR")
        return None
    whole = EvaluationConfig(frames=config.data.frames)
    metrics = _metrics(chosen, config.model.bottleneck.is_discrete, whole)
    check_reconstruction(metrics, whole, files, config.model.bottleneck.is_discrete, "validation")
    for path in files.get("video", []):
        _check_length(path, whole.video_frames)
    needed = networks_for(metrics, whole.protocol)
    require_weights(needed, weights_dir)
    distance = None
    if chosen.perceptual is not None:
        distance = load_perceptual(chosen.perceptual, weights_dir, config.perceptual.resolution)
    sizes: dict[Modality, int] = {"image": chosen.image_resolution, "video": chosen.video_resolution}

    @cache  # each process learns of its device when it has joined the others
    def networks(device: torch.device) -> dict[str, Network]:
        return load_networks(needed, None if weights_dir is None else Path(weights_dir), device)

    def validate(tokenizer: OmniTokenizer) -> Mapping[str, float]:
        model = EvaluatedModel(tokenizer, config.name, sha256="")
        scores: dict[str, float] = {}
        for modality, paths in files.items():
            observed = None if distance is None else _Distance(distance.to(tokenizer.device), tokenizer.device)
            results = evaluate_reconstruction(
                model,
                {modality: paths},
                [name for name in metrics if modality in METRICS[name].modalities],
                replace(whole, resolution=sizes[modality]),
                networks=networks(tokenizer.device),
                observe=observed,
            )
            for result in results:
                if result.metric not in _LEFT_OUT:
                    scores[f"{modality}_{_NAMES.get(result.metric, result.metric)}"] = result.value
            if observed is not None:
                scores[f"{modality}_perceptual"] = observed.mean()
        return scores

    return validate


def _files(sources: Sequence[str], modality: Modality, count: int) -> list[Path]:
    """The first `count` files of this modality."""
    if not sources:
        return []
    files = list(islice((path for path in list_media(sources) if detect_modality(path) == modality), count))
    if not files:
        raise MediaError(f"{', '.join(sources)}: validation.{modality}s names no {modality}s")
    return files


def _metrics(chosen: ValidationConfig, is_discrete: bool, config: EvaluationConfig) -> tuple[str, ...]:
    always = ("psnr", "ssim", *(("usage",) if is_discrete else ()))
    try:
        metrics = check_metrics((*always, *chosen.metrics), "reconstruction")
        check_frames(metrics, config)
        return metrics
    except ValueError as error:
        raise OmnitokError(f"validation: {error}") from error


def _check_length(path: Path, frames: int) -> None:
    with VideoReader(path) as reader:
        if reader.frame_count is not None and reader.frame_count < frames:
            raise MediaError(
                f"{path}: the video has {reader.frame_count} frames, but validation measures videos of "
                f"data.frames={frames}; leave it out"
            )


class _Distance:
    """The mean over all files, of all processes, of the perceptual distance that is trained with."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network, device
        self.average = AverageAccumulator()

    def __call__(self, original: Tensor, reconstruction: Tensor) -> None:
        self.average.update(self.network(reconstruction.to(self.device), original.to(self.device)))

    def mean(self) -> float:
        self.average.all_reduce()
        return self.average.compute().mean
