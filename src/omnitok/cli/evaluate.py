"""`omnitok evaluate`: the paper's numbers, by name, each with the protocol it was made by."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from omnitok.cli.failures import UsageError
from omnitok.cli.memory import keep_freed_blocks
from omnitok.cli.options import DEFAULT_MODEL, CommonOptions
from omnitok.cli.report import Column, Row, progress_bar, say

if TYPE_CHECKING:
    import torch

    from omnitok.metrics.evaluate import EvaluatedModel, Networks, ReconstructionSettings
    from omnitok.metrics.fidelity import FidelitySettings
    from omnitok.metrics.results import Result
    from omnitok.metrics.sample_sets import Preparation
    from omnitok.metrics.samples import Medium

Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
OutFolder = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
Names = Annotated[str | None, tyro.conf.arg(metavar="A,B,...")]
Pixels = Annotated[int | None, tyro.conf.arg(metavar="PIXELS")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N")]
ProtocolName = Literal["official", "clean"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CommonOptions):
    """What every way of evaluating takes."""

    protocol: ProtocolName = "clean"
    """How numbers are made: official as the authors' released code, clean as recommended; `omnitok evaluate protocols`
    spells both out. Numbers of different protocols cannot be compared."""
    weights_dir: OptionalFolder = None
    """Folder with the weights of LPIPS, Inception, I3D or MobileNetV2 (default: the one OMNITOK_WEIGHTS names)."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Pictures at a time."""

    def begin(self) -> None:
        """Raise UsageError where the options alone make no sense; keep the memory of each batch for the next."""
        self.check_common()
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, found {self.batch_size}")
        keep_freed_blocks()


@contextlib.contextmanager
def _progress(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar's `update`; None, and no bar, where another process has it."""
    if quiet:
        yield None
        return
    with progress_bar(total, what, "file") as bar:
        yield bar.update


def _names(given: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",") if name.strip()) if given is not None else ()
    if given is not None and not names:
        raise UsageError("--metrics names no metric; --help shows them")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class Reconstruction(EvaluateOptions):
    """How well a tokenizer gives the pictures and clips of a folder back.

    Metrics: psnr, ssim (each frame by itself and then the mean), usage (with perplexity and entropy of the codes),
    lpips (vgg; also lpips_alex, lpips_squeeze), rfid (pictures), rfvd (clips; also rfvd_styleganv, with StyleGAN-V's
    file), and the stand-ins fd_mobilenet_v2 and fd_mobilenet_v2_video, which order models but are no FID and no FVD.
    All but the first three need weights (--weights-dir); nothing is ever downloaded.

    On several GPUs: torchrun --nproc-per-node 8 -m omnitok evaluate reconstruction ...
    """

    model: Annotated[str, tyro.conf.arg(metavar="NAME|DIR|CKPT")] = DEFAULT_MODEL
    """The tokenizer: a name that `omnitok models` lists, a folder, or a released checkpoint."""
    data: Folder
    """Folder of pictures, clips or both, or a list (.txt, .csv, .jsonl); each kind is measured by itself."""
    metrics: Names = None
    """Which metrics, in this order (default: psnr,ssim and for quantizers usage)."""
    resolution: Pixels = None
    """Side of pictures and clips (default: the protocol's)."""
    frames: Count = None
    """Frames of each clip (default: the protocol's 17)."""
    out: OutFolder = None
    """Folder for results.json, and for the state of an unfinished run: the same command continues it."""

    def run(self) -> int:
        """Measure; the exit code."""
        self.begin()
        from omnitok.cli.loading import resolve_device
        from omnitok.distributed import join_processes

        metrics = _names(self.metrics)
        with join_processes(resolve_device(self.device)) as processes:
            model = load_evaluated(self.model, processes.device)
            settings = reconstruction_settings(self, metrics or default_metrics(model), self.resolution, self.frames)
            results = measure(model, self.data, settings, self.weights_dir, self.out, quiet=not processes.is_main)
            if processes.is_main:
                show(results, self.json)
                write_results(results, settings.protocol.describe(), self.out)
        return 0


