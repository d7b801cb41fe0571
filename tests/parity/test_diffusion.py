"""The released diffusion transformers, reproduced: inputs and answers of the authors' code (see data/DIFFUSION.md)."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import omnitok
from omnitok.hub.released.reader import PREFIX
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.protocol import fingerprint

DATA = Path(__file__).parent / "data"
NAMES = ("dit", "latte", "latte_unconditional")
TOLERANCE = 1e-4  # absolute, float32


def ours(x: Tensor) -> Tensor:
    """Channels before time."""
    return x.transpose(1, 2) if x.ndim == 5 else x


def load(name: str) -> tuple[DiffusionTransformer, dict[str, Tensor]]:
    model = omnitok.convert_checkpoint(DATA / f"{name}.safetensors")
    assert isinstance(model, DiffusionTransformer)
    return model, load_file(DATA / f"{name}.safetensors")


@torch.no_grad()
def error(model: DiffusionTransformer, values: dict[str, Tensor]) -> float:
    output = model(ours(values["x"]), values["t"], values.get("y"))
    expected = ours(values["output"])
    assert output.shape == expected.shape
    return float((output - expected).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_reference(name: str) -> None:
    model, values = load(name)
    assert not model.training
    assert model.config.temporal == (name != "dit")
    assert model.config.num_classes == {"dit": 10, "latte": 7, "latte_unconditional": 0}[name]
    assert error(model, values) <= TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_parity_can_fail(name: str) -> None:
    model, values = load(name)
    model.blocks[1].over_time = model.blocks[1].attention.over_time = name == "dit"
    if name == "dit":
        model.norm.eps = 1e-2
    assert error(model, values) > TOLERANCE


def test_no_labels_are_null_labels() -> None:
    model, values = load("dit")
    x, t = values["x"], values["t"]
    with torch.no_grad():
        assert torch.equal(model(x, t), model(x, t, torch.full((3,), 10)))


@pytest.mark.parametrize("name", NAMES)
def test_released_pt(tmp_path: Path, name: str) -> None:
    """As DiT's training writes it: the EMA weights count, and the optimizer's state is not even read."""
    model, values = load(name)
    with safe_open(DATA / f"{name}.safetensors", framework="pt") as file:
        flags = json.loads(file.metadata()["hyper_parameters"])
    ema = {key.removeprefix(PREFIX): value for key, value in values.items() if key.startswith(PREFIX)}
    checkpoint = {
        "model": {key: torch.randn_like(value) for key, value in ema.items()},
        "ema": ema,
        "opt": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(model="DiT-T/2", image_size=64, patch_size=8, num_heads=flags["num_heads"]),
    }
    torch.save(checkpoint, tmp_path / "0400000.pt")
    released = omnitok.convert_checkpoint(tmp_path / "0400000.pt")
    assert released.config == model.config
    assert fingerprint(released) == fingerprint(model)
