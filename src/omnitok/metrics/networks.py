"""The feature networks behind the metrics, by name; their files are all checked before any work."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnitok.errors import MissingWeightsError
from omnitok.hub.weights import file_sha256, find_weights
from omnitok.losses.lpips import load_lpips
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics.i3d import load_i3d, load_i3d_torchscript
from omnitok.metrics.inception import InceptionOutput, load_inception
from omnitok.metrics.mobilenet import MobileNetImageFeatures, MobileNetVideoFeatures

WeightsDir = str | os.PathLike[str] | None


@dataclass(frozen=True)
class _Source:
    """The files that a network needs (keys of `omnitok.hub.weights.WEIGHTS`), and the function that loads it."""

    files: tuple[str, ...]
    load: Callable[[WeightsDir], torch.nn.Module]


_NETWORKS = {
    "inception_pytorch_fid": _Source(("inception",), lambda folder: load_inception("pytorch_fid", folder)),
    "inception_tf1": _Source(("inception",), lambda folder: load_inception("tf1", folder)),
    "i3d": _Source(("i3d",), load_i3d),
    "i3d_torchscript": _Source(("i3d_torchscript",), load_i3d_torchscript),
    "mobilenet_v2": _Source(("mobilenet_v2",), lambda folder: MobileNetImageFeatures(load_mobilenet_v2(folder))),
    "mobilenet_v2_video": _Source(("mobilenet_v2",), lambda folder: MobileNetVideoFeatures(load_mobilenet_v2(folder))),
    "lpips_vgg": _Source(("vgg16", "lpips_vgg"), lambda folder: load_lpips("vgg", folder)),
    "lpips_alex": _Source(("alexnet", "lpips_alex"), lambda folder: load_lpips("alex", folder)),
    "lpips_squeeze": _Source(("squeezenet", "lpips_squeeze"), lambda folder: load_lpips("squeeze", folder)),
}


@dataclass(frozen=True)
class Features:
    """`features` (n, d) of n samples, and (n, classes) `logits` where the network has them."""

    features: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True)
class Network:
    """A network as metrics use it.

    Attributes:
        sha256: of the file of weights; of several, joined with "+" (LPIPS: backbone, then heads).
        run: uint8 images (n, 3, H, W) or videos (n, 3, T, H, W) to features (n, d), or to `InceptionOutput`; LPIPS:
            two equal float shapes in [-1, 1] to a distance per frame.
        dimension: of the features.
        classes: of the logits.
    """

    name: str
    sha256: str
    run: Callable[..., Any]
    dimension: int = 0
    classes: int = 0

    @property
    def identity(self) -> str:
        """What statistics files remember, so that those of two networks are never compared."""
        return f"{self.name} {self.sha256[:16]}"

    def extract(self, pixels: Tensor) -> Features:
        """Features of samples, not LPIPS."""
        output = self.run(pixels)
        if isinstance(output, InceptionOutput):
            return Features(output.features, output.logits_unbiased)
        return output if isinstance(output, Features) else Features(output)


def require_weights(networks: Iterable[str], weights_dir: WeightsDir = None) -> None:
    """Raise one MissingWeightsError that names every file which these networks need and which is not there."""
    problems: dict[str, None] = {}
    for weights in dict.fromkeys(key for network in networks for key in _NETWORKS[network].files):
        try:
            find_weights(weights, weights_dir)
        except MissingWeightsError as error:
            problems[str(error)] = None
    if problems:
        raise MissingWeightsError("; also missing: ".join(problems))


def load_networks(
    names: Iterable[str], weights_dir: WeightsDir = None, device: torch.device | str = "cpu"
) -> dict[str, Network]:
    """Networks by name, each loaded once.

    Raises:
        MissingWeightsError: naming all missing files at once, before anything is loaded.
    """
    names = list(dict.fromkeys(names))
    require_weights(names, weights_dir)
    return {name: _load(name, weights_dir, device) for name in names}


def _load(name: str, weights_dir: WeightsDir, device: torch.device | str) -> Network:
    source = _NETWORKS[name]
    sha256 = "+".join(file_sha256(find_weights(key, weights_dir)) for key in source.files)
    network = source.load(weights_dir).to(device)

    def run(*pixels: Tensor) -> Any:
        return network(*(x.to(device) for x in pixels))

    classes = 1008 if name.startswith("inception") else 0
    return Network(name, sha256, run, getattr(network, "dimension", 0), classes)
