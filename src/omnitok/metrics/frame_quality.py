"""How near a reconstruction is to its original: PSNR and SSIM of each frame, averaged, in bounded memory."""

import math

import torch
from torch import Tensor

from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.ssim import WINDOW, ssim_per_frame


class FrameQuality:
    """Accumulates frames; all figures are means over frames, so a video's length costs no memory.

    Where the channels are not the three of colour, each of them is measured by itself too.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._psnr = self._ssim = 0.0
        self._psnr_of_channels = self._ssim_of_channels = torch.zeros((), dtype=torch.float64)

    def add(self, original: Tensor, reconstruction: Tensor) -> None:
        """Take frames (c, n, H, W) in [-1, 1] of both."""
        for a, b in zip(original.split(1, dim=1), reconstruction.split(1, dim=1), strict=True):
            self.frames += 1
            has_ssim = min(a.shape[-2:]) >= WINDOW
            self._psnr += float(psnr_per_frame(a[None], b[None]))
            self._ssim += float(ssim_per_frame(a[None], b[None])) if has_ssim else math.nan
            if len(a) != 3:  # (c,): each channel as an image of its own
                self._psnr_of_channels = self._psnr_of_channels + psnr_per_frame(a, b)
                self._ssim_of_channels = self._ssim_of_channels + (ssim_per_frame(a, b) if has_ssim else math.nan)

    @property
    def per_channel(self) -> dict[str, list[float]]:
        """The same figures of each channel, by their names; none of colour."""
        if not self._psnr_of_channels.ndim:
            return {}
        psnr, ssim = self._psnr_of_channels / self.frames, self._ssim_of_channels / self.frames
        return {"psnr": psnr.tolist(), "ssim": ssim.expand_as(psnr).tolist()}

    @property
    def psnr(self) -> float:
        """Mean PSNR in dB; infinite for an exact copy."""
        return self._psnr / self.frames

    @property
    def ssim(self) -> float:
        """Mean SSIM; NaN where a side is smaller than SSIM's window."""
        return self._ssim / self.frames
