"""curves.png: what log.jsonl says of a training, as one picture drawn with Pillow."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from omnitok.atomic import atomic_path

_PANEL, _MARGIN = (420, 200), 46
_COLUMNS, _MOST = 3, 12
_COLOURS = {"image": (31, 119, 180), "video": (214, 84, 10), "run": (44, 140, 60)}
_FIRST = ("loss", "psnr", "l1", "l2", "log_l2", "perceptual", "grad_norm", "codebook_window_usage", "lr")
_NOT_DRAWN = {"step", "seconds", "resolution", "failures", "skipped", "event", "modality", "tflops", "mfu"}

Points = dict[str, list[tuple[int, float]]]


def write_curves(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each number of the log over the steps, a line per modality; nothing where there are none.

    Args:
        rows: of log.jsonl.
        path: of a PNG, replaced.
    """
    panels = _collect(rows)
    names = [name for name in _FIRST if name in panels] + [name for name in panels if name not in _FIRST]
    names = names[:_MOST]
    if not names:
        return
    columns = min(_COLUMNS, len(names))
    lines = -(-len(names) // columns)
    canvas = Image.new("RGB", (columns * _PANEL[0], lines * _PANEL[1]), "white")
    for number, name in enumerate(names):
        panel = _draw(name, panels[name])
        canvas.paste(panel, (number % columns * _PANEL[0], number // columns * _PANEL[1]))
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG")


def _collect(rows: Iterable[dict[str, Any]]) -> dict[str, Points]:
    """Number of the log -> modality -> (step, value); scores of validations are of the whole run."""
    panels: dict[str, Points] = {}
    for row in rows:
        line = str(row.get("modality", "run"))
        for name, value in row.items():
            if _is_number(value) and name not in _NOT_DRAWN and not name.endswith("_per_second"):
                panels.setdefault(name, {}).setdefault(line, []).append((row["step"], float(value)))
    return panels


def _is_number(value: Any) -> bool:
    """Whether there is a place for it on an axis; logs may be damaged."""
    return math.isfinite(value) if isinstance(value, float) else type(value) is int and abs(value) < 2**53


def _draw(name: str, lines: Points) -> Image.Image:
    panel = Image.new("RGB", _PANEL, "white")
    draw = ImageDraw.Draw(panel)
    steps, values = zip(*(point for points in lines.values() for point in points), strict=True)
    across = _scale(steps, _MARGIN, _PANEL[0] - 12)
    up = _scale(values, _PANEL[1] - 26, 26)
    draw.rectangle((_MARGIN, 26, _PANEL[0] - 12, _PANEL[1] - 26), outline=(200, 200, 200))
    draw.text((_MARGIN, 8), name, fill="black")
    for value in (min(values), max(values)):
        draw.text((4, up(value) - 6), f"{value:.3g}", fill=(90, 90, 90))
    for step, place in ((min(steps), _MARGIN), (max(steps), _PANEL[0] - 60)):
        draw.text((place, _PANEL[1] - 20), str(step), fill=(90, 90, 90))
    for number, (line, points) in enumerate(lines.items()):
        colour = _COLOURS.get(line, "black")
        path = [(across(step), up(value)) for step, value in points]
        if len(path) > 1:
            draw.line(path, fill=colour, width=2)
        else:
            draw.ellipse((path[0][0] - 2, path[0][1] - 2, path[0][0] + 2, path[0][1] + 2), fill=colour)
        draw.text((_PANEL[0] - 60 * (len(lines) - number) - 4, 8), line, fill=colour)
    return panel


def _scale(values: Sequence[float], first: float, last: float) -> Any:
    """The straight line that takes the least of the values to `first` and the greatest to `last`."""
    least, span = min(values), (max(values) - min(values)) or 1.0
    return lambda value: first + (value - least) / span * (last - first)
