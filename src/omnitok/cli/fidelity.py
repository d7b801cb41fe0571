"""`omnitok evaluate fidelity` and `evaluate statistics`: sets of samples against one another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

import omnitok
from omnitok.cli.failures import UsageError
from omnitok.cli.measuring import Count, EvaluateOptions, MetricsOptions, OptionalFolder, parse_names
from omnitok.cli.options import SAID, require_paths
from omnitok.cli.report import print_json, renamed

if TYPE_CHECKING:
    from omnitok.data.modality import Modality


@dataclass(frozen=True, kw_only=True)
class _SampleOptions(EvaluateOptions):
    """How sets of samples are read."""

    video: bool = False
    """Compare videos instead of images."""
    samples: Annotated[Count, SAID] = None
    """Use so many of each set, drawn by --seed (default: all; of videos at most the protocol's 2048)."""

    @property
    def modality(self) -> Modality:
        """What the samples are."""
        return "video" if self.video else "image"


@dataclass(frozen=True, kw_only=True)
class Fidelity(MetricsOptions, _SampleOptions):
    """How close generated (or reconstructed) samples are to real ones.

    Sets are folders or lists of images (or with --video of videos), .npz files with uint8 samples in arr_0 as ADM
    writes them, or, for Fréchet distances, .npz files with mu and sigma. Metrics of images: fid, is, precision,
    recall, kid, and the proxy fd_mobilenet_v2; of videos: fvd, fvd_styleganv (the same with StyleGAN-V's file) and
    fd_mobilenet_v2_video; of pairs with the same names: psnr, ssim, lpips, lpips_alex, lpips_squeeze. The networks
    need weights (--weights-dir); nothing is ever downloaded.
    """

    real: Annotated[Path, tyro.conf.arg(metavar="DIR|NPZ")]
    """The reference."""
    fake: Annotated[Path, tyro.conf.arg(metavar="DIR|NPZ")]
    """The samples to judge; of a folder that `omnitok generate` wrote, the samples without the grid."""

    def run(self) -> int:
        """Measure; the exit code."""
        self.check_common()
        metrics = parse_names(self.metrics)
        require_paths(self.real, self.fake)
        config = self.config(self.samples)
        sets = (self.real, self.fake)
        evaluate = partial(omnitok.metrics.evaluate_fidelity, *sets, metrics, config, modality=self.modality)
        return self.measure("samples", config, evaluate)


@dataclass(frozen=True, kw_only=True)
class Statistics(_SampleOptions):
    """Compute the statistics of a set once; `evaluate fidelity --real FILE.npz` then no longer needs the set."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIR|NPZ")]
    """Folder of images (with --video of videos), or an .npz with samples."""
    metric: Annotated[
        Literal["fid", "fd_mobilenet_v2", "fvd", "fvd_styleganv", "fd_mobilenet_v2_video"] | None, SAID
    ] = None
    """Which Fréchet distance they are for (default: fid, or with --video fvd)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="NPZ")] = Path("statistics.npz")
    """The file to write: mu and sigma, as pytorch-fid and ADM name them, with n and the network beside them."""
    state_dir: OptionalFolder = None
    """Folder for the state of an unfinished run: the same command continues it."""

    def run(self) -> int:
        """Compute and save; the exit code."""
        self.check_common()
        if self.out.suffix != ".npz":
            raise UsageError(f"--out must end in .npz, found {self.out}")
        metric = self.metric or ("fvd" if self.video else "fid")
        require_paths(self.data)
        config = self.config(self.samples)
        with self.measuring("samples") as (processes, advance):
            statistics = omnitok.metrics.compute_statistics(
                self.data,
                metric,
                config,
                modality=self.modality,
                weights_dir=self.weights_dir,
                device=processes.device,
                state_folder=self.state_dir,
                progress=advance,
            )
        if processes.is_main:
            omnitok.metrics.save_statistics(self.out, statistics)
            row = {"output": str(self.out), "n": statistics.n, "network": statistics.network, "metric": metric}
            told = f"{statistics.n} samples of {self.data} -> {self.out}"
            if self.json:
                print_json(row)
            else:
                print(renamed(told))
        return 0
