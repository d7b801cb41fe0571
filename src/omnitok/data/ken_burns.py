"""Videos made from images, named after the documentary film maker: a window pans and zooms over a still, smoothly."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.data.transforms import resize

_MARGIN = 1.15  # the image is at least so many windows wide and high, so that there is room to move
_LONGEST = 16  # times as long as its short side an image may be; the rest is cut off
_CLOSEST = 0.87  # the smallest window's side, in pixels of the result: a slight enlargement
_ZOOM = 0.15  # largest change of the logarithm of the window's side over a video
_TRAVEL = 0.2  # mean way of the window over a video, in window sides; exponential, so that many videos are nearly still
_EASE = 1.7  # the window's progress is time to a power between 1 / this and this


def ken_burns(image: Tensor, frames: int, resolution: int, flip: bool, seed: int) -> Tensor:
    """A video (c, frames, resolution, resolution) in [-1, 1] of a window that moves over an image (c, H, W).

    Way, zoom, pace and flip depend on `seed` only. The window never leaves the image.
    """
    rng = np.random.default_rng(seed)
    short = min(image.shape[-2:])
    image = image[:, : _LONGEST * short, : _LONGEST * short]  # a line of pixels would be enlarged beyond all memory
    height, width = image.shape[-2:]
    side = max(_MARGIN * resolution, rng.uniform(_MARGIN * resolution, max(short, _MARGIN * resolution)))
    size = (round(height * side / short), round(width * side / short))
    image = resize(image.unsqueeze(1), *size).squeeze(1)
    windows = _windows(rng, frames, resolution, *size)
    video = torch.stack([_cut(image, *window, resolution) for window in windows], dim=1)
    return video.flip(-1) if flip and rng.random() < 0.5 else video


def _windows(
    rng: np.random.Generator, frames: int, resolution: int, height: int, width: int
) -> list[tuple[float, float, float]]:
    """Centre (row, column) and side of the window in each frame, in pixels of an image of this size."""
    low, high = np.log(_CLOSEST * resolution), np.log(min(height, width))
    first = rng.uniform(low, high)
    last = np.clip(first + rng.uniform(-_ZOOM, _ZOOM), low, high)
    angle, way = rng.uniform(0, 2 * np.pi), rng.exponential(_TRAVEL) * resolution
    pace = _EASE ** rng.uniform(-1, 1)
    start = rng.random(2)
    progress = np.linspace(0, 1, frames) ** pace if frames > 1 else np.zeros(1)
    sides = np.exp(first + (last - first) * progress)
    room = np.array([height, width]) - sides[:, None]  # frames, 2: the span of the window's corner
    corner = start * room[0] + progress[:, None] * way * np.array([np.sin(angle), np.cos(angle)])
    centres = np.clip(corner, 0, room) + sides[:, None] / 2
    return [(float(y), float(x), float(s)) for (y, x), s in zip(centres, sides, strict=True)]


def _cut(image: Tensor, row: float, column: float, side: float, resolution: int) -> Tensor:
    """The square window of an image (c, H, W) around (row, column), bicubic: (c, resolution, resolution)."""
    height, width = image.shape[-2:]
    offsets = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution - 0.5
    y, x = ((c + offsets * side) * (2 / n) - 1 for c, n in ((row, height), (column, width)))
    grid = torch.stack([x.expand(resolution, -1), y[:, None].expand(-1, resolution)], dim=-1).float()
    sampled = F.grid_sample(image[None], grid[None], "bicubic", padding_mode="reflection", align_corners=False)
    return sampled[0].clamp(-1, 1)
