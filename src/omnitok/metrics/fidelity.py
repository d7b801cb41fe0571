"""How near one set of samples is to another: FID, IS, KID, precision, recall, FVD; PSNR, SSIM and LPIPS of pairs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from omnitok.distributed import shard
from omnitok.errors import OmnitokError
from omnitok.metrics.average import AverageAccumulator
from omnitok.metrics.evaluate import LPIPS_METRICS, Networks
from omnitok.metrics.features import FeatureSet
from omnitok.metrics.frechet import FrechetAccumulator, GaussianStatistics, frechet_distance
from omnitok.metrics.i3d import MINIMUM_FRAMES
from omnitok.metrics.inception_score import InceptionScoreAccumulator
from omnitok.metrics.kid import kid
from omnitok.metrics.networks import FeatureNetwork
from omnitok.metrics.precision_recall import PrecisionRecall, precision_recall
from omnitok.metrics.protocols import Protocol
from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.results import Result, undersampled_warning
from omnitok.metrics.sample_sets import Batch, SampleSet
from omnitok.metrics.samples import Medium, from_levels
from omnitok.metrics.saved_state import SavedState, run_key
from omnitok.metrics.ssim import ssim_per_frame
from omnitok.version import VERSION

_FRECHET = {"fid", "fd_mobilenet_v2", "fvd", "fvd_styleganv", "fd_mobilenet_v2_video"}
_SET_METRICS = {"precision", "recall", "kid"}
_PAIRED = ("psnr", "ssim", *LPIPS_METRICS)
FIDELITY_METRICS: dict[Medium, tuple[str, ...]] = {
    "image": ("fid", "is", "precision", "recall", "kid", "fd_mobilenet_v2", *_PAIRED),
    "video": ("fvd", "fvd_styleganv", "fd_mobilenet_v2_video", *_PAIRED),
}

Accumulator = AverageAccumulator | FrechetAccumulator | FeatureSet | InceptionScoreAccumulator
_Kind = TypeVar("_Kind", bound=Accumulator)


@dataclass(frozen=True)
class FidelitySettings:
    """What to measure; `samples` bounds how many of each set are used (drawn by `seed`, their order kept)."""

    metrics: tuple[str, ...]
    protocol: Protocol
    medium: Medium = "image"
    samples: int | None = None
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        known = FIDELITY_METRICS[self.medium]
        unknown = [metric for metric in self.metrics if metric not in known]
        if unknown or not self.metrics:
            kind = "pictures" if self.medium == "image" else "clips"
            raise ValueError(f"metrics of {kind} are {', '.join(known)}, found {', '.join(unknown) or 'none'}")
        if self.samples is not None and self.samples < 2:
            raise ValueError(f"samples must be at least 2, found {self.samples}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {self.batch_size}")

    def needed_networks(self) -> dict[str, str]:
        """Metric -> network's name, of the metrics that need one."""
        names: dict[str, str] = {}
        for metric in self.metrics:
            if metric in ("fid", "is", "precision", "recall", "kid"):
                names[metric] = f"inception_{self.protocol.fid_resize}"
            elif metric in ("fvd", "fvd_styleganv"):
                names[metric] = "i3d" if metric == "fvd" else "i3d_torchscript"
            elif metric in _FRECHET:
                names[metric] = metric.removeprefix("fd_")
            elif metric in LPIPS_METRICS:
                names[metric] = LPIPS_METRICS[metric]
        return names


def check_fidelity(settings: FidelitySettings, real: SampleSet, fake: SampleSet) -> None:
    """Raise OmnitokError where the sets cannot be compared; looks at names, counts and the first sample of each."""
    for side in (real, fake):
        count = chosen_count(side, settings)
        if side.n and count < 2:
            raise OmnitokError(f"{side.name}: at least 2 {side.what()} are needed, but there is {side.n}")
        needs = [m for m in settings.metrics if m in _SET_METRICS and count <= settings.protocol.nearest]
        if side.n and needs:
            raise OmnitokError(
                f"{side.name}: {needs[0]} needs more than {settings.protocol.nearest} {side.what()}, but got {count}"
            )
    if "is" in settings.metrics and chosen_count(fake, settings) < settings.protocol.splits:
        raise OmnitokError(
            f"{fake.name}: the Inception score has {settings.protocol.splits} splits and needs as many pictures, "
            f"but there are {chosen_count(fake, settings)}"
        )
    if {"fvd", "fvd_styleganv"} & set(settings.metrics) and min(
        real.preparation.frames, fake.preparation.frames
    ) < MINIMUM_FRAMES:
        raise OmnitokError(f"fvd needs clips of at least {MINIMUM_FRAMES} frames, but --frames is less")
    for metric in settings.metrics:
        for side in (real, fake):
            only_statistics = not side.n and (side is fake or metric != "is")
            if only_statistics and (metric not in _FRECHET):
                raise OmnitokError(f"{side.name}: holds statistics only, but {metric} needs the samples themselves")
    if real.n and fake.n:
        _check_pairing(settings, real, fake)
        shapes = real.shape(), fake.shape()
        if shapes[0] != shapes[1]:
            a, b = ("x".join(str(side) for side in shape[1:]) for shape in shapes)
            raise OmnitokError(
                f"{real.name} has samples of {a} and {fake.name} of {b}: give --resolution to bring both to one size"
            )


