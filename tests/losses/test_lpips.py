from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnitok.errors import CheckpointError, MissingWeightsError
from omnitok.hub.weights import WEIGHTS, file_sha256
from omnitok.losses.lpips import LPIPS, load_lpips


def random_weights(net: str, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Backbone and heads under their published names, He-scaled and non-negative respectively."""
    g = torch.Generator().manual_seed(seed)
    shape_of = LPIPS(net)
    backbone = {
        f"features.{name}": torch.randn(value.shape, generator=g) * (2 / max(value[0].numel(), 1)) ** 0.5
        for name, value in shape_of.features.state_dict().items()
    }
    heads = {f"lin{i}.model.1.weight": torch.rand(head.shape, generator=g) for i, head in enumerate(shape_of.heads)}
    return backbone, heads


@pytest.fixture
def alex() -> LPIPS:
    network = LPIPS("alex")
    network.load_weights(*random_weights("alex"))
    return network


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("net, smallest", [("vgg", 16), ("alex", 31), ("squeeze", 17)])
def test_any_size_from_the_smallest(net: str, smallest: int) -> None:
    network = LPIPS(net)
    network.load_weights(*random_weights(net))
    a, b = pictures(1, 3, smallest, smallest + 7), pictures(1, 3, smallest, smallest + 7, seed=1)
    assert network(a, b).item() > 0
    assert network(a, a).item() == 0
    torch.testing.assert_close(network(a, b), network(b, a))
    with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
        network(a[..., 1:, :], b[..., 1:, :])


def test_without_weights_it_answers_nan() -> None:
    assert LPIPS("alex")(pictures(1, 3, 64, 64), pictures(1, 3, 64, 64, seed=1)).isnan().all()


def test_a_video_is_its_frames(alex: LPIPS) -> None:
    a, b = pictures(2, 3, 3, 40, 48), pictures(2, 3, 3, 40, 48, seed=1)
    distances = alex(a, b)
    assert distances.shape == (2, 3)
    for t in range(3):
        torch.testing.assert_close(distances[:, t], alex(a[:, :, t], b[:, :, t]))


def test_gradients_reach_the_picture_only_and_are_finite_where_all_is_dead(alex: LPIPS) -> None:
    alex.load_weights(
        random_weights("alex")[0] | {"features.0.bias": torch.full((64,), -1e4)}, random_weights("alex")[1]
    )
    a = pictures(1, 3, 64, 64).requires_grad_()
    alex(a, torch.zeros(1, 3, 64, 64)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert all(parameter.grad is None for parameter in alex.parameters())


def test_a_gradient_step_comes_nearer(alex: LPIPS) -> None:
    target, x = pictures(1, 3, 64, 64), pictures(1, 3, 64, 64, seed=1).requires_grad_()
    before = alex(x, target).sum()
    (gradient,) = torch.autograd.grad(before, x)
    after = alex(x - 0.05 * gradient / gradient.abs().max(), target).sum()
    assert after < before


def test_training_mode_and_autocast_change_nothing(alex: LPIPS) -> None:
    a, b = pictures(1, 3, 64, 64), pictures(1, 3, 64, 64, seed=1)
    expected = alex(a, b)
    alex.train()
    assert not alex.features.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(alex(a, b), expected)


def test_bad_input(alex: LPIPS) -> None:
    with pytest.raises(ValueError, match="vgg, alex and squeeze"):
        LPIPS("resnet")
    with pytest.raises(ValueError, match="equal shapes"):
        alex(pictures(1, 3, 64, 64), pictures(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(b, 3, H, W\)"):
        alex(pictures(1, 1, 64, 64), pictures(1, 1, 64, 64))
    backbone, heads = random_weights("alex")
    del backbone["features.0.bias"]
    with pytest.raises(CheckpointError, match=r"missing \['0.bias'\]"):
        alex.load_weights(backbone, heads)
    with pytest.raises(CheckpointError, match="of another shape"):
        LPIPS("vgg").load_weights(random_weights("vgg")[0], random_weights("squeeze")[1] | {})


def test_loading_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alex: LPIPS) -> None:
    backbone, heads = random_weights("alex")
    (tmp_path / "lpips_heads").mkdir()
    torch.save(heads, tmp_path / "lpips_heads/alex.pth")
    torch.save(backbone | {"classifier.1.weight": torch.zeros(3)}, tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(MissingWeightsError, match="has the sha256"):
        load_lpips("alex", tmp_path)
    for name in ("alexnet", "lpips_alex"):
        own = replace(WEIGHTS[name], sha256=file_sha256(tmp_path / WEIGHTS[name].file_names[0]))
        monkeypatch.setitem(WEIGHTS, name, own)
    a, b = pictures(1, 3, 64, 64), pictures(1, 3, 64, 64, seed=1)
    torch.testing.assert_close(load_lpips("alex", tmp_path)(a, b), alex(a, b))
