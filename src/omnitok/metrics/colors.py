"""The colours that a viewer would name in an image: of the object, and of the background it stands on.

Every pixel gets one of the eleven basic colour terms of English (Berlin and Kay, 1969), that of the nearest focal
colour in OKLab (Ottosson, "A perceptual color space for image processing", 2020), where the hue of blue is steadier
than in CIELAB. Pixels then vote. The background is what the corners show; the object is what differs
from it, the more the nearer to the centre. No network, and no class, is known to it: an object in front of clutter, or
one of many colours, gets a small margin.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.metrics.pixels import to_float_pixels

FOCAL: dict[str, tuple[str, ...]] = {
    "black": ("000000", "1c1c1e", "2e2622", "20222c", "3a3a3c", "3e3830"),
    "grey": ("5c5c5e", "747474", "8e8e90", "a8a8a8", "9298a0", "5d626a"),
    "white": ("ffffff", "e6e6e6", "d4d4d4", "c6c6c6", "efe9df", "dfe6ee", "d8d0c4"),
    "red": ("e01010", "b01820", "d83a30", "7d141c", "5a1218", "c24548"),
    "orange": ("ff8c00", "f07a20", "ff6a1a", "e89030", "f0a860"),
    "yellow": ("ffe000", "f5d130", "fff27a", "e6c84a", "d6b400", "c8b820"),
    "green": (
        *("20a030", "0c6020", "7cc040", "a8c840", "5a8a3c", "3c4c28", "86a878", "30b090", "2a5c48", "7a8a30"),
        *("648a7c", "486a5e", "9ab8a8"),
    ),
    "blue": (
        *("1040d0", "2868d8", "60a8e8", "0a1a70", "1c2848", "3c5080", "7890b8", "a8c8e8", "18a0c8", "2c4a66"),
        *("6884a0", "4c6480"),
    ),
    "purple": ("702090", "9048c0", "b090d8", "482060", "7a5890", "5a3aa8"),
    "pink": ("f080b0", "ffb8c8", "e83890", "d898a8", "c04878", "f0a0a0", "c49288"),
    "brown": ("7a4820", "50301c", "a07040", "6c5440", "b89468", "3c2418", "8a5a44", "c8a880", "54423a"),
}
"""Colour term -> its focal colours, sRGB in hexadecimal: the pure one, and dark, pale and dull ones of that name."""

COLORS = tuple(FOCAL)

_SIDE = 64  # pixels of the longer side that votes are counted at: the noise of a camera averages out
_CORNER = 0.2  # of each side: what shows the background
_HUE = 2.0  # how much more than lightness the two opponent axes count: shade changes the lightness of one surface
_VIVID = 12.0  # how much more a vivid pixel counts than a grey one: paint names a motorbike, not tyres
_SHADE = 0.6  # how much lightness counts between background and object: a shadow is no object
_NEAR, _FAR = 0.08, 0.20  # distances, as scaled, below which a pixel is background and above which it is object


@dataclass(frozen=True)
class NamedColor:
    """The outcome of a vote.

    Attributes:
        name: one of `COLORS`.
        share: of the votes, in [0, 1].
        margin: the share less that of the runner-up, in [0, 1]; 0 is a tie.
    """

    name: str
    share: float
    margin: float


@dataclass(frozen=True)
class ImageColors:
    """What is seen in one image.

    Attributes:
        object, background: their colours.
        lightness: of the background, the mean of OKLab's L: 0 is black, 1 is white.
    """

    object: NamedColor
    background: NamedColor
    lightness: float

    @property
    def background_tone(self) -> Literal["light", "dark"] | None:
        """Whether the background is light (L of 0.72 and more, the grey of 168) or dark (0.42 and less, of 78)."""
        return "light" if self.lightness >= 0.72 else "dark" if self.lightness <= 0.42 else None


_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OPPONENTS = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
"""The matrices of Ottosson (2020), for linear light of BT.709 primaries."""


def oklab(x: Tensor) -> Tensor:
    """sRGB pixels (..., 3, H, W) in [-1, 1] → OKLab, as many: L in [0, 1], a (green to red), b (blue to yellow)."""
    coded = ((x + 1) / 2).clamp(0, 1)
    linear = torch.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    response = _per_pixel(linear.new_tensor(_CONES), linear).clamp(min=0) ** (1 / 3)
    return _per_pixel(linear.new_tensor(_OPPONENTS), response)


def from_oklab(lab: Tensor) -> Tensor:
    """OKLab (..., 3, H, W) → sRGB pixels in [-1, 1], the same shape; colours that sRGB does not have are clipped."""
    cones, opponents = (torch.linalg.inv(lab.new_tensor(matrix)) for matrix in (_CONES, _OPPONENTS))
    linear = _per_pixel(cones, _per_pixel(opponents, lab) ** 3).clamp(0, 1)
    coded = torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return coded * 2 - 1


def _per_pixel(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ij,...jhw->...ihw", matrix, x)


def measure_colors(images: Tensor) -> list[ImageColors]:
    """The colours of images (b, 3, H, W), uint8 or float in [-1, 1].

    Raises:
        ValueError: another shape, or values that are no pixels.
    """
    return [_measure(image) for image in to_float_pixels(images, "a measurement of colours")]


def object_mask(image: Tensor) -> Tensor:
    """How much the pixels of an image (3, H, W) in [-1, 1] differ from its background, (H, W) from 0 to 1."""
    scaled = _scaled(oklab(image))
    return _differs(scaled, _corners(image).flatten()).unflatten(0, image.shape[-2:])


def _measure(image: Tensor) -> ImageColors:
    scale = _SIDE / max(image.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[-2:]]
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    lab = oklab(image)
    scaled = _scaled(lab)
    votes = F.one_hot(_nearest(scaled), len(COLORS)).double()  # (H * W, names)
    is_corner = _corners(image).flatten()
    y, x = _coordinates(image)
    centred = torch.exp(-2 * (y.square() + x.square())).flatten()
    # An object that fills the image, or that is of the background's own colour, is looked for in the centre alone.
    differs = _differs(scaled, is_corner)
    weight = centred * (differs + 0.02) * (1 + _VIVID * lab[1:].norm(dim=0).flatten())
    return ImageColors(
        _vote(votes, weight), _vote(votes, is_corner.double()), float(lab[0].flatten()[is_corner].double().mean())
    )


def _scaled(lab: Tensor) -> Tensor:
    """OKLab (3, H, W) → (H * W, 3), where distances are those of names."""
    return (lab * lab.new_tensor((1, _HUE, _HUE))[:, None, None]).flatten(1).T


def _differs(scaled: Tensor, is_corner: Tensor) -> Tensor:
    """(n,) in [0, 1]: how far pixels (n, 3) are from the colours of the corners."""
    shaded = scaled * scaled.new_tensor((_SHADE, 1, 1))
    away = torch.cdist(shaded, _palette(shaded[is_corner])).amin(1)
    return ((away - _NEAR) / (_FAR - _NEAR)).clamp(0, 1)


def _vote(votes: Tensor, weight: Tensor) -> NamedColor:
    shares = (votes * weight.double()[:, None]).sum(0) / weight.double().sum()
    (first, second), (index, _) = shares.topk(2)
    return NamedColor(COLORS[int(index)], float(first), float(first - second))


def _coordinates(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Of pixels' centres, -1 to 1 from edge to edge: (H, 1) and (1, W)."""
    y, x = ((torch.arange(side) * 2 + 1) / side - 1 for side in lab.shape[-2:])
    return y[:, None], x[None]


