"""How near a reconstruction is to its original: PSNR and SSIM of each frame, averaged, in bounded memory."""

import math
from collections.abc import Iterator

from torch import Tensor

from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.ssim import ssim_per_frame

_STRIP_PIXELS = 2**19  # both metrics compute in float64 and need about twenty times a strip in working memory
_SSIM_WINDOW = 11  # rows


class FrameQuality:
    """Accumulates frames; both figures are means over frames, so a video's length costs no memory."""

    def __init__(self) -> None:
        self.frames = 0
        self._psnr = self._ssim = 0.0

    def add(self, original: Tensor, reconstruction: Tensor) -> None:
        """Take frames (3, n, H, W) in [-1, 1] of both."""
        for a, b in zip(original.unbind(1), reconstruction.unbind(1), strict=True):
            self.frames += 1
            self._psnr += _psnr(a, b)
            self._ssim += _ssim(a, b)

    @property
    def psnr(self) -> float:
        """Mean PSNR in dB; infinite for an exact copy."""
        return self._psnr / self.frames

    @property
    def ssim(self) -> float:
        """Mean SSIM; NaN where a side is smaller than SSIM's window."""
        return self._ssim / self.frames


def _psnr(a: Tensor, b: Tensor) -> float:
    """PSNR of (3, H, W) by strips of rows: equal to the whole."""
    _, height, width = a.shape
    error = 0.0  # mean squared error; PSNR = 10 log10(4 / error)
    for start, stop in _strips(height, width):
        decibels = float(psnr_per_frame(a[None, :, start:stop], b[None, :, start:stop]))
        error += 4 / 10 ** (decibels / 10) * (stop - start) / height
    return 10 * math.log10(4 / error) if error else math.inf


def _ssim(a: Tensor, b: Tensor) -> float:
    """SSIM of (3, H, W) by strips that overlap so that every window position counts once: equal to the whole."""
    _, height, width = a.shape
    if min(height, width) < _SSIM_WINDOW:
        return math.nan
    positions = height - _SSIM_WINDOW + 1
    total = 0.0
    for start, stop in _strips(positions, width):
        rows = slice(start, stop + _SSIM_WINDOW - 1)
        total += float(ssim_per_frame(a[None, :, rows], b[None, :, rows])) * (stop - start)
    return total / positions


def _strips(rows: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _STRIP_PIXELS // width)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