def _check_pairing(settings: FidelitySettings, real: SampleSet, fake: SampleSet) -> None:
    paired = [metric for metric in settings.metrics if metric in _PAIRED]
    if not paired:
        return
    if real.n != fake.n:
        raise OmnitokError(f"{paired[0]} compares pairs, but {real.name} has {real.n} samples and {fake.name} {fake.n}")
    if real.stems is not None and fake.stems is not None and real.stems != fake.stems:
        a, b = next((a, b) for a, b in zip(real.stems, fake.stems, strict=True) if a != b)
        raise OmnitokError(f"{paired[0]} compares pairs of one name, but {real.name} has {a} where {fake.name} has {b}")


def chosen_count(samples: SampleSet, settings: FidelitySettings) -> int:
    """How many samples of the set are used."""
    return samples.n if settings.samples is None else min(samples.n, settings.samples)


def _chosen(samples: SampleSet, settings: FidelitySettings) -> list[int]:
    count = chosen_count(samples, settings)
    if count == samples.n:
        return list(range(samples.n))
    drawn = np.random.default_rng(settings.seed).choice(samples.n, count, replace=False)
    return sorted(int(position) for position in drawn)


class _Side:
    """One set's accumulators, by network: sums for Fréchet distances, features for neighbours, the Inception score."""

    def __init__(self, samples: SampleSet, settings: FidelitySettings, networks: Networks, is_fake: bool) -> None:
        self.samples, self.settings, self.networks = samples, settings, networks
        self.accumulators: dict[str, Accumulator] = {}
        self.used: dict[str, FeatureNetwork] = {}
        self.state: SavedState | None = None
        for metric in settings.metrics:
            network = networks.features.get(metric)
            if network is None or (metric in _FRECHET and self.ready_statistics(network) is not None):
                continue
            if metric in _FRECHET:
                self.accumulators[f"{network.name}/sums"] = FrechetAccumulator(network.dimension, network.identity)
            elif metric in _SET_METRICS:
                self.accumulators[f"{network.name}/features"] = FeatureSet(network.dimension)
            elif is_fake:
                count = chosen_count(samples, settings)
                self.accumulators[f"{network.name}/score"] = InceptionScoreAccumulator(
                    count, network.classes, settings.protocol.splits
                )
            else:
                continue
            self.used[network.name] = network

    def ready_statistics(self, network: FeatureNetwork) -> GaussianStatistics | None:
        """The statistics of the file itself, where they are this network's; foreign files do not tell theirs."""
        statistics = self.samples.statistics
        if statistics is None:
            return None
        fits = statistics.mean.shape[0] == network.dimension and statistics.network in ("", network.identity)
        if not fits and not self.samples.n:
            found = statistics.network or f"a network of {statistics.mean.shape[0]} dimensions"
            raise OmnitokError(f"{self.samples.name}: the statistics are of {found}, not of {network.identity}")
        return statistics if fits else None

    def measure(
        self, state_folder: Path | None, name: str, progress: Callable[[int], None] | None, save_seconds: float
    ) -> None:
        """Fill the accumulators from this process's share of the samples, and sum over the processes."""
        if not self.accumulators:
            return
        chosen = _chosen(self.samples, self.settings)
        key = run_key(
            {
                "settings": repr(self.settings),
                "preparation": repr(self.samples.preparation),
                "networks": sorted(network.identity for network in self.used.values()),
                "accumulators": sorted(self.accumulators),
                "version": VERSION,
            },
            self.samples.files,
        )
        state = self.state = SavedState(state_folder, name, key, save_seconds)
        done = state.load(self.accumulators)
        if progress is not None and done:
            progress(done)
        indices = list(shard(len(chosen)))[done:]
        order = {chosen[index]: index for index in indices}
        size = self.settings.batch_size if self.settings.medium == "image" else 1
        for batch in self.samples.iterate(list(order), size):
            self._update(batch, [order[position] for position in batch.positions])
            done += len(batch.positions)
            if progress is not None:
                progress(len(batch.positions))
            state.save(self.accumulators, done)
        state.save(self.accumulators, done, force=True)  # the other set may take long
        for accumulator in self.accumulators.values():
            accumulator.all_reduce()

    @torch.no_grad()
    def _update(self, batch: Batch, indices: Sequence[int]) -> None:
        for network in self.used.values():
            output = network.extract(batch.levels)
            for name, accumulator in self.accumulators.items():
                if not name.startswith(f"{network.name}/"):
                    continue
                if isinstance(accumulator, InceptionScoreAccumulator):
                    assert output.logits is not None, "networks of scores have logits"
                    accumulator.update(output.logits, torch.tensor(list(indices)))
                elif isinstance(accumulator, FrechetAccumulator | FeatureSet):
                    accumulator.update(output.features)

    def statistics(self, network: FeatureNetwork) -> GaussianStatistics:
        ready = self.ready_statistics(network)
        return ready or self.accumulator(f"{network.name}/sums", FrechetAccumulator).compute()

    def accumulator(self, name: str, kind: type[_Kind]) -> _Kind:
        accumulator = self.accumulators[name]
        assert isinstance(accumulator, kind)
        return accumulator

    def clear(self) -> None:
        if self.state is not None:
            self.state.clear()


