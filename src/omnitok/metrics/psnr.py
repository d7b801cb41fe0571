"""Peak signal-to-noise ratio, per frame and then averaged.

For a video this is the mean of the frames' decibels, not the decibels of the mean error; the two differ, and the first
is what tokenizer papers report.
"""

import torch
from torch import Tensor

from omnitok.metrics.pixels import check_float_range


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean PSNR in dB over all frames of images (b, 3, H, W) or videos (b, 3, T, H, W) in [-1, 1]; inf where equal."""
    return psnr_per_frame(a, b).mean().item()


def psnr_per_frame(a: Tensor, b: Tensor) -> Tensor:
    """PSNR in dB, float64: (b,) for images, (b, T) for videos; peak 2, error averaged over channels and space."""
    check_pair(a, b, "PSNR")
    error = (a.double() - b.double()).square().mean((1, -2, -1))  # (b,) or (b, T)
    return 10 * torch.log10(4 / error)


def check_pair(a: Tensor, b: Tensor, what: str) -> None:
    """Raise ValueError unless a and b are equally shaped float images or videos with pixels in [-1, 1]."""
    if a.shape != b.shape:
        raise ValueError(f"{what} compares equal shapes, but got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim not in (4, 5):
        raise ValueError(f"{what} needs (b, c, H, W) or (b, c, T, H, W), but got {tuple(a.shape)}")
    for x in (a, b):
        if not x.is_floating_point():
            raise ValueError(f"{what} needs float pixels in [-1, 1], but got {x.dtype}")
        check_float_range(x, what)
