"""`--set` and YAML."""

from pathlib import Path

import pytest
import yaml

from omnitok.errors import OmnitokError
from omnitok.models.presets import preset
from omnitok.recipes import RECIPES
from omnitok.training.config import MaskedModelTrainConfig, TrainConfig
from omnitok.training.settings import apply_settings, read_config, setting_names, to_plain, write_config

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
        ("optimizer.lr=-1", "optimizer.lr must be greater than 0, found -1"),
        ("data.resolutions=[]", "data.resolutions tuple should have at least 1 item"),
        ("data={image_bach: 3}", "did you mean 'data.image_batch'"),
        ("engine.precision=float16", "engine.precision"),
        ("steps=0", "steps must be at least 1, found 0"),
        ("model=huge", "known are base"),
        ("model.width=0", "width must be at least 1"),
        ("weights.kl=1", "bottleneck=vq has no such loss"),
        ("weights={comitment: 1}", "weights has no loss 'comitment'; known are l1, l2"),
        ("weights={temporal: 1}", "no loss of every step"),
        ("weights.l1=.inf", "weights.l1 must be a finite number"),
        ("model.bottleneck={type: vq, codebok_size: 2}", "did you mean 'model.bottleneck.codebook_size'"),
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
        ("- a", r"holds \['a'\], a mapping"),
        ("a: [", "cannot be read as a YAML file"),
        ("name: x\nmodle: {}", "did you mean 'model'"),
    ):
        path.write_text(text)
        with pytest.raises(OmnitokError, match=told):
            read_config(path)
    with pytest.raises(OmnitokError, match="no such file"):
        read_config(tmp_path / "absent.yaml")


def test_what_belongs_together_may_come_in_pieces() -> None:
    config = apply_settings(BASE, ["init.keep_encoder=true"], {"init.model": "omnitok-tiny-vq"})
    assert config.init.freeze_encoder
    assert config.init.model == "omnitok-tiny-vq"
    with pytest.raises(OmnitokError, match="freeze_encoder needs"):
        apply_settings(BASE, ["init.keep_encoder=true"])


def test_changes_replace_by_dotted_name() -> None:
    assert apply_settings(BASE, [], {"data.images": ["a", "b"], "seed": 3}).data.images == ("a", "b")


def test_every_name_can_be_set_to_what_it_is() -> None:
    names = setting_names()
    assert {"optimizer.lr", "weights.l1", "model.width", "adversarial.video.channels", "init.model"} <= set(names)
    assert not {"_", "model.bottleneck.is_discrete", "model.bottleneck.losses"} & set(names)


def test_hostile_files_are_one_short_sentence(tmp_path: Path) -> None:
    """Each of these took gigabytes, megabytes of message, or ended in a traceback."""
    path = tmp_path / "config.yaml"
    bomb = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 9))
    for content, told in (
        (b"name: x\nx0: &x0 [a]\n" + bomb.encode() + b"weights: *x8\n", "references"),
        (b"name: x\nmodel: " + b"[" * 5000, "nested too deeply"),
        (b"name: x\nsteps: " + b"9" * 5000, "cannot be read as a YAML file"),
        (b"name: \xff\n", "cannot be read as a YAML file"),
        (b"name: x\n" + b"#" * 2**21, "more than 1048576 bytes"),
        (b"name: x\n? [a, b]\n: 1\n", "cannot be read as a YAML file"),
        (b"name: x\n? " + b"w" * 100_000 + b"\n: 1\n", "unknown key"),
        (b"name: x\nmodel: {}\nsteps: " + b"w" * 100_000, "steps must be"),
        (b"kind: " + b"w" * 100_000, "known are"),
    ):
        path.write_bytes(content)
        with pytest.raises(OmnitokError, match=told) as failure:
            read_config(path)
        assert len(str(failure.value)) < 5000
        assert "\n" not in str(failure.value)
    for setting in ("steps=" + "9" * 5000, "model=" + "[" * 5000, "data.images=[&a x, *a]"):
        with pytest.raises(OmnitokError) as failure:
            apply_settings(BASE, [setting])
        assert len(str(failure.value)) < 5000


def test_keys_may_have_their_old_names(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    plain = to_plain(BASE)
    plain["quantize_after"] = plain.pop("quantizer_warmup_steps") + 7
    plain["data"]["pan_zoom"] = plain["data"].pop("ken_burns") + 0.5
    plain["log"]["pictures"] = plain["log"].pop("images") + 1
    path.write_text(yaml.safe_dump(plain))
    config = read_config(path)
    assert (config.quantizer_warmup_steps, config.data.ken_burns, config.log.images) == (7, 0.5, BASE.log.images + 1)  # type: ignore[union-attr]
    assert apply_settings(BASE, ["quantize_after=3", "log.pictures_every=9"]).log.images_every == 9


def test_keys_of_a_dictionary_are_those_that_its_type_names() -> None:
    masked = RECIPES["tiny-mask"]
    assert isinstance(masked, MaskedModelTrainConfig)
    changed = apply_settings(masked, ["tasks.generation=3"])
    assert changed.tasks == masked.tasks | {"generation": 3.0}
    names = [name for name in setting_names(type(masked)) if name.startswith("tasks.")]
    assert names == [f"tasks.{task}" for task in masked.tasks]
    with pytest.raises(OmnitokError, match=r"did you mean 'tasks\.generation'"):
        apply_settings(masked, ["tasks.generatoin=3"])
    with pytest.raises(OmnitokError, match="no such architecture; known are none by name"):
        apply_settings(masked, ["model=huge"])
