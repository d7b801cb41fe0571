"""How well a tokenizer gives pictures and clips back, over a whole set: PSNR, SSIM, LPIPS, rFID, rFVD, codebook usage.

Streaming: memory does not grow with the set. Under `torch.distributed` every process takes its own files, none twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import torch
from torch import Tensor

from omnitok.distributed import shard
from omnitok.errors import OmnitokError
from omnitok.metrics.average import AverageAccumulator
from omnitok.metrics.codebook import CodebookAccumulator
from omnitok.metrics.frechet import FrechetAccumulator, frechet_distance
from omnitok.metrics.i3d import MINIMUM_FRAMES
from omnitok.metrics.networks import (
    FeatureNetwork,
    NetworkName,
    PairNetwork,
    load_feature_network,
    load_pair_network,
    require_weights,
)
from omnitok.metrics.protocols import Protocol
from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.results import Result, undersampled_warning
from omnitok.metrics.samples import (
    JPEG_SUFFIXES,
    Medium,
    batches,
    from_levels,
    load_clip,
    load_picture,
    quantize_original,
    quantize_reconstruction,
    read_ahead,
    through_jpeg,
)
from omnitok.metrics.saved_state import SavedState, run_key
from omnitok.metrics.ssim import ssim_per_frame
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.version import VERSION

LPIPS_METRICS = {"lpips": "lpips_vgg", "lpips_alex": "lpips_alex", "lpips_squeeze": "lpips_squeeze"}
_PAIR_METRICS = ("psnr", "ssim", *LPIPS_METRICS)
_FRECHET_METRICS: dict[str, Medium] = {
    "rfid": "image",
    "fd_mobilenet_v2": "image",
    "rfvd": "video",
    "rfvd_styleganv": "video",
    "fd_mobilenet_v2_video": "video",
}
RECONSTRUCTION_METRICS = (*_PAIR_METRICS, *_FRECHET_METRICS, "usage")

Accumulator = AverageAccumulator | CodebookAccumulator | FrechetAccumulator
_Kind = TypeVar("_Kind", bound=Accumulator)


@dataclass(frozen=True)
class EvaluatedModel:
    """A tokenizer and who it is."""

    tokenizer: OmniTokenizer
    name: str
    sha256: str


@dataclass(frozen=True)
class Networks:
    """The feature networks of a measurement, by metric; `none` are needed for PSNR, SSIM and usage."""

    features: Mapping[str, FeatureNetwork]
    pairs: Mapping[str, PairNetwork]


@dataclass(frozen=True)
class ReconstructionSettings:
    """What to measure; `resolution` and `frames` None are the protocol's."""

    metrics: tuple[str, ...]
    protocol: Protocol
    resolution: int | None = None
    frames: int | None = None
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in RECONSTRUCTION_METRICS]
        if unknown or not self.metrics:
            raise ValueError(
                f"metrics must be some of {', '.join(RECONSTRUCTION_METRICS)}, found {', '.join(unknown) or 'none'}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {self.batch_size}")
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"resolution must be at least 1 pixel, found {self.resolution}")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"frames must be at least 1, found {self.frames}")
        if {"rfvd", "rfvd_styleganv"} & set(self.metrics) and self.clip_frames < MINIMUM_FRAMES:
            raise ValueError(f"rfvd needs clips of at least {MINIMUM_FRAMES} frames, but frames is {self.clip_frames}")

    @property
    def clip_frames(self) -> int:
        """Frames of each clip."""
        return self.frames if self.frames is not None else self.protocol.frames

    def size_of(self, medium: Medium) -> int:
        """Pixels a side."""
        default = self.protocol.image_resolution if medium == "image" else self.protocol.video_resolution
        return self.resolution if self.resolution is not None else default

    def of_medium(self, medium: Medium) -> tuple[str, ...]:
        """The metrics that this medium has."""
        return tuple(metric for metric in self.metrics if _FRECHET_METRICS.get(metric, medium) == medium)


def network_of(metric: str, protocol: Protocol) -> str | None:
    """The name of the network a reconstruction metric needs, if any."""
    if metric == "rfid":
        return f"inception_{protocol.rfid_resize}"
    if metric in ("rfvd", "rfvd_styleganv"):
        return "i3d" if metric == "rfvd" else "i3d_torchscript"
    if metric in _FRECHET_METRICS:
        return metric.removeprefix("fd_")
    return LPIPS_METRICS.get(metric)


def load_networks(
    needed: Mapping[str, str], weights_dir: Path | None = None, device: torch.device | str = "cpu"
) -> Networks:
    """Networks by metric, from `needed` (metric -> network's name), each loaded once.

    Raises:
        MissingWeightsError: naming all missing files at once, before anything is loaded.
    """
    require_weights(needed.values(), weights_dir)
    known: dict[str, NetworkName] = {name: name for name in get_args(NetworkName)}
    features = {
        name: load_feature_network(known[name], weights_dir, device) for name in set(needed.values()) & set(known)
    }
    pairs = {name: load_pair_network(name, weights_dir, device) for name in set(needed.values()) - set(known)}
    return Networks(
        {metric: features[name] for metric, name in needed.items() if name in features},
        {metric: pairs[name] for metric, name in needed.items() if name in pairs},
    )


