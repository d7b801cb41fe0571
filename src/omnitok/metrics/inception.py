"""The Inception network of FID, IS, KID, precision and recall: Google's 2015-12-05 graph with 1008 classes.

Parameter names are those of `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid; torch-fidelity has the same file).
The graph differs from torchvision's Inception v3 in three places: average pools do not count the padding, the last
block pools with a maximum, and there are 1008 outputs. Sources: the TensorFlow graph, and pytorch-fid for the layout of
the file.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.hub.weights import read_weights
from omnitok.losses.frozen_network import FrozenNetwork, load_exactly
from omnitok.metrics.pixels import to_float_pixels
from omnitok.metrics.protocols import Resize

_SIZE = 299


class InceptionOutput(NamedTuple):
    """`features` (n, 2048): pool3; `logits_unbiased` (n, 1008): without the last bias, as IS is computed."""

    features: Tensor
    logits_unbiased: Tensor


class _ConvUnit(nn.Module):
    def __init__(
        self, channels: int, width: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(channels, width, sides, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


_Pool = Literal["average", "maximum", "halve"]
_Chain = Sequence[tuple[int, int | tuple[int, int] | Literal["fork"]]]
_Branches = Mapping[str, _Chain]


class _Block(nn.Module):
    """Branches of convolutions side by side, joined along the channels.

    Args:
        pool: what "branch_pool" sees is pooled so; "halve": all branches end with stride 2, beside the pooled input.
        branches: by name, the width and kernel of each convolution in turn; "fork" is 1x3 beside 3x1. The names of
            several are numbered, those of a fork lettered.
    """

    def __init__(self, channels: int, pool: _Pool, branches: _Branches) -> None:
        super().__init__()
        self.pool = pool
        self.branches: dict[str, list[list[str]]] = {branch: [] for branch in branches}
        for branch, units in branches.items():
            before = channels
            for number, (width, kernel) in enumerate(units, start=1):
                name = branch if len(units) == 1 else f"{branch}_{number}"
                fork: dict[str, int | tuple[int, int]] = {f"{name}a": (1, 3), f"{name}b": (3, 1)}
                kernels = fork if kernel == "fork" else {name: kernel}
                stride = 2 if pool == "halve" and number == len(units) else 1
                for part, sides in kernels.items():
                    self.add_module(part, _ConvUnit(before, width, sides, stride, pad=stride == 1))
                self.branches[branch].append(list(kernels))
                before = width

    def forward(self, x: Tensor) -> Tensor:
        joined = []
        for branch, chain in self.branches.items():
            outputs = [x]
            if branch == "branch_pool":
                outputs = [F.max_pool2d(x, 3, 1, 1) if self.pool == "maximum" else _average_pool(x)]
            for names in chain:
                outputs = [self.get_submodule(name)(outputs[0]) for name in names]
            joined += outputs
        if self.pool == "halve":
            joined.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(joined, dim=1)


def _average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _a(pooled: int) -> _Branches:
    double = [(64, 1), (96, 3), (96, 3)]
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": double,
        "branch_pool": [(pooled, 1)],
    }


def _c(width: int) -> _Branches:
    double: _Chain = [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))]
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), (width, (1, 7)), (192, (7, 1))],
        "branch7x7dbl": double,
        "branch_pool": [(192, 1)],
    }


_B: _Branches = {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
_D: _Branches = {
    "branch3x3": [(192, 1), (320, 3)],
    "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)],
}
_E: _Branches = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), (384, "fork")],
    "branch3x3dbl": [(448, 1), (384, 3), (384, "fork")],
    "branch_pool": [(192, 1)],
}

# In the order of the network: input channels, pool and branches.
_MIXED: dict[str, tuple[int, _Pool, _Branches]] = {
    "Mixed_5b": (192, "average", _a(32)),  # 35 x 35
    "Mixed_5c": (256, "average", _a(64)),
    "Mixed_5d": (288, "average", _a(64)),
    "Mixed_6a": (288, "halve", _B),  # to 17 x 17
    "Mixed_6b": (768, "average", _c(128)),
    "Mixed_6c": (768, "average", _c(160)),
    "Mixed_6d": (768, "average", _c(160)),
    "Mixed_6e": (768, "average", _c(192)),
    "Mixed_7a": (768, "halve", _D),  # to 8 x 8
    "Mixed_7b": (1280, "average", _E),
    "Mixed_7c": (2048, "maximum", _E),
}


class FIDInception(FrozenNetwork):
    """FID's Inception on images (n, 3, H, W) of any size, uint8 or float in [-1, 1].

    `resize` chooses how an image comes to 299 x 299, which moves FID by tenths:
    "pytorch_fid": bilinear with half-pixel centres, values 2 x / 255 - 1 (pytorch-fid);
    "tf1": TensorFlow 1's bilinear without half-pixel centres, values (x - 128) / 128 (ADM's evaluator, torch-fidelity).
    FID in print means uint8 pixels; round before, not here. `FIDInception()` alone answers NaN; `load_inception` loads.
    """

    dimension = 2048

    def __init__(self, resize: Resize = "pytorch_fid") -> None:
        super().__init__()
        if resize not in ("pytorch_fid", "tf1"):
            raise ValueError(f"resize is {resize!r}, but must be 'pytorch_fid' or 'tf1'")
        self.resize = resize
        self.Conv2d_1a_3x3 = _ConvUnit(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = _ConvUnit(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = _ConvUnit(32, 64, 3)
        self.Conv2d_3b_1x1 = _ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = _ConvUnit(80, 192, 3, pad=False)
        for name, block in _MIXED.items():
            self.add_module(name, _Block(*block))
        self.fc = nn.Linear(2048, 1008)
        self._freeze()

    def forward(self, images: Tensor) -> InceptionOutput:
        pixels = _pixels_0_255(images)  # (n, 3, H, W)
        if self.resize == "pytorch_fid":
            unit = F.interpolate(pixels / 255, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False)
            x = 2 * unit - 1
        else:
            x = (resize_bilinear_tf1(pixels, _SIZE, _SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (n, 64, 147, 147)
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # (n, 192, 71, 71)
        x = F.max_pool2d(x, 3, stride=2)
        for name in _MIXED:
            x = self.get_submodule(name)(x)  # (n, 2048, 8, 8) in the end
        features = x.mean((2, 3))
        return InceptionOutput(features, features @ self.fc.weight.T)


def load_inception(resize: Resize = "pytorch_fid", weights_dir: str | os.PathLike[str] | None = None) -> FIDInception:
    """FID's Inception with its published weights; MissingWeightsError where the file is absent or has another hash."""
    network = FIDInception(resize)
    load_exactly(network, read_weights("inception", weights_dir), "FID Inception")
    return network


