"""Videos for training: one file to one square tensor of a fixed number of frames."""

import os

import numpy as np
from torch import Tensor

from omnitok.data.transforms import CropPolicy, fit_square
from omnitok.data.video_reader import WindowSampling, read_window


def load_training_video(
    path: str | os.PathLike[str],
    sampling: WindowSampling,
    resolution: int,
    policy: CropPolicy,
    flip: bool,
    seed: int,
) -> Tensor:
    """A window of a video as (3, frames, resolution, resolution) in [-1, 1].

    Start, crop and flip depend on `seed` only and are the same for all frames.

    Raises:
        MediaError: the file cannot be read or has fewer frames.
    """
    rng = np.random.default_rng(seed)
    window = read_window(path, sampling, position=rng.random())
    pixels = fit_square(window.pixels, resolution, policy, rng)
    return pixels.flip(-1) if flip and rng.random() < 0.5 else pixels
