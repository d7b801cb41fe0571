"""One loop that measures reconstructions and sets of samples alike: batches in, accumulators filled, rows out.

Streaming: memory does not grow with the set, but for the features of KID, precision and recall. Under
`torch.distributed` every process takes its own samples, none twice.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from omnitok.checked import checked
from omnitok.data.modality import Modality
from omnitok.errors import OmnitokError
from omnitok.metrics.accumulator import Accumulator
from omnitok.metrics.frechet import FrechetAccumulator, GaussianStatistics
from omnitok.metrics.networks import Network
from omnitok.metrics.protocols import CLEAN, Protocol
from omnitok.metrics.registry import METRICS, Metric
from omnitok.metrics.results import Gathered, Result, Setup
from omnitok.metrics.saved_state import SavedState, run_key
from omnitok.version import VERSION

Side = Literal["real", "fake"]
Progress = Callable[[int, int], None]
"""Told how many samples are done, and of how many."""


@checked
class EvaluationConfig:
    """How samples are read and measured."""

    protocol: Protocol = CLEAN
    resolution: Annotated[int, Field(ge=1)] | None = None
    """Pixels per side (None: the protocol's for reconstructions, the files' own for sets of samples)."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Frames of each video (None: the protocol's)."""
    samples: Annotated[int, Field(ge=2)] | None = None
    """How many of each set of samples are used, drawn by `seed`, their order kept (None: all, of videos at most the
    protocol's)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Images at a time; videos are taken one by one."""

    def side(self, modality: Modality) -> int:
        """Pixels per side of reconstructions."""
        default = self.protocol.image_resolution if modality == "image" else self.protocol.video_resolution
        return self.resolution if self.resolution is not None else default

    @property
    def video_frames(self) -> int:
        """Frames of each video."""
        return self.frames if self.frames is not None else self.protocol.frames


@dataclass(frozen=True)
class Batch:
    """Samples as metrics see them; what a batch does not have is None.

    Attributes:
        indices: of the samples in the set.
        name: of the first, for messages.
        real, fake: uint8 (n, 3, H, W) or (n, 3, T, H, W), as feature networks see both sides.
        pairs: float32 in [-1, 1], of the same shapes: originals and what is compared with them.
        codes: of the tokenizer.
    """

    indices: Sequence[int]
    name: str
    real: Tensor | None = None
    fake: Tensor | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    codes: Tensor | None = None


class Source(ABC):
    """Samples of one modality that are measured: what is evaluated, and how its batches are made."""

    modality: Modality
    n: int
    """Samples of the whole set that is judged."""
    total: int
    """Samples that this process reads; those of both sides of a comparison count."""
    files: Sequence[Path]
    """What the samples are read from."""
    vocab_size = 0
    expected: int | None = None
    """Samples that the protocol asks for, where it asks for a number."""

    @abstractmethod
    def select(self, needs: Collection[Side | Literal["pairs"]]) -> None:
        """Told before the first batch what of the batches will be looked at."""

    @abstractmethod
    def batches(self, start: int) -> Iterator[Batch]:
        """The batches of this process from its sample number `start` on, always in the same order."""

    @abstractmethod
    def identity(self) -> str:
        """What the sums depend on beside the files and the config."""

    @abstractmethod
    def row(self) -> Result:
        """What all rows have in common."""

    def statistics(self, side: Side, network: Network) -> GaussianStatistics | None:
        """Statistics of the side that were computed before, in place of its samples."""
        return None


@dataclass(frozen=True)
class _Gauge:
    """An accumulator with what fills it."""

    metric: Metric
    network: Network | None
    side: Side
    accumulator: Any  # an Accumulator, whose `update` takes what the metric's inputs are


