"""Augmentations of an image or video: crop, mirror image and first frame, drawn once for all its frames."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from omnitok.data.transforms import Box, center_square, crop, random_square, resize
from omnitok.tokenization.settings import TokenizeSettings


@dataclass(frozen=True)
class Augmentation:
    """What of a file is encoded.

    Attributes:
        view: its number; 0 is the plain one.
        box: of the frames.
        flip: mirrored after cropping.
        start: first frame.
        size: (h, w) that the box is brought to.
    """

    view: int
    box: Box
    flip: bool
    start: int
    size: tuple[int, int]

    def apply(self, frames: Tensor) -> Tensor:
        """Frames (3, t, H, W) -> (3, t, h, w)."""
        return self.mirror(resize(crop(frames, self.box), *self.size))

    def mirror(self, pixels: Tensor) -> Tensor:
        """Pixels (..., h, w), mirrored where `flip` says so."""
        return pixels.flip(-1) if self.flip else pixels


def draw_augmentations(
    settings: TokenizeSettings, number: int, height: int, width: int, latest_start: int = 0
) -> list[Augmentation]:
    """The augmentations of one file of frames (height, width), by its number in the collection.

    The first is the largest centered square, from the first frame on. The others are squares at a random place, of a
    random side between `resolution` (or the short side over `crop_range`) and the short side, half of them mirrored,
    from a random frame on, at most `latest_start`. Without a resolution nothing is cropped.
    """
    resolution = settings.resolution
    size = (height, width) if resolution is None else (resolution, resolution)
    box = (0, 0, height, width) if resolution is None else center_square(height, width)
    drawn = [Augmentation(0, box, False, 0, size)]
    for view in range(1, settings.views):
        rng = np.random.default_rng((settings.seed, number, view))
        if resolution is not None:
            least = resolution if settings.crop_range is None else round(min(height, width) / settings.crop_range)
            box = random_square(height, width, least, rng)
        flip = bool(rng.random() < 0.5)
        drawn.append(Augmentation(view, box, flip, int(rng.integers(latest_start + 1)), size))
    return drawn
