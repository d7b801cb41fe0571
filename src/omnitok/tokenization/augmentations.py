"""Augmentations of an image or video: crop, mirror image and first frame, drawn once for all its frames."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from omnitok.data.transforms import Box, center_square, crop, random_square, resize


@dataclass(frozen=True)
class Augmentation:
    """What of a file is encoded.

    Attributes:
        number: 0 is the plain one.
        box: of the frames.
        flip: mirrored after cropping.
        start: first frame.
        size: (h, w) that the box is brought to.
    """

    number: int
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
    count: int,
    height: int,
    width: int,
    resolution: int | None,
    latest_start: int,
    seed: tuple[int, ...],
    crop_range: float | None = None,
) -> list[Augmentation]:
    """The augmentations of one file.

    The first is the largest centered square, from the first frame on. The others are squares at a random place, of a
    random side between `resolution` (or the short side over `crop_range`) and the short side, half of them mirrored,
    from a random frame on. Without a resolution nothing is cropped.

    Args:
        count: how many.
        height, width: of its frames.
        latest_start: each starts at 0 ... latest_start.
        seed: of the file; each draw follows from it and the augmentation's number.
        crop_range: at least 1: how many times as long as the side of a crop the short side may be; 1.1 by default where
            LlamaGen (Sun et al., arXiv 2406.06525) extracts codes of crops (`--crop-range` of its released code).
    """
    size = (height, width) if resolution is None else (resolution, resolution)
    box = (0, 0, height, width) if resolution is None else center_square(height, width)
    drawn = [Augmentation(0, box, False, 0, size)]
    for number in range(1, count):
        rng = np.random.default_rng((*seed, number))
        if resolution is not None:
            least = resolution if crop_range is None else round(min(height, width) / crop_range)
            box = random_square(height, width, least, rng)
        flip = bool(rng.random() < 0.5)
        drawn.append(Augmentation(number, box, flip, int(rng.integers(latest_start + 1)), size))
    return drawn
