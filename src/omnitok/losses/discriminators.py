"""Patch discriminators for images and videos: PatchGAN (Isola et al., arXiv 1611.07004) in two or three dimensions.

Kernels of 4 with padding 2, LeakyReLU 0.2, channels that double up to 512: the shape of the released ones. What they do
besides, and what is only chosen by configuration here:

- the released video discriminator normalises and rectifies its logits too (`normalize_logits`); a hinge loss on such
  logits cannot push the two sides of a batch past fixed bounds;
- their blur option builds a filter of nothing, so that it never blurred; here it is the binomial filter it was meant to
  be (Zhang, arXiv 1904.11486);
- their noise is a learnt amount per input channel, starting at 0 (`noise`).

Over several processes, whose batches are equally large, one answers as it would to the whole batch on one of them:
batch norm takes the statistics of all, and noise follows from a generator per sample.

One of them sees single frames (`take_frames`), the other videos.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from omnitok.checked import AtLeastOne, checked
from omnitok.distributed import mean_over_processes, world_size

MAX_CHANNELS = 512
SLOPE = 0.2


@checked
class DiscriminatorConfig:
    """Shape of a patch discriminator; the defaults are the released ones.

    Attributes:
        channels: of the first layer; they double from layer to layer up to 512.
        layers: convolutions of stride 2. Two more of stride 1 follow.
        norm: "batch" (of all processes), "spectral" (Miyato et al., arXiv 1802.05957, of every convolution) or "none".
        blur: downsample by a convolution of stride 1 and a strided binomial blur, which does not alias. The first
            layer, which sees pixels, keeps its stride, as released.
        noise: add noise to the pixels, by a learnt amount per channel that starts at 0; in training mode only.
        normalize_logits: norm and LeakyReLU after the last convolution (the released video discriminator).
    """

    channels: AtLeastOne = 64
    layers: AtLeastOne = 3
    norm: Literal["batch", "spectral", "none"] = "batch"
    blur: bool = False
    noise: bool = False
    normalize_logits: bool = False

    @model_validator(mode="after")
    def _check(self) -> "DiscriminatorConfig":
        if self.normalize_logits and self.norm != "batch":
            raise ValueError(f"normalize_logits needs norm='batch', found {self.norm!r}")
        return self


class DiscriminatorOutput(NamedTuple):
    """What a discriminator says of a batch. A tuple, because the hooks of FSDP2 look into tuples but not dataclasses.

    Attributes:
        logits: one per patch, (b, 1, h, w) or (b, 1, t, h, w); high is real.
        features: the outputs of all layers before, first to last, for feature matching.
    """

    logits: Tensor
    features: tuple[Tensor, ...]


class PatchDiscriminator(nn.Module):
    """Real or fake, patch by patch.

    Args:
        config: its shape.
        dimensions: 2 for images (b, c, H, W), 3 for videos (b, c, T, H, W); any size and length.
        pixel_channels: c.
    """

    def __init__(self, config: DiscriminatorConfig, dimensions: Literal[2, 3], pixel_channels: int = 3) -> None:
        super().__init__()
        self.config, self.dimensions = config, dimensions
        self.noise = LearntNoise(pixel_channels) if config.noise else None
        widths = [min(config.channels * 2**i, max(MAX_CHANNELS, config.channels)) for i in range(config.layers + 1)]
        layers = [nn.Sequential(self._convolution(pixel_channels, widths[0], stride=2), nn.LeakyReLU(SLOPE))]
        for width_in, width in pairwise(widths[:-1]):
            layers.append(self._layer(width_in, width, stride=2))
        layers.append(self._layer(widths[-2], widths[-1], stride=1))
        self.layers = nn.ModuleList(layers)
        last: list[nn.Module] = [self._convolution(widths[-1], 1, stride=1)]
        if config.normalize_logits:
            last += [*self._norm(1), nn.LeakyReLU(SLOPE)]
        self.to_logits = nn.Sequential(*last)

    def forward(self, pixels: Tensor, generators: Sequence[torch.Generator] | None = None) -> DiscriminatorOutput:
        """Pixels (b, c, H, W) or (b, c, T, H, W) in [-1, 1] -> logits and features.

        Args:
            generators: one per sample, on the pixels' device, that draws its noise; None takes torch's global one.
        """
        x = pixels if self.noise is None else self.noise(pixels, generators)
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return DiscriminatorOutput(self.to_logits(x), tuple(features))

    def _layer(self, width_in: int, width: int, stride: int) -> nn.Sequential:
        blurs = [BinomialBlur(self.dimensions, stride)] if stride > 1 and self.config.blur else []
        convolution = self._convolution(width_in, width, 1 if blurs else stride)
        return nn.Sequential(convolution, *blurs, *self._norm(width), nn.LeakyReLU(SLOPE))

    def _convolution(self, width_in: int, width: int, stride: int) -> nn.Module:
        kind = nn.Conv2d if self.dimensions == 2 else nn.Conv3d
        convolution = kind(width_in, width, kernel_size=4, stride=stride, padding=2)
        return nn.utils.parametrizations.spectral_norm(convolution) if self.config.norm == "spectral" else convolution

    def _norm(self, width: int) -> list[nn.Module]:
        return [BatchNorm(width)] if self.config.norm == "batch" else []


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of (b, c, ...), in training mode by the mean and variance over the batches of all processes.

    Unlike `nn.SyncBatchNorm` it works on every device. It has second derivatives, which the R1 penalty needs.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Videos are welcome too."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, ...) -> the same shape. All processes call it, with batches of one size."""
        processes = world_size()
        if not self.training or processes == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            inner = x.float()
            local_variance, local_mean = torch.var_mean(inner, [0, *range(2, x.ndim)], correction=0)
            mean = mean_over_processes(local_mean)
            variance = mean_over_processes(local_variance + (local_mean - mean).square())
            scale = self.weight * (variance + self.eps).rsqrt()
            shift = self.bias - mean * scale
            as_channels = (1, -1, *(1,) * (x.ndim - 2))
            result = torch.addcmul(shift.view(as_channels), inner, scale.view(as_channels))
        numbers = processes * x.numel() // x.shape[1]  # per channel
        assert self.momentum is not None
        assert isinstance(self.running_mean, Tensor)
        assert isinstance(self.running_var, Tensor)
        assert isinstance(self.num_batches_tracked, Tensor)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * (numbers / (numbers - 1)), self.momentum)
        self.num_batches_tracked += 1
        return result.to(x.dtype)


