"""The Inception network of FID, IS, KID, precision and recall: Google's 2015-12-05 graph with 1008 classes.

Parameter names are those of `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid; torch-fidelity has the same file).
The graph differs from torchvision's Inception v3 in three places: average pools do not count the padding, the last
block pools with a maximum, and there are 1008 outputs. Sources: the TensorFlow graph, and pytorch-fid for the layout of
the file.
"""

import os
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.hub.weights import read_weights
from omnitok.losses.frozen_network import FrozenNetwork, load_exactly
from omnitok.metrics.pixels import to_float_pixels
from omnitok.metrics.protocols import Resize

_SIZE = 299


@dataclass(frozen=True)
class InceptionOutput:
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


def _average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, double 3x3 and pooled branches."""

    def __init__(self, channels: int, pool_width: int) -> None:
        super().__init__()
        self.branch1x1 = _ConvUnit(channels, 64, 1)
        self.branch5x5_1 = _ConvUnit(channels, 48, 1)
        self.branch5x5_2 = _ConvUnit(48, 64, 5)
        self.branch3x3dbl_1 = _ConvUnit(channels, 64, 1)
        self.branch3x3dbl_2 = _ConvUnit(64, 96, 3)
        self.branch3x3dbl_3 = _ConvUnit(96, 96, 3)
        self.branch_pool = _ConvUnit(channels, pool_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch_5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch_3x3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), branch_5x5, branch_3x3, self.branch_pool(_average_pool(x))], dim=1)


class _BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = _ConvUnit(288, 384, 3, stride=2, pad=False)
        self.branch3x3dbl_1 = _ConvUnit(288, 64, 1)
        self.branch3x3dbl_2 = _ConvUnit(64, 96, 3)
        self.branch3x3dbl_3 = _ConvUnit(96, 96, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        branch_3x3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), branch_3x3, F.max_pool2d(x, 3, stride=2)], dim=1)


class _BlockC(nn.Module):
    """17 x 17: 7x7 as pairs of 1x7 and 7x1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = _ConvUnit(768, 192, 1)
        self.branch7x7_1 = _ConvUnit(768, width, 1)
        self.branch7x7_2 = _ConvUnit(width, width, (1, 7))
        self.branch7x7_3 = _ConvUnit(width, 192, (7, 1))
        self.branch7x7dbl_1 = _ConvUnit(768, width, 1)
        self.branch7x7dbl_2 = _ConvUnit(width, width, (7, 1))
        self.branch7x7dbl_3 = _ConvUnit(width, width, (1, 7))
        self.branch7x7dbl_4 = _ConvUnit(width, width, (7, 1))
        self.branch7x7dbl_5 = _ConvUnit(width, 192, (1, 7))
        self.branch_pool = _ConvUnit(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average_pool(x))], dim=1)


class _BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = _ConvUnit(768, 192, 1)
        self.branch3x3_2 = _ConvUnit(192, 320, 3, stride=2, pad=False)
        self.branch7x7x3_1 = _ConvUnit(768, 192, 1)
        self.branch7x7x3_2 = _ConvUnit(192, 192, (1, 7))
        self.branch7x7x3_3 = _ConvUnit(192, 192, (7, 1))
        self.branch7x7x3_4 = _ConvUnit(192, 192, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        branch_3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch_7x7 = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([branch_3x3, branch_7x7, F.max_pool2d(x, 3, stride=2)], dim=1)


class _BlockE(nn.Module):
    """8 x 8: 3x3 as 1x3 beside 3x1."""

    def __init__(self, channels: int, pool: Literal["average", "maximum"]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = _ConvUnit(channels, 320, 1)
        self.branch3x3_1 = _ConvUnit(channels, 384, 1)
        self.branch3x3_2a = _ConvUnit(384, 384, (1, 3))
        self.branch3x3_2b = _ConvUnit(384, 384, (3, 1))
        self.branch3x3dbl_1 = _ConvUnit(channels, 448, 1)
        self.branch3x3dbl_2 = _ConvUnit(448, 384, 3)
        self.branch3x3dbl_3a = _ConvUnit(384, 384, (1, 3))
        self.branch3x3dbl_3b = _ConvUnit(384, 384, (3, 1))
        self.branch_pool = _ConvUnit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _average_pool(x) if self.pool == "average" else F.max_pool2d(x, 3, stride=1, padding=1)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        ]
        return torch.cat(branches, dim=1)


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
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB()
        self.Mixed_6b = _BlockC(128)
        self.Mixed_6c = _BlockC(160)
        self.Mixed_6d = _BlockC(160)
        self.Mixed_6e = _BlockC(192)
        self.Mixed_7a = _BlockD()
        self.Mixed_7b = _BlockE(1280, "average")
        self.Mixed_7c = _BlockE(2048, "maximum")
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
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # (n, 288, 35, 35)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # (n, 768, 17, 17)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (n, 2048, 8, 8)
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
    rows = _legacy_weights(x.shape[2], height, x)
    columns = _legacy_weights(x.shape[3], width, x)
    upper, lower = x[:, :, rows.low], x[:, :, rows.high]  # (n, c, height, W)
    top = torch.lerp(upper[..., columns.low], upper[..., columns.high], columns.fraction)  # (n, c, height, width)
    bottom = torch.lerp(lower[..., columns.low], lower[..., columns.high], columns.fraction)
    return torch.lerp(top, bottom, rows.fraction[:, None])


@dataclass(frozen=True)
class _LegacyWeights:
    low: Tensor
    high: Tensor
    fraction: Tensor


def _legacy_weights(size: int, out: int, like: Tensor) -> _LegacyWeights:
    # float32 arithmetic, as TensorFlow's kernel
    position = torch.arange(out, dtype=torch.float32, device=like.device) * (
        torch.tensor(size, dtype=torch.float32, device=like.device) / out
    )
    low = position.floor().long().clamp(max=size - 1)
    return _LegacyWeights(low, (low + 1).clamp(max=size - 1), (position - low).to(like.dtype))


def _pixels_0_255(images: Tensor) -> Tensor:
    pixels = to_float_pixels(images, "Inception")
    return images.float() if images.dtype == torch.uint8 else (pixels + 1) * 127.5