def reconstruction_settings(
    options: EvaluateOptions, metrics: tuple[str, ...], resolution: int | None, frames: int | None
) -> ReconstructionSettings:
    """The settings of these options; UsageError where they make no sense."""
    from omnitok.metrics.evaluate import ReconstructionSettings
    from omnitok.metrics.protocols import PROTOCOLS

    protocol = PROTOCOLS[options.protocol]
    try:
        return ReconstructionSettings(metrics, protocol, resolution, frames, options.seed, options.batch_size)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def load_evaluated(name: str, device: torch.device) -> EvaluatedModel:
    """The tokenizer of that name in float32; OmnitokError where there is none."""
    from omnitok.hub.folder import fingerprint
    from omnitok.hub.names import load_tokenizer
    from omnitok.metrics.evaluate import EvaluatedModel

    tokenizer = load_tokenizer(name, device="cpu")
    return EvaluatedModel(tokenizer.to(device), name, fingerprint(tokenizer))


def default_metrics(model: EvaluatedModel) -> tuple[str, ...]:
    """Those that need no weights."""
    return ("psnr", "ssim", "usage") if model.tokenizer.config.bottleneck == "vq" else ("psnr", "ssim")


def measure(
    model: EvaluatedModel,
    data: Path,
    settings: ReconstructionSettings,
    weights_dir: Path | None,
    state_folder: Path | None,
    quiet: bool = False,
    networks: Networks | None = None,
) -> list[Result]:
    """All metrics over the pictures, then over the clips, of a folder; whatever is missing is said before any work."""
    from omnitok.distributed import shard
    from omnitok.metrics.evaluate import check_reconstruction, evaluate_reconstruction, load_networks, needed_networks
    from omnitok.metrics.samples import files_by_medium

    files = files_by_medium(data)
    check_reconstruction(settings, files, model.tokenizer.config.bottleneck, str(data))
    if networks is None:
        networks = load_networks(needed_networks(settings), weights_dir, model.tokenizer.device)
    results: list[Result] = []
    media: tuple[Medium, ...] = ("image", "video")
    for medium in media:
        if medium not in files or not settings.of_medium(medium):
            continue
        share = len(shard(len(files[medium])))
        with _progress(share, f"{model.name} {medium}s", quiet) as progress:
            results += evaluate_reconstruction(
                model, files[medium], medium, settings, networks, str(data), state_folder, progress
            )
    if not quiet:
        for result in results:
            if result.warning:
                say(f"warning: {result.medium} {result.warning}")
    return results


@dataclass(frozen=True, kw_only=True)
class _SampleOptions(EvaluateOptions):
    """How sets of samples are read."""

    video: bool = False
    """Compare clips instead of pictures."""
    resolution: Pixels = None
    """Bring every sample to this side, as the protocol resizes (default: sizes as they are, which must be equal)."""
    frames: Count = None
    """Frames of each clip (default: the protocol's 17)."""
    samples: Count = None
    """Use so many of each set, drawn by --seed (default: all; of clips at most the protocol's 2048)."""

    def preparation(self) -> Preparation:
        """How samples are read."""
        from omnitok.metrics.protocols import PROTOCOLS
        from omnitok.metrics.sample_sets import Preparation

        for name, value in (("resolution", self.resolution), ("frames", self.frames)):
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, found {value}")
        protocol = PROTOCOLS[self.protocol]
        medium: Medium = "video" if self.video else "image"
        return Preparation(medium, protocol, self.resolution, self.frames or protocol.frames)

    def fidelity_settings(self, metrics: tuple[str, ...]) -> FidelitySettings:
        """What is measured; UsageError where it makes no sense."""
        from omnitok.metrics.fidelity import FidelitySettings
        from omnitok.metrics.protocols import PROTOCOLS

        protocol = PROTOCOLS[self.protocol]
        samples = self.samples if self.samples is not None else protocol.generated_clips if self.video else None
        medium: Medium = "video" if self.video else "image"
        try:
            return FidelitySettings(metrics, protocol, medium, samples, self.seed, self.batch_size)
        except ValueError as error:
            raise UsageError(f"--{error}") from error


