"""The table of metrics. A new metric is a file with its mathematics and a row here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from omnitok.data.modality import Modality
from omnitok.metrics.accumulator import Accumulator
from omnitok.metrics.average import AverageAccumulator, average_score
from omnitok.metrics.codebook import CodebookAccumulator, codebook_scores
from omnitok.metrics.features import FeatureSet
from omnitok.metrics.frechet import FrechetAccumulator, frechet_score, fvd_score
from omnitok.metrics.i3d import MINIMUM_FRAMES
from omnitok.metrics.inception_score import InceptionScoreAccumulator, inception_scores
from omnitok.metrics.kid import kid_score
from omnitok.metrics.precision_recall import precision_score, recall_score
from omnitok.metrics.protocols import Protocol
from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.results import Gathered, Score
from omnitok.metrics.ssim import ssim_per_frame

Task = Literal["reconstruction", "fidelity"]
Inputs = Literal["pairs", "codes", "features", "logits"]


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        tasks: whether tokenizers ("reconstruction") or sets of samples ("fidelity") have it.
        modalities: what it is measured of.
        inputs: what is gathered: a distance per sample of "pairs" of original and result, the "codes" of a tokenizer,
            or a network's "features" of both sides or "logits" of the judged side.
        accumulator: gathers them; metrics with one network and accumulator share it.
        score: the numbers, from what was gathered.
        network: its name, in which fields of the protocol may stand; None: there is none.
        distance: of pairs, per frame, where it is not the network's.
        minimum_frames: frames that each video needs.
    """

    tasks: tuple[Task, ...]
    modalities: tuple[Modality, ...]
    inputs: Inputs
    accumulator: type[Accumulator]
    score: Callable[[Gathered], list[Score]]
    network: str | None = None
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    minimum_frames: int = 1

    def network_for(self, protocol: Protocol) -> str | None:
        """The name of the network that sees the pixels."""
        return self.network and self.network.format(**protocol.describe())


_EVERY: tuple[Task, ...] = ("reconstruction", "fidelity")
_TOKENIZER: tuple[Task, ...] = ("reconstruction",)
_SETS: tuple[Task, ...] = ("fidelity",)
_BOTH: tuple[Modality, ...] = ("image", "video")
_IMAGE: tuple[Modality, ...] = ("image",)
_VIDEO: tuple[Modality, ...] = ("video",)
_RFID, _FID = "inception_{rfid_resize}", "inception_{fid_resize}"

METRICS: dict[str, Metric] = {
    "psnr": Metric(_EVERY, _BOTH, "pairs", AverageAccumulator, average_score, None, psnr_per_frame),
    "ssim": Metric(_EVERY, _BOTH, "pairs", AverageAccumulator, average_score, None, ssim_per_frame),
    "lpips": Metric(_EVERY, _BOTH, "pairs", AverageAccumulator, average_score, "lpips_vgg"),
    "lpips_alex": Metric(_EVERY, _BOTH, "pairs", AverageAccumulator, average_score, "lpips_alex"),
    "lpips_squeeze": Metric(_EVERY, _BOTH, "pairs", AverageAccumulator, average_score, "lpips_squeeze"),
    "usage": Metric(_TOKENIZER, _BOTH, "codes", CodebookAccumulator, codebook_scores),
    "rfid": Metric(_TOKENIZER, _IMAGE, "features", FrechetAccumulator, frechet_score, _RFID),
    "rfvd": Metric(_TOKENIZER, _VIDEO, "features", FrechetAccumulator, fvd_score, "i3d", None, MINIMUM_FRAMES),
    "rfvd_styleganv": Metric(
        _TOKENIZER, _VIDEO, "features", FrechetAccumulator, frechet_score, "i3d_torchscript", None, MINIMUM_FRAMES
    ),
    "fid": Metric(_SETS, _IMAGE, "features", FrechetAccumulator, frechet_score, _FID),
    "is": Metric(_SETS, _IMAGE, "logits", InceptionScoreAccumulator, inception_scores, _FID),
    "precision": Metric(_SETS, _IMAGE, "features", FeatureSet, precision_score, _FID),
    "recall": Metric(_SETS, _IMAGE, "features", FeatureSet, recall_score, _FID),
    "kid": Metric(_SETS, _IMAGE, "features", FeatureSet, kid_score, _FID),
    "fvd": Metric(_SETS, _VIDEO, "features", FrechetAccumulator, fvd_score, "i3d", None, MINIMUM_FRAMES),
    "fvd_styleganv": Metric(
        _SETS, _VIDEO, "features", FrechetAccumulator, frechet_score, "i3d_torchscript", None, MINIMUM_FRAMES
    ),
    "fd_mobilenet_v2": Metric(_EVERY, _IMAGE, "features", FrechetAccumulator, frechet_score, "mobilenet_v2"),
    "fd_mobilenet_v2_video": Metric(
        _EVERY, _VIDEO, "features", FrechetAccumulator, frechet_score, "mobilenet_v2_video"
    ),
}
"""Name -> metric."""


def check_metrics(names: Iterable[str], task: Task, modality: Modality | None = None) -> tuple[str, ...]:
    """The names without repetitions.

    Raises:
        ValueError: none, or one that the task does not have for this modality.
    """
    known = [
        name
        for name, metric in METRICS.items()
        if task in metric.tasks and (modality is None or modality in metric.modalities)
    ]
    chosen = tuple(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        of = "" if modality is None else f" of {modality}s"
        raise ValueError(f"metrics{of} are {', '.join(known)}, found {', '.join(unknown) or 'none'}")
    return chosen


def is_metric(text: str) -> bool:
    """Whether these are names of metrics, with commas between them."""
    return all(name in METRICS for name in text.split(",") if name)


def networks_for(names: Iterable[str], protocol: Protocol) -> list[str]:
    """The networks that these metrics need."""
    needed = (METRICS[name].network_for(protocol) for name in names)
    return [name for name in dict.fromkeys(needed) if name is not None]
