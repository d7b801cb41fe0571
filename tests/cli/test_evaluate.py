import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omnitok
from helpers.processes import on_two_processes, printed
from omnitok.cli import main
from omnitok.hub.names import short_names

WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the shared weights are not here")
MakeMedia = Callable[..., Path]

COMMON = ["--help", "--device", "--seed", "--json"]
MEASURING = [*COMMON, "--protocol", "--weights-dir", "--batch-size", "--resolution", "--frames"]
FLAGS = {
    "reconstruction": [*MEASURING, "--metrics", "--out", "--model", "--ranges", "--data"],
    "fidelity": [*MEASURING, "--metrics", "--out", "--video", "--samples", "--real", "--fake"],
    "alignment": [*MEASURING, "--metrics", "--out", "--video", "--real", "--fake", "--clip"],
    "statistics": [*MEASURING, "--video", "--samples", "--data", "--metric", "--out", "--state-dir"],
    "compare": [*MEASURING, "--metrics", "--out", "--models", "--data", "--pictures", "--no-references", "--ranges"],
    "protocols": COMMON,
}


def evaluate(*line: object) -> int:
    return main(["evaluate", *map(str, line)])


@pytest.fixture
def media(tmp_path: Path, make_picture: MakeMedia, make_clip: MakeMedia) -> Path:
    """Five pictures and two clips."""
    for i in range(5):
        make_picture(tmp_path / f"in/{i}.png", width=40 + i)
    for i in range(2):
        make_clip(tmp_path / f"in/{i}.mp4", frames=9 + i)
    return tmp_path / "in"


def rows_of(captured: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["metric"], row["modality"]): row for row in json.loads(captured)}


