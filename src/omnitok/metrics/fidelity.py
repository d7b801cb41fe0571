"""How near one set of samples is to another: FID, IS, KID, precision, recall, FVD; PSNR, SSIM and LPIPS of pairs."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from omnitok.data.modality import Modality
from omnitok.distributed import shard
from omnitok.errors import OmnitokError
from omnitok.metrics.evaluate import Batch, EvaluationConfig, Progress, Side, Source, measured
from omnitok.metrics.frechet import FrechetAccumulator, GaussianStatistics
from omnitok.metrics.networks import Network, WeightsDir, load_networks
from omnitok.metrics.registry import METRICS, check_metrics, networks_for
from omnitok.metrics.results import Result
from omnitok.metrics.sample_sets import Preparation, SampleSet, open_samples
from omnitok.metrics.samples import batches, from_uint8
from omnitok.version import VERSION

DEFAULT_METRICS: dict[Modality, tuple[str, ...]] = {"image": ("fid", "is", "precision", "recall"), "video": ("fvd",)}


def evaluate_fidelity(
    real: str | os.PathLike[str],
    fake: str | os.PathLike[str],
    metrics: Sequence[str] | None = None,
    config: EvaluationConfig | None = None,
    *,
    modality: Modality = "image",
    weights_dir: WeightsDir = None,
    device: torch.device | str = "cpu",
    networks: Mapping[str, Network] | None = None,
    state_folder: Path | None = None,
    progress: Progress | None = None,
    save_seconds: float = 60.0,
) -> list[Result]:
    """Metrics of the samples `fake` against `real`, in the order asked for.

    Args:
        real, fake: folders or lists of files, or `.npz` files with samples (`arr_0`) or statistics (`mu`, `sigma`).
        metrics: names of `omnitok.metrics.registry.METRICS` (default: fid, is, precision, recall; of videos fvd).
        device: where the networks compute.
        weights_dir, networks, state_folder, progress: as of `evaluate_reconstruction`.

    Raises:
        OmnitokError: sets that cannot be compared, a file that cannot be read, or missing weights.
        ValueError: a metric that there is not.
    """
    config = config or EvaluationConfig()
    chosen = check_metrics(metrics if metrics is not None else DEFAULT_METRICS[modality], "fidelity", modality)
    preparation = Preparation(modality, config.protocol, config.resolution, config.video_frames)
    sets: dict[Side, SampleSet] = {"real": open_samples(real, preparation), "fake": open_samples(fake, preparation)}
    source = SampleSets(sets, config)
    source.check(chosen)
    if networks is None:
        networks = load_networks(networks_for(chosen, config.protocol), weights_dir, device)
    with measured(source, chosen, config, networks, state_folder, "fidelity", progress, save_seconds) as measurement:
        return measurement.results()


def compute_statistics(
    data: str | os.PathLike[str],
    metric: str,
    config: EvaluationConfig | None = None,
    *,
    modality: Modality = "image",
    weights_dir: WeightsDir = None,
    device: torch.device | str = "cpu",
    networks: Mapping[str, Network] | None = None,
    state_folder: Path | None = None,
    progress: Progress | None = None,
    save_seconds: float = 60.0,
) -> GaussianStatistics:
    """Statistics of a set for one Fréchet metric, so that `evaluate_fidelity` needs the set itself no more.

    Arguments and errors are those of `evaluate_fidelity`.
    """
    config = config or EvaluationConfig()
    check_metrics([metric], "fidelity", modality)
    if METRICS[metric].accumulator is not FrechetAccumulator:
        raise ValueError(f"statistics are for Fréchet distances, and {metric} is none")
    preparation = Preparation(modality, config.protocol, config.resolution, config.video_frames)
    source = SampleSets({"real": open_samples(data, preparation)}, config, use_statistics=False)
    source.check([metric])
    if networks is None:
        networks = load_networks(networks_for([metric], config.protocol), weights_dir, device)
    with measured(
        source, [metric], config, networks, state_folder, "statistics", progress, save_seconds
    ) as measurement:
        return measurement.compute(metric, "real")


class SampleSets(Source):
    """One or two sets: the samples of each side for feature networks, then pairs of them for PSNR and the like."""

    def __init__(self, sets: Mapping[Side, SampleSet], config: EvaluationConfig, use_statistics: bool = True) -> None:
        self.sets, self.config, self._use_statistics = sets, config, use_statistics
        self._judged = sets.get("fake", next(iter(sets.values())))
        self.modality, protocol = self._judged.preparation.modality, config.protocol
        self.files = [file for side in sets.values() for file in side.files]
        self.n = self._count(self._judged)
        if protocol.name == "official":
            self.expected = protocol.generated_images if self.modality == "image" else protocol.generated_videos
        self._stages: list[tuple[Side, ...]] = []

    def check(self, metrics: Sequence[str]) -> None:
        """Raise OmnitokError where the sets cannot be compared; looks at names, counts and the first sample of each."""
        for name in metrics:
            metric = METRICS[name]
            if metric.minimum_frames > self.config.video_frames:
                raise OmnitokError(
                    f"{name} needs videos of at least {metric.minimum_frames} frames; give more --frames"
                )
            minimum = max(2, metric.accumulator.minimum(self.config.protocol))
            for side, samples in self.sets.items():
                if metric.inputs == "logits" and side == "real":
                    continue
                if not samples.n and metric.accumulator is not FrechetAccumulator:
                    raise OmnitokError(
                        f"{samples.name}: holds statistics only, but {name} needs the samples themselves"
                    )
                if samples.n and (count := self._count(samples)) < minimum:
                    raise OmnitokError(
                        f"{samples.name}: {name} needs at least {minimum} {self.modality}s, but there are {count}"
                    )
        if all(samples.n for samples in self.sets.values()) and len(self.sets) == 2:
            self._check_pairs([name for name in metrics if METRICS[name].inputs == "pairs"])

    def _check_pairs(self, metrics: Sequence[str]) -> None:
        real, fake = self.sets["real"], self.sets["fake"]
        if metrics and real.n != fake.n:
            raise OmnitokError(
                f"{metrics[0]} compares pairs, but {real.name} has {real.n} samples and {fake.name} {fake.n}"
            )
        if metrics and real.stems is not None and fake.stems is not None and real.stems != fake.stems:
            a, b = next((a, b) for a, b in zip(real.stems, fake.stems, strict=True) if a != b)
            raise OmnitokError(
                f"{metrics[0]} compares pairs of one name, but {real.name} has {a} where {fake.name} has {b}"
            )
        shapes = real.shape(), fake.shape()
        if shapes[0] != shapes[1]:
            a, b = ("x".join(str(side) for side in shape[1:]) for shape in shapes)
            raise OmnitokError(
                f"{real.name} has samples of {a} and {fake.name} of {b}: give --resolution to bring both to one size"
            )

    def statistics(self, side: Side, network: Network) -> GaussianStatistics | None:
        """The statistics of the file itself, where they are this network's; foreign files do not tell theirs."""
        samples = self.sets.get(side)
        if samples is None or samples.statistics is None or not self._use_statistics:
            return None
        found = samples.statistics
        if len(found.mean) == network.dimension and found.network in ("", network.identity):
            return found
        if samples.n:
            return None
        made_by = found.network or f"a network of {len(found.mean)} dimensions"
        raise OmnitokError(f"{samples.name}: the statistics are of {made_by}, not of {network.identity}")

    def select(self, needs: Collection[Side | Literal["pairs"]]) -> None:
        sides: tuple[Side, ...] = ("real", "fake")
        self._stages = [(side,) for side in sides if side in needs and side in self.sets]
        if "pairs" in needs:
            self._stages.append(sides)
        self.total = sum(len(self._own(stage[0])) for stage in self._stages)

    def identity(self) -> str:
        return repr([(samples.name, samples.preparation) for samples in self.sets.values()])

    def row(self) -> Result:
        how, reference = self._judged.preparation, self.sets["real"]
        return Result(
            metric="",
            value=0.0,
            protocol=self.config.protocol.name,
            n=self.n,
            modality=self.modality,
            resolution=how.resolution,
            frames=1 if self.modality == "image" else how.frames,
            data=self._judged.name,
            reference=reference.name,
            n_reference=self._count(reference),
            seed=self.config.seed,
            version=VERSION,
        )

    def batches(self, start: int) -> Iterator[Batch]:
        for stage in self._stages:
            own = self._own(stage[0])
            rest, start = own[start:], max(0, start - len(own))
            size = 1 if self.modality == "video" or len(stage) == 2 else self.config.batch_size
            streams = [self.sets[side].iterate([position for position, _ in rest], size) for side in stage]
            for part, *levels in zip(batches(rest, size), *streams, strict=True):
                indices, name = [index for _, index in part], self.sets[stage[0]].name
                if len(levels) == 2:
                    yield Batch(indices, name, pairs=(from_uint8(levels[0]), from_uint8(levels[1])))
                else:
                    yield Batch(indices, name, **{stage[0]: levels[0]})

    def _count(self, samples: SampleSet) -> int:
        """How many samples of the set are used."""
        limit = self.config.samples
        if limit is None and self.modality == "video":
            limit = self.config.protocol.generated_videos
        return samples.n if limit is None else min(samples.n, limit)

    def _own(self, side: Side) -> list[tuple[int, int]]:
        """Position in the set, and number among the used ones, of the samples that this process reads."""
        samples = self.sets[side]
        count = self._count(samples)
        chosen = list(range(samples.n))
        if count < samples.n:
            drawn = np.random.default_rng(self.config.seed).choice(samples.n, count, replace=False)
            chosen = sorted(int(position) for position in drawn)
        return [(chosen[index], index) for index in shard(count)]