def needed_networks(settings: ReconstructionSettings) -> dict[str, str]:
    """Metric -> network's name, of the metrics that need one."""
    names = {metric: network_of(metric, settings.protocol) for metric in settings.metrics}
    return {metric: name for metric, name in names.items() if name is not None}


def check_reconstruction(
    settings: ReconstructionSettings, files: Mapping[Medium, Sequence[Path]], bottleneck: str, data: str
) -> None:
    """Raise OmnitokError where a metric has nothing to measure in these files or with this model."""
    for metric in settings.metrics:
        medium = _FRECHET_METRICS.get(metric)
        if medium is not None and medium not in files:
            wanted, found = ("pictures", "clips") if medium == "image" else ("clips", "pictures")
            raise OmnitokError(f"{data}: {metric} needs {wanted}, but there are only {found}")
        if medium is not None and len(files[medium]) < 2:
            raise OmnitokError(
                f"{data}: {metric} needs at least 2 files of its kind, but there is {len(files[medium])}"
            )
        if metric == "usage" and bottleneck != "vq":
            raise OmnitokError("usage counts the codes of a quantizer, but this model is a VAE: leave usage out")


def evaluate_reconstruction(
    model: EvaluatedModel,
    files: Sequence[Path],
    medium: Medium,
    settings: ReconstructionSettings,
    networks: Networks,
    data: str,
    state_folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
    save_seconds: float = 60.0,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> list[Result]:
    """All metrics of one medium over `files`, in the order asked for.

    Args:
        networks: from `load_networks`, on the model's device.
        data: what the set is called in the results.
        state_folder: where unfinished sums are kept, so that a stopped run continues.
        progress: told how many more files are done.
        observe: given each batch as PSNR sees it, originals and reconstructions (b, 3, H, W) or (b, 3, T, H, W) in
            [-1, 1] on the CPU; what it gathers is not kept in `state_folder`.

    Raises:
        OmnitokError: a file that cannot be read (a number over fewer files would be another number), or a model that
            answers NaN.
    """
    measurement = _Measurement(model, medium, settings, networks, observe)
    own = [files[i] for i in shard(len(files))]
    settings_key = {
        "settings": repr(settings),
        "medium": medium,
        "model": model.sha256,
        "networks": sorted(network.identity for network in networks.features.values()),
        "version": VERSION,
    }
    state = SavedState(state_folder, f"{medium}-{model.sha256[:12]}", run_key(settings_key, files), save_seconds)
    done = state.load(measurement.accumulators)
    _tell(progress, done)

    def load(numbered: tuple[int, Path]) -> Tensor:
        _, path = numbered
        if medium == "image":
            return load_picture(path, settings.size_of(medium), settings.protocol)
        return load_clip(path, settings.clip_frames, settings.size_of(medium), settings.protocol)

    numbered = list(zip(shard(len(files)), own, strict=True))[done:]
    loaded = read_ahead(load, numbered)
    size = settings.batch_size if medium == "image" else 1
    for part in batches(numbered, size):
        pixels = torch.stack([next(loaded) for _ in part])
        measurement.update(pixels, [index for index, _ in part], [path for _, path in part])
        done += len(part)
        _tell(progress, len(part))
        state.save(measurement.accumulators, done)
    results = measurement.results(len(files), data)
    state.clear()
    return results


def _tell(progress: Callable[[int], None] | None, n: int) -> None:
    if progress is not None and n:
        progress(n)


class _Measurement:
    """The accumulators of one medium."""

    def __init__(
        self,
        model: EvaluatedModel,
        medium: Medium,
        settings: ReconstructionSettings,
        networks: Networks,
        observe: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        self.model, self.medium, self.settings, self.networks = model, medium, settings, networks
        self.observe = observe
        self.metrics = settings.of_medium(medium)
        self.accumulators: dict[str, Accumulator] = {}
        for metric in self.metrics:
            if metric == "usage":
                self.accumulators[metric] = CodebookAccumulator(model.tokenizer.config.codebook_size)
            elif metric in _FRECHET_METRICS:
                network = networks.features[metric]
                for side in ("original", "reconstruction"):
                    accumulator = FrechetAccumulator(network.dimension, network.identity)
                    self.accumulators[f"{metric}/{side}"] = accumulator
            else:
                self.accumulators[metric] = AverageAccumulator()

    @torch.no_grad()
    def update(self, pixels: Tensor, indices: Sequence[int], paths: Sequence[Path]) -> None:
        """Take samples (b, 3, H, W) or (b, 3, T, H, W) in [-1, 1]; `indices` in the set seed a VAE's samples."""
        protocol, tokenizer = self.settings.protocol, self.model.tokenizer
        encoding = tokenizer.encode(pixels.to(tokenizer.device), check_range=False)
        latents = encoding.latents
        if encoding.posterior is not None and protocol.posterior == "sample":
            latents = encoding.posterior.mean + (0.5 * encoding.posterior.logvar).exp() * self._noise(latents, indices)
        result = tokenizer.decode(latents, encoding.size).float()
        if not torch.isfinite(result).all():
            raise OmnitokError(f"{paths[0]}: the model {self.model.name} answers NaN or infinite pixels")
        result = result.clamp(-1, 1).cpu()
        original8, result8 = quantize_original(pixels, protocol), quantize_reconstruction(result, protocol)
        if protocol.pixel_metrics_on == "uint8":
            pixels, result = from_levels(original8), from_levels(result8)
        if self.observe is not None:
            self.observe(pixels, result)
        for metric in self.metrics:
            if metric in _PAIR_METRICS:
                self._accumulator(metric, AverageAccumulator).update(self._distance(metric, pixels, result))
            elif metric == "usage":
                assert encoding.codes is not None, "check_reconstruction refuses usage of a VAE"
                self._accumulator(metric, CodebookAccumulator).update(encoding.codes)
        self._update_features(original8, result8, paths)

    def _noise(self, latents: Tensor, indices: Sequence[int]) -> Tensor:
        # By the sample's own index, so that neither batches nor processes change it.
        noise = []
        for index in indices:
            generator = torch.Generator().manual_seed((self.settings.seed * 1_000_003 + index) % 2**63)
            noise.append(torch.randn(latents.shape[1:], generator=generator))
        return torch.stack(noise).to(latents)

    def _distance(self, metric: str, a: Tensor, b: Tensor) -> Tensor:
        """(b,): each sample's mean over its frames."""
        if metric == "psnr":
            per_frame = psnr_per_frame(a, b)
        elif metric == "ssim":
            per_frame = ssim_per_frame(a, b)
        else:
            device = self.model.tokenizer.device
            per_frame = self.networks.pairs[metric].distance(a.to(device), b.to(device))
        return per_frame.flatten(1).mean(1) if per_frame.ndim > 1 else per_frame

    def _update_features(self, original: Tensor, result: Tensor, paths: Sequence[Path]) -> None:
        metrics = [metric for metric in self.metrics if metric in _FRECHET_METRICS]
        if not metrics:
            return
        quality = self.settings.protocol.jpeg_quality
        if self.medium == "image" and quality is not None:
            for i, path in enumerate(paths):
                if path.suffix.lower() in JPEG_SUFFIXES:
                    original[i : i + 1] = through_jpeg(original[i : i + 1], quality)
                    result[i : i + 1] = through_jpeg(result[i : i + 1], quality)
        for metric in metrics:
            network = self.networks.features[metric]
            for side, levels in (("original", original), ("reconstruction", result)):
                self._accumulator(f"{metric}/{side}", FrechetAccumulator).update(network.extract(levels).features)

    def _accumulator(self, name: str, kind: type[_Kind]) -> _Kind:
        accumulator = self.accumulators[name]
        assert isinstance(accumulator, kind)
        return accumulator

    def results(self, n: int, data: str) -> list[Result]:
        """Numbers over all processes."""
        for accumulator in self.accumulators.values():
            accumulator.all_reduce()
        return [result for metric in self.metrics for result in self._results_of(metric, n, data)]

    def _results_of(self, metric: str, n: int, data: str) -> list[Result]:
        def result(
            name: str,
            value: float,
            network: FeatureNetwork | PairNetwork | None = None,
            spread: float | None = None,
            spread_is: str | None = None,
            warning: str | None = None,
        ) -> Result:
            return Result(
                metric=name,
                value=value,
                protocol=self.settings.protocol.name,
                n=n,
                medium=self.medium,
                resolution=self.settings.size_of(self.medium),
                frames=1 if self.medium == "image" else self.settings.clip_frames,
                network=network.name if network is not None else None,
                network_sha256=network.sha256 if network is not None else None,
                model=self.model.name,
                model_sha256=self.model.sha256,
                data=data,
                seed=self.settings.seed,
                version=VERSION,
                spread=spread,
                spread_is=spread_is,
                warning=warning,
            )

        if metric in _PAIR_METRICS:
            average = self._accumulator(metric, AverageAccumulator).compute()
            pair = self.networks.pairs.get(metric)
            return [result(metric, average.mean, pair, average.standard_error, "standard error over samples")]
        if metric == "usage":
            codes = self._accumulator(metric, CodebookAccumulator).compute()
            size = self.model.tokenizer.config.codebook_size
            warning = None
            if codes.tokens < 10 * size:
                warning = f"{codes.tokens} tokens are few for {size} codes: usage grows with more data"
            return [
                result("usage", codes.usage, warning=warning),
                result("perplexity", codes.perplexity),
                result("entropy", codes.entropy),
            ]
        network = self.networks.features[metric]
        original = self._accumulator(f"{metric}/original", FrechetAccumulator).compute()
        reconstruction = self._accumulator(f"{metric}/reconstruction", FrechetAccumulator).compute()
        float32 = metric == "rfvd" and self.settings.protocol.float32_fvd
        distance = frechet_distance(original, reconstruction, float32_compat=float32)
        warning = undersampled_warning(metric, n, network.dimension)
        return [result(metric, distance, network, warning=warning)]
