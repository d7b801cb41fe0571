"""How near a reconstruction is to its original: PSNR and SSIM of each frame, averaged, in bounded memory."""

import math

from torch import Tensor

from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.ssim import WINDOW, ssim_per_frame


class FrameQuality:
    """Accumulates frames; both figures are means over frames, so a video's length costs no memory."""

    def __init__(self) -> None:
        self.frames = 0
        self._psnr = self._ssim = 0.0

    def add(self, original: Tensor, reconstruction: Tensor) -> None:
        """Take frames (3, n, H, W) in [-1, 1] of both."""
        for a, b in zip(original.split(1, dim=1), reconstruction.split(1, dim=1), strict=True):
            self.frames += 1
            self._psnr += float(psnr_per_frame(a[None], b[None]))
            self._ssim += float(ssim_per_frame(a[None], b[None])) if min(a.shape[-2:]) >= WINDOW else math.nan

    @property
    def psnr(self) -> float:
        """Mean PSNR in dB; infinite for an exact copy."""
        return self._psnr / self.frames

    @property
    def ssim(self) -> float:
        """Mean SSIM; NaN where a side is smaller than SSIM's window."""
        return self._ssim / self.frames
