"""Folders of generators: what is saved is loaded, and what is wrong is said in one sentence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omnitok import load_generator
from omnitok.errors import CheckpointError
from omnitok.hub.folder import load_generator_model, load_tokenizer, save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.names import model_info
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

SETTINGS = GeneratorSettings(
    "omnitok-tiny-vq", "0" * 64, ("a", "b"), 16, 24, 5, {"top_k": 3, "guidance_scale": 1.5}, 8.0
)


def make(kind: str) -> LanguageModel | DiffusionTransformer:
    torch.manual_seed(0)
    if kind == "lm":
        return LanguageModel(LanguageModelConfig(codebook_size=16, num_classes=2, width=16, depth=1, heads=2)).eval()
    config = DiffusionTransformerConfig(latent_channels=2, width=16, depth=2, heads=2, num_classes=2, temporal=True)
    return DiffusionTransformer(config).eval()


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_what_is_saved_is_loaded(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    trained = load_generator_model(save_generator(model, SETTINGS, tmp_path / "model"))
    assert trained.settings == SETTINGS
    assert trained.model.config == model.config
    assert not trained.model.training
    before, after = model.state_dict(), trained.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    info = model_info(str(tmp_path / "model"))
    assert info.kind == ("language model" if kind == "lm" else "diffusion")
    assert info.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"architecture": "Parrot"},
            "where a language model .'LanguageModel'. or",
        ),
        ({"width": "16"}, "width must be a valid integer"),
        ({"width": 32}, "does not fit its config.json"),
        ({"depth": 2**31 - 1}, "asks for 2147483647 blocks"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"colour": 1}, "colour is not a known field"),
        ({"settings": None}, "must be a dictionary or an instance of GeneratorSettings"),
        ({"settings": {}}, "tokenizer"),
        ({"settings": {"tokenizer": "x", "classes": [1]}}, "classes.0 must be a valid string"),
        ({"settings": {"tokenizer": "x", "tokenizer_sha256": "y"}}, "tokenizer_sha256 must match pattern"),
        ({"settings": {"tokenizer": "x", "sampling": {"top_k": [1]}}}, "sampling top_k"),
    ],
)
def test_a_wrong_configuration_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_generator(make("lm"), SETTINGS, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=said) as error:
        load_generator_model(tmp_path)
    assert "\n" not in str(error.value)


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    save_generator(make("dit"), SETTINGS, tmp_path)
    with pytest.raises(CheckpointError, match="'DiffusionTransformer'"):
        load_tokenizer(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cannot be read as a safetensors file"):
        load_generator_model(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load_generator_model(tmp_path)


@pytest.fixture
def tokenizer() -> OmniTokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(width=16, heads=1, head_dim=16, encoder_blocks="w", decoder_blocks="w", codebook_size=16)
    return OmniTokenizer.from_config(config).eval()


def test_a_folder_that_holds_its_tokenizer_goes_anywhere(
    tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, tokenizer="/absent/vq", tokenizer_sha256=fingerprint(tokenizer))
    save_generator(make("lm"), settings, tmp_path / "run" / "model", tokenizer)
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    generator = load_generator(tmp_path / "moved")
    assert generator.tokenizer.fingerprint == settings.tokenizer_sha256
    assert repr(generator).startswith("LanguageModelGenerator(LanguageModel(0.0 M parameters, 16 codes, 2 classes, cpu")
    assert "\n" not in repr(generator) + repr(make("dit"))


@pytest.mark.parametrize("named", ("runs/vq/model", "runs/vq"))
def test_a_relative_tokenizer_is_found_around_the_folder(
    tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    tokenizer.save_pretrained(tmp_path / "old/runs/vq/model")
    save_generator(make("lm"), replace(SETTINGS, tokenizer=named, tokenizer_sha256=""), tmp_path / "old/runs/lm/model")
    (tmp_path / "old").rename(tmp_path / "new")  # the whole project moves, and we are elsewhere
    monkeypatch.chdir("/")
    assert load_generator(tmp_path / "new/runs/lm").tokenizer.fingerprint == fingerprint(tokenizer)
