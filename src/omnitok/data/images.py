"""Pictures for training: one file to one square tensor."""

import os

import numpy as np
from torch import Tensor

from omnitok.data._pictures import read_image
from omnitok.data.transforms import CropPolicy, fit_square


def load_training_image(
    path: str | os.PathLike[str], resolution: int, policy: CropPolicy, flip: bool, seed: int
) -> Tensor:
    """A picture as (3, resolution, resolution) in [-1, 1]; crop and flip depend on `seed` only.

    Raises:
        MediaError: the file cannot be read.
    """
    rng = np.random.default_rng(seed)
    frames = fit_square(read_image(path).unsqueeze(1), resolution, policy, rng)
    if flip and rng.random() < 0.5:
        frames = frames.flip(-1)
    return frames.squeeze(1)