@dataclass(frozen=True, kw_only=True)
class Fidelity(_SampleOptions):
    """How near generated (or reconstructed) samples are to real ones.

    Sets are folders or lists of pictures (or with --video of clips), .npz files with uint8 samples in arr_0 as ADM
    writes them, or, for Fréchet distances, .npz files with mu and sigma. Metrics of pictures: fid, is, precision,
    recall, kid, and the stand-in fd_mobilenet_v2; of clips: fvd, fvd_styleganv (the same with StyleGAN-V's file) and
    fd_mobilenet_v2_video; of pairs with the same names: psnr, ssim, lpips, lpips_alex, lpips_squeeze. The networks
    need weights (--weights-dir); nothing is ever downloaded.
    """

    real: Annotated[Path, tyro.conf.arg(metavar="DIR|NPZ")]
    """The reference."""
    fake: Annotated[Path, tyro.conf.arg(metavar="DIR|NPZ")]
    """What is judged."""
    metrics: Names = None
    """Which metrics, in this order (default: fid,is,precision,recall, or with --video fvd)."""
    out: OutFolder = None
    """Folder for results.json, and for the state of an unfinished run: the same command continues it."""

    def run(self) -> int:
        """Measure; the exit code."""
        self.begin()
        metrics = _names(self.metrics) or (("fvd",) if self.video else ("fid", "is", "precision", "recall"))
        from omnitok.cli.loading import resolve_device
        from omnitok.distributed import join_processes
        from omnitok.metrics.evaluate import load_networks
        from omnitok.metrics.fidelity import check_fidelity, evaluate_fidelity, evaluation_total
        from omnitok.metrics.sample_sets import open_samples

        settings, preparation = self.fidelity_settings(metrics), self.preparation()
        with join_processes(resolve_device(self.device)) as processes:
            real, fake = open_samples(self.real, preparation), open_samples(self.fake, preparation)
            check_fidelity(settings, real, fake)
            networks = load_networks(settings.needed_networks(), self.weights_dir, processes.device)
            total = evaluation_total(real, fake, settings) // processes.world_size
            with _progress(total, "samples", quiet=not processes.is_main) as progress:
                results = evaluate_fidelity(real, fake, settings, networks, self.out, progress)
            if processes.is_main:
                for result in results:
                    if result.warning:
                        say(f"warning: {result.warning}")
                show(results, self.json)
                write_results(results, settings.protocol.describe(), self.out)
        return 0


