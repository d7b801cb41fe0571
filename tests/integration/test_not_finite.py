"""A network that answers NaN is told by every verb; none of them writes code 0 or NaN in place of an image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small import SMALL
from omnitok.cli import main
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.tokenizer import OmniTokenizer


@pytest.fixture(params=["vq", "kl"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = SMALL if request.param == "vq" else replace(SMALL, bottleneck=KLConfig(latent_channels=4))
    tokenizer = OmniTokenizer.from_config(config)
    with torch.no_grad():
        tokenizer.encoder.temporal.norm.weight[0] = float("nan")
    return tokenizer.save_pretrained(tmp_path / "broken")


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "tokenize", "evaluate"])
def test_a_network_that_answers_nan(
    verb: str, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.png")
    out, given = tmp_path / "out", [str(tmp_path / "a.png"), "--model", str(broken), "--device", "cpu"]
    if verb == "evaluate":
        given = ["reconstruction", "--data", *given, "--resolution", "16"]
    elif verb == "tokenize":
        given += ["--workers", "0", "-o", str(out)]
    else:
        given += ["-o", str(out)]
    assert main([verb, *given]) == 1
    said = capsys.readouterr().err
    assert "NaN" in said or "not finite" in said
    assert "internal error" not in said
    assert not [path for path in out.rglob("*") if path.suffix in (".png", ".safetensors", ".npy")]
