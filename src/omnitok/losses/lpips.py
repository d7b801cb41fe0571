"""LPIPS v0.1 (Zhang et al., "The Unreasonable Effectiveness of Deep Features", arXiv 1801.03924), exact.

Backbones are torchvision's `features` of VGG16, AlexNet and SqueezeNet 1.1 under the same parameter names; the learned
linear heads are the ones LPIPS distributes. Weights are read by path and checked by hash (`omnitok.hub.weights`).
"""

import os
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from omnitok.hub.weights import read_weights
from omnitok.losses.frozen_network import FrozenNetwork, compare_frames, load_exactly

LpipsNet = Literal["vgg", "alex", "squeeze"]

# backbone -> (index of the layers that are compared, their channels)
_TAPS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "vgg": ((3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
    "alex": ((1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "squeeze": ((1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}
_BACKBONE_WEIGHTS = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet"}
# Sizes below this vanish in the backbone's pooling.
_SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}


class LPIPS(FrozenNetwork):
    """Learned perceptual distance between images or between the frames of videos.

    `LPIPS(net)` alone answers NaN; `load_lpips(net, weights_dir)` gives the usable network.
    Differentiable in both arguments.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: LpipsNet = "vgg") -> None:
        super().__init__()
        if net not in _TAPS:
            raise ValueError(f"net is {net!r}, but LPIPS has vgg, alex and squeeze")
        self.net = net
        self.taps, channels = _TAPS[net]
        self.features = {"vgg": _vgg16, "alex": _alexnet, "squeeze": _squeezenet}[net]()
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(1, c, 1, 1)) for c in channels])
        # ImageNet's mean and standard deviation, moved to [-1, 1], as LPIPS rounds them.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self._freeze()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of images (b, 3, H, W) as (b,), of videos (b, 3, T, H, W) as (b, T); pixels in [-1, 1]."""
        return compare_frames("LPIPS", self._distance, a, b)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[-2:]) < _SMALLEST[self.net]:
            raise ValueError(
                f"LPIPS {self.net} needs at least {_SMALLEST[self.net]} pixels a side, but got "
                f"{a.shape[-2]} x {a.shape[-1]}"
            )
        distance = torch.zeros(a.shape[0], device=a.device)
        with torch.autocast(a.device.type, enabled=False):  # a metric means the same under any autocast
            pairs = zip(self._activations(a.float()), self._activations(b.float()), self.heads, strict=True)
            for feature_a, feature_b, head in pairs:
                difference = (_unit(feature_a) - _unit(feature_b)).square()  # (b, c, h, w)
                distance = distance + (difference * head).sum(1).mean((1, 2))  # (b,)
        return distance

    def load_weights(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """Fill from torchvision's state dict (its `features.*`) and LPIPS's heads (`lin*.model.1.weight`)."""
        features = {name.removeprefix("features."): w for name, w in backbone.items() if name.startswith("features.")}
        load_exactly(self.features, features, f"LPIPS {self.net} backbone")
        by_index = {name.removeprefix("lin").removesuffix(".model.1.weight"): w for name, w in heads.items()}
        load_exactly(self.heads, by_index, f"LPIPS {self.net} heads")

    def _activations(self, x: Tensor) -> list[Tensor]:
        x = (x - self.shift) / self.scale
        activations = []
        for index, layer in enumerate(self.features.children()):
            x = layer(x)
            if index in self.taps:
                activations.append(x)
            if index == self.taps[-1]:
                break
        return activations


def load_lpips(net: LpipsNet = "vgg", weights_dir: str | os.PathLike[str] | None = None) -> LPIPS:
    """LPIPS with its published weights; MissingWeightsError where a file is absent or has another hash.

    Files: torchvision's backbone and `lpips_heads/{net}.pth` in `weights_dir` (None: the folder of OMNITOK_WEIGHTS).
    """
    network = LPIPS(net)
    heads = read_weights(f"lpips_{net}", weights_dir)
    network.load_weights(read_weights(_BACKBONE_WEIGHTS[net], weights_dir), heads)
    return network


def _unit(x: Tensor) -> Tensor:
    """Every position's channel vector at unit length; vector_norm has a zero (not NaN) gradient where all are zero."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class _Fire(nn.Module):
    """SqueezeNet's block: a narrow 1x1, then 1x1 and 3x3 side by side."""

    def __init__(self, channels: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()  # (b, narrow, h, w)
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()  # (b, 2 wide, h, w)


def _squeezenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(64, 16, 64),
        _Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(128, 32, 128),
        _Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        _Fire(512, 64, 256),
    )
