"""Autoencoders of diffusers go the whole way: files to tokens and back, shards, generators, samples."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.autoencoders import save
from omnitok.cli import main
from omnitok.data import read_image, read_video, write_image, write_video

pytest.importorskip("diffusers")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three images of odd sizes and a video."""
    folder = tmp_path / "files"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for k in range(3):
        coarse = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
        image = torch.nn.functional.interpolate(coarse, (33 + k, 38), mode="bilinear")[0]
        write_image(folder / f"{k}.png", image)
    write_video(folder / "v.mkv", image[:, None].expand(3, 6, -1, -1)[:, :, :34], fps=5)
    return folder


@pytest.mark.parametrize(
    ("name", "recipe", "model"),
    [
        ("VQModel", "tiny-lm", ""),
        (
            "AutoencoderKL",
            "tiny-dit",
            ", patch_size: 2, objective: flow, learn_sigma: false",
        ),
    ],
)
def test_the_whole_way(
    name: str, recipe: str, model: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = save(tmp_path / "peer", name)

    def run(*arguments: str | Path, status: int = 0) -> Any:
        assert main([*map(str, arguments), "--device", "cpu", "--json"]) == status
        return json.loads(capsys.readouterr().out)

    rows = run("reconstruct", *sorted(files.iterdir()), "--model", peer, "-o", tmp_path / "again")
    assert [row["frames"] for row in rows] == [1, 1, 1, 6]
    assert read_image(rows[2]["output"]).shape == (3, 35, 38)
    assert read_video(rows[3]["output"]).shape == (3, 6, 34, 38)

    rows = run("encode", files / "0.png", files / "v.mkv", "--model", peer, "-o", tmp_path / "tokens")
    tokens = [row["output"] for row in rows]
    back = run("decode", *tokens, "--model", peer, "-o", tmp_path / "back")
    assert [row["shape"] for row in back] == [[3, 33, 38], [3, 6, 34, 38]]
    bundled = "omnitok-tiny-vq" if name == "VQModel" else "omnitok-tiny-vae"
    (refused,) = run("decode", tokens[0], "--model", bundled, "-o", tmp_path / "no", status=1)
    assert "its tokens are of the model" in refused["error"]

    rows = run("evaluate", "reconstruction", "--model", peer, "--data", files, "--resolution", "32", "--frames", "5")
    assert {(row["modality"], row["metric"]) for row in rows} >= {("image", "psnr"), ("video", "ssim")}

    images = sorted(files.glob("*.png"))
    for folder, way in (("shards", ("--model", peer)), ("ours", ("--model", bundled))):
        run("tokenize", *images, "-o", tmp_path / folder, *way, "--resolution", "16", "--workers", "0")
    small = f"model={{width: 32, heads: 2, depth: 1{model}}}"
    train = ["train", recipe, "--set", small, "--set", "class_conditional=false", "--set", "data.workers=0", "--set",
             f"tokenizer={peer}", "--max-steps", "2"]  # fmt: skip
    run(*train, "--shards", tmp_path / "shards", "--out", tmp_path / "run")
    assert main([*train, "--shards", str(tmp_path / "ours"), "--out", str(tmp_path / "other")]) == 1
    assert "its tokens are of the tokenizer" in capsys.readouterr().err
    sampling = ("--steps", "2") if name == "AutoencoderKL" else ()
    run("generate", tmp_path / "run", "--count", "1", "--guidance", "1", *sampling, "-o", tmp_path / "samples")
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1
    (tmp_path / "run" / "model").rename(tmp_path / "moved")  # it holds its tokenizer
    (tmp_path / "peer").rename(tmp_path / "elsewhere")
    run("generate", tmp_path / "moved", "--count", "1", "--guidance", "1", *sampling, "-o", tmp_path / "more")
