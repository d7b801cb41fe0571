"""Cards that are written beside models: their Python lines run, and the hub is told what generators take."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.small import TINY
from helpers.text_models import save_t5
from omnitok import OmniTokenizer
from omnitok.hub.card import PLACE
from omnitok.hub.folder import save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.header import split_card
from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
from omnitok.models.conditions import EmbeddingCondition, TextCondition
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel

UNCONDITIONAL = "unconditional-image-generation"
SIZES = {"width": 16, "depth": 1, "heads": 2}
LANGUAGE, MASKED, DIFFUSION = "language-model", "masked-model", "diffusion"
TINY_VAE = replace(TINY, bottleneck="kl", latent_channels=4)


def save(kind: str, folder: Path, fields: dict[str, Any], **settings: Any) -> None:
    """A folder of a random generator of 8 x 8 pixels, 3 frames, and its tokenizer."""
    model: Any
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(TINY_VAE if kind == DIFFUSION else TINY).eval()
    if kind == DIFFUSION:
        settings["latent_scale"] = 1.0
        model = DiffusionTransformer(DiffusionTransformerConfig(latent_channels=4, patch_size=1, **SIZES, **fields))
    elif kind == MASKED:
        model = MaskedModel(MaskedModelConfig(codebook_size=64, latent_frames=2, **SIZES, **fields))
    else:
        model = LanguageModel(LanguageModelConfig(codebook_size=64, latent_frames=2, **SIZES, **fields))
    facts = {"height": 8, "width": 8, "sampling": {} if kind == LANGUAGE else {"steps": 2}}
    save_generator(model, GeneratorSettings("none", tokenizer.fingerprint, **{**facts, **settings}), folder, tokenizer)


def run_card(folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What the Python lines of a card leave behind, its metadata, and its text."""
    block, text = split_card((folder / "README.md").read_text())
    (lines,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(lines.replace(PLACE, str(folder)), names)
    return names, yaml.safe_load(block), text


TEXT, SOUND = {"condition": TextCondition(max_length=5)}, {"condition": EmbeddingCondition(channels=4, max_length=3)}


@pytest.mark.parametrize(
    ("kind", "fields", "settings", "task", "tags", "items", "said"),
    [
        (LANGUAGE, {}, {}, UNCONDITIONAL, [], 1, "pixels.\n"),
        (LANGUAGE, {"num_classes": 2}, {"classes": ("a b", 'c "d"')}, UNCONDITIONAL, ["class-conditional"], 2, "a b"),
        (DIFFUSION, {"num_classes": 1}, {"num_frames": 1}, UNCONDITIONAL, ["class-conditional"], 1, "from classes"),
        (MASKED, TEXT, {"num_frames": 3}, "text-to-image", ["text-to-video"], 1, "a text of at most 5 bytes"),
        (DIFFUSION, TEXT, {"num_frames": 1}, "text-to-image", [], 1, "from texts"),
        (MASKED, SOUND, {}, UNCONDITIONAL, ["embedding-conditional"], 1, "from embeddings"),
        (LANGUAGE, SOUND, {"embeddings": "audio"}, UNCONDITIONAL, ["embedding-conditional"], 1, "from sounds"),
    ],
)  # fmt: skip
def test_a_generators_card_says_what_it_takes(
    kind: str,
    fields: dict[str, Any],
    settings: dict[str, Any],
    task: str,
    tags: list[str],
    items: int,
    said: str,
    tmp_path: Path,
) -> None:
    settings = {"num_frames": 3, **settings}
    save(kind, tmp_path, fields, **settings)
    made, metadata, text = run_card(tmp_path)
    assert made["images"].shape == (items, 3, 8, 8)
    assert (made["videos"].shape if "videos" in made else None) == (
        (items, 3, 3, 8, 8) if settings["num_frames"] == 3 else None
    )
    assert metadata["pipeline_tag"] == task
    videos = ["video-generation"] * (settings["num_frames"] > 1)
    assert metadata["tags"] == ["image-generation", *videos, kind, *tags]
    assert said in text


def test_a_model_of_a_text_encoders_embeddings_takes_texts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_t5(tmp_path / "t5")
    width = {"condition": EmbeddingCondition(channels=16, max_length=12)}
    save(MASKED, tmp_path / "model", width, embeddings=f"text:{tmp_path / 't5'}")
    made, metadata, text = run_card(tmp_path / "model")
    assert made["images"].shape == (1, 3, 8, 8)
    assert metadata["pipeline_tag"] == "text-to-image"
    assert f"by {tmp_path / 't5'}: at most 12 of 16 numbers" in text


def test_a_tokenizers_lines_load_it(tmp_path: Path) -> None:
    tokenizer = OmniTokenizer.from_config(TINY)
    tokenizer.save_pretrained(tmp_path)
    made, metadata, _ = run_card(tmp_path)
    assert made["tokenizer"].fingerprint == tokenizer.fingerprint
    assert metadata["pipeline_tag"] == "image-to-image"
