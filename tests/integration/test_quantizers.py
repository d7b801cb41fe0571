"""A tokenizer with another bottleneck than vector quantization goes the whole way, to samples of a language model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from omnitok import OmniTokenizer
from omnitok.cli import main
from omnitok.models.bottlenecks import FSQConfig, LFQConfig


@pytest.mark.parametrize(
    "recipe, bottleneck, expected",
    [
        ("tiny-fsq", "{type: fsq, levels: [4, 4, 4]}", FSQConfig(levels=(4, 4, 4))),
        ("tiny-lfq", "{type: lfq, bits: 6, group_bits: 4}", LFQConfig(bits=6, group_bits=4)),
    ],
)
def test_the_whole_way(
    recipe: str, bottleneck: str, expected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    x = torch.linspace(-1, 1, 48).expand(40, 48)
    for i in range(4):
        shade = ((x * torch.tensor([0.5 * i, 1.0, -0.7])[:, None, None]).sin() * 127 + 128).to(torch.uint8)
        Image.fromarray(shade.permute(1, 2, 0).contiguous().numpy()).save(images / f"{i}.png")

    def run(*arguments: str | Path) -> object:
        assert main([*map(str, arguments), "--device", "cpu", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    small = "model={width: 32, heads: 2, head_dim: 16, encoder_blocks: w, decoder_blocks: w, window_convolution: true,"
    small += f" encoder_temporal_blocks: 1, decoder_temporal_blocks: 1, bottleneck: {bottleneck}}}"
    run("train", recipe, "--set", small, "--images", images, "--set", "data.resolutions=32", "--set",
        "data.image_batch=2", "--set", "data.workers=0", "--set", "data.frames=1", "--max-steps", "2", "--out",
        tmp_path / "vq")  # fmt: skip
    tokenizer = OmniTokenizer.from_pretrained(tmp_path / "vq")
    assert tokenizer.config.bottleneck == expected
    rows = run("evaluate", "reconstruction", "--model", tmp_path / "vq", "--data", images, "--resolution", "32")
    assert isinstance(rows, list)
    assert {row["metric"] for row in rows} >= {"psnr", "ssim", "usage"}
    run("tokenize", images, "-o", tmp_path / "shards", "--model", tmp_path / "vq", "--resolution", "32")
    model = "model={width: 32, heads: 2, depth: 1}"
    run("train", "tiny-lm", "--shards", tmp_path / "shards", "--set", f"tokenizer={tmp_path / 'vq'}", "--set", model,
        "--set", "class_conditional=false", "--max-steps", "2", "--out", tmp_path / "lm")  # fmt: skip
    run("generate", tmp_path / "lm", "--count", "1", "--guidance", "1", "-o", tmp_path / "samples")
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1
