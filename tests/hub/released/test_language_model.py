"""Flags and weights of released language models: layouts, and one sentence for what is wrong."""

import dataclasses
from pathlib import Path

import pytest
import torch

from omnitok.errors import CheckpointError
from omnitok.hub.released.language_model import convert_language_model
from omnitok.hub.released.reader import ReleasedCheckpoint, read_released_checkpoint

FILE = Path(__file__).parents[2] / "parity/data/gpt.safetensors"


@pytest.fixture(scope="module")
def released() -> ReleasedCheckpoint:
    return read_released_checkpoint(FILE)


def with_flags(released: ReleasedCheckpoint, **flags: object) -> ReleasedCheckpoint:
    return dataclasses.replace(released, hyper_parameters={**released.hyper_parameters, **flags})


@pytest.mark.parametrize(
    "flags, prefix, code_offset, codes",
    [
        ({}, "start", 0, 267),
        ({"unconditional": True, "starts_with_sos": True, "class_cond_dim": 10}, "start", 0, 267),
        ({"class_cond_dim": 10}, "class", 10, 257),
        ({"class_cond_dim": 10, "starts_with_sos": True}, "start class", 11, 256),
        ({"class_cond_dim": 10, "starts_with_sos": True, "class_first": True}, "class start", 11, 256),
    ],
)
def test_layouts(released: ReleasedCheckpoint, flags: dict[str, object], prefix: str, code_offset: int, codes: int):
    config = convert_language_model(with_flags(released, **flags)).config
    assert (config.prefix, config.code_offset, config.codebook_size, config.null_id) == (
        prefix,
        code_offset,
        codes,
        None,
    )
    assert config.vocabulary == 267


def test_grid_of_clips(released: ReleasedCheckpoint):
    config = convert_language_model(with_flags(released, resolution=32, sequence_length=13)).config
    assert (config.latent_frames, config.latent_height, config.latent_width) == (4, 4, 4)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"n_head": None}, "flag n_head is missing"),
        ({"n_head": 5}, "width must be an even multiple of heads"),
        ({"n_head": 0}, "heads must be at least 1"),
        ({"n_layer": 4}, "n_layer is 4, but the weights have 3"),
        ({"class_cond_dim": 400}, "class_cond_dim is 400, but the weights have only 267 ids"),
        ({"class_cond_dim": "many"}, "class_cond_dim must be a whole number"),
        ({"starts_with_sos": 1, "class_cond_dim": 3}, "starts_with_sos must be true or false"),
        ({"n_unmasked": 7}, "n_unmasked is 7; only 0"),
        ({"cond_stage_key": "text"}, "cond_stage_key is 'text'; only 'label'"),
    ],
)
def test_senseless_flags(released: ReleasedCheckpoint, flags: dict[str, object], message: str):
    with pytest.raises(CheckpointError, match=message):
        convert_language_model(with_flags(released, **flags))


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        ("blocks.0.attn.extra", torch.zeros(1), r"1 unknown weights: blocks\.0\.attn\.extra"),
        ("transformer.tok_emb.weight", torch.zeros(1), "2 language models"),
        ("blocks.1.attn.key.weight", None, "block 1 lacks a query, key or value weight"),
        ("pos_emb", None, "pos_emb is missing"),
        ("ln_f.bias", None, r"1 weights are missing: norm\.bias"),
        ("head.weight", torch.zeros(3, 48), r"head\.weight is \(3, 48\) instead of \(267, 48\)"),
        ("blocks.9.ln1.weight", torch.zeros(48), "n_layer is 3, but the weights have 10"),
        ("ln_f.weight", torch.zeros(48, dtype=torch.long), "must be floating point"),
    ],
)
def test_senseless_weights(released: ReleasedCheckpoint, name: str, tensor: torch.Tensor | None, message: str):
    weights = dict(released.state_dict)
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    with pytest.raises(CheckpointError, match=message):
        convert_language_model(dataclasses.replace(released, state_dict=weights))