def evaluate_fidelity(
    real: SampleSet,
    fake: SampleSet,
    settings: FidelitySettings,
    networks: Networks,
    state_folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
    save_seconds: float = 60.0,
) -> list[Result]:
    """All metrics of `fake` against `real`, in the order asked for.

    Args:
        networks: from `load_networks(settings.needed_networks(), ...)`.
        state_folder: where unfinished sums are kept, so that a stopped run continues.
        progress: told how many more samples are done.

    Raises:
        OmnitokError: sets that cannot be compared, or a file that cannot be read.
    """
    check_fidelity(settings, real, fake)
    sides = _Side(real, settings, networks, is_fake=False), _Side(fake, settings, networks, is_fake=True)
    for side, name in zip(sides, ("real", "fake"), strict=True):
        side.measure(state_folder, name, progress, save_seconds)
    pairs = _measure_pairs(real, fake, settings, networks, progress)
    results = _Results(settings, networks, *sides, pairs)
    rows = [row for metric in settings.metrics for row in results.of(metric)]
    for side in sides:
        side.clear()
    return rows


def evaluation_total(real: SampleSet, fake: SampleSet, settings: FidelitySettings) -> int:
    """How many samples are to be read, for a progress bar."""
    return chosen_count(real, settings) + chosen_count(fake, settings)


@torch.no_grad()
def _measure_pairs(
    real: SampleSet,
    fake: SampleSet,
    settings: FidelitySettings,
    networks: Networks,
    progress: Callable[[int], None] | None,
) -> Mapping[str, AverageAccumulator]:
    accumulators = {metric: AverageAccumulator() for metric in settings.metrics if metric in _PAIRED}
    if not accumulators:
        return accumulators
    chosen = _chosen(real, settings)
    own = [chosen[index] for index in shard(len(chosen))]
    for a, b in zip(real.iterate(own, 1), fake.iterate(own, 1), strict=True):
        x, y = from_levels(a.levels), from_levels(b.levels)
        for metric, accumulator in accumulators.items():
            if metric == "psnr":
                distance = psnr_per_frame(x, y)
            elif metric == "ssim":
                distance = ssim_per_frame(x, y)
            else:
                network = networks.pairs[metric].distance
                device = network.shift.device
                distance = network(x.to(device), y.to(device))
            accumulator.update(distance.flatten(1).mean(1) if distance.ndim > 1 else distance)
        if progress is not None:
            progress(1)
    for accumulator in accumulators.values():
        accumulator.all_reduce()
    return accumulators


