"""LPIPS v0.1 (Zhang et al., "The Unreasonable Effectiveness of Deep Features", arXiv 1801.03924), exact.

Backbones are torchvision's `features` of VGG16, AlexNet and SqueezeNet 1.1 under the same parameter names; the learned
linear heads are the ones LPIPS distributes. Weights are read by path and checked by hash (`omnitok.hub.weights`).
"""

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from omnitok.hub.weights import read_weights
from omnitok.losses.frozen_network import FrozenNetwork, compare_frames, load_exactly, unit_difference

LpipsNet = Literal["vgg", "alex", "squeeze"]

_BACKBONE_WEIGHTS = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet"}
# backbone -> indices of the layers that are compared
_TAPS = {"vgg": (3, 8, 15, 22, 29), "alex": (1, 4, 7, 9, 11), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
# Sizes below this vanish in the backbone's pooling.
_SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}

# backbone -> its layers: (width, kernel, stride, padding) of a convolution with ReLU, the arguments of a pooling, or
# (narrow, wide) of a Fire block
_POOL = {"kernel_size": 3, "stride": 2}
_CEIL_POOL = _POOL | {"ceil_mode": True}
_LAYERS: dict[str, list[Any]] = {
    "vgg": [
        layer
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
        for layer in (*[(width, 3, 1, 1)] * depth, {"kernel_size": 2})
    ],
    "alex": [(64, 11, 4, 2), _POOL, (192, 5, 1, 2), _POOL, (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)],
    "squeeze": [
        *((64, 3, 2, 0), _CEIL_POOL, (16, 64), (16, 64), _CEIL_POOL, (32, 128), (32, 128)),
        *(_CEIL_POOL, (48, 192), (48, 192), (64, 256), (64, 256)),
    ],
}


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
        self.features, widths = _backbone(_LAYERS[net])
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(1, widths[i], 1, 1)) for i in _TAPS[net]])
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
        pairs = zip(self._activations(a), self._activations(b), self.heads, strict=True)
        distances = [(unit_difference(x, y, 1e-10) * head).sum(1).mean((1, 2)) for x, y, head in pairs]  # (b,) each
        return sum(distances[1:], distances[0])

    def load_weights(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """Fill from torchvision's state dict (its `features.*`) and LPIPS's heads (`lin*.model.1.weight`)."""
        features = {name.removeprefix("features."): w for name, w in backbone.items() if name.startswith("features.")}
        load_exactly(self.features, features, f"LPIPS {self.net} backbone")
        by_index = {name.removeprefix("lin").removesuffix(".model.1.weight"): w for name, w in heads.items()}
        load_exactly(self.heads, by_index, f"LPIPS {self.net} heads")

    def _activations(self, x: Tensor) -> list[Tensor]:
        x = (x - self.shift) / self.scale
        activations = []
        for index, layer in enumerate(list(self.features)[: _TAPS[self.net][-1] + 1]):
            x = layer(x)
            if index in _TAPS[self.net]:
                activations.append(x)
        return activations


def load_lpips(net: LpipsNet = "vgg", weights_dir: str | os.PathLike[str] | None = None) -> LPIPS:
    """LPIPS with its published weights; MissingWeightsError where a file is absent or has another hash.

    Files: torchvision's backbone and `lpips_heads/{net}.pth` in `weights_dir` (None: the folder of OMNITOK_WEIGHTS).
    """
    network = LPIPS(net)
    heads = read_weights(f"lpips_{net}", weights_dir)
    network.load_weights(read_weights(_BACKBONE_WEIGHTS[net], weights_dir), heads)
    return network


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


def _backbone(layers: list[Any]) -> tuple[nn.Sequential, list[int]]:
    """The modules under torchvision's indices, and the channels after each."""
    modules: list[nn.Module] = []
    new: list[nn.Module]
    widths = [3]
    for layer in layers:
        if isinstance(layer, dict):
            new, width = [nn.MaxPool2d(**layer)], widths[-1]
        elif len(layer) == 2:
            new, width = [_Fire(widths[-1], *layer)], 2 * layer[1]
        else:
            new, width = [nn.Conv2d(widths[-1], *layer), nn.ReLU(inplace=True)], layer[0]
        modules += new
        widths += [width] * len(new)
    return nn.Sequential(*modules), widths[1:]
