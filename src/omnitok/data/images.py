"""Images for training: one file to one square tensor."""

import os

import numpy as np
from torch import Tensor

from omnitok.data.image import ImageReader
from omnitok.data.transforms import CropPolicy, choose_crop


def load_training_image(
    path: str | os.PathLike[str], resolution: int, policy: CropPolicy, flip: bool, seed: int
) -> Tensor:
    """An image as (3, resolution, resolution) in [-1, 1]; crop and flip depend on `seed` only.

    Raises:
        MediaError: the file cannot be read.
    """
    rng = np.random.default_rng(seed)
    with ImageReader(path) as reader:
        box = choose_crop(reader.height, reader.width, resolution, policy, rng)
        pixels = reader.crop(box, resolution, resolution)
    return pixels.flip(-1) if flip and rng.random() < 0.5 else pixels
