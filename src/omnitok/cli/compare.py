"""`omnitok compare` (also `omnitok evaluate compare`): several tokenizers on one set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

import omnitok
from omnitok.atomic import atomic_path
from omnitok.cli.failures import UsageError
from omnitok.cli.measuring import MetricsOptions, load_model, parse_names, short_names, show_results
from omnitok.cli.options import require_models, require_paths
from omnitok.cli.report import say

if TYPE_CHECKING:
    from torch import Tensor

    from omnitok.metrics import EvaluatedModel, EvaluationConfig, Result


@dataclass(frozen=True, kw_only=True)
class Compare(MetricsOptions):
    """Measure several tokenizers on one set: a table, and images side by side.

    OUT gets results.json, the folder pictures/ (every original next to all models' results; of a video the middle
    frame), and table.md, which shows the table and these images.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """Tokenizers, as for `evaluate reconstruction`."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of images, videos or both."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("omnitok-comparison")
    """Folder or URL for the results."""
    pictures: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """How many images, and how many videos, to show side by side."""

    def run(self) -> int:
        """Measure and write; the exit code."""
        self.check_common()
        if self.pictures < 0:
            raise UsageError(f"--pictures must be at least 0, found {self.pictures}")
        require_paths(self.data)
        names, models = self.metrics, self.models
        if not models:  # they may have come after the names of metrics
            split = next((i for i, part in enumerate(names) if not omnitok.metrics.is_metric(part)), len(names))
            names, models = names[:split], names[split:]
        metrics = parse_names(names) or ("psnr", "ssim")
        if not models:
            raise UsageError("give at least one model; `omnitok models` lists them")
        require_models(*models)
        config = self.config()
        results: list[Result] = []
        with self.measuring("models") as (processes, advance):
            loaded = [load_model(name, processes.device) for name in dict.fromkeys(models)]
            chosen = omnitok.metrics.check_metrics(metrics, "reconstruction")
            needed = omnitok.metrics.networks_for(chosen, config.protocol)
            networks = omnitok.metrics.load_networks(needed, self.weights_dir, processes.device)
            for model in loaded:
                results += omnitok.metrics.evaluate_reconstruction(
                    model, self.data, chosen, config, networks=networks, state_folder=self.out, progress=advance
                )
        if not processes.is_main:
            return 0
        shown = self._side_by_side(loaded, config)
        self._write_table(results, shown)
        show_results(results, config.protocol, self.out, self.json)
        say(f"the table and the images are in {self.out / 'table.md'}")
        return 0

    def _side_by_side(self, models: Sequence[EvaluatedModel], config: EvaluationConfig) -> list[tuple[Path, str]]:
        """A PNG, and its caption, for each of the first images and of the first videos (their middle frame)."""
        names = short_names([model.name for model in models])
        shown: list[tuple[Path, str]] = []
        for modality, files in omnitok.metrics.files_by_modality(self.data).items():
            for number, file in enumerate(files[: self.pictures]):
                frames: list[Tensor] = []
                captions = [f"{file.name}: original"]
                for model in models:
                    original, result = omnitok.metrics.reconstruct_frame(model, file, modality, config)
                    frames = frames or [original]
                    decibels = omnitok.metrics.psnr(original[None], result[None])
                    frames.append(result)
                    captions.append(f"{names[model.name]}: {decibels:.2f} dB")
                target = self.out / "pictures" / f"{modality}-{number:03d}-{file.stem}.png"
                omnitok.data.write_image(target, omnitok.metrics.side_by_side(frames))
                shown.append((target, " | ".join(captions)))
        return shown

    def _write_table(self, results: Sequence[Result], shown: Sequence[tuple[Path, str]]) -> None:
        """table.md: a row per model, a column per metric and modality, the conditions, the images."""
        columns = list(dict.fromkeys((result.metric, result.modality) for result in results))
        names = short_names([result.model or "-" for result in results])
        rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
        for result in results:
            spread = f" ± {result.spread:.2g}" if result.row()["spread"] is not None else ""
            row = rows.setdefault((names[result.model or "-"], (result.model_sha256 or "")[:12]), {})
            row[result.metric, result.modality] = f"{result.value:.5g}{spread}"
        titles = ["model", "sha256", *(f"{metric} ({modality}s)" for metric, modality in columns)]
        lines = [titles, ["---"] * len(titles)]
        lines += [[*model, *(row.get(column, "-") for column in columns)] for model, row in rows.items()]
        counted = dict.fromkeys((r.n, r.modality, r.frames, r.resolution) for r in results)
        first, sets = results[0], [f"{n} {kind}s ({frames}x{side}x{side})" for n, kind, frames, side in counted]
        text = [f"| {' | '.join(line)} |" for line in lines]
        text += ["", f"Protocol {first.protocol}: {'; '.join(sets)}. omnitok {first.version}, seed {first.seed}.", ""]
        for path, caption in shown:
            text += [f"![{caption}](pictures/{path.name})", "", caption, ""]
        with atomic_path(self.out / "table.md") as temporary:
            temporary.write_text("\n".join(text), encoding="utf-8")
