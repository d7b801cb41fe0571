"""`--set` and YAML."""

from pathlib import Path

import pytest

from omnitok.errors import OmnitokError
from omnitok.models.presets import preset
from omnitok.recipes import RECIPES
from omnitok.training.config import TrainConfig
from omnitok.training.settings import apply_settings, read_config, setting_names, write_config

BASE = TrainConfig(name="base", model=preset("tiny"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_the_file(name: str, tmp_path: Path) -> None:
    write_config(RECIPES[name], tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == RECIPES[name]


def test_values_take_the_type_of_their_key() -> None:
    config = apply_settings(
        BASE,
        [
            "optimizer.lr=1e-4",  # YAML 1.1 reads this as a string
            "data.resolutions=96,128",
            "data.images=pictures",
            "optimizer.betas=[0.5, 0.9]",
            "optimizer.ema_decay=0.99",
            "data.video_share=null",
            "weights.l2=4",
            "engine.compile=true",
            "model.width=128",
            "adversarial.image.norm=spectral",
            "steps=7",
        ],
    )
    assert config.optimizer.lr == 1e-4
    assert config.data.resolutions == (96, 128)
    assert config.data.images == ("pictures",)
    assert config.optimizer.betas == (0.5, 0.9)
    assert config.optimizer.ema_decay == 0.99
    assert config.data.video_share is None
    assert config.weights == {"l1": 1.0, "commitment": 0.25, "l2": 4.0}
    assert config.engine.compile is True
    assert config.model.width == 128
    assert config.adversarial.image.norm == "spectral"
    assert config.steps == 7


def test_an_architecture_is_set_by_name_and_a_dictionary_whole() -> None:
    config = apply_settings(BASE, ["model=small", "weights={l1: 2, l2: 1}"])
    assert config.model == preset("small")
    assert config.weights == {"l1": 2.0, "l2": 1.0}


def test_settings_that_belong_together_may_come_in_any_order() -> None:
    config = apply_settings(BASE, ["model.bottleneck=kl", "weights={l1: 1, kl: 1e-6}"])
    assert config.model.bottleneck.type == "kl"


@pytest.mark.parametrize(
    "setting, told",
    [
        ("optimizer.lrr=1", "did you mean 'optimizer.lr'"),
        ("lr=1", "did you mean 'optimizer.lr'"),
        ("weights.comitment=1", "did you mean 'weights.commitment'"),
        ("model.widht=1", "did you mean 'model.width'"),
        ("optimizer.lr=fast", "optimizer.lr must be a valid number"),
        ("optimizer.lr=-1", "must be positive"),
        ("data.resolutions=[]", "at least one positive number"),
        ("data={image_bach: 3}", "did you mean 'data.image_batch'"),
        ("engine.precision=float16", "engine.precision"),
        ("steps=0", "steps must be at least 1"),
        ("model=huge", "known are base"),
        ("model.width=0", "width must be at least 1"),
        ("weights.kl=1", "bottleneck=vq has no such loss"),
        ("weights.lecam=1", "of a discriminator"),
        ("steps", "expected KEY=VALUE"),
        ("steps=[", "cannot be read as a value"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(setting: str, told: str) -> None:
    with pytest.raises(OmnitokError) as failure:
        apply_settings(BASE, [setting])
    assert told in str(failure.value)
    assert "\n" not in str(failure.value)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, told in (
        ("- a", "holds list"),
        ("a: [", "cannot be read as YAML"),
        ("name: x\nmodle: {}", "did you mean 'model'"),
    ):
        path.write_text(text)
        with pytest.raises(OmnitokError, match=told):
            read_config(path)
    with pytest.raises(OmnitokError, match="cannot be read"):
        read_config(tmp_path / "absent.yaml")


def test_what_belongs_together_may_come_in_pieces() -> None:
    config = apply_settings(BASE, ["init.keep_encoder=true"], {"init.model": "omnitok-tiny-vq"})
    assert config.init.keep_encoder
    assert config.init.model == "omnitok-tiny-vq"
    with pytest.raises(OmnitokError, match="keep_encoder needs"):
        apply_settings(BASE, ["init.keep_encoder=true"])


def test_changes_replace_by_dotted_name() -> None:
    assert apply_settings(BASE, [], {"data.images": ["a", "b"], "seed": 3}).data.images == ("a", "b")


def test_every_name_can_be_set_to_what_it_is() -> None:
    names = setting_names()
    assert {"optimizer.lr", "weights.l1", "model.width", "adversarial.video.channels", "init.model"} <= set(names)
