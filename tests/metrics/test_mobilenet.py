"""The stand-in Fréchet distances must order what everyone orders alike, on real pictures and clips made from them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.losses.perceptual import MobileNetV2, load_mobilenet_v2
from omnitok.metrics import MobileNetImageFeatures, MobileNetVideoFeatures, frechet_distance, gaussian_statistics

WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the shared weights are not here")
SIDE = 96


def photographs() -> list[np.ndarray]:
    from skimage import data

    return [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.retina()[200:1200, 200:1200]]


def windows() -> Tensor:
    """Ten windows of real pictures, (10, 3, 96, 96) uint8."""
    g = torch.Generator().manual_seed(0)
    crops = []
    for picture in photographs():
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        for _ in range(2):
            top = int(torch.randint(0, x.shape[1] - 2 * SIDE, (), generator=g))
            left = int(torch.randint(0, x.shape[2] - 2 * SIDE, (), generator=g))
            crop = x[None, :, top : top + 2 * SIDE, left : left + 2 * SIDE].float()
            crops.append(F.interpolate(crop, size=(SIDE, SIDE), mode="bilinear", antialias=True).round().byte())
    return torch.cat(crops)


def blurred(x: Tensor, sigma: float) -> Tensor:
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(x.float().numpy(), (0, 0, sigma, sigma)).round()).byte()


def noisy(x: Tensor, amount: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x.float() + amount * noise).clamp(0, 255).round().byte()


def jpeg(x: Tensor, quality: float) -> Tensor:
    from PIL import Image

    pictures = []
    for picture in x:
        buffer = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=int(quality))
        pictures.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(pictures)


@needs_weights
@pytest.mark.parametrize(
    "distort, amounts", [(blurred, (0.5, 1.0, 2.0, 4.0)), (noisy, (4, 12, 36, 80)), (jpeg, (90, 50, 20, 5))]
)
def test_pictures_grow_apart_with_distortion(
    distort: Callable[[Tensor, float], Tensor], amounts: tuple[float, ...]
) -> None:
    features = MobileNetImageFeatures(load_mobilenet_v2(WEIGHTS))
    x = windows()
    reference = gaussian_statistics(features(x))
    distances = [frechet_distance(reference, gaussian_statistics(features(distort(x, amount)))) for amount in amounts]
    assert frechet_distance(reference, reference) < 1e-8
    assert distances[0] > 1e-3
    assert distances == sorted(distances), distances
    assert distances[-1] > 2 * distances[0]


@needs_weights
def test_clips_shuffled_or_frozen_are_noticed() -> None:
    """Clips of a moving camera; every frame of the altered ones is a frame of the clip itself."""
    clips = []
    for picture in photographs():
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        x = F.interpolate(x[None].float(), size=(160, 200), mode="bilinear", antialias=True).round().byte()[0]
        clips.append(torch.stack([x[:, 4 * t : 4 * t + SIDE, 8 * t : 8 * t + SIDE] for t in range(6)], dim=1))
    clips_tensor = torch.stack(clips)  # (5, 3, 6, 96, 96)
    features = MobileNetVideoFeatures(load_mobilenet_v2(WEIGHTS))
    reference = gaussian_statistics(features(clips_tensor))

    def distance(video: Tensor) -> float:
        return frechet_distance(reference, gaussian_statistics(features(video)))

    order = torch.tensor([3, 0, 5, 2, 4, 1])
    slight = distance((clips_tensor.float() * 0.98).round().byte())  # a little darker, same motion
    assert distance(clips_tensor[:, :, order]) > 5 * slight
    assert distance(clips_tensor[:, :, :1].expand_as(clips_tensor)) > 5 * slight


def test_features_have_the_stated_shapes() -> None:
    network = MobileNetV2()
    for parameter in network.parameters():
        parameter.data.fill_(0.01)
    assert MobileNetImageFeatures(network)(torch.zeros(2, 3, 20, 30)).shape == (2, 1280)
    still = MobileNetVideoFeatures(network)(torch.zeros(1, 3, 4, 20, 30))
    assert still.shape == (1, 2560)
    assert (still[:, 1280:] == 0).all()
    with pytest.raises(ValueError, match="at least 2 frames"):
        MobileNetVideoFeatures(network)(torch.zeros(1, 3, 1, 20, 30))
