import json
from pathlib import Path

import pytest
import torch

from helpers.small import TINY
from omnitok.cli import main
from omnitok.models.tokenizer import OmniTokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(TINY).save_pretrained(tmp_path / "model")


def test_graphs_of_a_quantizer(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model), "-o", str(tmp_path / "out"), "--size", "12x8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["part"] for row in rows] == ["encoder", "decoder"]
    for row in rows:
        assert Path(row["output"]).stat().st_size == row["bytes"]
        assert (row["max_error"], row["ties"]) == (0, 0)
    assert rows[0]["codes"] == (2 + 1 + 3) * 3 * 2
    encoder, decoder = (torch.export.load(row["output"]).module() for row in rows)
    tokenizer, pixels = OmniTokenizer.from_pretrained(model), torch.rand(5, 3, 12, 8) * 2 - 1  # a batch not yet tried
    with torch.no_grad():
        codes = encoder(pixels)
        assert torch.equal(codes, tokenizer.encode(pixels).codes)
        torch.testing.assert_close(decoder(codes), tokenizer.decode_codes(codes), atol=1e-5, rtol=0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["decoder.pt2", "encoder.pt2"]


def test_bad_options_are_a_sentence(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for options, code, said in (
        ([str(model), "--size", "8x13"], 2, "--size must be multiples of 4"),
        ([str(model), "--size", "8"], 2, "--size must be HxW"),
        ([str(model), "--frames", "4"], 2, "--frames must be 1 for images, or 1 plus a multiple of 2, found 4"),
        ([str(model), "--format", "pickle"], 2, "torch"),
        (["omnitok-tiny-lm"], 1, "where a tokenizer"),
        ([str(tmp_path / "none")], 1, "none"),
    ):
        assert main(["export", "-o", out, *options]) == code
        shown = capsys.readouterr()
        assert said in shown.err + shown.out
        assert "internal error" not in shown.err
    (tmp_path / "out").touch()
    assert main(["export", str(model), "-o", out]) == 1
    assert "is a file" in capsys.readouterr().err
