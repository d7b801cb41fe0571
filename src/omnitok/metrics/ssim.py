"""Structural similarity (Wang et al. 2004), per frame and then averaged: Gaussian window 11 x 11, sigma 1.5.

Constants K1 = 0.01, K2 = 0.03 and data range 2 for pixels in [-1, 1]; each channel by itself, then the mean, over the
positions where the window fits. scikit-image's `structural_similarity` with gaussian_weights and without sample
covariance is the same number.
"""

import math

import torch
from torch import Tensor

from omnitok.metrics.psnr import check_pair, row_strips

WINDOW = 11
_SIGMA = 1.5
_HALF = WINDOW // 2
_WEIGHTS = [math.exp(-((k - _HALF) ** 2) / (2 * _SIGMA**2)) for k in range(WINDOW)]


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean SSIM over all frames of images (b, c, H, W) or videos (b, c, T, H, W) in [-1, 1]."""
    return ssim_per_frame(a, b).mean().item()


def ssim_per_frame(a: Tensor, b: Tensor) -> Tensor:
    """SSIM, float64: (b,) for images, (b, T) for videos. Images smaller than the window are a ValueError."""
    check_pair(a, b, "SSIM")
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs at least 11 pixels a side, but got {a.shape[-2]} x {a.shape[-1]}")
    if a.ndim == 5:  # frame by frame: the moments of a whole video would be large
        return torch.stack([_of_images(a[:, :, t], b[:, :, t]) for t in range(a.shape[2])], dim=1)  # (b, T)
    return _of_images(a, b)


def _of_images(a: Tensor, b: Tensor) -> Tensor:
    if len(a) > 1 and a.device.type == "cpu":  # one by one: what all need at a time does not fit into the cache
        return torch.cat([_of_images(x, y) for x, y in zip(a.split(1), b.split(1), strict=True)])
    positions = a.shape[-2] - WINDOW + 1
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for rows in row_strips(positions, a.shape[-1]):  # strips overlap so that every position counts once
        strip = slice(rows.start, rows.stop + WINDOW - 1)
        total = total + _similarity(a[..., strip, :], b[..., strip, :]) * ((rows.stop - rows.start) / positions)
    return total


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    x, y = a.double(), b.double()
    moments = torch.stack([x, y, x * x + y * y, x * y])
    mean_x, mean_y, squares, products = _blur(_blur(moments, -2), -1)  # (b, c, H - 10, W - 10) each
    product_of_means, squares_of_means = mean_x * mean_y, mean_x.square() + mean_y.square()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    luminance = (2 * product_of_means + c1) / (squares_of_means + c1)
    structure = (2 * (products - product_of_means) + c2) / (squares - squares_of_means + c2)
    return (luminance * structure).mean((1, 2, 3))


def _blur(x: Tensor, dim: int) -> Tensor:
    """Weighted mean along an axis, as a sum of shifted copies: CPUs have no fast convolution of float64."""
    length = x.shape[dim] - WINDOW + 1
    total = x.narrow(dim, _HALF, length) * _WEIGHTS[_HALF]
    for k in range(_HALF):
        total.add_(x.narrow(dim, k, length) + x.narrow(dim, WINDOW - 1 - k, length), alpha=_WEIGHTS[k])
    return total.div_(sum(_WEIGHTS))
