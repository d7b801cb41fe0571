from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.losses.perceptual import MobileNetPerceptualLoss, MobileNetV2, ResizedDistance, load_mobilenet_v2

WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"


def random_network() -> MobileNetV2:
    network = MobileNetV2()
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        fan_in = max(parameter[0].numel(), 1)
        parameter.data = torch.randn(parameter.shape, generator=g) * (2 / fan_in) ** 0.5
    return network


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("height, width", [(1, 1), (7, 30), (64, 33)])
def test_any_size_halves_upwards(height: int, width: int) -> None:
    network = random_network()
    x = pictures(2, 3, height, width)
    assert network(x).features.shape == (2, 1280)
    assert network(x).logits.shape == (2, 1001)
    for level, activation in enumerate(network.activations(x, (0, 2, 5, 12, 16)), start=1):
        assert activation.shape[2:] == (-(-height // 2**level), -(-width // 2**level))


def test_same_padding_puts_the_smaller_half_first() -> None:
    network = random_network()
    x = pictures(1, 3, 8, 8)
    even = F.conv2d(F.pad(x, (0, 1, 0, 1)), network.stem.weight, network.stem.bias, stride=2)
    torch.testing.assert_close(network.stem(x), even)
    odd = F.conv2d(F.pad(x[..., :7], (1, 1, 0, 1)), network.stem.weight, network.stem.bias, stride=2)
    torch.testing.assert_close(network.stem(x[..., :7]), odd)


def test_loss_of_equal_pictures_is_zero_and_of_videos_is_per_frame() -> None:
    loss = MobileNetPerceptualLoss(random_network())
    a, b = pictures(2, 3, 2, 20, 31), pictures(2, 3, 2, 20, 31, seed=1)
    assert (loss(a, a) == 0).all()
    distances = loss(a, b)
    assert distances.shape == (2, 2)
    torch.testing.assert_close(distances[:, 1], loss(a[:, :, 1], b[:, :, 1]))


def test_a_gradient_step_comes_nearer() -> None:
    loss = MobileNetPerceptualLoss(random_network())
    target, x = pictures(1, 3, 48, 48), pictures(1, 3, 48, 48, seed=1).requires_grad_()
    before = loss(x, target).sum()
    (gradient,) = torch.autograd.grad(before, x)
    assert gradient.isfinite().all()
    assert loss(x - 0.02 * gradient / gradient.abs().max(), target).sum() < before


def test_unloaded_is_nan_and_bad_input_is_named() -> None:
    assert MobileNetV2()(pictures(1, 3, 32, 32)).features.isnan().all()
    network = random_network()
    loss = MobileNetPerceptualLoss(network)
    with pytest.raises(ValueError, match="equal shapes"):
        loss(pictures(1, 3, 8, 8), pictures(1, 3, 8, 9))
    with pytest.raises(ValueError, match=r"\(b, 3, H, W\)"):
        loss(pictures(1, 4, 8, 8), pictures(1, 4, 8, 8))


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the shared weights are not here")
def test_with_real_weights_blur_is_worse_than_a_brighter_picture() -> None:
    """What a perceptual loss is for: an equal pixel error weighs more where it destroys structure."""
    from skimage import data

    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 127.5 - 1
    picture = F.interpolate(picture, size=(160, 160), mode="bilinear", antialias=True) * 0.8
    blurred = F.avg_pool2d(picture, 5, stride=1, padding=2, count_include_pad=False)
    brighter = picture + (blurred - picture).square().mean().sqrt()
    loss = MobileNetPerceptualLoss(load_mobilenet_v2(WEIGHTS))
    assert loss(picture, blurred).item() > 2 * loss(picture, brighter).item()


def test_a_resized_distance_is_the_distance_of_resized_frames() -> None:
    loss = MobileNetPerceptualLoss(random_network())
    a, b = pictures(2, 3, 16, 24), pictures(2, 3, 16, 24, seed=1)
    large_a, large_b = (F.interpolate(x, size=(32, 48), mode="bilinear", antialias=True) for x in (a, b))
    torch.testing.assert_close(ResizedDistance(loss, 32)(a, b), loss(large_a, large_b))
    assert not torch.allclose(ResizedDistance(loss, 32)(a, b), loss(a, b))
    torch.testing.assert_close(ResizedDistance(loss, 16)(a, b), loss(a, b))
    clips = torch.stack([a, b], dim=2)  # (2, 3, 2, 16, 24)
    distances = ResizedDistance(loss, 32)(clips, clips.flip(2))
    assert distances.shape == (2, 2)
    torch.testing.assert_close(distances[:, 0], ResizedDistance(loss, 32)(a, b))
