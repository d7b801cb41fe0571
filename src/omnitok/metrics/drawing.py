"""What a comparison shows: results side by side with maps of their errors, tokens, and rate-distortion plots.

Drawn with Pillow, which is there anyway; a plotting library would be the largest package of the installation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.data.pil import token_colours as token_colours
from omnitok.data.pixel_format import as_color
from omnitok.metrics.samples import from_uint8, to_uint8

GAIN = 5
"""Errors are shown so many times as large as they are."""

_GAP, _LEAST_WIDTH, _LINE = 6, 220, 17  # pixels: between panels, of a panel with its caption, of a line of text
_SQUARE = 8  # pixels: of the checkerboard behind what is transparent
_FONT = ImageFont.load_default(13)
_PANEL, _LEFT, _EDGE = (620, 420), 64, 34  # pixels: of a plot, left of its axes, and around them else
_COLOURS = ("#1f77b4", "#d6540a", "#2c8c3c", "#9467bd", "#8c564b", "#c23b80", "#6a7f10", "#17a0b4")
_GREY, _LIGHT, _GREYS = "#606060", "#dddddd", ("#555555", "#999999")


def side_by_side(original: Tensor, results: Sequence[Tensor], captions: Sequence[str]) -> Tensor:
    """An original and what became of it, from left to right, above maps of the errors.

    Args:
        original, results: uint8 (C, T, H, W); an image has one frame. Errors are those of all channels; of four, alpha
            is seen by the checkerboard behind them, and of other numbers three are seen.
        captions: of each of them; lines are separated by newlines.

    Returns:
        (3, T, H', W') in [-1, 1].
    """
    scale = math.ceil(_LEAST_WIDTH / original.shape[-1])  # small ones are enlarged, pixel by pixel
    enlarged = [x.repeat_interleave(scale, -2).repeat_interleave(scale, -1) for x in (original, *results)]
    width = enlarged[0].shape[-1]
    nothing = torch.full((3, *enlarged[0].shape[1:]), 255, dtype=torch.uint8)
    maps = [nothing, *(error_map(enlarged[0], x) for x in enlarged[1:])]
    lines = 1 + max(caption.count("\n") for caption in captions)
    columns = []
    panels = [_visible(x) for x in enlarged]
    for panel, error, caption in zip(panels, maps, captions, strict=True):
        title = _text(caption, width, lines * _LINE + 4)
        below = _text(f"error x {GAIN}" if panel is not panels[0] else "", width, _LINE + 4)
        parts = [x.expand(-1, panel.shape[1], -1, -1) for x in (title[:, None], panel, below[:, None], error)]
        columns += [torch.full((3, panel.shape[1], sum(x.shape[2] for x in parts), _GAP), 255, dtype=torch.uint8)]
        columns += [torch.cat(parts, dim=2)]
    return from_uint8(torch.cat(columns[1:], dim=3))


def error_map(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of all channels of uint8 (C, T, H, W): uint8 (3, T, H, W), black, red, yellow, white as
    it grows.

    White is 1 / `GAIN` of the range and more.
    """
    heat = GAIN * (a.float() - b.float()).abs().mean(0) / 255  # (T, H, W)
    return (torch.stack([3 * heat, 3 * heat - 1, 3 * heat - 2]).clamp(0, 1) * 255).round().byte()


