"""Pictures of several tokenizers next to each other, and a report in one HTML file that needs nothing else."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.data import write_image
from omnitok.metrics.evaluate import EvaluatedModel, ReconstructionSettings
from omnitok.metrics.psnr import psnr
from omnitok.metrics.results import Result
from omnitok.metrics.samples import Medium, load_clip, load_picture

_GAP = 4  # white pixels between two pictures


@dataclass(frozen=True)
class Shown:
    """A written picture: the original and one result a model, from left to right."""

    path: Path
    source: str
    captions: tuple[str, ...]


@torch.no_grad()
def side_by_side(
    models: Sequence[EvaluatedModel],
    files: Mapping[Medium, Sequence[Path]],
    settings: ReconstructionSettings,
    folder: Path,
    count: int,
) -> list[Shown]:
    """Write a PNG for each of the first `count` pictures and of the first `count` clips (their middle frame)."""
    shown = []
    for medium in files:
        for number, path in enumerate(files[medium][:count]):
            original = _load(path, medium, settings)[None]
            strips, captions = [_frame(original)], ["original"]
            for model in models:
                result = model.tokenizer(original.to(model.tokenizer.device)).float().clamp(-1, 1).cpu()
                strips.append(_frame(result))
                captions.append(f"{_short(model.name)}: {psnr(_frame(original)[None], _frame(result)[None]):.2f} dB")
            target = folder / f"{medium}-{number:03d}-{path.stem}.png"
            write_image(target, _row(strips))
            shown.append(Shown(target, path.name, tuple(captions)))
    return shown


def _load(path: Path, medium: Medium, settings: ReconstructionSettings) -> Tensor:
    if medium == "image":
        return load_picture(path, settings.size_of(medium), settings.protocol)
    return load_clip(path, settings.clip_frames, settings.size_of(medium), settings.protocol)


def _frame(sample: Tensor) -> Tensor:
    """(1, 3, H, W) or the middle of (1, 3, T, H, W) → (3, H, W)."""
    return sample[0] if sample.ndim == 4 else sample[0, :, sample.shape[2] // 2]


def _row(pictures: Sequence[Tensor]) -> Tensor:
    gap = torch.ones(3, pictures[0].shape[1], _GAP)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return torch.cat(parts, dim=2)


def _short(name: str) -> str:
    return Path(name).name or name


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows, one a model; a column for each metric and medium."""
    columns = list(dict.fromkeys((result.metric, result.medium) for result in results))
    models = list(dict.fromkeys((result.model or "", result.model_sha256 or "") for result in results))
    values = {(r.model, r.model_sha256, r.metric, r.medium): _value(r) for r in results}
    titles = ["model", "sha256", *(f"{metric} ({medium}s)" for metric, medium in columns)]
    rows = [
        [_short(name), sha256[:12], *(values.get((name, sha256, *column), "-") for column in columns)]
        for name, sha256 in models
    ]
    return titles, rows


def _value(result: Result) -> str:
    spread = f" ± {result.spread:.2g}" if result.row()["spread"] is not None else ""
    return f"{result.value:.5g}{spread}"


def write_report(results: Sequence[Result], protocol: Mapping[str, Any], shown: Sequence[Shown], out: Path) -> None:
    """table.md and report.html in OUT."""
    titles, rows = table(results)
    with atomic_path(out / "table.md") as temporary:
        lines = [titles, ["---"] * len(titles), *rows]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        temporary.write_text(f"{text}\n{_conditions(results)}\n", encoding="utf-8", errors="backslashreplace")
    with atomic_path(out / "report.html") as temporary:
        page = _page(results, titles, rows, protocol, shown)
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _conditions(results: Sequence[Result]) -> str:
    sets = dict.fromkeys((r.n, r.medium, r.frames, r.resolution) for r in results)
    counted = "; ".join(
        f"{n} {'pictures' if medium == 'image' else f'clips of {frames} frames'} at {resolution} pixels"
        for n, medium, frames, resolution in sets
    )
    return f"Protocol {results[0].protocol}: {counted}. omnitok {results[0].version}, seed {results[0].seed}."


def _page(
    results: Sequence[Result],
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    protocol: Mapping[str, Any],
    shown: Sequence[Shown],
) -> str:
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#222}"
        "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.3em .7em;text-align:left}"
        "th{background:#f3f3f3}figure{margin:1.5em 0}img{max-width:100%}figcaption{color:#555}"
    )
    warnings = dict.fromkeys(f"{r.medium} {r.warning}" for r in results if r.warning)
    choices = [[key, str(value)] for key, value in protocol.items()]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>omnitok: tokenizers compared</title>",
        f"<style>{style}</style></head><body><h1>Tokenizers compared</h1>",
        f"<p>{html.escape(_conditions(results))} Data: {html.escape(results[0].data or '')}.</p>",
        _html_table(titles, rows),
        *(f"<p>Warning: {html.escape(warning)}.</p>" for warning in warnings),
        "<h2>Side by side</h2>" if shown else "",
        *(_figure(picture) for picture in shown),
        f"<details><summary>The protocol</summary>{_html_table(['choice', 'value'], choices)}</details>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _figure(shown: Shown) -> str:
    data = base64.b64encode(shown.path.read_bytes()).decode()
    caption = html.escape(f"{shown.source} — " + " | ".join(shown.captions))
    alternative = html.escape(shown.source, quote=True)
    image = f"<img alt='{alternative}' src='data:image/png;base64,{data}'>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _html_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
