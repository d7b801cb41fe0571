import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from omnitok.cli import demo, main
from omnitok.cli.demo import FRAMES, SIDE, render_balls
from omnitok.data import read_video


def test_own_files_side_by_side(
    vq_folder: Path, tmp_path: Path, make_picture: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png", 40, 30)
    assert main(["demo", str(picture), "--model", str(vq_folder), "-o", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out.splitlines()[-1]
    with Image.open(tmp_path / "out/side-by-side/a.png") as image:
        assert image.size == (80, 30)


@pytest.mark.slow
def test_pictures_and_clips_of_its_own(
    vq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(demo, "FRAMES", 9)  # shorter than the real ones, to be quick
    assert main(["demo", "--model", str(vq_folder), "-o", str(tmp_path / "out"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = {Path(row["output"]).name for row in rows}
    assert {"astronaut.png", "chelsea.png", "coffee.png", "rocket.png", "rendered_balls.mp4"} <= names
    assert all(Path(row["output"]).is_file() for row in rows)
    clip = read_video(tmp_path / "out/side-by-side/camera_over_astronaut.mp4")
    assert clip.shape == (3, 9, SIDE, 2 * SIDE)


def test_without_scikit_image(
    vq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)  # what Python does for a package that is not there
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    assert main(["demo", "--model", str(vq_folder), "-o", str(tmp_path / "out")]) == 1
    assert "pip install 'scikit-image'" in capsys.readouterr().err


def test_clips_move_and_follow_the_seed() -> None:
    balls = render_balls(0)
    assert balls.shape == (3, FRAMES, SIDE, SIDE)
    assert balls.abs().max() <= 1
    assert torch.equal(balls, render_balls(0))
    assert not torch.equal(balls, render_balls(1))
    assert not torch.equal(balls[:, 0], balls[:, 1])
