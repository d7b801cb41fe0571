"""Adversarial terms against their closed forms."""

import math

import pytest
import torch

from helpers.processes import in_process_group, on_two_processes
from omnitok.losses.adversarial import (
    LeCam,
    adaptive_weight,
    adversarial_ramp,
    discriminator_loss,
    feature_matching,
    generator_loss,
    r1_penalty,
)
from omnitok.losses.discriminators import DiscriminatorConfig, PatchDiscriminator


def test_hinge_values() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))
    assert generator_loss(fake, "hinge").item() == pytest.approx(2 / 3)


def test_vanilla_values() -> None:
    zero = torch.zeros(2, 1, 3, 3)
    assert discriminator_loss(zero, zero, "vanilla").item() == pytest.approx(math.log(2))
    assert generator_loss(zero, "vanilla").item() == pytest.approx(math.log(2))
    # softplus(-logit a) is the cross-entropy of sigmoid(a) with "real"
    real, fake = torch.randn(50), torch.randn(50)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = 0.5 * (bce(real, torch.ones(50)) + bce(fake, torch.zeros(50)))
    torch.testing.assert_close(discriminator_loss(real, fake, "vanilla"), expected)


def test_losses_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = torch.randn(4, 8) @ torch.randn(8, 8)
        assert logits.dtype == torch.bfloat16
        for loss in (
            discriminator_loss(logits, logits, "hinge"),
            generator_loss(logits, "vanilla"),
            feature_matching([logits], [logits]),
            LeCam()(logits, logits),
        ):
            assert loss.dtype == torch.float32


def test_feature_matching() -> None:
    features = [torch.randn(2, 4, 5, 5), torch.randn(2, 8, 3, 3)]
    assert feature_matching(features, features).item() == 0
    shifted = [features[0] + 0.5, features[1] - 2]
    assert feature_matching(features, shifted).item() == pytest.approx(2.5, rel=1e-5)
    real = [f.clone().requires_grad_() for f in features]
    fake = [f.clone().requires_grad_() for f in shifted]
    feature_matching(real, fake).backward()
    assert all(f.grad is None for f in real)
    assert all(f.grad is not None for f in fake)


def test_lecam_closed_form() -> None:
    lecam = LeCam(decay=0.9)
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.0])
    assert lecam(real, fake).item() == 0  # no anchors yet
    lecam.update(real, fake)
    assert (lecam.real.item(), lecam.fake.item()) == (2.0, -1.0)
    lecam.update(real + 10, fake)
    assert lecam.real.item() == pytest.approx(0.9 * 2 + 0.1 * 12)
    anchors = lecam.real.item(), lecam.fake.item()
    expected = ((1 + 1) ** 2 + (3 + 1) ** 2) / 2 + ((-2 - anchors[0]) ** 2 + (0 - anchors[0]) ** 2) / 2
    assert lecam(real, fake).item() == pytest.approx(expected)
    copy = LeCam(decay=0.9)
    copy.load_state_dict(lecam.state_dict())
    assert copy(real, fake) == lecam(real, fake)


def test_r1_of_a_linear_discriminator_is_the_squared_weight() -> None:
    weight = torch.randn(3, 8, 8, requires_grad=True)
    penalty = r1_penalty(lambda x: (x * weight).sum((1, 2, 3)), torch.randn(5, 3, 8, 8))
    torch.testing.assert_close(penalty, weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_r1_trains_a_patch_discriminator() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(channels=4, layers=1, norm="spectral"), 2)
    with torch.no_grad():  # as in a step that otherwise wants no gradient
        penalty = r1_penalty(lambda x: model(x).logits, torch.rand(2, 3, 16, 16))
    penalty.backward()
    assert penalty > 0
    assert all(p.grad is not None for name, p in model.named_parameters() if "weight" in name)


def test_adaptive_weight_of_two_parameters() -> None:
    """Losses a.w and b.w have the gradients a and b, whatever w is."""
    w = torch.tensor([1.0, -1.0], requires_grad=True)
    loss, adversarial = (torch.tensor([3.0, 4.0]) * w).sum(), (torch.tensor([0.0, 0.5]) * w).sum()
    weight = adaptive_weight(loss, adversarial, w, epsilon=0.0)
    assert weight.item() == pytest.approx(10)
    assert not weight.requires_grad
    assert adaptive_weight(loss, adversarial, w, epsilon=0.5).item() == pytest.approx(5)
    assert adaptive_weight(loss, adversarial, w, maximum=7).item() == 7
    (loss + weight * adversarial).backward()  # the graph is still there
    torch.testing.assert_close(w.grad, torch.tensor([3.0, 9.0]))


def test_adaptive_weight_leaves_unused_layers_out() -> None:
    image, video = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    loss, adversarial = (2 * image).sum(), image.sum()
    assert adaptive_weight(loss, adversarial, [image, video], epsilon=0.0).item() == pytest.approx(2)


def test_ramp() -> None:
    assert [adversarial_ramp(s, start=2) for s in range(4)] == [0, 0, 1, 1]
    assert [adversarial_ramp(s, start=1, ramp=4) for s in range(7)] == [0, 0.25, 0.5, 0.75, 1, 1, 1]


def _state(samples: torch.Tensor) -> tuple[float, float, float]:
    lecam = LeCam()
    lecam.update(samples, -samples.square())
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = (samples @ w).square().mean(), -(samples @ w).sin().mean()
    return lecam.real.item(), lecam.fake.item(), adaptive_weight(reconstruction, adversarial, w).item()


def test_two_processes_agree_with_one() -> None:
    samples = torch.arange(8.0).view(4, 2)
    first, second = on_two_processes(in_process_group(lambda rank: _state(samples[rank::2])))
    assert first == pytest.approx(_state(samples), rel=1e-5)
    assert second == first