@pytest.mark.parametrize("action", FLAGS)
def test_flags_are_frozen(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(action, "--help") == 0
    shown = re.findall(r"^. (?:-\w(?: [A-Z]+)?, )?(--[a-z-]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(shown) == sorted(FLAGS[action])


def test_reconstruction_of_pictures_and_clips(
    vq_folder: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["reconstruction", "--model", vq_folder, "--data", media, "--frames", 5, "--resolution", 32]
    assert evaluate(*line, "--json", "-o", tmp_path / "out") == 0
    rows = rows_of(capsys.readouterr().out)
    names = ["psnr", "ssim", "usage", "perplexity", "entropy"]
    assert list(rows) == [(name, medium) for medium in ("image", "video") for name in names]
    picture, clip = rows["psnr", "image"], rows["psnr", "video"]
    assert (picture["n"], picture["frames"], picture["resolution"], picture["protocol"]) == (5, 1, 32, "clean")
    assert (clip["n"], clip["frames"]) == (2, 5)
    assert len(picture["model_sha256"]) == 64
    assert picture["version"] == omnitok.__version__
    assert 3 < picture["value"] < 40
    saved = json.loads((tmp_path / "out/results.json").read_text())
    assert saved["results"] == list(rows.values())
    assert saved["protocol"]["fit"] == "center_crop"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
    assert evaluate(*line) == 0
    table = capsys.readouterr().out
    assert re.search(r"^psnr +image +vq .* 5 +32 +clean", table, flags=re.MULTILINE)
    assert re.search(r"^psnr +video +vq .* 2 +5x32 +clean", table, flags=re.MULTILINE)


def test_a_vae_is_measured_without_usage(vae_folder: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["reconstruction", "--model", vae_folder, "--data", media, "--resolution", 32, "--frames", 2]
    assert evaluate(*line, "--protocol", "official", "--json") == 0
    assert {row["metric"] for row in json.loads(capsys.readouterr().out)} == {"psnr", "ssim"}
    assert evaluate(*line, "--metrics", "psnr,usage") == 1
    assert "VAE" in capsys.readouterr().err


def documents(text: str) -> list[dict[tuple[str, str], dict[str, Any]]]:
    """The rows of every JSON list in the text."""
    found = []
    while text := text.strip():
        rows, end = json.JSONDecoder().raw_decode(text)
        found.append({(row["metric"], row["modality"]): row for row in rows})
        text = text[end:]
    return found


def test_two_processes_equal_one(
    vq_folder: Path, media: Path, tmp_path: Path, make_picture: MakeMedia, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        make_picture(tmp_path / f"a/{i}.png", width=40 + 3 * i)
        make_picture(tmp_path / f"b/{i}.png", width=60 + 5 * i)
    common = ["--json", "--resolution", "32", "--device", "cpu"]
    names = "psnr,fd_mobilenet_v2" if WEIGHTS.is_dir() else "psnr"
    sets = ["--real", str(tmp_path / "a"), "--fake", str(tmp_path / "b")]
    captions = tmp_path / "captions.csv"
    captions.write_text(
        "path,caption\n" + "".join(f"a/{i}.png,a {'grey' if i % 2 else 'red'} thing\n" for i in range(5))
    )
    asked = ["--fake", str(captions), "--metrics", "color_accuracy"]
    lines = [
        ["evaluate", "alignment", *asked, *common],
        ["evaluate", "reconstruction", "--model", str(vq_folder), "--data", str(media), "--frames", "5", *common],
        ["evaluate", "fidelity", *sets, "--metrics", names, "--weights-dir", str(WEIGHTS), *common],
    ]
    for line in lines:
        assert main(line) == 0
    alone = documents(capsys.readouterr().out)
    told, silence = on_two_processes(lambda rank: printed(lines))
    assert silence == ""
    together = documents(told)
    assert [rows.keys() for rows in together] == [rows.keys() for rows in alone]
    for mine, theirs in zip(alone, together, strict=True):
        for key, row in mine.items():
            assert theirs[key]["value"] == pytest.approx(row["value"], rel=1e-6), key
            assert theirs[key]["n"] == row["n"]


def test_missing_weights_are_said_before_any_work(
    vq_folder: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMNITOK_WEIGHTS", raising=False)
    out = tmp_path / "out"
    line = ["reconstruction", "--model", vq_folder, "--data", media, "--frames", 9, "-o", out]
    assert evaluate(*line, "--metrics", "psnr,lpips,rfid,rfvd") == 1
    captured = capsys.readouterr()
    for part in ("vgg16-397923af.pth", "lpips_heads/vgg.pth", "6726825d", "i3d_pretrained_400.pt", "OMNITOK_WEIGHTS"):
        assert part in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not out.exists()
    wrong = tmp_path / "weights"
    wrong.mkdir()
    (wrong / "mobilenet_v2.safetensors").write_bytes(b"something else")
    assert evaluate(*line, "--metrics", "fd_mobilenet_v2", "--weights-dir", wrong) == 1
    assert "has the sha256" in capsys.readouterr().err
    for picture in media.glob("*.png"):
        picture.unlink()
    assert evaluate("fidelity", "--real", media, "--fake", media, "--video", "--frames", 9, "--resolution", 32) == 1
    assert "i3d_pretrained_400.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, said",
    [
        ("reconstruction --data in --metrics psnr,magic", "magic"),
        ("reconstruction --data in --metrics ,", "--metrics"),
        ("reconstruction --data in --resolution 0", "--resolution"),
        ("reconstruction --data in --frames -1", "--frames"),
        ("reconstruction --data in --metrics rfvd --frames 8", "at least 9 frames"),
        ("reconstruction --data in --protocol mine", "--protocol"),
        ("reconstruction --data in --batch-size 0", "--batch-size"),
        ("reconstruction", "--data"),
        ("fidelity --real in --fake in --metrics fvd", "fvd"),
        ("fidelity --real in --fake in --samples 1", "--samples"),
        ("fidelity --real in --fake in --resolution 0", "--resolution"),
        ("alignment --fake in --metrics fid", "metrics of images are class_accuracy"),
        ("alignment", "--fake"),
        ("statistics --data in -o here.txt", "--out"),
        ("compare --data in", "at least one model"),
        ("frobnicate", "frobnicate"),
    ],
)
def test_nonsense_is_a_usage_error(
    line: str,
    said: str,
    vq_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    words = line.split()
    if words[0] == "reconstruction" and len(words) > 1:
        words += ["--model", str(vq_folder)]
    assert evaluate(*words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("empty", [True, False])
def test_folders_without_media(
    empty: bool, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if empty:
        (tmp_path / "in").mkdir()
    assert evaluate("reconstruction", "--model", vq_folder, "--data", tmp_path / "in") == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "in") in error
    assert len(error.strip().splitlines()) == 1


def test_short_clips_are_named(
    vq_folder: Path, tmp_path: Path, make_clip: MakeMedia, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "in/short.mp4", frames=6)
    assert evaluate("reconstruction", "--model", vq_folder, "--data", tmp_path / "in") == 1
    assert "short.mp4: the video has 6 frames, at least 17 are needed" in capsys.readouterr().err


def test_pairs_need_no_weights(tmp_path: Path, make_picture: MakeMedia, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        for i in range(2):
            make_picture(tmp_path / folder / f"{i}.png")
    line = ["fidelity", "--real", tmp_path / "a", "--fake", tmp_path / "b", "--metrics", "psnr,ssim"]
    assert evaluate(*line, "--json") == 0
    found = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert found == {"psnr": None, "ssim": pytest.approx(1)}  # JSON has no infinity
    make_picture(tmp_path / "b/2.png")
    assert evaluate(*line) == 1
    assert "has 2 samples" in capsys.readouterr().err


@needs_weights
def test_statistics_once_then_fidelity(
    tmp_path: Path, make_picture: MakeMedia, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        make_picture(tmp_path / f"a/{i}.png", width=40 + 4 * i)
    saved, common = tmp_path / "a.npz", ["--weights-dir", WEIGHTS, "--resolution", 32]
    line = ["statistics", "--data", tmp_path / "a", "--metric", "fd_mobilenet_v2", "-o", saved, *common]
    assert evaluate(*line, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["n"] == 4
    with np.load(saved) as arrays:
        assert arrays["mu"].shape == (1280,)
    line = ["fidelity", "--real", saved, "--fake", tmp_path / "a", "--metrics", "fd_mobilenet_v2", *common]
    assert evaluate(*line, "--json") == 0
    captured = capsys.readouterr()
    (result,) = json.loads(captured.out)
    assert abs(result["value"]) < 1e-8
    assert result["network_sha256"].startswith("caf5fc66")
    assert "biased upwards" in result["warning"]
    assert "biased upwards" in captured.err


def test_compare_takes_files_and_models_in_both_spellings(
    vq_folder: Path, vae_folder: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models of two runs are called by their runs; inputs, or in the older spelling models, may stand after metrics."""
    for run, folder in (("a", vq_folder), ("b", vae_folder)):
        shutil.copytree(folder, tmp_path / "runs" / run / "model")
    models, out = [tmp_path / "runs" / run / "model" for run in ("a", "b")], tmp_path / "out"
    line = ["-o", out, "--resolution", 32, "--frames", 3, "--pictures", 1]
    new = ["compare", media, "--models", *models, *line, "--json", "--no-references"]
    assert main(list(map(str, new))) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["modality"]) for row in rows] == [
        (str(model), modality) for model in models for modality in ("image", "video")
    ]
    assert all(row["psnr"] > 0 and row["bits_per_pixel"] > 0 and row["files"] for row in rows)
    assert json.loads((out / "results.json").read_text())["results"] == rows
    assert "data:image/png;base64" in (out / "index.html").read_text()
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["image-000-0.png", "video-000-0.mp4"]
    old = ["compare", "--data", media, *line, "--no-references", "--metrics", "psnr", "ssim", *models]
    assert main(list(map(str, old))) == 0
    table = capsys.readouterr().out
    assert re.search(r"^model \(images\) +bits/pixel +tokens +psnr +ssim ", table, flags=re.MULTILINE)
    assert re.search(r"^b +[\d.]+ ", table, flags=re.MULTILINE)
    for wrong, said in (([media], "at least one model"), (["--models", *models], "at least one image, video")):
        assert main(list(map(str, ["compare", *wrong]))) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "models, short",
    [
        (["runs/a/model", "runs/b/model"], ["a", "b"]),
        (["x/a/model", "y/a/model"], ["x/a", "y/a"]),
        (["omnitok-tiny-vq", "folder/mine"], ["omnitok-tiny-vq", "mine"]),
        (["model", "a/model"], ["model", "a"]),
        (["a/model", "a"], ["a/model", "a"]),
    ],
)
def test_models_are_told_apart_by_as_little_as_possible(models: list[str], short: list[str]) -> None:
    assert list(short_names(models).values()) == short


def test_metrics_may_have_spaces_between_them(vq_folder: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["reconstruction", "--model", vq_folder, "--data", media, "--resolution", 32, "--frames", 2, "--json"]
    assert evaluate(*line, "--metrics", "ssim", "psnr") == 0
    assert [metric for metric, _ in rows_of(capsys.readouterr().out)] == ["ssim", "psnr"] * 2


def test_alignment_is_a_table_with_chance(
    tmp_path: Path, make_picture: MakeMedia, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(4):
        make_picture(tmp_path / f"real/{'ab'[index % 2]}/{index}.png", width=40)
        make_picture(tmp_path / f"fake/{index:06d}-{'ab'[index % 2]}.png", width=32, height=32)
    (tmp_path / "fake/generate.json").write_text('{"labels": [0, 1]}')
    line = ["alignment", "--fake", tmp_path / "fake", "--real", tmp_path / "real", "--metrics", "class_accuracy_plain"]
    assert evaluate(*line, "-o", tmp_path / "out", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert re.search(r"value +real +chance +±", shown)
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert (row["metric"], row["n"], row["n_reference"]) == ("class_accuracy_plain", 4, 4)
    assert set(row["by"]) == {"a", "b"}
    assert 0 <= row["real_value"] <= 1


def test_protocols_are_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("protocols", "--json") == 0
    official, clean = json.loads(capsys.readouterr().out)
    assert (official["quantize"], clean["quantize"]) == ("truncate", "round")
    assert evaluate("protocols") == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in official if key != "name")
