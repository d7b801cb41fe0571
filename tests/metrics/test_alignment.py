"""Samples beside what they were asked to show: texts and classes told apart, accuracies, chance, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from evaluation_media import pooled
from torch import Tensor

from omnitok.data import write_image
from omnitok.errors import MissingWeightsError, OmnitokError
from omnitok.metrics import (
    Confusion,
    ConfusionAccumulator,
    EvaluationConfig,
    LinearClassifier,
    Result,
    evaluate_alignment,
    gradient_features,
)
from omnitok.metrics.wanted import class_in, color_in, read_wanted

CLASSES = ("disc", "bar")
PAINTS = {"red": (0.7, -0.8, -0.8), "blue": (-0.8, -0.6, 0.6), "green": (-0.7, 0.2, -0.6)}


def draw(label: str, color: str, seed: int, side: int = 32) -> Tensor:
    """A disc or an upright bar on white, a little moved."""
    shift = 0.3 * (torch.rand(2, generator=torch.Generator().manual_seed(seed)) - 0.5)
    y = ((torch.arange(side) * 2 + 1) / side - 1)[:, None] + shift[0]
    x = ((torch.arange(side) * 2 + 1) / side - 1)[None] + shift[1]
    inside = y**2 + x**2 < 0.3 if label == "disc" else (x.abs() < 0.2) & (y.abs() < 0.8)
    return torch.where(inside, torch.tensor(PAINTS[color])[:, None, None], torch.tensor(0.95))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for label in CLASSES:
        (folder / label).mkdir()
        for index in range(10):
            color = list(PAINTS)[index % 3]
            write_image(folder / label / f"{index}.png", draw(label, color, index, side=48))
    return folder


def generate(folder: Path, texts: list[str | None] | None, drawn: list[tuple[str, str]]) -> Path:
    """A folder as `omnitok generate` leaves it: samples in turns, the note, and a grid."""
    folder.mkdir()
    for index, (label, color) in enumerate(drawn):
        asked = texts[index % len(texts)] if texts else ("disc" if index % 2 == 0 else "bar")
        slug = (asked or "").replace(" ", "_")
        write_image(folder / f"{index:06d}-{slug}.png", draw(label, color, 100 + index))
    write_image(folder / "grid.png", torch.zeros(3, 8, 8))
    note = {"model": "m", "seed": 0} | ({"texts": texts} if texts else {"labels": [0, 1]})
    (folder / "generate.json").write_text(json.dumps(note))
    return folder


def test_texts_are_asked_for_their_class_and_colour(real: Path, tmp_path: Path) -> None:
    texts = ["a red disc on a green background", "a blue bar", "something"]
    drawn = [("disc", "red"), ("bar", "blue"), ("disc", "red"), ("disc", "green"), ("disc", "blue"), ("bar", "red")]
    fake = generate(tmp_path / "fake", texts, drawn)
    rows = {row.metric: row for row in evaluate_alignment(fake, real)}
    assert set(rows) == {"class_accuracy_plain", "color_accuracy"}
    classes, colors = rows["class_accuracy_plain"], rows["color_accuracy"]
    assert (classes.value, classes.n, classes.real_value) == (0.75, 4, 1.0)  # the fifth is a disc for a bar
    assert classes.by == {"disc": {"value": 1.0, "n": 2}, "bar": {"value": 0.5, "n": 2}}
    assert classes.chance == pytest.approx(0.5 * 0.75 + 0.5 * 0.25)
    assert (classes.n_reference, classes.reference) == (20, str(real))
    assert (colors.value, colors.n) == (0.75, 4)  # the fourth is green for red
    assert colors.by == {"red": {"value": 0.5, "n": 2}, "blue": {"value": 1.0, "n": 2}}
    assert colors.chance == pytest.approx(0.5 * 0.25 + 0.5 * 0.5)
    assert colors.row()["chance"] == colors.chance
    assert "chance" not in Result("psnr", 1.0, "clean", 1, "image", None, 1).row()


def test_classes_of_a_generated_folder_are_in_its_names(real: Path, tmp_path: Path) -> None:
    drawn = [("disc", "red"), ("bar", "red"), ("bar", "blue"), ("bar", "green")]
    fake = generate(tmp_path / "fake", None, drawn)
    (row,) = evaluate_alignment(fake, real)
    assert (row.metric, row.value, row.n) == ("class_accuracy_plain", 0.75, 4)


def test_a_list_gives_labels_and_captions(real: Path, tmp_path: Path) -> None:
    for index, color in enumerate(("red", "green", "blue")):
        write_image(tmp_path / f"{index}.png", draw("bar", color, index))
    lines = [
        {"path": "0.png", "label": "bar", "caption": ["it is red", "other"]},
        {"path": "1.png", "caption": "bars in green"},
        {"path": "2.png", "caption": "a gray disc"},
    ]
    source = tmp_path / "list.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = read_wanted(source, "image", CLASSES)
    assert [(w.label, w.color) for w in wanted] == [("bar", "red"), ("bar", "green"), ("disc", "grey")]
    rows = evaluate_alignment(source, real, ["color_accuracy", "class_accuracy_plain"], EvaluationConfig(batch_size=2))
    assert [(row.metric, row.value, row.n) for row in rows] == [
        ("color_accuracy", pytest.approx(2 / 3), 3),
        ("class_accuracy_plain", pytest.approx(2 / 3), 3),
    ]


def test_colours_need_no_real_samples(tmp_path: Path) -> None:
    fake = generate(tmp_path / "fake", ["a red bar"], [("bar", "red"), ("bar", "blue")])
    (row,) = evaluate_alignment(fake)
    assert (row.metric, row.value, row.n, row.reference) == ("color_accuracy", 0.5, 2, None)


def test_a_network_judges_classes(real: Path, tmp_path: Path) -> None:
    fake = generate(tmp_path / "fake", None, [("disc", "red"), ("bar", "red")])
    rows = evaluate_alignment(fake, real, ["class_accuracy"], networks={"mobilenet_v2": pooled()})
    assert rows[0].network == "pooled"
    assert rows[0].n == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a pair of shoes", "shoes"),
        ("Two APPLES, green", "apple"),
        ("a dress beside a watch", "dress"),
        ("wristwatch", None),
        ("a robot arm pushes something", "push"),
        ("an ice-cream van", "ice_cream van"),
        ("", None),
    ],
)
def test_the_class_of_a_text(text: str, name: str | None) -> None:
    assert class_in(text, ["ice", "ice_cream van", "shoes", "apple", "watch", "dress", "push"]) == name


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("a Red dress on a white background", "red"),
        ("a white background behind a red dress", "red"),
        ("a dress on a white background", None),
        ("gray pants", "grey"),
        ("a reddish dress", None),
        ("pants, blue", "blue"),
    ],
)
def test_the_colour_of_a_text(text: str, color: str | None) -> None:
    assert color_in(text) == color


def test_what_cannot_be_measured_is_said(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNITOK_WEIGHTS", raising=False)
    fake = generate(tmp_path / "fake", ["something"], [("disc", "red")])
    with pytest.raises(OmnitokError, match="no sample was asked for in a class"):
        evaluate_alignment(fake, real)
    with pytest.raises(OmnitokError, match=r"color_accuracy has nothing to measure.* one of black, grey"):
        evaluate_alignment(fake, real, ["color_accuracy"])
    other = generate(tmp_path / "other", ["a red disc"], [("disc", "red"), ("disc", "red")])
    with pytest.raises(OmnitokError, match=r"class_accuracy_plain needs real samples of every class.*--real"):
        evaluate_alignment(other, None, ["class_accuracy_plain"])
    with pytest.raises(MissingWeightsError, match="mobilenet_v2"):
        evaluate_alignment(other, real, ["class_accuracy"], weights_dir=tmp_path)
    with pytest.raises(OmnitokError, match="has images of 0 classes, at least 2 are needed"):
        evaluate_alignment(other, next(real.iterdir()).parent / "disc")
    with pytest.raises(ValueError, match="metrics of images are class_accuracy"):
        evaluate_alignment(other, real, ["fid"])
    (other / "generate.json").write_text('{"texts": "a red disc"}')
    with pytest.raises(OmnitokError, match=r"generate\.json: texts is a red disc, where a list"):
        evaluate_alignment(other, real)


def test_a_classifier_separates_what_can_be_separated() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 5, generator=generator) + 6 * torch.nn.functional.one_hot(y, 5)
    classifier = LinearClassifier(x[:60], y[:60], 3)
    assert (classifier.predict(x[60:]) == y[60:]).all()


def test_confusions_add_up_over_parts() -> None:
    asked, told = torch.tensor([0, 0, 1, -1, 1]), torch.tensor([0, 1, 1, 0, 1])
    whole, parts = ConfusionAccumulator(["a", "b"]), [ConfusionAccumulator(["a", "b"]) for _ in range(2)]
    whole.update(asked, told)
    parts[0].update(asked[:2], told[:2])
    parts[1].update(asked[2:], told[2:])
    parts[0].merge(parts[1])
    assert torch.equal(whole.counts, torch.tensor([[1, 1], [0, 2]]))
    assert torch.equal(parts[0].counts, whole.counts)
    assert whole.compute().accuracy == 0.75
    perfect = Confusion(("a", "b"), torch.tensor([[5, 0], [0, 5]]))
    assert (perfect.accuracy, perfect.chance) == (1.0, 0.5)
    with pytest.raises(ValueError, match="at least 1 sample"):
        ConfusionAccumulator(["a"]).compute()


def test_gradients_stay_on_the_device_of_the_images() -> None:
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8, device="meta")
    assert gradient_features(images).shape == (2, 64 * 12)
