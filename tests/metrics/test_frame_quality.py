import math
import sys

import pytest
import torch

from omnitok.metrics.frame_quality import FrameQuality
from omnitok.metrics.psnr import psnr_per_frame
from omnitok.metrics.ssim import ssim_per_frame


@pytest.mark.parametrize("strip_pixels", [1, 200, 2**19])
def test_strips_give_what_the_whole_gives(strip_pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    a = torch.rand(3, 4, 37, 23) * 2 - 1
    b = (a + 0.1 * torch.randn_like(a)).clamp(-1, 1)
    decibels, similarity = (
        psnr_per_frame(a[None], b[None]).mean().item(),
        ssim_per_frame(a[None], b[None]).mean().item(),
    )
    monkeypatch.setattr(sys.modules["omnitok.metrics.psnr"], "_STRIP_PIXELS", strip_pixels)
    measured = FrameQuality()
    measured.add(a[:, :1], b[:, :1])
    measured.add(a[:, 1:], b[:, 1:])
    assert measured.frames == 4
    assert measured.psnr == pytest.approx(decibels, abs=1e-9)
    assert measured.ssim == pytest.approx(similarity, abs=1e-9)


def test_what_is_not_defined_is_not_a_number_but_no_error() -> None:
    measured = FrameQuality()
    measured.add(torch.zeros(3, 1, 5, 40), torch.zeros(3, 1, 5, 40))
    assert measured.psnr == math.inf
    assert math.isnan(measured.ssim)