class _Results:
    """Numbers from full accumulators."""

    def __init__(
        self,
        settings: FidelitySettings,
        networks: Networks,
        real: _Side,
        fake: _Side,
        pairs: Mapping[str, AverageAccumulator],
    ) -> None:
        self.settings, self.networks, self.real, self.fake, self.pairs = settings, networks, real, fake, pairs
        self._precision_recall: PrecisionRecall | None = None

    def of(self, metric: str) -> list[Result]:
        if metric in _PAIRED:
            average = self.pairs[metric].compute()
            row = self._row(metric, average.mean, average.standard_error, "standard error over samples")
            pair = self.networks.pairs.get(metric)
            return [replace(row, network=pair.name, network_sha256=pair.sha256) if pair is not None else row]
        network = self.networks.features[metric]
        if metric in _FRECHET:
            float32 = metric == "fvd" and self.settings.protocol.float32_fvd
            a, b = self.real.statistics(network), self.fake.statistics(network)
            row = self._row(metric, frechet_distance(a, b, float32_compat=float32))
            counts = [n for n in (a.n, b.n) if n]
            warning = undersampled_warning(metric, min(counts), network.dimension) if counts else None
            warning = warning or self._unofficial(metric, b.n)
            row = replace(row, warning=warning, n=b.n, n_reference=a.n or None)
        elif metric == "is":
            score = self.fake.accumulator(f"{network.name}/score", InceptionScoreAccumulator).compute()
            row = self._row(metric, score.mean, score.std, f"deviation over {self.settings.protocol.splits} splits")
            row = replace(row, reference=None, n_reference=None)
        else:
            row = self._of_sets(metric, network)
        return [replace(row, network=network.name, network_sha256=network.sha256)]

    def _of_sets(self, metric: str, network: FeatureNetwork) -> Result:
        real, fake = (
            side.accumulator(f"{network.name}/features", FeatureSet).compute() for side in (self.real, self.fake)
        )
        if metric == "kid":
            distance = kid(real, fake, subsets=self.settings.protocol.kid_subsets, seed=self.settings.seed)
            spread_is = f"deviation over {self.settings.protocol.kid_subsets} subsets of {distance.subset_size}"
            return self._row(metric, distance.mean, distance.std, spread_is)
        both = self._manifolds(real, fake)
        share, n = (both.precision, len(fake)) if metric == "precision" else (both.recall, len(real))
        return self._row(metric, share, math.sqrt(share * (1 - share) / n), "binomial standard error")

    def _unofficial(self, metric: str, n: int) -> str | None:
        protocol = self.settings.protocol
        expected = protocol.generated_images if self.settings.medium == "image" else protocol.generated_clips
        if protocol.name != "official" or n in (0, expected):
            return None
        return f"{metric} of the official protocol is over {expected} samples, not {n}"

    def _manifolds(self, real: torch.Tensor, fake: torch.Tensor) -> PrecisionRecall:
        if self._precision_recall is None:  # precision and recall come together, and cost the most
            self._precision_recall = precision_recall(real, fake, self.settings.protocol.nearest)
        return self._precision_recall

    def _row(self, metric: str, value: float, spread: float | None = None, spread_is: str | None = None) -> Result:
        how = self.fake.samples.preparation
        return Result(
            metric=metric,
            value=value,
            protocol=self.settings.protocol.name,
            n=chosen_count(self.fake.samples, self.settings),
            medium=self.settings.medium,
            resolution=how.resolution,
            frames=1 if self.settings.medium == "image" else how.frames,
            data=self.fake.samples.name,
            reference=self.real.samples.name,
            n_reference=chosen_count(self.real.samples, self.settings),
            seed=self.settings.seed,
            version=VERSION,
            spread=spread,
            spread_is=spread_is,
        )


def compute_statistics(
    samples: SampleSet,
    network: FeatureNetwork,
    settings: FidelitySettings,
    state_folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
    save_seconds: float = 60.0,
) -> GaussianStatistics:
    """Reference statistics of a set for the one Fréchet metric in `settings`, over all processes."""
    if chosen_count(samples, settings) < 2:
        raise OmnitokError(f"{samples.name}: at least 2 {samples.what()} are needed, but there is {samples.n}")
    (metric,) = settings.metrics
    side = _Side(samples, settings, Networks({metric: network}, {}), is_fake=False)
    side.measure(state_folder, "statistics", progress, save_seconds)
    statistics = side.statistics(network)
    side.clear()
    return statistics
