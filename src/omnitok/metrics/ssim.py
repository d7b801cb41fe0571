"""Structural similarity (Wang et al. 2004), per frame and then averaged: Gaussian window 11 x 11, sigma 1.5.

Constants K1 = 0.01, K2 = 0.03 and data range 2 for pixels in [-1, 1]; each channel by itself, then the mean, over the
positions where the window fits. scikit-image's `structural_similarity` with gaussian_weights and without sample
covariance is the same number.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.metrics.psnr import check_pair, row_strips

WINDOW = 11
_SIGMA = 1.5


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean SSIM over all frames of images (b, c, H, W) or videos (b, c, T, H, W) in [-1, 1]."""
    return ssim_per_frame(a, b).mean().item()


def ssim_per_frame(a: Tensor, b: Tensor) -> Tensor:
    """SSIM, float64: (b,) for images, (b, T) for videos. Images smaller than the window are a ValueError."""
    check_pair(a, b, "SSIM")
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs at least 11 pixels a side, but got {a.shape[-2]} x {a.shape[-1]}")
    if a.ndim == 5:  # frame by frame: the moments of a whole video would be large
        return torch.stack([ssim_per_frame(a[:, :, t], b[:, :, t]) for t in range(a.shape[2])], dim=1)  # (b, T)
    positions = a.shape[-2] - WINDOW + 1
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for rows in row_strips(positions, a.shape[-1]):  # strips overlap so that every position counts once
        strip = slice(rows.start, rows.stop + WINDOW - 1)
        total = total + _similarity(a[..., strip, :], b[..., strip, :]) * ((rows.stop - rows.start) / positions)
    return total


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    x, y = a.double(), b.double()
    mean_x, mean_y = _blur(x), _blur(y)  # (b, c, H - 10, W - 10)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    window = window / window.sum()
    planes = x.flatten(0, 1)[:, None]  # (b c, 1, H, W)
    planes = F.conv2d(F.conv2d(planes, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return planes.unflatten(0, x.shape[:2]).squeeze(2)
