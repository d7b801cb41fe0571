"""I3D, FID-Inception, LPIPS and MobileNetV2 against expected values (figures in data/feature_networks.safetensors).

The weights of the first three are drawn by a recipe: every parameter from a generator seeded with the crc32 of its
published name, so the names are proven with the numbers. LPIPS's heads and MobileNetV2 are real weights that are not
part of the repository; those checks are left out where they are absent.
"""

import math
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from omnitok.hub.weights import read_weights
from omnitok.losses.lpips import LPIPS
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics import I3D, FIDInception

EXPECTED = load_file(Path(__file__).parent / "data/feature_networks.safetensors")
WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the shared weights are not here")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(name: str, shape: torch.Size) -> Tensor:
    g = seeded(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("running_mean"):
        return 0.05 * torch.randn(shape, generator=g)
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=g)
    if len(shape) >= 2:
        return torch.randn(shape, generator=g) * math.sqrt(2 / math.prod(shape[1:]))
    if name.endswith("bias"):
        return 0.1 * torch.randn(shape, generator=g)
    return 1 + 0.1 * torch.randn(shape, generator=g)


def fill(network: nn.Module) -> None:
    network.load_state_dict({name: drawn(name, value.shape) for name, value in network.state_dict().items()})


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def test_i3d() -> None:
    network = I3D()
    fill(network)
    for frames in (9, 17):
        clip = torch.rand(1, 3, frames, 224, 224, generator=seeded(frames)) * 2 - 1
        assert relative_error(network(clip), EXPECTED[f"i3d.logits_{frames}_frames"]) < 1e-5


def test_inception() -> None:
    pictures = torch.randint(0, 256, (2, 3, 256, 256), generator=seeded(1), dtype=torch.uint8)
    network = FIDInception("pytorch_fid")
    fill(network)
    assert relative_error(network(pictures).features, EXPECTED["inception.pytorch_fid_features"]) < 1e-5
    legacy = FIDInception("tf1")
    legacy.load_state_dict(network.state_dict())
    output = legacy(pictures)
    assert relative_error(output.features, EXPECTED["inception.tf1_features"]) < 1e-5
    assert relative_error(output.logits_unbiased, EXPECTED["inception.tf1_logits_unbiased"]) < 1e-5


@needs_weights
@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_lpips(net: str) -> None:
    network = LPIPS(net)
    shapes = {f"features.{name}": value.shape for name, value in network.features.state_dict().items()}
    backbone = {name: drawn(name, shape) for name, shape in shapes.items()}
    network.load_weights(backbone, read_weights(f"lpips_{net}", WEIGHTS))
    g = seeded(2)
    a = torch.rand(2, 3, 96, 96, generator=g) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=g)).clamp(-1, 1)
    torch.testing.assert_close(network(a, b), EXPECTED[f"lpips.{net}"], rtol=0, atol=1e-6)


@needs_weights
def test_mobilenet_v2() -> None:
    expected = load_file(WEIGHTS / "mobilenet_v2_expected.safetensors")
    output = load_mobilenet_v2(WEIGHTS)(torch.rand(2, 3, 224, 224, generator=seeded(3)) * 2 - 1)
    assert relative_error(output.features, expected["features"]) < 1e-5
    assert relative_error(output.logits, expected["logits"]) < 1e-5