@dataclass(frozen=True, kw_only=True)
class Statistics(_SampleOptions):
    """Compute the statistics of a set once; `evaluate fidelity --real FILE.npz` then needs the set no more."""

    data: Annotated[Path, tyro.conf.arg(metavar="DIR|NPZ")]
    """Folder of pictures (with --video of clips), or an .npz with samples."""
    metric: Literal["fid", "fd_mobilenet_v2", "fvd", "fvd_styleganv", "fd_mobilenet_v2_video"] | None = None
    """Which Fréchet distance they are for (default: fid, or with --video fvd)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="NPZ")] = Path("statistics.npz")
    """The file to write: mu and sigma, as pytorch-fid and ADM name them, with n and the network beside them."""
    state_dir: OptionalFolder = None
    """Folder for the state of an unfinished run: the same command continues it."""

    def run(self) -> int:
        """Compute and save; the exit code."""
        self.begin()
        if self.out.suffix != ".npz":
            raise UsageError(f"--out must end in .npz, found {self.out}")
        metric = self.metric or ("fvd" if self.video else "fid")
        from omnitok.cli.loading import resolve_device
        from omnitok.distributed import join_processes
        from omnitok.metrics import save_statistics
        from omnitok.metrics.evaluate import load_networks
        from omnitok.metrics.fidelity import chosen_count, compute_statistics
        from omnitok.metrics.sample_sets import open_samples

        settings = self.fidelity_settings((metric,))
        with join_processes(resolve_device(self.device)) as processes:
            samples = open_samples(self.data, self.preparation())
            networks = load_networks(settings.needed_networks(), self.weights_dir, processes.device)
            network = networks.features[metric]
            total = chosen_count(samples, settings) // processes.world_size
            with _progress(total, "samples", quiet=not processes.is_main) as progress:
                statistics = compute_statistics(samples, network, settings, self.state_dir, progress)
            if processes.is_main:
                save_statistics(self.out, statistics)
                row = {"output": str(self.out), "n": statistics.n, "network": network.identity, "metric": metric}
                print(
                    json.dumps(row, indent=2) if self.json else f"{statistics.n} samples of {self.data} -> {self.out}"
                )
        return 0


@dataclass(frozen=True, kw_only=True)
class Compare(EvaluateOptions):
    """Measure several tokenizers on one set: a table, side-by-side pictures and an HTML report.

    OUT gets results.json, table.md, pictures/ (the original and every model's result next to each other; of clips the
    middle frame) and report.html, which holds its pictures itself and asks no other host for anything.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """Tokenizers, as for `evaluate reconstruction`."""
    data: Folder
    """Folder of pictures, clips or both."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("omnitok-comparison")
    """Folder for everything."""
    metrics: Names = None
    """As for `evaluate reconstruction` (default: psnr,ssim)."""
    resolution: Pixels = None
    """Side of pictures and clips (default: the protocol's)."""
    frames: Count = None
    """Frames of each clip (default: the protocol's 17)."""
    pictures: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """So many pictures, and as many clips, are shown side by side."""

    def run(self) -> int:
        """Measure and write; the exit code."""
        self.begin()
        if not self.models:
            raise UsageError("give at least one model; `omnitok models` lists them")
        if self.pictures < 0:
            raise UsageError(f"--pictures must be at least 0, found {self.pictures}")
        metrics = _names(self.metrics) or ("psnr", "ssim")
        from omnitok.cli.comparison import side_by_side, write_report
        from omnitok.cli.loading import resolve_device
        from omnitok.metrics.evaluate import load_networks, needed_networks
        from omnitok.metrics.samples import files_by_medium

        device = resolve_device(self.device)
        settings = reconstruction_settings(self, metrics, self.resolution, self.frames)
        files = files_by_medium(self.data)
        models = [load_evaluated(name, device) for name in dict.fromkeys(self.models)]
        networks = load_networks(needed_networks(settings), self.weights_dir, device)
        results: list[Result] = []
        for model in models:
            results += measure(model, self.data, settings, self.weights_dir, self.out, networks=networks)
        shown = side_by_side(models, files, settings, self.out / "pictures", self.pictures)
        write_results(results, settings.protocol.describe(), self.out)
        write_report(results, settings.protocol.describe(), shown, self.out)
        show(results, self.json)
        say(f"the report is {self.out / 'report.html'}")
        return 0


COLUMNS = (
    Column("of", lambda row: row["medium"]),
    Column("model", lambda row: Path(row["model"]).name if row["model"] else "-"),
    Column("value", lambda row: "inf or -" if row["value"] is None else f"{row['value']:.5g}"),
    Column("±", lambda row: "-" if row["spread"] is None else f"{row['spread']:.2g}"),
    Column("n", lambda row: str(row["n"])),
    Column("size", lambda row: _size(row)),
    Column("protocol", lambda row: row["protocol"]),
    Column("network", lambda row: row["network"] or "-"),
)


def _size(row: Row) -> str:
    side = "own" if row["resolution"] is None else str(row["resolution"])
    return side if row["frames"] == 1 else f"{row['frames']}x{side}"


def show(results: list[Result], as_json: bool) -> None:
    """The rows as a table, or as JSON on stdout."""
    from omnitok.cli.report import Report

    rows = [result.row() for result in results]
    report = Report(COLUMNS, as_json, name_key="metric")
    for row in rows:
        report.add(row)
    protocols = sorted({row["protocol"] for row in rows})
    report.finish(f"`omnitok evaluate protocols` spells out what {' and '.join(protocols)} means")


def write_results(results: list[Result], protocol: dict[str, Any], out: Path | None) -> None:
    """results.json in OUT: the rows, and the protocol with every choice."""
    if out is None:
        return
    from omnitok.atomic import atomic_path

    with atomic_path(out / "results.json") as temporary:
        content = {"results": [result.row() for result in results], "protocol": protocol}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Protocols(CommonOptions):
    """Spell out every choice of the protocols. --device and --seed change nothing here."""

    def run(self) -> int:
        """Print them; the exit code."""
        self.check_common()
        from omnitok.metrics.protocols import PROTOCOLS

        described = {name: protocol.describe() for name, protocol in PROTOCOLS.items()}
        if self.json:
            print(json.dumps(list(described.values()), indent=2))
            return 0
        width = max(len(key) for key in described["official"])
        print("  ".join(["choice".ljust(width), *(name.ljust(28) for name in described)]).rstrip())
        for key in described["official"]:
            if key != "name":
                cells = (str(choices[key]).ljust(28) for choices in described.values())
                print("  ".join([key.ljust(width), *cells]).rstrip())
        return 0


Action = (
    Annotated[Reconstruction, tyro.conf.subcommand("reconstruction", prefix_name=False)]
    | Annotated[Fidelity, tyro.conf.subcommand("fidelity", prefix_name=False)]
    | Annotated[Statistics, tyro.conf.subcommand("statistics", prefix_name=False)]
    | Annotated[Compare, tyro.conf.subcommand("compare", prefix_name=False)]
    | Annotated[Protocols, tyro.conf.subcommand("protocols", prefix_name=False)]
)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure tokenizers and samples: PSNR, SSIM, LPIPS, FID, FVD, IS, KID, precision, recall, codebook usage."""

    action: Annotated[Action, tyro.conf.arg(name="")]

    def run(self) -> int:
        """Do it; the exit code."""
        return self.action.run()
