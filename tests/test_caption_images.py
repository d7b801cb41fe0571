"""The script that captions folders of classes: wordings, articles, what is kept for evaluation."""

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import omnitok
from omnitok.data import write_image
from omnitok.data.index import build_index

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"
SHARED = SCRIPTS.parents[1] / "shared"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("caption_images")


@pytest.fixture(scope="module")
def recoloring(script: ModuleType) -> ModuleType:
    assert script.COLORED  # it is imported from there
    return load("recolor_images")


def draw(red: float, green: float, blue: float) -> torch.Tensor:
    image = torch.ones(3, 64, 64) * 0.95
    image[:, 16:48, 16:48] = torch.tensor((red, green, blue))[:, None, None]
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in {
        "dress/a": (0.6, -0.9, -0.9),
        "dress/b": (-0.9, -0.7, 0.5),
        "leopard/c": (0.9, 0.2, -0.8),
    }.items():
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, draw(*color))
    return tmp_path / "images"


def captions(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str
) -> dict[str, dict[str, object]]:
    out = folder.parent / "list.jsonl"
    monkeypatch.setattr(sys, "argv", ["caption_images.py", str(folder), "-o", str(out), *options])
    script.main()
    return {Path(row["path"]).stem: row for row in map(json.loads, out.read_text().splitlines())}


