"""The table of metrics. A new metric is a file with its mathematics and a row here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from omnitok.data.modality import Modality
from omnitok.metrics.average import average_rows
from omnitok.metrics.classifier import confusion_rows
from omnitok.metrics.codebook import codebook_rows
from omnitok.metrics.frechet import frechet_rows, fvd_rows
from omnitok.metrics.i3d import MINIMUM_FRAMES
from omnitok.metrics.inception_score import inception_score_rows
from omnitok.metrics.kid import kid_rows
from omnitok.metrics.precision_recall import precision_recall_rows
from omnitok.metrics.protocols import Protocol
from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.results import Gathered, Result
from omnitok.metrics.ssim import ssim_per_frame

Task = Literal["reconstruction", "fidelity", "alignment"]
Gathers = Literal["pairs", "codes", "moments", "features", "logits", "confusions", "scores"]
"""What is gathered: the average distance of "pairs" of original and result; counts of a tokenizer's "codes"; of a
network's features their "moments" or all "features", of both sides; "logits" of the judged side; "confusions" of what
samples were asked to show and what they show; "scores" of each sample beside its text."""


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        tasks: whether tokenizers ("reconstruction"), sets of samples ("fidelity"), or samples beside what they were
            asked to show ("alignment") have it.
        modalities: what it is measured of.
        gathers: metrics that gather the same of one network share it.
        rows: the numbers, from what was gathered.
        network: its name, in which fields of the protocol may stand; None: there is none.
        distance: of pairs, per frame, where it is not the network's.
        minimum_frames: frames that each video needs.
    """

    tasks: tuple[Task, ...]
    modalities: tuple[Modality, ...]
    gathers: Gathers
    rows: Callable[[Gathered], list[Result]]
    network: str | None = None
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    minimum_frames: int = 1

    def network_for(self, protocol: Protocol) -> str | None:
        """The name of the network that sees the pixels."""
        return self.network and self.network.format(**protocol.describe())

    def minimum(self, protocol: Protocol) -> int:
        """Samples that a set must have."""
        return {"moments": 2, "features": protocol.nearest + 1, "logits": protocol.splits}.get(self.gathers, 1)


_EVERY: tuple[Task, ...] = ("reconstruction", "fidelity")
_ASKED: tuple[Task, ...] = ("alignment",)
_TOKENIZER, _SETS = _EVERY[:1], _EVERY[1:]
_BOTH: tuple[Modality, ...] = ("image", "video")
_IMAGE, _VIDEO = _BOTH[:1], _BOTH[1:]
_RFID, _FID = "inception_{rfid_resize}", "inception_{fid_resize}"

METRICS: dict[str, Metric] = {
    "psnr": Metric(_EVERY, _BOTH, "pairs", average_rows, distance=psnr_per_frame),
    "ssim": Metric(_EVERY, _BOTH, "pairs", average_rows, distance=ssim_per_frame),
    "lpips": Metric(_EVERY, _BOTH, "pairs", average_rows, "lpips_vgg"),
    "lpips_alex": Metric(_EVERY, _BOTH, "pairs", average_rows, "lpips_alex"),
    "lpips_squeeze": Metric(_EVERY, _BOTH, "pairs", average_rows, "lpips_squeeze"),
    "usage": Metric(_TOKENIZER, _BOTH, "codes", codebook_rows),
    "rfid": Metric(_TOKENIZER, _IMAGE, "moments", frechet_rows, _RFID),
    "rfvd": Metric(_TOKENIZER, _VIDEO, "moments", fvd_rows, "i3d", None, MINIMUM_FRAMES),
    "rfvd_styleganv": Metric(_TOKENIZER, _VIDEO, "moments", frechet_rows, "i3d_torchscript", None, MINIMUM_FRAMES),
    "fid": Metric(_SETS, _IMAGE, "moments", frechet_rows, _FID),
    "is": Metric(_SETS, _IMAGE, "logits", inception_score_rows, _FID),
    "precision": Metric(_SETS, _IMAGE, "features", precision_recall_rows, _FID),
    "recall": Metric(_SETS, _IMAGE, "features", precision_recall_rows, _FID),
    "kid": Metric(_SETS, _IMAGE, "features", kid_rows, _FID),
    "fvd": Metric(_SETS, _VIDEO, "moments", fvd_rows, "i3d", None, MINIMUM_FRAMES),
    "fvd_styleganv": Metric(_SETS, _VIDEO, "moments", frechet_rows, "i3d_torchscript", None, MINIMUM_FRAMES),
    "fd_mobilenet_v2": Metric(_EVERY, _IMAGE, "moments", frechet_rows, "mobilenet_v2"),
    "fd_mobilenet_v2_video": Metric(_EVERY, _VIDEO, "moments", frechet_rows, "mobilenet_v2_video"),
    "class_accuracy": Metric(_ASKED, _IMAGE, "confusions", confusion_rows, "mobilenet_v2"),
    "class_accuracy_plain": Metric(_ASKED, _IMAGE, "confusions", confusion_rows),
    "class_accuracy_video": Metric(_ASKED, _VIDEO, "confusions", confusion_rows, "mobilenet_v2_video"),
    "color_accuracy": Metric(_ASKED, _IMAGE, "confusions", confusion_rows),
    "clip_score": Metric(_ASKED, _BOTH, "scores", average_rows, "clip"),
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
