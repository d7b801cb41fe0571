"""Crops, resizing and squares of frames; one draw for all frames of a video."""

from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

CropPolicy = Literal["squash", "center_crop", "random_resized_crop"]
Box = tuple[int, int, int, int]
"""Part of a frame: top, left, height, width, in pixels."""


def center_square(height: int, width: int) -> Box:
    """The largest centered square."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def random_square(height: int, width: int, least: int, rng: np.random.Generator) -> Box:
    """A square at a random place, of a random side from `least` (or the short side, if that is less) to the short
    side."""
    short = min(height, width)
    side = int(rng.integers(min(least, short), short + 1))
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side


def choose_crop(
    height: int, width: int, resolution: int, policy: CropPolicy, rng: np.random.Generator | None = None
) -> Box:
    """What of a frame becomes a square of `resolution` pixels.

    Args:
        policy: "squash" takes the whole frame without regard to its aspect (as the released code); "center_crop" the
            largest centered square; "random_resized_crop" a random square of a side between `resolution` and the short
            side: resized, it is the frame scaled by a random factor and cropped, at a fraction of the cost.
        rng: needed by "random_resized_crop".

    Raises:
        ValueError: no generator where one is needed.
    """
    if policy == "squash":
        return 0, 0, height, width
    if policy == "center_crop":
        return center_square(height, width)
    if rng is None:
        raise ValueError(f"{policy} needs a random generator")
    return random_square(height, width, resolution, rng)


def crop(frames: Tensor, box: Box) -> Tensor:
    """The part `box` of frames (..., H, W), as a view."""
    top, left, height, width = box
    return frames[..., top : top + height, left : left + width]


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (c, t, h, w) in [-1, 1] -> (c, t, height, width), bicubic with antialiasing, clamped to [-1, 1]."""
    if frames.shape[-2:] == (height, width):
        return frames
    moved = frames.transpose(0, 1)  # t c h w
    out = F.interpolate(moved, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return out.clamp(-1, 1).transpose(0, 1)


def fit_square(frames: Tensor, resolution: int, policy: CropPolicy, rng: np.random.Generator | None = None) -> Tensor:
    """Frames (c, t, h, w) -> (c, t, resolution, resolution); see `choose_crop`."""
    height, width = frames.shape[-2:]
    return resize(crop(frames, choose_crop(height, width, resolution, policy, rng)), resolution, resolution)
