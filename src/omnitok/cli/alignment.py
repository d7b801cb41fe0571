"""`omnitok evaluate alignment`: samples beside what they were asked to show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

import omnitok
from omnitok.cli.measuring import MetricsOptions, OptionalFolder, parse_names
from omnitok.cli.options import SAID, require_paths


@dataclass(frozen=True, kw_only=True)
class Alignment(MetricsOptions):
    """How many samples show what they were asked for.

    Metrics: class_accuracy (a classifier of MobileNetV2's features, trained on the real images; of videos
    class_accuracy_video), class_accuracy_plain (the same on gradients and colours, no weights), color_accuracy (the
    colour measured of the object, no network), clip_score (2.5 times the cosine of a CLIP model's embeddings, with
    --clip; the only one that needs the extra hf). Texts are asked for the first class and the first colour that they
    name. Chance is what the same samples reach in a random order.
    """

    fake: Annotated[Path, tyro.conf.arg(metavar="DIR|LIST")]
    """The samples: a folder that `omnitok generate` wrote, or another one or a list with labels or captions."""
    real: Annotated[OptionalFolder, SAID] = None
    """Real samples, a folder for each class; needed for classes."""
    clip: Annotated[str | None, tyro.conf.arg(metavar="DIR|HUB_ID"), SAID] = None
    """CLIP model of transformers with its tokenizer, for clip_score."""
    video: bool = False
    """Judge videos instead of images."""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAMES"), SAID] = ()
    """Which metrics, in this order, with commas or spaces between them (default: those for which weights are found and
    something was asked for)."""

    def run(self) -> int:
        """Measure; the exit code."""
        self.check_common()
        metrics = parse_names(self.metrics)
        require_paths(self.fake, *([] if self.real is None else [self.real]))
        config = self.config()
        evaluate = partial(
            omnitok.metrics.evaluate_alignment,
            self.fake,
            self.real,
            metrics,
            config,
            clip=self.clip,
            modality="video" if self.video else "image",
        )
        return self.measure("samples", config, evaluate)
