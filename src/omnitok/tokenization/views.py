"""Views of a picture or clip: crop, mirror image and first frame, drawn once for all its frames."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from omnitok.data.transforms import resize


@dataclass(frozen=True)
class View:
    """What of a file is encoded.

    Attributes:
        number: 0 is the plain view.
        crop: (top, left, height, width) of the frames.
        flip: mirrored after cropping.
        start: first frame.
        resolution: the crop is brought to this side; None leaves it as it is.
    """

    number: int
    crop: tuple[int, int, int, int]
    flip: bool
    start: int
    resolution: int | None

    def apply(self, frames: Tensor) -> Tensor:
        """Frames (3, t, H, W) -> (3, t, h, w)."""
        top, left, height, width = self.crop
        out = frames[..., top : top + height, left : left + width]
        if self.resolution is not None:
            out = resize(out, self.resolution, self.resolution)
        return out.flip(-1) if self.flip else out

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of what `apply` gives."""
        return self.crop[2:] if self.resolution is None else (self.resolution, self.resolution)


def draw_views(
    count: int,
    height: int,
    width: int,
    resolution: int | None,
    latest_start: int,
    seed: tuple[int, ...],
    crop_range: float | None = None,
) -> list[View]:
    """The views of one file.

    View 0 is the largest centred square, from the first frame on. The others are squares at a random place, of a random
    side between `resolution` (or the short side over `crop_range`) and the short side, half of them mirrored, from a
    random frame on. Without a resolution nothing is cropped.

    Args:
        count: how many.
        height, width: of its frames.
        latest_start: a view starts at 0 ... latest_start.
        seed: of the file; each view's draw follows from it and the view's number.
        crop_range: at least 1: how many times as long as the side of a crop the short side may be; 1.1 by default where
            LlamaGen (Sun et al., arXiv 2406.06525) extracts codes of crops (`--crop-range` of its released code).
    """
    short = min(height, width)
    whole = (0, 0, height, width)
    centred = whole if resolution is None else ((height - short) // 2, (width - short) // 2, short, short)
    views = [View(0, centred, False, 0, resolution)]
    for number in range(1, count):
        rng = np.random.default_rng((*seed, number))
        crop = whole
        if resolution is not None:
            least = resolution if crop_range is None else round(short / crop_range)
            side = int(rng.integers(min(least, short), short + 1))
            crop = (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)
        flip = bool(rng.random() < 0.5)
        views.append(View(number, crop, flip, int(rng.integers(latest_start + 1)), resolution))
    return views
