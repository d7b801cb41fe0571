"""Released files of TATS, VidTok and Cosmos at the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.video_peers import build_video_peer
from omnitok.cli import main
from omnitok.data import read_video, write_image, write_video


def clip(tmp_path: Path) -> Path:
    """A video of 10 frames of odd size, which grows brighter."""
    frames = torch.linspace(-1, 1, 10)[:, None, None].expand(3, 10, 22, 18) * torch.linspace(0.2, 0.9, 18)
    write_video(tmp_path / "v.mkv", frames, fps=5)
    return tmp_path / "v.mkv"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str | Path, status: int = 0) -> Any:
        assert main([*map(str, arguments), "--device", "cpu", "--json"]) == status
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vidtok_fsq", "vidtok_fsq_causal_888_32768_v1_1.ckpt"),
        ("cosmos_dv", "Cosmos-0.1-Tokenizer-DV4x8x8.pt"),
        ("tats_4x8x8", "vqgan_ucf.ckpt"),
    ],
)
def test_files_to_tokens_and_back(name: str, file: str, tmp_path: Path, run: Any) -> None:
    tokenizer, source, model = build_video_peer(name), clip(tmp_path), tmp_path / file
    torch.save({"state_dict": tokenizer.state_dict()}, model)
    (row,) = run("reconstruct", source, "--model", model, "-o", tmp_path / "again")
    assert (row["frames"], row["bits_per_pixel"]) == (10, pytest.approx(_bits(tokenizer), rel=1e-3))
    reconstruction = read_video(row["output"])
    assert reconstruction.shape == (3, 10, 22, 18)
    (row,) = run("encode", source, "--model", model, "-o", tmp_path / "tokens")
    (row,) = run("decode", row["output"], "--model", model, "-o", tmp_path / "back")
    assert row["shape"] == [3, 10, 22, 18]
    assert (read_video(row["output"]) - reconstruction).abs().mean() < 0.02  # two lossy files of one result


def _bits(tokenizer: Any) -> float:
    t, h, w = tokenizer.latent_shape(10, 22, 18)
    return t * h * w * tokenizer.bits_per_token / (10 * 22 * 18)


def test_an_image_for_tats_is_one_sentence(tmp_path: Path, run: Any) -> None:
    torch.save({"state_dict": build_video_peer("tats_4x8x8").state_dict()}, tmp_path / "tats.ckpt")
    write_image(tmp_path / "i.png", torch.zeros(3, 8, 8))
    (row,) = run("reconstruct", tmp_path / "i.png", "--model", tmp_path / "tats.ckpt", "-o", tmp_path / "out", status=1)
    assert "TATS takes videos only, 4 frames at a time" in row["error"]
