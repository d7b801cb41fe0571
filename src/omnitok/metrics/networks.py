"""The feature network behind every metric's name, with the files it needs; all of them are checked before any work."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omnitok.errors import MissingWeightsError
from omnitok.hub.weights import file_sha256, find_weights
from omnitok.losses.lpips import LPIPS, load_lpips
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics.i3d import load_i3d, load_i3d_torchscript
from omnitok.metrics.inception import load_inception
from omnitok.metrics.mobilenet import MobileNetImageFeatures, MobileNetVideoFeatures

NetworkName = Literal[
    "inception_pytorch_fid", "inception_tf1", "i3d", "i3d_torchscript", "mobilenet_v2", "mobilenet_v2_video"
]

_WEIGHTS_OF_NETWORK: dict[str, tuple[str, ...]] = {
    "inception_pytorch_fid": ("inception",),
    "inception_tf1": ("inception",),
    "i3d": ("i3d",),
    "i3d_torchscript": ("i3d_torchscript",),
    "mobilenet_v2": ("mobilenet_v2",),
    "mobilenet_v2_video": ("mobilenet_v2",),
    "lpips_vgg": ("vgg16", "lpips_vgg"),
    "lpips_alex": ("alexnet", "lpips_alex"),
    "lpips_squeeze": ("squeezenet", "lpips_squeeze"),
}


@dataclass(frozen=True)
class Features:
    """`features` (n, d) of n samples, and (n, classes) `logits` where the metric has a use for them."""

    features: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True)
class FeatureNetwork:
    """A network as metrics use it: uint8 pictures (n, 3, H, W) or clips (n, 3, T, H, W) in, `Features` out."""

    name: str
    sha256: str  # of the file of weights
    dimension: int
    extract: Callable[[Tensor], Features]
    classes: int = 0  # of the logits

    @property
    def identity(self) -> str:
        """What statistics files remember, so that those of two networks are never compared."""
        return f"{self.name} {self.sha256[:16]}"


@dataclass(frozen=True)
class PairNetwork:
    """LPIPS as metrics use it: a distance per frame between equal float shapes in [-1, 1]."""

    name: str
    sha256: str
    distance: LPIPS


def require_weights(networks: Iterable[str], weights_dir: str | os.PathLike[str] | None = None) -> None:
    """Raise one MissingWeightsError that names every file which these networks need and which is not there."""
    problems: dict[str, None] = {}
    for weights in dict.fromkeys(key for network in networks for key in _WEIGHTS_OF_NETWORK[network]):
        try:
            find_weights(weights, weights_dir)
        except MissingWeightsError as error:
            problems[str(error)] = None
    if problems:
        raise MissingWeightsError("; also missing: ".join(problems))


def weights_sha256(network: str, weights_dir: str | os.PathLike[str] | None = None) -> str:
    """The sha256 of the network's file; of several, joined with "+" (LPIPS: backbone, then heads)."""
    return "+".join(file_sha256(find_weights(key, weights_dir)) for key in _WEIGHTS_OF_NETWORK[network])


def load_feature_network(
    name: NetworkName, weights_dir: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """The network with its published weights; MissingWeightsError where the file is absent or has another hash."""
    sha256 = weights_sha256(name, weights_dir)
    if name == "inception_pytorch_fid" or name == "inception_tf1":
        inception = load_inception("tf1" if name == "inception_tf1" else "pytorch_fid", weights_dir).to(device)

        def extract_inception(pixels: Tensor) -> Features:
            output = inception(pixels.to(device))
            return Features(output.features, output.logits_unbiased)

        return FeatureNetwork(name, sha256, inception.dimension, extract_inception, classes=1008)
    if name == "i3d" or name == "i3d_torchscript":
        i3d = (load_i3d if name == "i3d" else load_i3d_torchscript)(weights_dir).to(device)
        return FeatureNetwork(name, sha256, i3d.dimension, lambda clips: Features(i3d(clips.to(device))))
    mobilenet = load_mobilenet_v2(weights_dir)
    stand_in = (MobileNetImageFeatures if name == "mobilenet_v2" else MobileNetVideoFeatures)(mobilenet).to(device)
    return FeatureNetwork(name, sha256, stand_in.dimension, lambda pixels: Features(stand_in(pixels.to(device))))


def load_pair_network(
    name: str, weights_dir: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu"
) -> PairNetwork:
    """LPIPS by name: lpips_vgg, lpips_alex or lpips_squeeze."""
    nets: dict[str, Literal["vgg", "alex", "squeeze"]] = {
        "lpips_vgg": "vgg",
        "lpips_alex": "alex",
        "lpips_squeeze": "squeeze",
    }
    return PairNetwork(name, weights_sha256(name, weights_dir), load_lpips(nets[name], weights_dir).to(device))
