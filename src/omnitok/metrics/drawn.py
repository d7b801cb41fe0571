"""Reconstructions of drawn images, region by region: a mean over images does not show that a part of one broke up."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from omnitok.data.drawn import drawn_set
from omnitok.models.tokenizer import OmniTokenizer

REGION, STRIDE = 64, 8  # pixels: the side of a region, and how far apart regions begin


@dataclass(frozen=True)
class DrawnFigures:
    """What came back of one image of `drawn_set`.

    Attributes:
        name, fine: as in `DrawnSample`.
        psnr: of the whole image, clamped to [-1, 1], in dB.
        worst_region: the lowest PSNR of a square of 64 x 64 pixels in it.
        largest: the largest absolute value of a pixel before the clamp.
    """

    name: str
    fine: bool
    psnr: float
    worst_region: float
    largest: float


@torch.inference_mode()
def measure_drawn(tokenizer: OmniTokenizer) -> list[DrawnFigures]:
    """Reconstruct the drawn set in the tokenizer's own precision."""
    figures = []
    for sample in drawn_set():
        found = tokenizer(sample.pixels[None].to(tokenizer.device, tokenizer.dtype)).float().cpu()
        error = (found.clamp(-1, 1) - sample.pixels).square().mean(1, keepdim=True)
        worst = F.avg_pool2d(error, REGION, STRIDE).max()
        figures.append(
            DrawnFigures(sample.name, sample.fine, _decibels(error.mean()), _decibels(worst), found.abs().max().item())
        )
    return figures


def _decibels(squared_error: torch.Tensor) -> float:
    return (10 * torch.log10(4 / squared_error.clamp_min(1e-12))).item()
