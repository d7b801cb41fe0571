"""Drawn images: what cameras rarely see and screens are full of, made by a seeded function rather than read from files.

Photographs never have a black field with white letters, or stripes of full contrast, so a tokenizer that was trained on
photographs alone may do anything there. Training mixes these images in (`DataConfig.drawn`), and `drawn_set` is what
tokenizers are measured on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]
Random = np.random.Generator

_LETTERS = list("aaabcdeeefghiiijklmnnoooprrssstttuuvwyzABCDEFGHKLMNPRSTW0123456789.,:;-()")
_CODE = list("aabcdeefghiijlmnoprsttuvwxyz_0123456789(){}[]=+-*/<>:;.,'\"#")


# -------------------------------------------------------------------------------------------------------------- kinds
#
# Each takes a random generator and a side in pixels, and gives an RGB image of that side.


def _flat(rng: Random, side: int) -> Image.Image:
    """One colour, or a few areas of one colour each."""
    image = Image.new("RGB", (side, side), _colour(rng))
    if rng.random() < 0.5:
        draw = ImageDraw.Draw(image)
        for _ in range(rng.integers(1, 5)):
            draw.rectangle(_box(rng, side), fill=_colour(rng))
    return image


def _gradient(rng: Random, side: int) -> Image.Image:
    """A linear or radial passage between two colours."""
    y, x = np.mgrid[:side, :side] / max(side - 1, 1)
    if rng.random() < 0.7:
        angle = rng.uniform(0, 2 * np.pi)
        place = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    else:
        place = np.hypot(x - rng.random(), y - rng.random())
    place = (place - place.min()) / max(np.ptp(place), 1e-9)
    return _blend(place, _colour(rng), _colour(rng))


def _text(rng: Random, side: int) -> Image.Image:
    """Lines of letters, dark on light or light on dark."""
    image, draw, front = _canvas(rng, side)
    _write(rng, draw, (0, 0, side, side), front, int(np.exp(rng.uniform(np.log(9), np.log(40)))))
    return image


def _print(rng: Random, side: int) -> Image.Image:
    """Lines of letters of 12 to 15 pixels, the smallest that can be kept and the last to be learned."""
    image, draw, front = _canvas(rng, side)
    _write(rng, draw, (0, 0, side, side), front, int(rng.integers(12, 16)))
    return image


def _sign(rng: Random, side: int) -> Image.Image:
    """Few large letters, some of them bold."""
    image, draw, front = _canvas(rng, side)
    size = int(rng.integers(side // 6 + 8, side // 2 + 9))
    for row in range(-int(rng.integers(size)), side, size + size // 5):
        left = -int(rng.integers(size))
        draw.text((left, row), _word(rng, 8), front, _font(size), stroke_width=int(rng.integers(3)))
    return image


def _screen(rng: Random, side: int) -> Image.Image:
    """Windows with title bars, buttons and small text, on a flat desktop."""
    dark = rng.random() < 0.5
    image = Image.new("RGB", (side, side), _gray(rng, 10, 60) if dark else _gray(rng, 180, 255))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        left, top, right, bottom = _box(rng, side, side // 3)
        front = _gray(rng, 190, 255) if dark else _gray(rng, 0, 60)
        draw.rectangle((left, top, right, bottom), _gray(rng, 0, 50) if dark else (255, 255, 255), _gray(rng, 90, 160))
        bar = int(rng.integers(10, 20))
        draw.rectangle((left, top, right, min(top + bar, bottom)), _colour(rng))
        draw.text((left + 4, top), _word(rng, 12), (255, 255, 255), _font(bar - 2))
        size = int(rng.integers(9, 16))
        _write(rng, draw, (left + 4, top + bar + 3, right - 4, bottom - 4), front, size, _CODE, indent=True)
        for _ in range(rng.integers(0, 4)):
            x, y = rng.integers(left, max(right - 20, left + 1)), rng.integers(top, max(bottom - 10, top + 1))
            draw.rounded_rectangle((int(x), int(y), int(x) + 24, int(y) + 12), 4, _colour(rng), front)
    return image


def _lines(rng: Random, side: int) -> Image.Image:
    """Line art: strokes, circles, polygons and curves of 1 to 8 pixels."""
    image, draw, front = _canvas(rng, side)
    for _ in range(rng.integers(4, 24)):
        width = int(np.exp(rng.uniform(0, np.log(8))))
        ink = front if rng.random() < 0.7 else _colour(rng)
        kind = rng.integers(4)
        if kind == 0:
            draw.line(_points(rng, side, 2), ink, width)
        elif kind == 1:
            draw.ellipse(_box(rng, side), outline=ink, width=width)
        elif kind == 2:
            draw.polygon(_points(rng, side, int(rng.integers(3, 7))), None, ink, width)
        else:
            start, end = (int(angle) for angle in rng.integers(0, 360, 2))
            draw.arc(_box(rng, side), start, end, fill=ink, width=width)
    return image


def _shapes(rng: Random, side: int) -> Image.Image:
    """Filled discs and polygons of plain colours."""
    image = Image.new("RGB", (side, side), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 16)):
        if rng.random() < 0.5:
            draw.ellipse(_box(rng, side), _colour(rng))
        else:
            draw.polygon(_points(rng, side, int(rng.integers(3, 6))), _colour(rng))
    return image


def _stripes(rng: Random, side: int) -> Image.Image:
    """Stripes of one width, at any angle, along an axis or halfway between, as hatching is."""
    y, x = np.mgrid[:side, :side]
    angle = rng.uniform(0, np.pi) if rng.random() < 0.4 else rng.integers(4) * np.pi / 4
    period = 2 * float(np.exp(rng.uniform(0, np.log(32))))
    # the small offset keeps pixels off the very edges, where rounding would decide
    phase = (np.cos(angle) * x + np.sin(angle) * y + rng.integers(64) + 1e-3) / period % 1
    return _blend(phase < rng.uniform(0.25, 0.75), *_contrast(rng))


def _checks(rng: Random, side: int) -> Image.Image:
    """A checkerboard of squares of 1 to 32 pixels."""
    cell = int(np.exp(rng.uniform(0, np.log(33))))
    y, x = np.mgrid[:side, :side] + rng.integers(64, size=2)[:, None, None]
    return _blend((y // cell + x // cell) % 2, *_contrast(rng))


def _modules(rng: Random, side: int, cell: int | None = None) -> Image.Image:
    """Random modules with three finder squares, as two-dimensional bar codes have; some only the bars of one row."""
    cell = int(rng.integers(2, 12)) if cell is None else cell
    n = max(side * 3 // 4 // cell, 9)
    grid = rng.integers(0, 2, (n, n))
    if rng.random() < 0.15:
        grid[:] = grid[:1]
    else:
        finder = np.zeros((8, 8), dtype=grid.dtype)
        finder[:7, :7], finder[1:6, 1:6], finder[2:5, 2:5] = 1, 0, 1
        grid[:8, :8], grid[:8, -8:], grid[-8:, :8] = finder, finder[:, ::-1], finder[::-1]
    field = np.zeros((side, side))
    code = np.kron(grid, np.ones((cell, cell)))[:side, :side]
    top, left = (int(rng.integers(side - n + 1)) for n in code.shape)
    field[top : top + code.shape[0], left : left + code.shape[1]] = code
    return _blend(field, *_contrast(rng))


def _chart(rng: Random, side: int) -> Image.Image:
    """Axes, a grid, bars or curves, labels."""
    image, draw, front = _canvas(rng, side)
    step = int(rng.integers(12, 40))
    for i in range(step, side, step):
        draw.line((step, i, side, i), _gray(rng, 100, 180))
        draw.text((1, i), str(rng.integers(100)), front, _font(10))
    draw.line((step, 0, step, side), front, 2)
    for _ in range(rng.integers(1, 4)):
        ink = _colour(rng)
        heights = np.cumsum(rng.normal(0, side / 12, side // 4)) + rng.uniform(0, side)
        if rng.random() < 0.5:
            draw.line([(step + 4 * i, float(h)) for i, h in enumerate(heights)], ink, int(rng.integers(1, 4)))
        else:
            for i in range(step, side, 2 * step):
                draw.rectangle((i, int(rng.integers(side)), i + step, side), ink)
    return image


def _noise(rng: Random, side: int) -> Image.Image:
    """Blocks of random colours of 1 to 8 pixels."""
    cell = int(2 ** rng.integers(4))
    n = -(-side // cell)
    values = rng.integers(0, 256, (n, n, 1 if rng.random() < 0.5 else 3)).astype(np.uint8)
    pixels = np.repeat(np.repeat(values, cell, 0), cell, 1)[:side, :side]
    return Image.fromarray(np.broadcast_to(pixels, (side, side, 3)).copy())


_KINDS: dict[str, tuple[float, Callable[[Random, int], Image.Image]]] = {
    "flat": (1, _flat),
    "gradient": (1, _gradient),
    "text": (5, _text),
    "sign": (2, _sign),
    "screen": (2, _screen),
    "lines": (2, _lines),
    "shapes": (1, _shapes),
    "stripes": (3, _stripes),
    "checks": (3, _checks),
    "modules": (1.5, _modules),
    "chart": (1, _chart),
    "noise": (0.5, _noise),
    "print": (10, _print),
}
"""How often each kind is drawn in training, and what draws it."""


_SOFT = 0.3
"""The share of drawn images, small print aside, that are drawn larger and reduced, as smaller screenshots are."""


_COLOURFUL = 0.2
"""The share of drawn images some of whose channels are turned round: white on black becomes yellow on blue, say."""


def drawn_image(side: int, seed: int) -> Tensor:
    """A random image of a random kind, (3, side, side) in [-1, 1]; it depends on the arguments only."""
    rng = np.random.default_rng((seed, 5))
    weights = np.array([weight for weight, _ in _KINDS.values()])
    draw = list(_KINDS.values())[int(rng.choice(len(weights), p=weights / weights.sum()))][1]
    if rng.random() < _SOFT and draw is not _print:
        larger = round(side * rng.uniform(1.2, 2.5))
        pixels = _to_pixels(draw(rng, larger).resize((side, side), Image.Resampling.LANCZOS))
    else:
        pixels = _to_pixels(draw(rng, side))
    if rng.random() < _COLOURFUL:
        turned = rng.permutation(3)[: rng.integers(1, 3)]
        pixels[turned] *= -rng.uniform(0.4, 1)
    return pixels


def drawn_mask(side: int, seed: int) -> Tensor:
    """Some discs and polygons as masks of objects are, with edges of about a pixel: (1, side, side), 1 inside, -1
    outside or the other way round; it depends on the arguments only."""
    rng = np.random.default_rng((seed, 6))
    inside, outside = (255, 0) if rng.random() < 0.8 else (0, 255)
    larger = 2 * side
    image = Image.new("L", (larger, larger), outside)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.5:
            draw.ellipse(_box(rng, larger, larger // 6), inside)
        else:
            draw.polygon(_points(rng, larger, int(rng.integers(3, 8))), inside)
    return _to_pixels(image.resize((side, side), Image.Resampling.BOX))[:1]


# ------------------------------------------------------------------------------------------------------ evaluation set


@dataclass(frozen=True)
class DrawnSample:
    """One image of the evaluation set.

    Attributes:
        name: its kind and, where there are several, what tells it from the others.
        pixels: (3, 256, 256) in [-1, 1].
        fine: a pattern of 1 to 4 pixels (letters of up to 12 pixels have strokes of one), or noise, which has more in
            it than any tokenizer of this rate can keep.
    """

    name: str
    pixels: Tensor
    fine: bool = False


def drawn_set() -> list[DrawnSample]:
    """The evaluation set: 116 images of 256 x 256 pixels, always the same."""
    side, samples = 256, list[DrawnSample]()

    def rng(*key: int) -> Random:
        return np.random.default_rng((2026, *key))

    def add(name: str, image: Image.Image, fine: bool = False) -> None:
        samples.append(DrawnSample(name, _to_pixels(image), fine))

    grays = [(v, v, v) for v in (0, 64, 128, 192, 255)]
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (150, 90, 40)]
    for colour in grays + colours:
        add("flat-" + "-".join(map(str, colour)), Image.new("RGB", (side, side), colour))
    for number, (name, (_, draw)) in enumerate(_KINDS.items()):
        if name in ("text", "sign", "screen", "lines", "gradient", "shapes", "chart", "noise"):
            for i in range(4):  # the second and the last text have letters of 11 and 12 pixels
                add(f"{name}-{i}", draw(rng(1, number, i), side), name == "noise" or (name == "text" and i in (1, 3)))
    black, white = (0, 0, 0), (255, 255, 255)
    pairs = {
        "white-on-black": (black, white),
        "black-on-white": (white, black),
        "yellow-on-blue": ((0, 0, 160), (255, 230, 0)),
    }
    for number, (name, (back, front)) in enumerate(pairs.items()):
        for size in (10, 12, 16, 20, 28, 40, 64):
            image = Image.new("RGB", (side, side), back)
            _write(rng(2, number, size), ImageDraw.Draw(image), (0, 0, side, side), front, size)
            add(f"text-{size}px-{name}", image, size <= 12)
    for cell in (1, 2, 3, 4, 5, 7, 8, 11, 16, 24, 32):
        y, x = np.mgrid[:side, :side] // cell
        for name, mask in (("checks", (y + x) % 2), ("columns", x % 2), ("rows", y % 2)):
            add(f"{name}-{cell}px", _blend(mask, black, white), cell <= 4)
    y, x = np.mgrid[:side, :side]
    for angle in (15, 45, 70):
        for width in (3, 6, 12):
            phase = (np.cos(np.radians(angle)) * x + np.sin(np.radians(angle)) * y + 1e-3) / (2 * width) % 1
            add(f"stripes-{width}px-{angle}", _blend(phase < 0.5, black, white), width <= 4)
    for cell in (3, 4, 6, 8, 12):
        add(f"modules-{cell}px", _modules(rng(3, cell), side, cell), cell <= 4)
    return samples


# ------------------------------------------------------------------------------------------------------------- helpers


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _to_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def _colour(rng: Random) -> Colour:
    """Any colour; one in three a corner of the colour cube, where screens like to be."""
    values = rng.integers(0, 2, 3) * 255 if rng.random() < 1 / 3 else rng.integers(0, 256, 3)
    red, green, blue = (int(v) for v in values)
    return red, green, blue


def _gray(rng: Random, low: int, high: int) -> Colour:
    value = int(rng.integers(low, high + 1))
    return value, value, value


def _contrast(rng: Random) -> tuple[Colour, Colour]:
    """Background and foreground: black and white either way round in half of the draws, else any two colours."""
    pair = [(0, 0, 0), (255, 255, 255)] if rng.random() < 0.5 else [_colour(rng), _colour(rng)]
    back, front = pair if rng.random() < 0.5 else pair[::-1]
    return back, front


def _canvas(rng: Random, side: int) -> tuple[Image.Image, ImageDraw.ImageDraw, Colour]:
    """An image of a background, what draws on it, and the foreground's colour."""
    back, front = _contrast(rng)
    image = Image.new("RGB", (side, side), back)
    return image, ImageDraw.Draw(image), front


