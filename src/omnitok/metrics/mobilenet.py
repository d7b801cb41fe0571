"""Features of MobileNetV2 for the Fréchet distances `fd_mobilenet_v2` and `fd_mobilenet_v2_video`.

A proxy where FID's Inception or I3D are not at hand. The numbers are on another scale than FID and FVD and must
never be called so; they order models, and only within one protocol.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.losses.perceptual import MobileNetV2
from omnitok.metrics.pixels import to_float_pixels

_SIZE = 224


class MobileNetImageFeatures(nn.Module):
    """Images (n, 3, H, W), uint8 or float in [-1, 1] → (n, 1280); any size, resized to 224 (antialiased bilinear)."""

    dimension = 1280

    def __init__(self, network: MobileNetV2) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = to_float_pixels(images, "MobileNetV2")
        if x.shape[-2:] != (_SIZE, _SIZE):
            x = F.interpolate(x, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False, antialias=True)
        return self.network(x).features


class MobileNetVideoFeatures(nn.Module):
    """Videos (b, 3, T, H, W), T ≥ 2, uint8 or float in [-1, 1] → (b, 2560).

    The mean over time of the frames' features, which sees what the frames look like, beside the mean absolute
    difference of neighbouring frames' features, which sees how they move: it falls to 0 in frozen videos and rises in
    shuffled ones.
    Playing a video backwards changes neither.
    """

    dimension = 2560

    def __init__(self, network: MobileNetV2) -> None:
        super().__init__()
        self.images = MobileNetImageFeatures(network)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        if video.ndim != 5 or video.shape[2] < 2:
            raise ValueError(
                f"MobileNetV2 needs videos (b, 3, T, H, W) of at least 2 frames, but got {tuple(video.shape)}"
            )
        # Video by video: the inner activations of one video's frames are enough for the memory.
        features = torch.stack([self.images(one.transpose(0, 1)) for one in video])  # (b, T, 1280)
        motion = (features[:, 1:] - features[:, :-1]).abs().mean(1)  # (b, 1280)
        return torch.cat([features.mean(1), motion], dim=1)  # (b, 2560)