def resize_bilinear_tf1(x: Tensor, height: int, width: int) -> Tensor:
    """TensorFlow 1's `resize_bilinear` without align_corners: output i is read at i * (input / output), no half pixel.

    x: (n, c, H, W) float. No antialiasing; the last rows and columns repeat.
    """
    above, below, fraction = _legacy_weights(x.shape[2], height, x)
    left, right, across = _legacy_weights(x.shape[3], width, x)
    upper, lower = x[:, :, above], x[:, :, below]  # (n, c, height, W)
    top = torch.lerp(upper[..., left], upper[..., right], across)  # (n, c, height, width)
    bottom = torch.lerp(lower[..., left], lower[..., right], across)
    return torch.lerp(top, bottom, fraction[:, None])


def _legacy_weights(size: int, out: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two neighbours of each output along one axis, and how far it lies from the first to the second."""
    # float32 arithmetic, as TensorFlow's kernel
    step = torch.tensor(size, dtype=torch.float32, device=like.device) / out
    position = torch.arange(out, dtype=torch.float32, device=like.device) * step
    low = position.floor().long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), (position - low).to(like.dtype)


def _pixels_0_255(images: Tensor) -> Tensor:
    pixels = to_float_pixels(images, "Inception")
    return images.float() if images.dtype == torch.uint8 else (pixels + 1) * 127.5
