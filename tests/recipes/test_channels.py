"""Recipes of other channels than three, on data that the tests make."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.small import SMALL
from omnitok.cli import main
from omnitok.data import read_image, write_image
from omnitok.errors import OmnitokError
from omnitok.losses.perceptual import DistanceOfChannels
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.recipes.tiny import TINY_RGBA
from omnitok.training.config import PerceptualConfig
from omnitok.training.settings import apply_settings

QUICK = (
    "data.resolutions=32 data.image_batch=4 data.workers=0 optimizer.lr=3e-3 optimizer.warmup_steps=2 log.every=20 "
    "optimizer.ema_decay=0.9 engine.precision=float32 log.images_every=40 limit_room=null steps=40"
)


def run(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[int, Any, str]:
    """Exit code, what JSON says, and stderr."""
    code = main([*map(str, line), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def waves(seed: int, channels: int, size: int = 40) -> torch.Tensor:
    """(channels, size, size) in [-1, 1]"""
    rng = np.random.default_rng(seed)
    y, x = torch.meshgrid(*(torch.linspace(0, 1, size),) * 2, indexing="ij")
    each = [torch.sin(rng.uniform(1, 8) * x + rng.uniform(1, 8) * y + rng.uniform(0, 6)) for _ in range(channels)]
    return torch.stack(each)


@pytest.fixture
def colour_model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(dataclasses.replace(SMALL, window_size=8)).save_pretrained(tmp_path / "colour")


def train(capsys: pytest.CaptureFixture[str], out: Path, recipe: str, *line: object) -> tuple[Path, str]:
    settings = [part for setting in QUICK.split() for part in ("--set", setting)]
    code, row, told = run(capsys, "train", recipe, "--out", out, *settings, *line)
    assert code == 0, told
    return Path(row["output"]), told


def quality(capsys: pytest.CaptureFixture[str], model: Path, data: Path) -> dict[str, Any]:
    code, rows, told = run(capsys, "evaluate", "reconstruction", "--model", model, "--data", data, "--resolution", 32)
    assert code == 0, told
    return {row["metric"]: row for row in rows}


def untrained(model: Path, folder: Path) -> Path:
    """A model of the same kind with random weights."""
    trained = OmniTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    start = OmniTokenizer.from_config(trained.config)
    start.channel_ranges = trained.channel_ranges
    return start.save_pretrained(folder)


def test_colour_with_alpha(tmp_path: Path, colour_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(8):
        write_image(tmp_path / f"in/{i}.png", waves(i, 3))
    how = ("--images", tmp_path / "in", "--init", colour_model, "--set", "data.video_share=0")
    model, told = train(capsys, tmp_path / "run", "tiny-rgba", *how)
    assert f"{colour_model} has 3 channels; training begins with 4" in told
    preview = read_image(next((tmp_path / "run/previews").glob("*.png")))
    assert preview.shape[0] == 3
    seen = tmp_path / "seen"
    alpha = torch.where(waves(20, 1) > 0, 1.0, -1.0)
    write_image(seen / "a.png", torch.cat([waves(21, 3), alpha]))
    write_image(seen / "b.png", torch.cat([waves(22, 3), -alpha]))
    after = quality(capsys, model, seen)
    assert len(after["psnr"]["per_channel"]) == len(after["ssim"]["per_channel"]) == 4
    assert "per_channel" not in after["codebook_usage" if "codebook_usage" in after else "usage"]
    before = quality(capsys, untrained(model, tmp_path / "start"), seen)
    gains = [b - a for a, b in zip(before["psnr"]["per_channel"], after["psnr"]["per_channel"], strict=True)]
    assert min(gains) > 0.5, gains
    code, rows, _ = run(capsys, "reconstruct", seen / "a.png", "--model", model, "-o", tmp_path / "out")
    assert (code, len(rows[0]["psnr_per_channel"])) == (0, 4)


def test_five_bands(tmp_path: Path, colour_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "in"
    data.mkdir()
    for i in range(8):
        values = (waves(i, 5).permute(1, 2, 0).numpy() + 1) * 5000
        np.save(data / f"{i}.npy", values.astype(np.uint16))
    how = ("--images", data, "--init", colour_model, "--ranges", "0:10000")
    model, _ = train(capsys, tmp_path / "run", "tiny-bands", *how)
    assert json.loads((model / "config.json").read_text())["channel_ranges"] == [[0, 10000]]
    after = quality(capsys, model, data)
    assert len(after["psnr"]["per_channel"]) == 5
    assert after["psnr"]["value"] > quality(capsys, untrained(model, tmp_path / "start"), data)["psnr"]["value"] + 1
    code, row, _ = run(
        capsys, "train", tmp_path / "run", "--resume", "--set", "steps=41", "--out", tmp_path / "run"
    )  # the ranges are remembered by the run
    assert code == 0
    assert OmniTokenizer.from_pretrained(row["output"]).channel_ranges == ((0, 10000),)
    shards = tmp_path / "shards"
    code, row, _ = run(capsys, "tokenize", data, "--model", model, "-o", shards, "--resolution", 32, "--workers", 0)
    assert (code, row["items"]) == (0, 8)
    code, _, told = run(capsys, "evaluate", "reconstruction", "--model", model, "--data", data, "--metrics", "lpips")
    assert (code, "lpips sees colour, and this model's pixels have 5 channels" in told) == (1, True)
    code, _, told = run(capsys, "train", "tiny-bands", "--images", data, "--init", model, "--set", "model.channels=2")
    assert (code, "model.channels must be 1, or 5 or more" in told) == (1, True)
    code, _, told = run(capsys, "train", "tiny-bands", "--images", data, "--ranges", "0:1,0:2")
    assert (code, "1 or 5 ranges are needed for 5 channels, found 2" in told) == (2, True)


def test_networks_of_colour_see_three_of_the_channels() -> None:
    seen = PerceptualConfig().seen
    assert (seen(1), seen(3), seen(4)) == ((0, 0, 0), None, (0, 1, 2))
    assert PerceptualConfig(channels=(3, 2, 1)).seen(5) == (3, 2, 1)
    for channels, given, message in ((5, None, "say which three"), (4, (4, 2, 1), "below model.channels=4, found 4")):
        with pytest.raises(ValueError, match=message):
            PerceptualConfig(channels=given).seen(channels)
    x = torch.rand(2, 5, 4, 4)

    class First(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a[:, 0].mean((1, 2)) - b[:, 2].mean((1, 2))

    distance = DistanceOfChannels(First(), (3, 2, 1))(x, x)
    torch.testing.assert_close(distance, x[:, 3].mean((1, 2)) - x[:, 1].mean((1, 2)))


@pytest.mark.parametrize(
    "settings, message",
    [
        ("model.channels=3", "data.alpha_masks is of 4 channels"),
        ("model.channels=5 data.alpha_masks=0 data.drawn=0.1", "data.drawn draws in colour"),
        ("model.channels=5 data.alpha_masks=0 weights.perceptual=1", "perceptual losses see colour"),
    ],
)
def test_settings_that_do_not_fit(settings: str, message: str) -> None:
    with pytest.raises(OmnitokError, match=message):
        apply_settings(TINY_RGBA, settings.split())
