"""One loop that measures reconstructions and sets of samples alike: batches in, accumulators filled, rows out.

Streaming: memory does not grow with the set, but for the features of KID, precision and recall. Under
`torch.distributed` every process takes its own samples, none twice.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from omnitok.checked import AtLeastOne, Seed, checked
from omnitok.data.modality import Modality
from omnitok.errors import OmnitokError
from omnitok.metrics.average import AverageAccumulator
from omnitok.metrics.classifier import ConfusionAccumulator
from omnitok.metrics.codebook import CodebookAccumulator
from omnitok.metrics.features import FeatureSet
from omnitok.metrics.frechet import FrechetAccumulator, GaussianStatistics
from omnitok.metrics.inception_score import InceptionScoreAccumulator
from omnitok.metrics.networks import Network
from omnitok.metrics.protocols import CLEAN, Protocol
from omnitok.metrics.registry import METRICS, Metric
from omnitok.metrics.results import Gathered, Result
from omnitok.metrics.saved_state import SavedState

Side = Literal["real", "fake"]
Need = Literal["real", "fake", "pairs", "codes"]
Progress = Callable[[int, int], None]
"""Told how many samples are done, and of how many."""


@checked
class EvaluationConfig:
    """How samples are read and measured."""

    protocol: Protocol = CLEAN
    resolution: AtLeastOne | None = None
    """Pixels per side (None: the protocol's for reconstructions, the files' own for sets of samples)."""
    frames: AtLeastOne | None = None
    """Frames of each video (None: the protocol's)."""
    samples: Annotated[int, Field(ge=2)] | None = None
    """How many of each set of samples are used, drawn by `seed`, their order kept (None: all, of videos at most the
    protocol's)."""
    seed: Seed = 0
    batch_size: AtLeastOne = 8
    """Images at a time; videos are taken one by one."""

    def side(self, modality: Modality) -> int:
        """Pixels per side of reconstructions."""
        default = self.protocol.image_resolution if modality == "image" else self.protocol.video_resolution
        return self.resolution if self.resolution is not None else default

    @property
    def video_frames(self) -> int:
        """Frames of each video."""
        return self.frames if self.frames is not None else self.protocol.frames

    def blank_row(self, modality: Modality, n: int, data: str) -> Result:
        """What all rows have in common of `n` samples of `data` that are measured like this; they have no value yet."""
        return Result(
            metric="",
            value=0.0,
            protocol=self.protocol.name,
            n=n,
            modality=modality,
            resolution=self.resolution,
            frames=1 if modality == "image" else self.video_frames,
            data=data,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Batch:
    """Samples as metrics see them; what a batch does not have is None.

    Attributes:
        indices: of the samples in the set.
        name: of the first, for messages.
        real, fake: uint8 (n, 3, H, W) or (n, 3, T, H, W), as feature networks see both sides.
        pairs: float32 in [-1, 1], of the same shapes: originals and what is compared with them.
        codes: of the tokenizer.
        answers: by metric, what its accumulator takes: indices of names that were asked for, and of
            names that are seen; or scores.
    """

    indices: Sequence[int]
    name: str
    real: Tensor | None = None
    fake: Tensor | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    codes: Tensor | None = None
    answers: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)


class Source(ABC):
    """Samples of one modality that are measured: what is evaluated, and how its batches are made.

    Attributes:
        row: what all rows have in common: the modality, the samples of the whole set that is judged, ...
        total: samples that this process reads; those of both sides of a comparison count.
        files: what the samples are read from.
        identity: what the sums depend on beside the files and the config.
        vocab_size: of the tokenizer.
        channels: of the pixels.
        names: of classes or colours, by the metric that tells them apart.
        expected: samples that the protocol asks for, where it asks for a number.
    """

    row: Result
    total: int
    files: Sequence[Path]
    identity: str
    vocab_size = 0
    channels = 3
    names: Mapping[str, Sequence[str]] = MappingProxyType({})
    expected: int | None = None

    @abstractmethod
    def select(self, needs: Collection[Need]) -> None:
        """Told before the first batch what of the batches will be looked at."""

    @abstractmethod
    def batches(self, start: int) -> Iterator[Batch]:
        """The batches of this process from its sample number `start` on, always in the same order."""

    def statistics(self, side: Side, network: Network) -> GaussianStatistics | None:
        """Statistics of the side that were computed before, in place of its samples."""
        return None


@dataclass(frozen=True)
class _Gauge:
    """An accumulator with what fills it: all channels, or that one."""

    metric: Metric
    network: Network | None
    side: Side
    accumulator: Any  # an Accumulator, whose `update` takes what the metric gathers
    channel: int | None = None


class Measurement:
    """The accumulators of some metrics over one source."""

    def __init__(
        self, source: Source, metrics: Sequence[str], config: EvaluationConfig, networks: Mapping[str, Network]
    ) -> None:
        self.source, self.config = source, config
        self.metrics = [name for name in metrics if source.row.modality in METRICS[name].modalities]
        self.networks = {name: networks.get(METRICS[name].network_for(config.protocol) or "") for name in metrics}
        self._ready: dict[str, GaussianStatistics] = {}
        self._gauges: dict[str, _Gauge] = {}
        for name in self.metrics:
            metric, network = METRICS[name], self.networks[name]
            for side in _sides(metric):
                key = self._key(name, side)
                ready = None
                if network is not None and metric.gathers == "moments":
                    ready = source.statistics(side, network)
                if ready is not None:
                    self._ready[key] = ready
                elif key not in self._gauges:
                    self._gauges[key] = _Gauge(metric, network, side, self._accumulator(name, network))
                    if metric.distance is not None and source.channels != 3:
                        for channel in range(source.channels):
                            average = AverageAccumulator()
                            self._gauges[f"{key}/{channel}"] = _Gauge(metric, network, side, average, channel)
        self.accumulators = {key: gauge.accumulator for key, gauge in self._gauges.items()}

    def _key(self, name: str, side: Side) -> str:
        metric, network = METRICS[name], self.networks[name]
        shared = name if network is None or metric.gathers in ("pairs", "confusions", "scores") else network.name
        return f"{shared}/{metric.gathers}/{side}"

    def _accumulator(self, name: str, network: Network | None) -> Any:
        metric = METRICS[name]
        if metric.gathers == "confusions":
            return ConfusionAccumulator(self.source.names[name])
        if metric.gathers in ("pairs", "scores"):
            return AverageAccumulator()
        if metric.gathers == "codes":
            return CodebookAccumulator(self.source.vocab_size)
        assert network is not None, "a metric of features has a network"
        if metric.gathers == "moments":
            return FrechetAccumulator(network.dimension, network.identity)
        if metric.gathers == "features":
            return FeatureSet(network.dimension)
        return InceptionScoreAccumulator(self.source.row.n, network.classes, self.config.protocol.splits)

    def compute(self, name: str, side: Side) -> Any:
        """What was gathered for a metric on one side."""
        key = self._key(name, side)
        return self._ready.get(key) or self._gauges[key].accumulator.compute()

    @property
    def needs(self) -> set[Need]:
        """What of the batches is looked at."""
        return {g.metric.gathers if g.metric.gathers in ("pairs", "codes") else g.side for g in self._gauges.values()}

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """Take one batch.

        Raises:
            OmnitokError: a network answers NaN or infinite numbers.
        """
        seen: dict[tuple[str, Side], tuple[Tensor, Tensor | None]] = {}
        for name, gauge in self._gauges.items():
            metric, network = gauge.metric, gauge.network
            if metric.gathers in ("confusions", "scores"):
                gauge.accumulator.update(*batch.answers[name.partition("/")[0]])
            elif metric.gathers == "codes":
                gauge.accumulator.update(batch.codes)
            elif metric.gathers == "pairs":
                if batch.pairs is not None:
                    distance = metric.distance or (network.run if network is not None else None)
                    assert distance is not None, "a metric of pairs has a distance or a network"
                    chosen = slice(None) if gauge.channel is None else [gauge.channel]
                    per_frame = distance(*(pixels[:, chosen] for pixels in batch.pairs))
                    gauge.accumulator.update(per_frame.flatten(1).mean(1) if per_frame.ndim > 1 else per_frame)
            elif (pixels := batch.real if gauge.side == "real" else batch.fake) is not None:
                assert network is not None, "a metric of features has a network"
                key = (network.name, gauge.side)
                if key not in seen:
                    seen[key] = network.extract(pixels)
                    if not torch.isfinite(seen[key][0]).all():
                        raise OmnitokError(f"{batch.name}: the network {network.name} answers NaN or infinite features")
                features, logits = seen[key]
                if metric.gathers == "logits":
                    gauge.accumulator.update(logits, torch.tensor(list(batch.indices)))
                else:
                    gauge.accumulator.update(features)

    def results(self) -> list[Result]:
        """The rows of every metric, in the order asked for."""
        memory: dict[Any, Any] = {}
        rows = []
        for name in self.metrics:
            metric, network, row = METRICS[name], self.networks[name], replace(self.source.row, metric=name)
            if metric.gathers == "logits":  # no reference
                row = replace(row, reference=None, n_reference=None)
            if network is not None:
                row = replace(row, network=network.name, network_sha256=network.sha256)
            if metric.distance is not None and self.source.channels != 3:
                gauges = [self._gauges[f"{self._key(name, 'fake')}/{i}"] for i in range(self.source.channels)]
                row = replace(row, per_channel=tuple(gauge.accumulator.compute().mean for gauge in gauges))
            sides = {side: self.compute(name, side) for side in _sides(metric)}
            protocol, expected = self.config.protocol, self.source.expected
            rows += metric.rows(Gathered(row, sides.get("real"), sides["fake"], protocol, expected, memory))
        return rows


def _sides(metric: Metric) -> tuple[Side, ...]:
    return ("real", "fake") if metric.gathers in ("moments", "features") else ("fake",)


@contextlib.contextmanager
def measured(
    source: Source,
    metrics: Sequence[str],
    config: EvaluationConfig,
    networks: Mapping[str, Network],
    state_folder: Path | None,
    state_name: str,
    progress: Progress | None,
) -> Iterator[Measurement]:
    """Every batch of the source measured, over all processes.

    A stopped run continues from `state_folder`, where unfinished sums are kept until the context ends well.
    """
    measurement = Measurement(source, metrics, config, networks)
    source.select(measurement.needs)
    accumulators = measurement.accumulators
    settings = {
        "config": repr(config),
        "source": [repr(source.row), source.identity],
        "accumulators": sorted(accumulators),
        "networks": sorted(network.identity for network in networks.values()),
    }
    state = SavedState(state_folder, state_name, settings, source.files)
    done = state.load(accumulators, source.total)
    if progress is not None:
        progress(done, source.total)
    for batch in source.batches(done):
        measurement.update(batch)
        done += len(batch.indices)
        if progress is not None:
            progress(done, source.total)
        state.save(accumulators, done)
    for accumulator in accumulators.values():
        accumulator.all_reduce()
    yield measurement
    state.clear()
