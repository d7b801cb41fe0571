"""MobileNetV2 as a small feature network, and a perceptual loss over it for machines without VGG16.

MobileNetV2 1.0 (Sandler et al., arXiv 1801.04381), trained on ImageNet by its authors in TensorFlow: batch norm is
folded into the convolutions and every convolution pads as TensorFlow's "SAME". Weights are read by path, checked by
hash.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.hub.weights import read_weights
from omnitok.losses.discriminators import take_frames
from omnitok.losses.frozen_network import FrozenNetwork, compare_frames, load_exactly, unit_difference
from omnitok.losses.lpips import load_lpips

# (width, repeats, stride of the first) of the groups of inverted residual blocks, Table 2 of the paper
_GROUPS = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


class _SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: ceil(n / stride) outputs, the smaller half of the padding first."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if height % 2 or width % 2:  # else the convolution pads by itself
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
            height = width = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (height // 2, width // 2), groups=self.groups)


class _InvertedResidual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = _SameConv2d(channels, inner, 1) if expansion > 1 else None
        self.depthwise = _SameConv2d(inner, inner, 3, stride=stride, groups=inner)
        self.project = _SameConv2d(inner, width, 1)
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


@dataclass(frozen=True)
class MobileNetOutput:
    """`features` (n, 1280): the head's mean over space; `logits` (n, 1001): class 0 is background."""

    features: Tensor
    logits: Tensor


class MobileNetV2(FrozenNetwork):
    """MobileNetV2 1.0 on images (n, 3, h, w) in [-1, 1] of any size (trained at 224 x 224).

    `MobileNetV2()` alone answers NaN; `load_mobilenet_v2(weights_dir)` gives the usable network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv2d(3, 32, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = 32
        for width, repeats, first_stride in _GROUPS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(_InvertedResidual(channels, width, stride, expansion=6 if blocks else 1))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.head = _SameConv2d(channels, 1280, 1)
        self.classifier = _SameConv2d(1280, 1001, 1)
        self._freeze()

    def forward(self, x: Tensor) -> MobileNetOutput:
        (x,) = self.activations(x, (len(self.blocks) - 1,))  # (n, 320, h/32, w/32)
        features = F.relu6(self.head(x)).mean((2, 3), keepdim=True)  # (n, 1280, 1, 1)
        return MobileNetOutput(features.flatten(1), self.classifier(features).flatten(1))

    def activations(self, x: Tensor, after: Sequence[int]) -> list[Tensor]:
        """The outputs of the blocks with the indices `after` (ascending, 0 … 16); computes no further than the last."""
        x = F.relu6(self.stem(x))
        outputs = []
        for index, block in enumerate(self.blocks[: max(after) + 1]):
            x = block(x)
            if index in after:
                outputs.append(x)
        return outputs


def load_mobilenet_v2(weights_dir: str | os.PathLike[str] | None = None) -> MobileNetV2:
    """MobileNetV2 with its published weights; MissingWeightsError where the file is absent or has another hash."""
    network = MobileNetV2()
    load_exactly(network, read_weights("mobilenet_v2", weights_dir), "MobileNetV2")
    return network


class MobileNetPerceptualLoss(nn.Module):
    """Squared distance of channel-normalised MobileNetV2 activations: LPIPS's form without learned heads.

    At every compared block the channel vector of each position is scaled to unit length, the squared difference is
    summed over channels, averaged over space, and averaged over the blocks. Not LPIPS, and not comparable with it.

    Args:
        network: from `load_mobilenet_v2`.
        blocks: indices of the compared blocks; the default has one each at 1/2, 1/4, 1/8 and 1/16 of the size.
    """

    def __init__(self, network: MobileNetV2, blocks: Sequence[int] = (0, 2, 5, 12)) -> None:
        super().__init__()
        self.network = network
        self.blocks = tuple(blocks)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of images (b, 3, H, W) as (b,), of videos (b, 3, T, H, W) as (b, T); pixels in [-1, 1]."""
        return compare_frames("the perceptual loss", self._distance, a, b)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(*(self.network.activations(x, self.blocks) for x in (a, b)), strict=True)
        return torch.stack([unit_difference(x, y, 1e-3).sum(1).mean((1, 2)) for x, y in pairs]).mean(0)


class DistanceOfChannels(nn.Module):
    """A perceptual distance of three of the channels, which the network takes for red, green and blue.

    Args:
        distance: takes (b, 3, H, W) or (b, 3, T, H, W) twice.
        channels: the numbers of the three, from 0; one may come several times.
    """

    def __init__(self, distance: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.distance, self.channels = distance, list(channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distances: Tensor = self.distance(a[:, self.channels], b[:, self.channels])
        return distances


class ResizedDistance(nn.Module):
    """A perceptual distance of frames whose shorter side is brought to `resolution` first (bilinear, antialiased).

    Networks that were trained at 224 pixels see little in images of 64; enlarging both sides of the comparison is how
    small images are compared (as in Song et al., Consistency Models, arXiv 2303.01469, for LPIPS).

    Args:
        distance: takes (b, 3, H, W) or (b, 3, T, H, W) twice.
        resolution: of the shorter side, in pixels.
    """

    def __init__(self, distance: nn.Module, resolution: int) -> None:
        super().__init__()
        self.distance, self.resolution = distance, resolution

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distances: Tensor = self.distance(self._resize(a), self._resize(b))
        return distances

    def _resize(self, x: Tensor) -> Tensor:
        if x.ndim == 5:
            frames = self._resize(x.transpose(1, 2).flatten(0, 1))
            return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        shorter = min(x.shape[-2:])
        if shorter == self.resolution:
            return x
        size = [max(1, round(n * self.resolution / shorter)) for n in x.shape[-2:]]
        return F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False, antialias=True)


def load_perceptual(
    network: Literal["lpips", "mobilenet"],
    weights_dir: str | os.PathLike[str] | None = None,
    resolution: int | None = None,
    channels: Sequence[int] | None = None,
) -> nn.Module:
    """A frozen distance of images or videos: (b, c, H, W) or (b, c, T, H, W) twice -> (b,) or (b, T).

    Args:
        network: "lpips" (VGG16) or "mobilenet".
        weights_dir: the folder with the network's files; None takes that of OMNITOK_WEIGHTS.
        resolution: as in `ResizedDistance`; None compares frames as they are.
        channels: as in `DistanceOfChannels`; None takes pixels in colour.

    Raises:
        MissingWeightsError: the files are missing or have another hash.
    """
    distance: nn.Module
    if network == "lpips":
        distance = load_lpips("vgg", weights_dir)
    else:
        distance = MobileNetPerceptualLoss(load_mobilenet_v2(weights_dir))
    distance = distance if resolution is None else ResizedDistance(distance, resolution)
    return distance if channels is None else DistanceOfChannels(distance, channels)


def change_between_frames(distance: nn.Module, videos: Tensor, frames: Tensor | None = None) -> Tensor:
    """Distances between neighbouring frames; the mean absolute difference of those of two videos is tLP (Chu et al.,
    arXiv 1811.09393, with LPIPS as the distance).

    Args:
        distance: takes (b, 3, H, W) or (b, 3, T, H, W) twice.
        videos: (b, 3, T, H, W) of at least two frames.
        frames: (b,), at most T - 2: the one of each video that is compared with its next; None compares all.

    Returns:
        (b,), or with `frames=None` (b, T - 1).
    """
    if frames is None:
        pair = videos[:, :, :-1], videos[:, :, 1:]
    else:
        pair = take_frames(videos, frames), take_frames(videos, frames + 1)
    change: Tensor = distance(*pair)
    return change
