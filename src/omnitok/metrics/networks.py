"""The feature networks behind the metrics, by name; their files are all checked before any work."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnitok.errors import MissingWeightsError
from omnitok.hub.weights import file_sha256, find_weights
from omnitok.losses.lpips import load_lpips
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics.i3d import load_i3d, load_i3d_torchscript
from omnitok.metrics.inception import load_inception
from omnitok.metrics.mobilenet import MobileNetImageFeatures, MobileNetVideoFeatures

WeightsDir = str | os.PathLike[str] | None

# Name -> the files that it needs (keys of `omnitok.hub.weights.WEIGHTS`), and what loads it.
_NETWORKS: dict[str, tuple[tuple[str, ...], Callable[[WeightsDir], nn.Module]]] = {
    "inception_pytorch_fid": (("inception",), lambda folder: load_inception("pytorch_fid", folder)),
    "inception_tf1": (("inception",), lambda folder: load_inception("tf1", folder)),
    "i3d": (("i3d",), load_i3d),
    "i3d_torchscript": (("i3d_torchscript",), load_i3d_torchscript),
    "mobilenet_v2": (("mobilenet_v2",), lambda folder: MobileNetImageFeatures(load_mobilenet_v2(folder))),
    "mobilenet_v2_video": (("mobilenet_v2",), lambda folder: MobileNetVideoFeatures(load_mobilenet_v2(folder))),
    "lpips_vgg": (("vgg16", "lpips_vgg"), lambda folder: load_lpips("vgg", folder)),
    "lpips_alex": (("alexnet", "lpips_alex"), lambda folder: load_lpips("alex", folder)),
    "lpips_squeeze": (("squeezenet", "lpips_squeeze"), lambda folder: load_lpips("squeeze", folder)),
}


@dataclass(frozen=True)
class Network:
    """A network as metrics use it.

    Attributes:
        sha256: of the file of weights; of several, joined with "+" (LPIPS: backbone, then heads).
        run: uint8 images (n, 3, H, W) or videos (n, 3, T, H, W) to features (n, d), or to a tuple of them and logits
            (n, classes); LPIPS: two equal float shapes in [-1, 1] to a distance per frame.
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

    def extract(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (n, d) of samples, and logits (n, classes) where the network has them; not LPIPS."""
        output = self.run(pixels)
        return output if isinstance(output, tuple) else (output, None)


def require_weights(networks: Iterable[str], weights_dir: WeightsDir = None) -> None:
    """Raise one MissingWeightsError that names every file which these networks need and which is not there."""
    problems: dict[str, None] = {}
    for weights in dict.fromkeys(key for network in networks for key in _NETWORKS[network][0]):
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
    loaded = {}
    for name in names:
        files, load = _NETWORKS[name]
        sha256 = "+".join(file_sha256(find_weights(key, weights_dir)) for key in files)
        network = load(weights_dir).to(device)

        def run(*pixels: Tensor, network: nn.Module = network) -> Any:
            return network(*(x.to(device) for x in pixels))

        loaded[name] = Network(
            name, sha256, run, getattr(network, "dimension", 0), 1008 if name.startswith("inception") else 0
        )
    return loaded
