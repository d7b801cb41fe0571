"""Models of other channels than three on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small import SMALL
from omnitok.cli import main
from omnitok.models.tokenizer import OmniTokenizer

RANDOM = np.random.default_rng(0)


def model(folder: Path, channels: int, ranges: tuple[tuple[float, float], ...] = ()) -> Path:
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(replace(SMALL, channels=channels)).eval()
    tokenizer.channel_ranges = ranges
    return tokenizer.save_pretrained(folder)


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """An image and a video of 5 bands in a folder, and a model of such with ranges."""
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", RANDOM.integers(0, 10000, (20, 26, 5), dtype=np.uint16))
    np.save(tmp_path / "in/v.npy", RANDOM.integers(0, 10000, (6, 20, 26, 5), dtype=np.uint16))
    model(tmp_path / "five", 5, ((0, 10000),))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[int, Any, str]:
    """Exit code, what JSON says, and stderr."""
    code = main([*map(str, line), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def test_bands_through_every_verb_of_files(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, _ = run(capsys, "reconstruct", bands / "in", "--model", bands / "five", "-o", bands / "out")
    assert code == 0
    assert [(Path(row["output"]).name, row["frames"]) for row in rows] == [("a.npy", 1), ("v.npy", 6)]
    for row in rows:
        assert len(row["psnr_per_channel"]) == len(row["ssim_per_channel"]) == 5
        assert sum(row["psnr_per_channel"]) / 5 == pytest.approx(row["psnr"], abs=0.5)  # of decibels, not of errors
        assert sum(row["ssim_per_channel"]) / 5 == pytest.approx(row["ssim"], abs=1e-4)
    assert run(capsys, "encode", bands / "in", "--model", bands / "five", "-o", bands / "tokens")[0] == 0
    assert run(capsys, "decode", bands / "tokens", "-o", bands / "decoded")[0] == 0
    for name in ("a.npy", "v.npy"):
        given, whole, decoded = (np.load(bands / folder / name) for folder in ("in", "out", "decoded"))
        assert (whole.shape, whole.dtype) == (given.shape, given.dtype)
        np.testing.assert_array_equal(whole, decoded)
        assert whole.max() > 1000
    code, _, _ = run(capsys, "decode", bands / "tokens/a.safetensors", "-o", bands / "b.tif", "--ranges", "0:5000")
    assert code == 0  # the ranges that are given win
    code, rows, _ = run(capsys, "reconstruct", bands / "b.tif", "--model", bands / "five", "-o", bands / "c.tif")
    assert (code, rows[0]["output"]) == (0, str(bands / "c.tif"))


def test_alpha_and_grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (20, 26, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(RANDOM.integers(0, 65536, (20, 26), dtype=np.uint16)).save(tmp_path / "d.png")
    for channels, name, mode in ((4, "a.png", "RGBA"), (1, "d.png", "I;16"), (1, "a.png", "L")):
        folder = model(tmp_path / str(channels), channels)
        code, rows, _ = run(capsys, "reconstruct", tmp_path / name, "--model", folder, "-o", tmp_path / "out")
        assert (code, len(rows[0]["psnr_per_channel"])) == (0, channels)
        with Image.open(tmp_path / "out" / name) as image:
            assert image.mode == mode


def test_what_does_not_fit_is_told_in_a_sentence(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, five, three = bands / "in/a.npy", bands / "five", model(bands / "three", 3)
    Image.new("RGB", (20, 20)).save(bands / "rgb.png")
    for line, code, message in (
        ((array, "--model", three), 1, "a.npy: must have 3 channels, found 5"),
        ((bands / "rgb.png", "--model", five), 1, "5 channels are wanted, and an ordinary image"),
        ((array, "--model", five, "--ranges", "0:1,0:2"), 2, "1 or 5 ranges are needed for 5 channels, found 2"),
        ((array, "--model", five, "--ranges", "7:7"), 2, "range 1 must be LOW:HIGH with LOW below HIGH, found 7:7"),
        (
            (array, "--model", five, "-o", bands / "x.jpg"),
            1,
            "x.jpg: 5 channels are written as .npy, those of an image",
        ),
    ):
        found, _, told = run(capsys, "reconstruct", "-o", bands / "out", *line)
        assert (found, message in told) == (code, True), told


def test_models_of_other_channels_are_compared(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    five, other = bands / "five", model(bands / "other", 5, ((0, 10000),) * 5)
    narrow, three, gone = model(bands / "narrow", 5, ((0, 100),)), model(bands / "three", 3), model(bands / "gone", 5)
    (gone / "model.safetensors").write_bytes(b"damaged")
    how = ("compare", bands / "in", "-o", bands / "out", "--frames", 2)
    code, rows, _ = run(capsys, *how, "--models", gone, five, other, narrow, three)
    assert (code, [row["modality"] for row in rows]) == (1, ["image", "video"] * 5)
    for row in rows[2:6]:
        assert (row["n"], len(row["psnr_per_channel"]), len(row["ssim_per_channel"])) == (1, 5, 5)
        assert sum(row["ssim_per_channel"]) / 5 == pytest.approx(row["ssim"], abs=1e-4)
    assert rows[2]["psnr"] == rows[4]["psnr"]
    assert "narrow: takes the ranges 0.0:100.0 and the first model 0.0:10000.0; give --ranges" in rows[6]["error"]
    assert "three: takes 3 channels and the first model 5; " in rows[8]["error"]
    assert not {row["codec"] for row in rows} - {None}
    assert sorted(path.suffix for path in (bands / "out/pictures").iterdir()) == [".mp4", ".png"]
    assert "channel 4" in (bands / "out/index.html").read_text()
    code, rows, _ = run(capsys, *how, "--models", five, narrow, "--ranges", "0:5000", "--pictures", 0)
    assert (code, len(rows)) == (0, 4)
    code, _, told = run(capsys, *how, "--models", five, "--metrics", "lpips")
    assert (code, "lpips sees colour, and this model's pixels have 5 channels" in told) == (1, True)
    code, _, told = run(capsys, *how, "--models", five, "--ranges", "0:1,0:2")
    assert (code, "1 or 5 ranges are needed for 5 channels, found 2" in told) == (2, True)


def test_alpha_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (20, 26, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    code, rows, _ = run(capsys, "compare", tmp_path, "--models", model(tmp_path / "m", 4), "-o", tmp_path / "out")
    assert (code, rows[0]["n"], len(rows[0]["psnr_per_channel"])) == (0, 2, 4)
    assert "alpha" in (tmp_path / "out/index.html").read_text()