class LearntNoise(nn.Module):
    """Gaussian noise, the same for all channels of a position, times a learnt weight per channel that starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """(b, c, ...) -> the same shape; as it is in eval mode. `generators` as for `PatchDiscriminator`."""
        if not self.training:
            return x
        if generators is None:
            noise = torch.randn_like(x[:, :1])
        else:
            size = (1, *x.shape[2:])
            noise = torch.stack([torch.randn(size, generator=g, device=x.device, dtype=x.dtype) for g in generators])
        return x + self.weight.view(1, -1, *(1,) * (x.ndim - 2)) * noise


class BinomialBlur(nn.Module):
    """Depthwise convolution with the outer product of [1, 2, 1] / 4, borders replicated, at a stride."""

    kernel: Tensor

    def __init__(self, dimensions: Literal[2, 3], stride: int) -> None:
        super().__init__()
        self.dimensions, self.stride = dimensions, stride
        line = torch.tensor([0.25, 0.5, 0.25])
        plane = line[:, None] * line
        self.register_buffer("kernel", plane if dimensions == 2 else line[:, None, None] * plane, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, ...) -> every dimension n after the channels becomes ceil(n / stride)."""
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, *self.kernel.shape)
        padded = F.pad(x, (1, 1) * self.dimensions, mode="replicate")
        convolve = F.conv2d if self.dimensions == 2 else F.conv3d
        return convolve(padded, kernel, stride=self.stride, groups=x.shape[1])


def frame_indices(batch: int, frames: int, seed: int, step: int) -> Tensor:
    """A random frame of each video of step `step`, int64 (batch,), for the discriminator of images.

    The same on every process: give the global batch size and keep the share `[rank::world_size]`, as `PixelDataset`.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    return torch.randint(frames, (batch,), generator=generator)


def take_frames(videos: Tensor, indices: Tensor) -> Tensor:
    """Frame `indices[i]` of video i: (b, 3, T, H, W), (b,) -> (b, 3, H, W)."""
    return videos[torch.arange(videos.shape[0], device=videos.device), :, indices.to(videos.device)]
