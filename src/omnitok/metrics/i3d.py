"""I3D for FVD: Inception-3D trained on Kinetics-400 (Carreira and Zisserman, arXiv 1705.07750), the TF-hub network.

Parameter names are those of VideoGPT's port, `i3d_pretrained_400.pt`. FVD (Unterthiner et al., arXiv 1812.01717) uses
the 400 logits. The same network as TorchScript, as StyleGAN-V distributes it, is read too.
"""

import os
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.hub.weights import find_weights, read_weights
from omnitok.losses.frozen_network import FrozenNetwork, load_exactly
from omnitok.metrics.pixels import to_float_pixels

_SIZE = 224
MINIMUM_FRAMES = 9

# name -> (channels, widths of the branches b0, b1a, b1b, b2a, b2b, b3b), from Inception v1
_MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zero padding as TensorFlow's "SAME" over (T, H, W): the smaller half first."""
    padding: list[int] = []
    for n, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding) if any(padding) else x


def _max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    # Zeros pad as well as -inf would: every pooled tensor comes out of a ReLU.
    return F.max_pool3d(_pad_same(x, kernel, stride), kernel, stride)


class _Unit3D(nn.Module):
    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, width, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        return F.relu(self.bn(self.conv3d(_pad_same(x, kernel, stride))), inplace=True)


class _Mixed(nn.Module):
    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit3D(channels, widths[0], 1)
        self.b1a = _Unit3D(channels, widths[1], 1)
        self.b1b = _Unit3D(widths[1], widths[2], 3)
        self.b2a = _Unit3D(channels, widths[3], 1)
        self.b2b = _Unit3D(widths[3], widths[4], 3)
        self.b3b = _Unit3D(channels, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3D(FrozenNetwork):
    """I3D logits of videos: (b, 3, T, H, W), uint8 or float in [-1, 1], T ≥ 9 → (b, 400), the mean over time.

    Frames are brought to 224 x 224, whatever their aspect, bilinearly without antialiasing, as FVD does.
    `I3D()` alone answers NaN; `load_i3d(weights_dir)` gives the usable network.
    """

    dimension = 400

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit3D(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit3D(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit3D(64, 192, 3)
        for name, (channels, widths) in _MIXED.items():
            self.add_module(name, _Mixed(channels, widths))
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(1024, 400, 1)))
        self._freeze()

    def forward(self, video: Tensor) -> Tensor:
        x = prepare_videos(video)  # (b, 3, T, 224, 224)
        x = self.Conv3d_1a_7x7(x)  # (b, 64, T/2, 112, 112)
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = _max_pool(x, (1, 3, 3), (1, 2, 2))  # (b, 192, T/2, 28, 28)
        x = self._mixed(x, "Mixed_3b", "Mixed_3c")
        x = _max_pool(x, (3, 3, 3), (2, 2, 2))  # (b, 480, T/4, 14, 14)
        x = self._mixed(x, "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f")
        x = _max_pool(x, (2, 2, 2), (2, 2, 2))  # (b, 832, T/8, 7, 7)
        x = self._mixed(x, "Mixed_5b", "Mixed_5c")
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)  # (b, 1024, T/8 - 1, 1, 1)
        return self.logits(x).mean((2, 3, 4))  # (b, 400)

    def _mixed(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class TorchScriptI3D(nn.Module):
    """StyleGAN-V's TorchScript I3D behind the same call as `I3D`; its own rescaling and resizing stay off."""

    dimension = 400

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script

    def forward(self, video: Tensor) -> Tensor:
        return self.script(prepare_videos(video), rescale=False, resize=False, return_features=True)


def prepare_videos(video: Tensor) -> Tensor:
    """Videos (b, 3, T, H, W), uint8 or float in [-1, 1], as I3D takes them: (b, 3, T, 224, 224) in [-1, 1].

    Raises ValueError where a video is shorter than 9 frames: four halvings of time and a window of 2 leave nothing.
    """
    x = to_float_pixels(video, "I3D", video=True)
    if x.shape[2] < MINIMUM_FRAMES:
        raise ValueError(f"I3D needs videos of at least {MINIMUM_FRAMES} frames, but got {x.shape[2]}")
    if x.shape[-2:] == (_SIZE, _SIZE):
        return x
    frames = x.transpose(1, 2).flatten(0, 1)  # (b T, 3, H, W)
    frames = F.interpolate(frames, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False, antialias=False)
    return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2).contiguous()


def load_i3d(weights_dir: str | os.PathLike[str] | None = None) -> I3D:
    """I3D with the weights of VideoGPT's port; MissingWeightsError where the file is absent or has another hash."""
    network = I3D()
    load_exactly(network, read_weights("i3d", weights_dir), "I3D")
    return network


def load_i3d_torchscript(weights_dir: str | os.PathLike[str] | None = None) -> TorchScriptI3D:
    """StyleGAN-V's `i3d_torchscript.pt`.

    TorchScript is a program, so the file is opened only after its sha256 proved to be the published one
    (MissingWeightsError otherwise).
    """
    script = torch.jit.load(find_weights("i3d_torchscript", weights_dir), map_location="cpu").eval()
    return TorchScriptI3D(script)
