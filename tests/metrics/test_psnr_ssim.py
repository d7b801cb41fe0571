import math

import numpy as np
import pytest
import torch
from torch import Tensor

from omnitok.metrics import psnr, psnr_per_frame, ssim, ssim_per_frame

skimage_metrics = pytest.importorskip("skimage.metrics")


def photograph() -> Tensor:
    from skimage import data

    return torch.from_numpy(data.astronaut()[50:160, 170:300].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def noisy(x: Tensor, amount: float, seed: int = 0) -> Tensor:
    return (x + amount * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


@pytest.mark.parametrize("amount", [1e-3, 0.05, 0.5])
def test_psnr_and_ssim_are_scikit_images(amount: float) -> None:
    a = photograph()
    b = noisy(a, amount)
    x, y = a[0].double().numpy(), b[0].double().numpy()
    assert psnr(a, b) == pytest.approx(skimage_metrics.peak_signal_noise_ratio(x, y, data_range=2), abs=1e-6)
    expected = skimage_metrics.structural_similarity(
        x, y, channel_axis=0, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-6)


def test_a_video_is_the_mean_of_its_frames() -> None:
    still = photograph()
    a = still[:, :, None].expand(-1, -1, 3, -1, -1)
    b = torch.stack([noisy(still, amount) for amount in (0.01, 0.1, 0.4)], dim=2)
    for per_frame, mean in ((psnr_per_frame, psnr), (ssim_per_frame, ssim)):
        frames = per_frame(a, b)
        assert frames.shape == (1, 3)
        expected = [per_frame(a[:, :, t], b[:, :, t]).item() for t in range(3)]
        np.testing.assert_allclose(frames[0], expected, rtol=1e-12)
        assert mean(a, b) == pytest.approx(np.mean(expected), rel=1e-12)


def test_equal_pictures() -> None:
    assert psnr(photograph(), photograph()) == math.inf
    assert ssim(photograph(), photograph()) == pytest.approx(1, abs=1e-12)
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.2)) == pytest.approx(20, abs=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_input(metric: object) -> None:
    assert callable(metric)
    x = torch.zeros(1, 3, 16, 16)
    for a, b, message in (
        (x, x[..., 1:], "equal shapes"),
        (x[0], x[0], r"\(b, c, H, W\)"),
        (x, torch.full_like(x, torch.nan), "NaN"),
        (x, torch.full_like(x, 255.0), "values up to 255"),
        (x.byte(), x.byte(), "uint8"),
        (x[:0], x[:0], "no pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(a, b)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x[..., :10], x[..., :10])
