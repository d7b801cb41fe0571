"""Conversion of DiT and Latte; that the numbers are right is in parity/test_diffusion.py."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnitok.errors import CheckpointError
from omnitok.hub.folder import load_tokenizer
from omnitok.hub.released.diffusion import config_from_weights, convert_diffusion_transformer
from omnitok.hub.released.reader import ReleasedCheckpoint, read_released_checkpoint
from omnitok.models.diffusion_transformer import DIFFUSION_TRANSFORMERS
from omnitok.models.protocol import fingerprint

DATA = Path(__file__).parents[2] / "parity/data"


@pytest.fixture
def dit() -> ReleasedCheckpoint:
    return read_released_checkpoint(DATA / "dit.safetensors")


@pytest.fixture
def latte() -> ReleasedCheckpoint:
    return read_released_checkpoint(DATA / "latte.safetensors")


def changed(
    checkpoint: ReleasedCheckpoint, flags: dict[str, object], weights: dict[str, Tensor | None]
) -> ReleasedCheckpoint:
    merged = {**checkpoint.state_dict, **weights}
    kept = {name: tensor for name, tensor in merged.items() if tensor is not None}
    return ReleasedCheckpoint(kept, {**checkpoint.hyper_parameters, **flags}, "")


@pytest.mark.parametrize(
    "flags, weights, message",
    [
        ({"num_heads": "four"}, {}, "flag num_heads must be a whole number from 1 to 48, found 'four'"),
        ({"num_heads": 5}, {}, "width must be a multiple of heads, found 48 and 5"),
        ({"num_heads": None}, {}, "no published size has width 48 and depth 4"),
        ({"depth": 6}, {}, "flag depth is 6, but the weights have 4"),
        ({"in_channels": 4}, {}, "flag in_channels is 4, but the weights have 8"),
        ({"learn_sigma": False}, {}, "flag learn_sigma is False, but the weights have True"),
        ({"num_classes": 11}, {}, "has 11 rows, flag num_classes is 11"),
        ({"extras": 78}, {}, "flag extras is 78"),
        ({"extras": 1}, {}, "flag extras is 1"),
        ({}, {"blocks.2.mlp.fc1.bias": None}, "1 weights are missing: blocks.2.expand.bias"),
        ({}, {"final_layer.linear.weight": None}, "weight final_layer.linear.weight is missing"),
        ({}, {"final_layer.linear.weight": torch.zeros(20, 48)}, "the output has 5 channels"),
        ({}, {"text_embedding_projection.1.weight": torch.zeros(1)}, "1 unknown weights: text_embedding_projection"),
        ({}, {"blocks.0.norm1.weight": torch.zeros(48)}, "1 unknown weights: blocks.0.norm1.weight"),
        ({}, {"blocks.1.attn.qkv.weight": torch.zeros(144, 47)}, "have another shape: blocks.1.attention.qkv.weight"),
        ({}, {"x_embedder.proj.weight": torch.zeros(48, 8)}, "must have 4 dimensions"),
        ({}, {"x_embedder.proj.weight": torch.zeros(48, 8, 2, 1)}, "no square patch"),
        ({}, {"blocks.9999.attn.qkv.weight": torch.zeros(1)}, "names 10000 blocks among"),
        ({}, {"blocks.0.attn.qkv.bias": torch.zeros(144).long()}, "must be floating point, found torch.int64"),
        ({}, {"pos_embed": torch.zeros(1, 16, 48)}, "pos_embed is not the sin-cos table: it differs by up to 1"),
        ({}, {"pos_embed": torch.full((1, 16, 48), float("nan"))}, "pos_embed is not the sin-cos table"),
        ({}, {"pos_embed": torch.zeros(1, 15, 48)}, "no square grid"),
        ({}, {"pos_embed": torch.zeros(1, 16, 40)}, r"expected is \(1, n, 48\)"),
        ({}, {"temp_embed": torch.ones(1, 5, 48)}, "temp_embed is not the sin-cos table"),
    ],
)
def test_wrong_files(
    dit: ReleasedCheckpoint, flags: dict[str, object], weights: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_diffusion_transformer(changed(dit, flags, weights))


def test_half_precision_and_tables_of_other_lengths(latte: ReleasedCheckpoint) -> None:
    half = {name: tensor.half() for name, tensor in latte.state_dict.items()}
    model = convert_diffusion_transformer(changed(latte, {}, {**half, "temp_embed": half["temp_embed"][:, :2]}))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(torch.zeros(1, 8, 9, 4, 6), torch.zeros(1)).shape == (1, 16, 9, 4, 6)


def test_memory_and_prefix(dit: ReleasedCheckpoint) -> None:
    plain = convert_diffusion_transformer(dit)
    before = fingerprint(plain)
    wrapped = {f"module.{name}": tensor for name, tensor in dit.state_dict.items()}
    assert fingerprint(convert_diffusion_transformer(ReleasedCheckpoint(wrapped, dit.hyper_parameters, ""))) == before
    for tensor in dit.state_dict.values():
        tensor.zero_()
    assert fingerprint(plain) == before


def meta_weights(name: str, num_classes: int) -> dict[str, Tensor]:
    """What decides the configuration, of the published sizes, without their gigabytes."""
    config = DIFFUSION_TRANSFORMERS[name]
    d, c, p = config.width, config.latent_channels, config.patch_size
    shapes = {
        "x_embedder.proj.weight": (d, c, p, p),
        "y_embedder.embedding_table.weight": (num_classes + 1, d),
        "final_layer.linear.weight": (p * p * 2 * c, d),
    }
    shapes |= {f"blocks.{i}.mlp.fc1.weight": (4 * d, d) for i in range(config.depth)}
    if config.temporal:
        shapes["temp_embed"] = (1, 5, d)
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ("dit-xl/2", "dit-b/4", "latte-xl/2", "latte-l/2", "dit-s/2"))
@pytest.mark.parametrize("named", (True, False))
def test_heads_of_published_sizes(name: str, named: bool) -> None:
    family, _, size = name.partition("-")
    flags = {"model": f"{'DiT' if family == 'dit' else 'Latte'}-{size.upper()}", "num_classes": 101} if named else {}
    found = config_from_weights(flags, meta_weights(name, 101))
    assert found == dataclasses.replace(DIFFUSION_TRANSFORMERS[name], num_classes=101)


def test_a_generator_is_no_tokenizer() -> None:
    with pytest.raises(
        CheckpointError, match=r"dit\.safetensors: holds a DiffusionTransformer, where a tokenizer is wanted"
    ):
        load_tokenizer(DATA / "dit.safetensors")