def _corners(image: Tensor) -> Tensor:
    """(H, W): objects reach the edges of images, but seldom their corners."""
    y, x = _coordinates(image)
    vertical, horizontal = (c.abs() >= min(1 - 2 * _CORNER, float(c.abs().max())) for c in (y, x))
    return vertical & horizontal


def _palette(pixels: Tensor, colors: int = 3) -> Tensor:
    """At most `colors` that stand for pixels (n, 3), by k-means from evenly spaced ranks of lightness: (k, 3)."""
    ranks = torch.linspace(0, len(pixels) - 1, 2 * colors + 1)[1::2].round().long()
    centres = pixels[pixels[:, 0].argsort(stable=True)][ranks]
    for _ in range(8):
        nearest = torch.cdist(pixels, centres).argmin(1)
        members = F.one_hot(nearest, len(centres)).to(pixels.dtype)  # (n, k)
        count = members.sum(0)
        means = members.T @ pixels / count.clamp(min=1)[:, None]
        centres = torch.where(count[:, None] > 0, means, centres)
    return centres[count >= 0.12 * len(pixels)]


def _nearest(pixels: Tensor) -> Tensor:
    """The indices of names, (n,), of pixels (n, 3) in OKLab with scaled opponents."""
    focal, owner = _focal_colors()
    return owner[torch.cdist(pixels, focal).argmin(1)]


def _focal_colors() -> tuple[Tensor, Tensor]:
    """(n, 3) in OKLab with scaled opponents, and the indices of their names (n,)."""
    codes = [(index, code) for index, codes in enumerate(FOCAL.values()) for code in codes]
    rgb = torch.tensor([list(bytes.fromhex(code)) for _, code in codes]) / 127.5 - 1
    return _scaled(oklab(rgb.T[:, :, None])), torch.tensor([index for index, _ in codes])
