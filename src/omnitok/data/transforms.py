"""Resizing, cropping and flipping of frames; one random draw for all frames of a clip."""

from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

CropPolicy = Literal["squash", "center_crop", "random_resized_crop"]


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames (c, t, h, w) in [-1, 1] -> (c, t, height, width), bicubic with antialiasing, clamped to [-1, 1]."""
    if frames.shape[-2:] == (height, width):
        return frames
    moved = frames.transpose(0, 1)  # t c h w
    out = F.interpolate(moved, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return out.clamp(-1, 1).transpose(0, 1)


def fit_square(frames: Tensor, resolution: int, policy: CropPolicy, rng: np.random.Generator | None = None) -> Tensor:
    """Frames (c, t, h, w) -> (c, t, resolution, resolution).

    Args:
        policy: "squash" resizes without regard to the aspect (as the released code); "center_crop" takes the largest
            centred square; "random_resized_crop" scales the short side to a random size between `resolution` and its
            own (or `resolution`, where it is smaller) and cuts a random square.
        rng: needed by "random_resized_crop".

    Raises:
        ValueError: another policy, or no generator where one is needed.
    """
    height, width = frames.shape[-2:]
    if policy == "squash":
        return resize(frames, resolution, resolution)
    short = min(height, width)
    if policy == "center_crop":
        top, left = (height - short) // 2, (width - short) // 2
        return resize(frames[..., top : top + short, left : left + short], resolution, resolution)
    if policy != "random_resized_crop":
        raise ValueError(f"policy must be 'squash', 'center_crop' or 'random_resized_crop', found {policy!r}")
    if rng is None:
        raise ValueError("random_resized_crop needs a random generator")
    # A crop of `side` pixels resized to `resolution` is the same picture as resizing first, at a fraction of the cost.
    side = int(rng.integers(min(resolution, short), short + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return resize(frames[..., top : top + side, left : left + side], resolution, resolution)