class Measurement:
    """The accumulators of some metrics over one source."""

    def __init__(
        self, source: Source, metrics: Sequence[str], config: EvaluationConfig, networks: Mapping[str, Network]
    ) -> None:
        self.source, self.config = source, config
        self.metrics = [name for name in metrics if source.modality in METRICS[name].modalities]
        self._networks = {name: networks.get(METRICS[name].network_for(config.protocol) or "") for name in metrics}
        self._ready: dict[tuple[str, Side], GaussianStatistics] = {}
        self._gauges: dict[str, _Gauge] = {}
        for name in self.metrics:
            for side in self._sides(METRICS[name]):
                self._add(name, side)

    def _sides(self, metric: Metric) -> tuple[Side, ...]:
        return ("real", "fake") if metric.inputs == "features" else ("fake",)

    def _add(self, name: str, side: Side) -> None:
        metric, network = METRICS[name], self._networks[name]
        ready = self.source.statistics(side, network) if network is not None else None
        if ready is not None and metric.accumulator is FrechetAccumulator:
            self._ready[name, side] = ready
            return
        key = self._key(name, side)
        if key not in self._gauges:
            known = (network.dimension, network.classes, network.identity) if network is not None else ()
            setup = Setup(self.config.protocol, self.source.n, self.source.vocab_size, *known)
            self._gauges[key] = _Gauge(metric, network, side, metric.accumulator.of(setup))

    def _key(self, name: str, side: Side) -> str:
        metric, network = METRICS[name], self._networks[name]
        shared = network.name if network is not None and metric.inputs != "pairs" else name
        return f"{shared}/{metric.accumulator.__name__}/{side}"

    @property
    def accumulators(self) -> dict[str, Accumulator]:
        """By what they gather."""
        return {key: gauge.accumulator for key, gauge in self._gauges.items()}

    @property
    def needs(self) -> set[Side | Literal["pairs"]]:
        """What of the batches is looked at."""
        return {"pairs" if gauge.metric.inputs == "pairs" else gauge.side for gauge in self._gauges.values()}

    def compute(self, name: str, side: Side) -> Any:
        """What was gathered for a metric on one side."""
        return self._ready.get((name, side)) or self._gauges[self._key(name, side)].accumulator.compute()

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """Take one batch.

        Raises:
            OmnitokError: a network answers NaN or infinite numbers.
        """
        features: dict[tuple[str, Side], Any] = {}
        for gauge in self._gauges.values():
            inputs, network = gauge.metric.inputs, gauge.network
            if inputs == "codes" and batch.codes is not None:
                gauge.accumulator.update(batch.codes)
            elif inputs == "pairs" and batch.pairs is not None:
                distance = gauge.metric.distance or (network.run if network is not None else None)
                assert distance is not None, "a metric of pairs has a distance or a network"
                per_frame = distance(*batch.pairs)
                gauge.accumulator.update(per_frame.flatten(1).mean(1) if per_frame.ndim > 1 else per_frame)
            elif inputs in ("features", "logits"):
                pixels = batch.real if gauge.side == "real" else batch.fake
                if pixels is None:
                    continue
                assert network is not None, "a metric of features has a network"
                key = (network.name, gauge.side)
                if key not in features:
                    features[key] = network.extract(pixels)
                    if not torch.isfinite(features[key].features).all():
                        raise OmnitokError(f"{batch.name}: the network {network.name} answers NaN or infinite features")
                if inputs == "features":
                    gauge.accumulator.update(features[key].features)
                else:
                    gauge.accumulator.update(features[key].logits, torch.tensor(list(batch.indices)))

    def results(self) -> list[Result]:
        """The rows of every metric, in the order asked for."""
        memory: dict[Any, Any] = {}
        return [row for name in self.metrics for row in self._rows(name, memory)]

    def _rows(self, name: str, memory: dict[Any, Any]) -> list[Result]:
        metric, network, common = METRICS[name], self._networks[name], self.source.row()
        sides = {side: self.compute(name, side) for side in self._sides(metric)}
        real, fake, config = sides.get("real"), sides["fake"], self.config
        gathered = Gathered(name, real, fake, config.protocol, config.seed, self.source.expected, memory)
        if metric.inputs == "logits":  # no reference
            common = replace(common, reference=None, n_reference=None)
        if network is not None:
            common = replace(common, network=network.name, network_sha256=network.sha256)
        return [
            replace(
                common,
                metric=score.name or name,
                value=score.value,
                spread=score.spread,
                spread_is=score.spread_is,
                warning=score.warning,
                n=common.n if score.n is None else score.n,
                n_reference=score.n_reference or common.n_reference if common.reference is not None else None,
            )
            for score in metric.score(gathered)
        ]


@contextlib.contextmanager
def measured(
    source: Source,
    metrics: Sequence[str],
    config: EvaluationConfig,
    networks: Mapping[str, Network],
    state_folder: Path | None = None,
    state_name: str = "evaluation",
    progress: Progress | None = None,
    save_seconds: float = 60.0,
) -> Iterator[Measurement]:
    """Every batch of the source measured, over all processes.

    A stopped run continues from `state_folder`, where unfinished sums are kept until the context ends well.
    """
    measurement = Measurement(source, metrics, config, networks)
    source.select(measurement.needs)
    accumulators = measurement.accumulators
    key = {
        "config": repr(config),
        "modality": source.modality,
        "source": source.identity(),
        "accumulators": sorted(accumulators),
        "networks": sorted(network.identity for network in networks.values()),
        "version": VERSION,
    }
    state = SavedState(state_folder, state_name, run_key(key, source.files), save_seconds)
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