def test_class_and_colour_are_said(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    rows = captions(script, monkeypatch, folder)
    assert rows["a"]["label"] == "dress"
    assert rows["a"]["color"] == "red"
    assert {"a red dress", "dress, red", "a red dress on a light background", "a dress"} <= set(rows["a"]["caption"])
    assert set(rows["c"]["caption"]) == {"a leopard", "leopard", "photo of a leopard"}
    assert captions(script, monkeypatch, folder) == rows
    index = build_index(folder.parent / "list.jsonl")
    assert [Path(sample.path).stem for sample in index["image"]] == ["a", "c"]


def test_held_out_pairs_and_wordings_are_kept_apart(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    trained = captions(script, monkeypatch, folder)
    held = captions(script, monkeypatch, folder, "--wordings", "held-out", "--pairs", "all")
    assert set(trained) == {"a", "c"}  # a blue dress is a held-out pair
    assert set(held) == {"a", "b", "c"}
    assert not set(trained["a"]["caption"]) & set(held["a"]["caption"])
    assert set(captions(script, monkeypatch, folder, "--pairs", "held-out")) == {"b"}


def test_held_out_wordings_are_no_others(script: ModuleType) -> None:
    assert not set(script.HELD_OUT) & set(script.MANY)
    assert set(script.TRAIN) < set(script.MANY)
    captions = script.image_captions(script.MANY, "shoes", "red", ["light", "brown"])
    assert len(set(captions)) == len(captions) <= 64
    assert "a pair of shoes, which is red" in captions


def test_composed_wordings_are_many_and_true(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    rows = captions(script, monkeypatch, folder, "--wordings", "composed")
    told = rows["a"]["caption"]
    assert len(told) == script.CHOSEN
    assert all("dress" in text and len(text) <= script.LONGEST for text in told)
    assert sum("red" in text for text in told) > len(told) / 2
    assert not any(color in text for text in told for color in script.COLORS if color not in ("red", "white"))
    assert told != script.composed_captions("dress", "red", ["light", "white"], "another file")
    held = set(script.image_captions(script.HELD_OUT, "dress", "red", ["light", "white"]))
    many = {text for seed in range(200) for text in script.composed_captions("dress", "red", ["light"], str(seed))}
    assert len(many) > 1000
    assert not many & held
    assert set(rows) == {"a", "c"}


def test_colours_that_the_tokenizer_loses_are_not_said(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    rows = captions(script, monkeypatch, folder, "--through", "omnitok-tiny-vq-perceptual", "--pairs", "all")
    assert rows["a"]["color"] == "red"
    monkeypatch.setattr(script, "survives", lambda *_: False)
    rows = captions(script, monkeypatch, folder, "--through", "omnitok-tiny-vq-perceptual")
    assert set(rows) == {"a", "c"}  # the blue dress is held out all the same
    assert "color" not in rows["a"]
    assert "a dress" in rows["a"]["caption"]


@pytest.mark.parametrize("color", ["white", "green", "black"])
def test_an_object_gets_another_colour_and_its_background_stays(recoloring: ModuleType, color: str) -> None:
    ground = torch.tensor((-0.2, -0.2, 0.6))[:, None, None].expand(3, 64, 64)
    image = draw(0.6, -0.9, -0.9) * torch.linspace(0.9, 1, 64)  # with some shading
    image = torch.where(draw(0, 0, 0)[:1] == 0, image, ground)
    copy = recoloring.recolor(image, recoloring.FOCAL[color][0])
    assert recoloring.measure_colors(copy[None])[0].object.name == color
    torch.testing.assert_close(copy[:, :10], image[:, :10], atol=2e-3, rtol=0)


@pytest.mark.parametrize("color", ["white", "black"])
def test_shading_is_not_clipped(recoloring: ModuleType, color: str) -> None:
    image = draw(0, 0, 0)
    image[:, 16:48, 16:48] = torch.linspace(-0.8, -0.1, 32)
    lightness = recoloring.oklab(recoloring.recolor(image, recoloring.FOCAL[color][1]))[0, 32, 16:48]
    assert (lightness.diff() > 0).all()


@pytest.mark.skipif(not (SHARED / "weights").exists(), reason="needs ../shared/weights")
def test_copies_that_a_tokenizer_loses_are_told(recoloring: ModuleType, folder: Path) -> None:
    for number, color in enumerate([(0.9, 0.9, -0.8), (-0.8, 0.4, -0.8), (-0.9, -0.9, -0.9)]):
        write_image(folder / "dress" / f"more{number}.png", draw(*color))
        ground = draw(*color).flip(1)
        ground[:, ::16] = ground[:, :, ::16] = 0.95
        write_image(folder / "leopard" / f"more{number}.png", ground.roll(9, 1))
    judge = recoloring.Judge(folder, "omnitok-tiny-vq-perceptual", SHARED / "weights")
    green = draw(-0.8, 0.3, -0.8)
    assert judge.knows(green, "dress", "green")
    assert not judge.knows(green, "leopard", "green")
    assert not judge.knows(green, "dress", "pink")


def test_copies_are_of_other_colours_and_of_no_pair_that_is_kept_back(
    recoloring: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    out = folder.parent / "copies"
    monkeypatch.setattr(sys, "argv", ["recolor_images.py", str(folder), "-o", str(out), "--copies", "11"])
    recoloring.main()
    names = sorted(path.name for path in out.rglob("*.png"))
    assert {"a-green.png", "a-white.png", "a-black.png"} <= set(names)
    assert not {"a-red.png", "a-blue.png"} & set(names)  # its own colour, and a pair that is kept back
    assert all(name.startswith("a-") for name in names)  # of the blue dress itself there are no copies


def test_prompts_name_class_and_colour(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    captions(script, monkeypatch, folder, "--prompts", str(folder.parent / "prompts"), "--least", "1")
    prompts = (folder.parent / "prompts" / "held_wordings.txt").read_text().splitlines()
    assert prompts == ["look at a red dress", "an image that shows a red dress", "a dress whose colour is red"]
    held = (folder.parent / "prompts" / "held_pairs.txt").read_text().splitlines()
    assert "look at a pair of red pants" in held
    assert all("background" not in prompt for prompt in held)


def test_articles_and_verbs(script: ModuleType) -> None:
    assert script.thing("apple", "orange") == "an orange apple"
    assert script.thing("shoes") == "a pair of shoes"
    assert script.third_person("push") == "pushes something"
    assert script.third_person("close") == "closes something"
    videos = list(
        script.fill(("{verb}, {scene}", "a robot arm {does}"), verb="fold", does="folds something", scene=None)
    )
    assert videos == ["a robot arm folds something"]


def test_a_text_encoder_learns_what_captions_say(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretraining = load("pretrain_captions")
    draw = random.Random(0)
    captions = [pretraining.draw_caption(draw) for _ in range(300)]
    for caption in captions:
        noun, color, ground = caption.says
        assert noun in caption.text
        assert color is None or color in caption.text
        assert ground is None or ground in caption.text
        assert len(caption.text) <= script.LONGEST
    assert not {caption.text for caption in captions} & {caption.text for caption in pretraining.held_out()}
    line = ["pretrain_captions.py", "omnitok-tiny-mask", "-o", str(tmp_path / "out"), "--steps", "3", "--batch", "4"]
    monkeypatch.setattr(sys, "argv", line)
    pretraining.main()
    assert "step 3: loss" in capsys.readouterr().out
    made, old = omnitok.load_generator(tmp_path / "out"), omnitok.load_generator("omnitok-tiny-mask")
    weights = made.model.state_dict()
    assert torch.equal(
        weights["blocks.0.attention.qkv.weight"], old.model.state_dict()["blocks.0.attention.qkv.weight"]
    )
    assert not weights["blocks.0.cross.out.weight"].any()  # so it draws what it drew, whatever the text
    assert made.sample(["a red dress"], seed=0, steps=1).shape == (1, 3, 64, 64)
