"""`omnitok evaluate`: the paper's numbers, by name, each with the protocol it was made by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import omnitok
from omnitok.cli.alignment import Alignment
from omnitok.cli.compare import Compare
from omnitok.cli.fidelity import Fidelity, Statistics
from omnitok.cli.measuring import MetricsOptions, load_model, parse_names
from omnitok.cli.options import (
    DEFAULT_MODEL,
    ChannelRanges,
    CommonOptions,
    channel_ranges,
    require_models,
    require_paths,
)
from omnitok.cli.report import print_json, print_table

if TYPE_CHECKING:
    import torch

    from omnitok.metrics.results import Results


@dataclass(frozen=True, kw_only=True)
class Reconstruction(MetricsOptions):
    """How well a tokenizer gives the images and videos of a folder back.

    Metrics: psnr, ssim (each frame by itself and then the mean), usage (with perplexity and entropy of the codes),
    lpips (vgg; also lpips_alex, lpips_squeeze), rfid (images), rfvd (videos; also rfvd_styleganv, with StyleGAN-V's
    file), and the proxies fd_mobilenet_v2 and fd_mobilenet_v2_video, which order models but are no FID and no FVD.
    All but the first three need weights (--weights-dir); nothing is ever downloaded.

    On several GPUs: torchrun --nproc-per-node 8 -m omnitok evaluate reconstruction ...
    """

    model: Annotated[str, tyro.conf.arg(metavar="NAME|DIR|CKPT")] = DEFAULT_MODEL
    """The tokenizer: a name that `omnitok models` lists, a folder, or a released checkpoint."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of images, videos or both, or a list (.txt, .csv, .jsonl); each modality is measured by itself."""
    ranges: ChannelRanges = None
    """Values of .npy, TIFF and 16-bit grey files that become -1 and 1, 0:10000 or 0:1,2:9 (default: the model's)."""

    def run(self) -> int:
        """Measure; the exit code."""
        self.check_common()
        metrics = parse_names(self.metrics)
        require_paths(self.data)
        require_models(self.model)
        config = self.config()
        channel_ranges(self.ranges)

        def evaluate(device: torch.device, **shared: Any) -> Results:
            model = load_model(self.model, device, self.ranges)
            return omnitok.metrics.evaluate_reconstruction(model, self.data, metrics, config, **shared)

        return self.measure(self.model, config, evaluate)


@dataclass(frozen=True, kw_only=True)
class Protocols(CommonOptions):
    """Spell out every choice of the protocols. --device and --seed change nothing here."""

    def run(self) -> int:
        """Print them; the exit code."""
        self.check_common()
        described = [protocol.describe() for protocol in omnitok.metrics.PROTOCOLS.values()]
        if self.json:
            print_json(described)
        else:
            choices = [key for key in described[0] if key != "name"]
            rows = [[key, *(str(protocol[key]) for protocol in described)] for key in choices]
            print_table(["choice", *(protocol["name"] for protocol in described)], rows)
        return 0


Action = (
    Annotated[Reconstruction, tyro.conf.subcommand("reconstruction", prefix_name=False)]
    | Annotated[Fidelity, tyro.conf.subcommand("fidelity", prefix_name=False)]
    | Annotated[Alignment, tyro.conf.subcommand("alignment", prefix_name=False)]
    | Annotated[Statistics, tyro.conf.subcommand("statistics", prefix_name=False)]
    | Annotated[Compare, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[Protocols, tyro.conf.subcommand("protocols", prefix_name=False)]
)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure tokenizers and samples: PSNR, SSIM, LPIPS, FID, FVD, IS, KID, precision, recall, usage, alignment."""

    action: Annotated[Action, tyro.conf.arg(name="")]

    def run(self) -> int:
        """Do it; the exit code."""
        return self.action.run()
