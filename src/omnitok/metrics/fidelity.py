"""How near one set of samples is to another: FID, IS, KID, precision, recall, FVD; PSNR, SSIM and LPIPS of pairs."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omnitok.data.modality import Modality
from omnitok.distributed import shard
from omnitok.errors import OmnitokError
from omnitok.metrics.evaluate import Batch, EvaluationConfig, Need, Progress, Side, Source, measured
from omnitok.metrics.frechet import GaussianStatistics
from omnitok.metrics.networks import Network, WeightsDir, load_networks
from omnitok.metrics.registry import METRICS, check_metrics, networks_for
from omnitok.metrics.results import Results
from omnitok.metrics.sample_sets import SampleSet, open_samples
from omnitok.metrics.samples import batches, from_uint8

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
) -> Results:
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
    source = SampleSets({"real": real, "fake": fake}, chosen, modality, config)
    if networks is None:
        networks = load_networks(networks_for(chosen, config.protocol), weights_dir, device)
    with measured(source, chosen, config, networks, state_folder, "fidelity", progress) as measurement:
        return Results(measurement.results())


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
) -> GaussianStatistics:
    """Statistics of a set for one Fréchet metric, so that `evaluate_fidelity` needs the set itself no more.

    Arguments and errors are those of `evaluate_fidelity`.
    """
    config = config or EvaluationConfig()
    check_metrics([metric], "fidelity", modality)
    if METRICS[metric].gathers != "moments":
        raise ValueError(f"statistics are for Fréchet distances, and {metric} is none")
    source = SampleSets({"real": data}, [metric], modality, config)
    if networks is None:
        networks = load_networks(networks_for([metric], config.protocol), weights_dir, device)
    with measured(source, [metric], config, networks, state_folder, "statistics", progress) as measurement:
        return measurement.compute(metric, "real")


class SampleSets(Source):
    """One or two sets: the samples of each side for feature networks, then pairs of them for PSNR and the like."""

    def __init__(
        self,
        paths: Mapping[Side, str | os.PathLike[str]],
        metrics: Sequence[str],
        modality: Modality,
        config: EvaluationConfig,
    ) -> None:
        self.sets: dict[Side, SampleSet] = {side: open_samples(path, modality, config) for side, path in paths.items()}
        self.config = config
        self.files = [file for samples in self.sets.values() for file in samples.files]
        self.identity = repr([samples.name for samples in self.sets.values()])
        judged, reference = self.sets.get("fake", self.sets["real"]), self.sets["real"]
        if config.protocol.name == "official":
            images, videos = config.protocol.generated_images, config.protocol.generated_videos
            self.expected = images if modality == "image" else videos
        self._stages: list[tuple[Side, ...]] = []
        row = config.blank_row(modality, self._count(judged), judged.name)
        self.row = replace(row, reference=reference.name, n_reference=self._count(reference))
        for name in metrics:
            self._check(name)
        if all(samples.n for samples in self.sets.values()) and len(self.sets) == 2:
            self._check_pairs([name for name in metrics if METRICS[name].gathers == "pairs"])

    def _check(self, name: str) -> None:
        """Raise OmnitokError where the sets are not what a metric needs."""
        metric, minimum = METRICS[name], METRICS[name].minimum(self.config.protocol)
        if metric.minimum_frames > self.config.video_frames:
            raise OmnitokError(f"{name} needs videos of at least {metric.minimum_frames} frames; give more --frames")
        for side, samples in self.sets.items():
            if metric.gathers == "logits" and side == "real":
                continue
            if not samples.n and metric.gathers != "moments":
                raise OmnitokError(f"{samples.name}: holds statistics only, but {name} needs the samples themselves")
            if samples.n and (count := self._count(samples)) < minimum:
                raise OmnitokError(
                    f"{samples.name}: {name} needs at least {minimum} {self.row.modality}s, but there are {count}"
                )

    def _check_pairs(self, metrics: Sequence[str]) -> None:
        """Raise OmnitokError where the sets differ in size, or for these metrics in number or names."""
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
        if samples is None or samples.statistics is None or len(self.sets) == 1:
            return None
        found = samples.statistics
        if len(found.mean) == network.dimension and found.network in ("", network.identity):
            return found
        if samples.n:
            return None
        made_by = found.network or f"a network of {len(found.mean)} dimensions"
        raise OmnitokError(f"{samples.name}: the statistics are of {made_by}, not of {network.identity}")

    def select(self, needs: Collection[Need]) -> None:
        sides: tuple[Side, ...] = ("real", "fake")
        self._stages = [(side,) for side in sides if side in needs and side in self.sets]
        if "pairs" in needs:
            self._stages.append(sides)
        self.total = sum(len(self._own(stage[0])) for stage in self._stages)

    def batches(self, start: int) -> Iterator[Batch]:
        for stage in self._stages:
            own = self._own(stage[0])
            rest, start = own[start:], max(0, start - len(own))
            size = 1 if self.row.modality == "video" or len(stage) == 2 else self.config.batch_size
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
        if limit is None and samples.modality == "video":
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
