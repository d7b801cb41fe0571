"""The objective's terms and their weighted sum."""

import math

import pytest
import torch

from helpers.processes import in_process_group, on_two_processes
from omnitok.losses.objective import (
    SMALLEST_SQUARED_ERROR,
    entropy_loss,
    normalize_kl,
    reconstruction_losses,
    weighted_sum,
)
from omnitok.metrics import psnr_per_frame


def test_reconstruction_losses() -> None:
    target = torch.zeros(1, 3, 2, 2)
    losses = reconstruction_losses((target + 0.5).bfloat16(), target)
    assert losses["l1"].item() == 0.5
    assert losses["l2"].item() == 0.25
    assert losses["l1"].dtype == torch.float32


def test_log_l2_is_the_mean_psnr_of_frames() -> None:
    g = torch.Generator().manual_seed(0)
    real = torch.rand(2, 3, 5, 8, 8, generator=g) - 0.5
    noise = torch.rand(real.shape, generator=g) - 0.5
    fake = real + torch.linspace(0.01, 0.9, 10).reshape(2, 1, 5, 1, 1) * noise
    psnr = psnr_per_frame(fake, real).mean()
    expected = 10 * math.log10(4) - 10 / math.log(10) * reconstruction_losses(fake, real)["log_l2"]
    torch.testing.assert_close(expected, psnr.float(), atol=1e-4, rtol=0)


def test_log_l2_of_a_perfect_picture_is_finite_and_pulls_nowhere() -> None:
    fake = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = reconstruction_losses(fake, torch.zeros(1, 3, 4, 4))["log_l2"]
    (gradient,) = torch.autograd.grad(loss, fake)
    assert math.isfinite(loss.item())
    assert not gradient.any()


def test_temporal_loss_is_of_the_differences_of_neighbouring_frames() -> None:
    g = torch.Generator().manual_seed(0)
    real = torch.rand(2, 3, 5, 8, 8, generator=g) - 0.5
    frames = torch.tensor([0.0, 0.0, 0.2, 0.2, 0.2]).reshape(1, 1, 5, 1, 1)  # one jump of 0.2 among four differences
    videos = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1, 1)
    loss = reconstruction_losses(real + videos * frames, real)["temporal"]
    assert loss.item() == pytest.approx((math.log(0.2**2 / 4) + math.log(0.4**2 / 4)) / 2, abs=1e-5)
    # The same error in every frame does not flicker: the smallest value that the logarithm may take.
    still = reconstruction_losses((real + 0.2).double(), real.double())["temporal"]
    assert still.item() == pytest.approx(math.log(SMALLEST_SQUARED_ERROR), abs=1e-5)


def test_temporal_loss_is_of_clips_alone() -> None:
    assert "temporal" not in reconstruction_losses(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    assert "temporal" not in reconstruction_losses(torch.zeros(2, 3, 1, 8, 8), torch.zeros(2, 3, 1, 8, 8))


def test_kl_scales() -> None:
    kl = torch.tensor([12.0, 24.0])
    assert normalize_kl(kl, "sample", 6, 48).tolist() == [12, 24]
    assert normalize_kl(kl, "latent", 6, 48).tolist() == [2, 4]
    assert normalize_kl(kl, "pixel", 6, 48).tolist() == [0.25, 0.5]


def test_entropy_of_sure_and_varied_codes_is_minus_log_k() -> None:
    affinity = 100 * torch.eye(8)
    assert entropy_loss(affinity).item() == pytest.approx(-math.log(8), abs=1e-5)
    assert entropy_loss(affinity, diversity=0).item() == pytest.approx(0, abs=1e-5)


def test_entropy_of_one_code_for_all_is_zero_and_of_no_preference_too() -> None:
    one = torch.zeros(5, 8)
    one[:, 3] = 100
    assert entropy_loss(one).item() == pytest.approx(0, abs=1e-5)
    assert entropy_loss(torch.zeros(5, 8)).item() == pytest.approx(0, abs=1e-5)
    assert entropy_loss(torch.zeros(5, 8), diversity=0).item() == pytest.approx(math.log(8), rel=1e-5)


def test_entropy_has_finite_gradients_where_codes_are_unused() -> None:
    affinity = torch.zeros(5, 8)
    affinity[:, 3] = 1e4
    affinity.requires_grad_()
    entropy_loss(affinity).backward()
    assert torch.isfinite(affinity.grad).all()


def test_weighted_sum() -> None:
    losses = {"l1": torch.tensor(2.0), "l2": torch.tensor(3.0), "watched": torch.tensor(float("nan"))}
    assert weighted_sum(losses, {"l1": 1.0, "l2": 0.5, "watched": 0.0}).item() == 3.5
    assert weighted_sum(losses, {"l1": torch.tensor(4.0)}).item() == 8
    assert weighted_sum(losses, {"l1": 1.0, "gan_video": 1.0}, optional={"gan_video"}).item() == 2
    with pytest.raises(ValueError, match="weights are given for kl, but the losses are l1, l2"):
        weighted_sum(losses, {"l1": 1.0, "kl": 1.0})
    with pytest.raises(ValueError, match="no loss has a weight"):
        weighted_sum(losses, {"l1": 0.0})


def _entropy_gradient(samples: torch.Tensor) -> torch.Tensor:
    weight = torch.arange(30.0).view(5, 6).sin().requires_grad_()
    logits = samples @ weight
    entropy_loss(logits, temperature=1.0).backward()
    assert weight.grad is not None
    return weight.grad


def test_entropy_gradients_of_two_processes_average_to_that_of_one() -> None:
    samples = torch.arange(40.0).view(8, 5).cos()
    gradients = on_two_processes(in_process_group(lambda rank: _entropy_gradient(samples[rank::2]).tolist()))
    torch.testing.assert_close(torch.tensor(gradients).mean(0), _entropy_gradient(samples))
