"""The released language model, reproduced: ids and the logits of the authors' code (see data/LANGUAGE_MODEL.md)."""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import omnitok
from omnitok.hub.released.reader import read_released_checkpoint
from omnitok.models.language_model import LanguageModel

FILE = Path(__file__).parent / "data/gpt.safetensors"
TOLERANCE = 1e-5  # absolute, float32


def load(path: Path = FILE) -> tuple[LanguageModel, Tensor, Tensor]:
    model = omnitok.convert_checkpoint(path)
    assert isinstance(model, LanguageModel)
    values = load_file(FILE)
    return model, values["ids"], values["logits"]


@torch.no_grad()
def error(model: LanguageModel, ids: Tensor, logits: Tensor) -> float:
    output = model(ids)
    assert output.shape == logits.shape
    return float((output - logits).abs().max())


def test_reference() -> None:
    model, ids, logits = load()
    assert not model.training
    assert (model.config.vocabulary, model.config.context, model.config.heads) == (267, 66, 4)
    assert error(model, ids, logits) <= TOLERANCE


def test_cached_reference() -> None:
    """The released logits, one token a step."""
    model, ids, logits = load()
    with torch.inference_mode():
        cache = model.new_cache(2, frames=1)
        steps = [model(ids[:, i : i + 1], cache)[:, 0] for i in range(ids.shape[1])]
    assert float((torch.stack(steps, 1) - logits).abs().max()) <= TOLERANCE


def test_lightning_checkpoint(tmp_path: Path) -> None:
    """As released: flags in a Namespace, the GPT under `transformer.`, the tokenizer beside it."""
    checkpoint = read_released_checkpoint(FILE)
    weights = {f"transformer.{name}": tensor for name, tensor in checkpoint.state_dict.items()}
    tokenizer = read_released_checkpoint(FILE.parent / "vqvae_lightning.ckpt").state_dict
    weights |= {f"first_stage_model.{name}": tensor for name, tensor in list(tokenizer.items())[:20]}
    flags = {
        "n_layer": 3,
        "n_head": 4,
        "n_embd": 48,
        "block_size": 66,
        "vocab_size": 8192,  # a flag that the authors' code does not use
        "class_cond_dim": 10,
        "unconditional": False,
        "starts_with_sos": True,
        "class_first": True,
        "p_drop_cond": 0.1,
        "resolution": 64,
        "sequence_length": 17,
        "vtokens": False,
    }
    path = tmp_path / "lm.ckpt"
    payload = {"args": argparse.Namespace(**flags), "ckpt_path": None, "cond_stage_key": "label", "pkeep": 1.0}
    torch.save({"state_dict": weights, "hyper_parameters": payload, "optimizer_states": [{"state": {}}]}, path)
    model, ids, logits = load(path)
    assert error(model, ids, logits) <= TOLERANCE
    config = model.config
    assert (config.prefix, config.num_classes, config.codebook_size) == ("class start", 10, 256)
    assert (config.latent_frames, config.latent_height, config.latent_width) == (1, 8, 8)
    assert model.ids(torch.zeros(1, 8, 8, dtype=torch.long), torch.tensor([3]))[0, :3].tolist() == [4, 0, 11]


def test_parity_can_fail() -> None:
    model, ids, logits = load()
    with torch.no_grad():
        assert model.position_embedding is not None
        model.position_embedding.copy_(model.position_embedding.roll(1, 0))
    assert error(model, ids, logits) > 1e-3