def _blend(share: np.ndarray, zero: Colour, one: Colour) -> Image.Image:
    """`zero` where `share` (h, w) is 0, `one` where it is 1."""
    weight = np.asarray(share, dtype=np.float64)[..., None]
    mixed = np.array(zero) + weight * (np.array(one) - np.array(zero))
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _box(rng: Random, side: int, least: int = 2) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a rectangle that may stick out of the image."""
    width, height = (int(v) for v in rng.integers(least, max(side, least + 1), 2))
    left, top = (int(v) for v in rng.integers(-side // 8, side * 7 // 8, 2))
    return left, top, left + width, top + height


def _points(rng: Random, side: int, count: int) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in rng.uniform(-side / 8, side * 9 / 8, (count, 2))]


def _word(rng: Random, longest: int, letters: list[str] = _LETTERS) -> str:
    return "".join(rng.choice(letters, int(rng.integers(1, longest + 1))))


def _write(
    rng: Random,
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    ink: Colour,
    size: int,
    letters: list[str] = _LETTERS,
    indent: bool = False,
) -> None:
    """Fill a box (left, top, right, bottom) with lines of random words."""
    left, top, right, bottom = box
    font = _font(size)
    spacing = size + max(size // 5, 1)
    for row in range(top, bottom - size + 1, spacing):
        x = float(left + (int(rng.integers(4)) * size if indent else 0))
        while x < right:
            word = _word(rng, 9, letters)
            length = font.getlength(word + " ")
            if x + length > right and x > left:
                break
            draw.text((x, row), word, ink, font)
            x += length
