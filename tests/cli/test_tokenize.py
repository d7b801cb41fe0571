"""`omnitok tokenize`: the result's keys, exit codes, parts, two processes, a kill, and --inspect."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.processes import on_two_processes, printed
from omnitok.cli import main
from omnitok.data import TokenShards

OPTIONS = ["--resolution", "24", "--frames", "5", "--batch-size", "2", "--shard-size", "2"]
FIXED_KEYS = {"items", "skipped", "shards", "tokens", "seconds"}


@pytest.fixture
def data(tmp_path: Path, make_picture: Callable[..., Path], make_clip: Callable[..., Path]) -> Path:
    for i in range(5):
        make_picture(tmp_path / f"data/{'xy'[i % 2]}/{i}.png", width=30 + i)
    make_clip(tmp_path / "data/x/clip.mp4")
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(data: Path, model: Path, out: Path, *more: str) -> list[str]:
    return ["tokenize", str(data), "--model", str(model), "-o", str(out), *OPTIONS, *more]


def tokenize(data: Path, model: Path, out: Path, *more: str) -> int:
    return main(command(data, model, out, *more))


def test_the_result(
    data: Path, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"
    assert tokenize(data, vq_folder, out, "--json", "--workers", "0") == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row) >= FIXED_KEYS
    assert (row["items"], row["skipped"], row["shards"], row["tokens"]) == (7, 0, 3, 5 * 9 + 2 * 18)
    assert (row["images"], row["videos"], row["class_names"]) == (5, 2, ["x", "y"])
    assert row["complete"]
    assert row["limiting_stage"] in ("reading", "encoding", "writing")
    assert TokenShards(out, verify=True).classes == ("x", "y")

    assert tokenize(data, vq_folder, out) == 1
    assert "--resume" in capsys.readouterr().err
    assert tokenize(data, vq_folder, out, "--resume", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["resumed_shards"], row["images"], row["videos"]) == (3, 5, 2)
    assert tokenize(data, vq_folder, out, "--resume") == 0
    said = capsys.readouterr().out
    assert "7 items (5 of images and 2 of videos" in said
    assert "2 classes: x, y" in said

    monkeypatch.chdir(tmp_path)
    assert main(["tokenize", "--inspect", str(out), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["items"], row["tokens"], sum(row["histogram"])) == (7, 81, 81)
    assert row["grids"] == [{"grid": [3, 3], "items": 5}, {"grid": [2, 3, 3], "items": 2}]
    assert row["classes"] == {"x": 5, "y": 2}
    with Image.open(row["output"]) as picture:
        assert picture.size == (4 * 28 - 4, 2 * 28 - 4)
    assert main(["tokenize", "--inspect", str(out), "-o", "grid.png"]) == 0
    assert "codes are in use" in capsys.readouterr().out


def test_captions(
    data: Path, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (data / "x/0.txt").write_text("a picture\nthe same one")
    (data / "x/clip.txt").write_text("a clip")
    assert tokenize(data, vq_folder, Path("plain"), "--json", "--workers", "0") == 0
    assert "captioned" not in json.loads(capsys.readouterr().out)
    assert main(["tokenize", "--inspect", "plain", "--json"]) == 0
    assert not {"captioned", "captions"} & json.loads(capsys.readouterr().out).keys()
    assert tokenize(data, vq_folder, Path("shards"), "--captions", "--workers", "0") == 0
    assert "3 items have captions" in capsys.readouterr().out
    assert main(["tokenize", "--inspect", "shards", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["captioned"], row["captions"]) == (
        3,
        {"x/0.png": ["a picture", "the same one"], "x/clip.mp4": ["a clip"]},
    )
    assert main(["tokenize", "--inspect", "shards"]) == 0
    assert "3 items have captions, such as\n  x/0.png: a picture | the same one\n" in capsys.readouterr().out


def test_embeddings(
    data: Path, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(data / "x/0.embedding.npy", np.ones((3, 2)))
    assert tokenize(data, vq_folder, Path("shards"), "--embed", "files", "--json", "--workers", "0") == 0
    assert json.loads(capsys.readouterr().out)["embedded"] == 1
    assert main(["tokenize", "--inspect", "shards", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["embeddings"] == {"source": "files", "width": 2, "sha256": "", "items": 1}
    assert main(["tokenize", "--inspect", "shards"]) == 0
    assert "1 items have embeddings of files, of width 2\n" in capsys.readouterr().out
    for source in ("text", "text:", "sound"):
        assert tokenize(data, vq_folder, Path("none"), "--embed", source) == 2
        assert f"--embed must be files, audio, text:DIR or text:HUB_ID, found {source}" in capsys.readouterr().err
    assert tokenize(data, vq_folder, Path("none"), "--embed", "text:nowhere") == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_inspecting_with_another_model_is_refused(
    data: Path, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert tokenize(data, vq_folder, out, "--workers", "0") == 0
    capsys.readouterr()
    assert main(["tokenize", "--inspect", str(out), "--model", "omnitok-tiny-vq"]) == 1
    said = capsys.readouterr().err
    assert "omnitok-tiny-vq" in said
    assert str(vq_folder) in said


def test_latents(data: Path, vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    assert tokenize(data, vae_folder, out, "--workers", "0", "--latent-dtype", "bfloat16") == 0
    capsys.readouterr()
    assert main(["tokenize", "--inspect", str(out), "-o", str(tmp_path / "grid.png"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert len(row["latent_mean"]) == len(row["latent_std"]) == 8


def test_bad_files_are_counted_and_tolerated_up_to_a_number(
    data: Path, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "x/bad.png").write_bytes(b"junk")
    assert tokenize(data, vq_folder, tmp_path / "strict", "--json", "--workers", "0") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["skipped"] == 1
    assert "x/bad.png: not an image" in captured.err
    assert tokenize(data, vq_folder, tmp_path / "lax", "--max-errors", "1", "--workers", "0") == 0
    assert "x/bad.png" in (tmp_path / "lax/errors.jsonl").read_text()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/a.png").write_bytes(b"junk")
    assert tokenize(tmp_path / "junk", vq_folder, tmp_path / "none", "--max-errors", "9", "--workers", "0") == 1
    assert main(["tokenize", str(tmp_path / "nowhere")]) == 1
    (tmp_path / "empty").mkdir()
    assert main(["tokenize", str(tmp_path / "empty")]) == 1
    assert "there are no images" in capsys.readouterr().err


def test_two_processes_make_the_same_bytes(data: Path, vq_folder: Path, tmp_path: Path) -> None:
    assert tokenize(data, vq_folder, tmp_path / "one", "--workers", "0") == 0
    line = command(data, vq_folder, tmp_path / "two", "--engine", "torchrun", "--json")
    told, silence = on_two_processes(lambda rank: printed([line]))
    assert silence == ""
    row = json.loads(told)
    assert (row["items"], row["shards"], row["complete"]) == (7, 3, True)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_killed_and_resumed_it_makes_the_same_bytes(data: Path, vq_folder: Path, tmp_path: Path) -> None:
    assert tokenize(data, vq_folder, tmp_path / "one", "--workers", "0") == 0
    out = tmp_path / "killed"
    line = [sys.executable, "-m", "omnitok", *command(data, vq_folder, out, "--workers", "1")]
    running = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while running.poll() is None and not (out / "00000").exists():
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert tokenize(data, vq_folder, out, "--resume") == 0
    assert contents(out) == contents(tmp_path / "one")
