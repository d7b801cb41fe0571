"""Published runs: what their docstrings must say, and that they can be built."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.training import resolved, train
from omnitok.errors import OmnitokError
from omnitok.hub.architectures import build
from omnitok.hub.names import list_models
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.recipes import CATALOGUE, RECIPES, find_recipe, search
from omnitok.training.config import TrainConfig
from omnitok.training.settings import apply_settings
from omnitok.training.stopping import Limits


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_recipe_says_data_cost_score_and_command(name: str) -> None:
    recipe = CATALOGUE[name]
    assert recipe.config.name == name
    assert recipe.purpose
    assert recipe.data
    assert re.search("GPU|A100|CPU", recipe.cost)
    assert re.search(r"rFID|rFVD|FID|FVD|dB|scores? |reported|accuracies|measured", recipe.expected)
    assert re.search(rf"omnitok train {name}( |$)", recipe.command)
    used = re.findall(r"--init runs/(\S+)", recipe.command)
    init = recipe.config.init if isinstance(recipe.config.init, str | None) else recipe.config.init.model
    used += [init.removeprefix("runs/")] if init and init.startswith("runs/") else []
    assert set(used) <= set(RECIPES)  # what a run starts from is where another one leaves it


def test_recipes_are_found_by_words() -> None:
    assert [recipe.config.name for recipe in search("ucf vae imagenet stage")] == ["imagenet-ucf-vae"]
    assert len(search("")) == len(RECIPES)
    assert not search("nothing like this")


def test_what_ships_has_its_runs() -> None:
    for name in list_models():
        if name.startswith("omnitok-"):
            assert f"{name}-1" in RECIPES


def test_stages_follow_one_another() -> None:
    for name in ("tiny-", "", "imagenet-k600-"):
        joint, vae = RECIPES[f"{name}joint"], RECIPES[f"{name}vae"]
        assert joint.init.inflate
        assert not vae.init.inflate
        assert (joint.model.bottleneck.type, vae.model.bottleneck.type) == ("vq", "kl")
        assert replace(joint.model, bottleneck="kl") == vae.model
        same = (
            joint.data if name != "tiny-" else replace(vae.data, frames=joint.data.frames)
        )  # the paper's stages share it
        assert same == vae.data


def test_the_first_stage_and_the_ablations_are_the_papers() -> None:
    assert RECIPES["image"].data.resolutions == (256,)
    assert RECIPES["joint"].data.resolutions == (128, 192, 256, 320, 384)
    assert RECIPES["joint"].data.video_share is None  # strict alternation
    assert RECIPES["vae"].weights["kl"] == 1e-6
    assert RECIPES["attention-plain"].model.encoder_blocks == "tttt"
    assert not RECIPES["attention-not-causal"].model.causal
    assert [RECIPES[f"kl-first-{stage}"].model.bottleneck.type for stage in ("image", "joint", "vq")] == [
        "kl",
        "kl",
        "vq",
    ]


def test_a_wrong_name_tells_the_nearest() -> None:
    with pytest.raises(OmnitokError, match=r"did you mean imagenet-k600-joint\?"):
        find_recipe("imagenet-k600-join")


def test_a_description_counts_without_training(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    tiny = RECIPES["tiny-image"]
    found = resolved(replace(tiny, data=replace(tiny.data, images=(str(tmp_path),)))).describe()
    assert found["data"] == {"images": 1, "videos": 0}
    assert 2.5e6 < sum(found["parameters"].values()) < 3e6


def test_published_generators_are_of_the_papers_sizes() -> None:
    for name, millions in (("imagenet-lm-650m", 710), ("imagenet-lm-227m", 227), ("imagenet-dit-xl", 676)):
        config = RECIPES[name]
        assert not isinstance(config, TrainConfig)
        with torch.device("meta"):
            model = build(config.model)
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.06)
    for name in ("ucf-lm-227m", "ucf-lm-650m", "k600-lm-227m", "k600-lm-650m", "ucf-latte-xl"):
        assert name in RECIPES


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_tiny_generators_train_on_pixels_and_write_sample_grids(kind: str, tmp_path: Path) -> None:
    tokenizer = TokenizerConfig(
        width=32, heads=2, head_dim=16, encoder_blocks="w", decoder_blocks="w", codebook_size=16,
        encoder_temporal_blocks=1, decoder_temporal_blocks=1,
    )  # fmt: skip
    if kind == "dit":
        tokenizer = replace(tokenizer, bottleneck="kl")
    made = OmniTokenizer.from_config(tokenizer)
    made.latent_statistics = LatentStatistics((0.0,) * 8, (1.0,) * 8) if kind == "dit" else None
    made.save_pretrained(tmp_path / "tokenizer")
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (16, 16), (90, 50, 200)).save(tmp_path / "images" / label / "0.png")
    config = apply_settings(
        RECIPES[f"tiny-{kind}"],
        [],
        {
            "tokenizer": str(tmp_path / "tokenizer"),
            "data.images": [str(tmp_path / "images")],
            "data.resolutions": [16],
            "data.image_batch": 2,
            "model.width": 32,
            "model.depth": 2,
            "model.heads": 2,
            "log.images_every": 1,
            "log.images": 2,
            "sampling.guidance_scale": 1.0,
        },
    )
    result = train(config, tmp_path / "out", limits=Limits(max_steps=2))
    assert result.steps == 2
    assert (tmp_path / "out" / "previews" / "step-000000002-image.png").is_file()
    assert resolved(config).describe()["data"] == {"images": 2, "videos": 0}
