"""The script that captions folders of classes: wordings, articles, what is kept for evaluation."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from omnitok.data import write_image
from omnitok.data.index import build_index

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "caption_images.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("caption_images", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


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