def _visible(pixels: Tensor) -> Tensor:
    """uint8 (C, T, H, W) in colour, uint8 (3, T, H, W): with alpha, over a checkerboard."""
    if len(pixels) != 4:
        return to_uint8(as_color(from_uint8(pixels)))
    color, alpha = pixels.float().split([3, 1])
    rows, columns = (torch.arange(side) // _SQUARE for side in pixels.shape[-2:])
    board = 255 - 64 * ((rows[:, None] + columns) % 2)
    return (board + (color - board) * alpha / 255).round().byte()


def _text(text: str, width: int, height: int) -> Tensor:
    """uint8 (3, height, width): black on white, each line cut to the width."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(text.split("\n")):
        while draw.textlength(line, _FONT) > width - 4:
            line = line.removesuffix("…")[:-1] + "…"
        draw.text((2, 1 + number * _LINE), line, fill="black", font=_FONT)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@dataclass(frozen=True)
class Plot:
    """Quality over bits per pixel: curves of codecs, points of tokenizers; each name -> (bits per pixel, value)."""

    title: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    points: Mapping[str, tuple[float, float]]


def write_plots(plots: Sequence[Plot], path: Path) -> None:
    """Draw the plots two by two into one PNG; values that are not finite are left out."""
    plots = plots or [Plot("nothing to plot", {}, {})]
    columns = min(2, len(plots))
    canvas = Image.new("RGB", (columns * _PANEL[0], -(-len(plots) // columns) * _PANEL[1]), "white")
    for number, plot in enumerate(plots):
        canvas.paste(_draw(plot), (number % columns * _PANEL[0], number // columns * _PANEL[1]))
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG", optimize=True)


def _draw(plot: Plot) -> Image.Image:
    curves = {name: [point for point in points if math.isfinite(point[1])] for name, points in plot.curves.items()}
    points = {name: point for name, point in plot.points.items() if math.isfinite(point[1])}
    everything = [*(point for curve in curves.values() for point in curve), *points.values()]
    panel = Image.new("RGB", _PANEL, "white")
    draw = ImageDraw.Draw(panel)
    draw.text((_LEFT, 8), plot.title, fill="black", font=_FONT)
    if not everything:
        return panel
    rates, values = [math.log10(rate) for rate, _ in everything], [value for _, value in everything]
    low, high, bottom, top = min(rates) - 0.08, max(rates) + 0.08, min(values), max(values)
    margin = 0.06 * (top - bottom) or 1
    bottom, top = bottom - margin, top + margin
    box = (_LEFT, _EDGE, _PANEL[0] - _EDGE, _PANEL[1] - _EDGE - 14)

    def place(rate: float, value: float) -> tuple[float, float]:
        across, up = (math.log10(rate) - low) / (high - low), (value - bottom) / (top - bottom)
        return box[0] + across * (box[2] - box[0]), box[3] - up * (box[3] - box[1])

    for rate in (digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)):
        if low <= math.log10(rate) <= high:
            x, _ = place(rate, bottom)
            draw.line((x, box[1], x, box[3]), fill=_LIGHT)
            draw.text((x, box[3] + 3), f"{rate:g}", fill=_GREY, font=_FONT, anchor="ma")
    for value in _ticks(bottom, top):
        _, y = place(10**low, value)
        draw.line((box[0], y, box[2], y), fill=_LIGHT)
        draw.text((box[0] - 5, y), f"{value:g}", fill=_GREY, font=_FONT, anchor="rm")
    draw.rectangle(box, outline=_GREY)
    draw.text(((box[0] + box[2]) / 2, box[3] + 20), "bits per pixel", fill=_GREY, font=_FONT, anchor="ma")
    colours = dict(zip(points, _COLOURS * len(points), strict=False)) | dict(zip(curves, _GREYS, strict=False))
    labels: list[tuple[float, float, float, float]] = []
    for number, (name, curve) in enumerate(curves.items()):
        if path := [place(*point) for point in curve]:
            draw.line(path, fill=colours[name], width=2)
            _label(draw, name, path[0 if number else -1], colours[name], box, labels)
    for name, point in points.items():
        x, y = place(*point)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colours[name])
        _label(draw, name, (x, y), colours[name], box, labels)
    return panel


def _ticks(low: float, high: float) -> list[float]:
    """About six round numbers."""
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= (high - low) / 6)
    return [round(number * step, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _label(
    draw: ImageDraw.ImageDraw,
    text: str,
    at: tuple[float, float],
    colour: str,
    box: tuple[int, int, int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Write beside a point, inside of the axes, and where nothing is written yet."""
    width = draw.textlength(text, _FONT)
    x = at[0] + 9 if at[0] + 9 + width < box[2] else at[0] - 9 - width
    for offset in (0, 15, -15, 30, -30, 45, -45, 60, -60):
        y = min(max(at[1] - 8 + offset, box[1] + 1), box[3] - 17)
        if not any(x < right and left < x + width and y < low and high < y + 15 for left, high, right, low in taken):
            break
    taken.append((x, y, x + width, y + 15))
    draw.text((x, y), text, fill=colour, font=_FONT)
