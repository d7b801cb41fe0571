import json
from pathlib import Path

import pytest
import torch

from helpers.small import TINY
from omnitok.cli import main
from omnitok.export.files import NOTE
from omnitok.hub.folder import save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.language_model import LanguageModel
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
        ([str(model), "--frames", "few"], 2, "--frames must be a number of frames, or any, found 'few'"),
        ([str(model), "--stream", "--size", "any"], 2, "--stream takes one height and width"),
        (["omnitok-tiny-lm", "--size", "any"], 2, "any are for tokenizers"),
        (["omnitok-tiny-lm", "--frames", "99"], 2, "--size is not for this model: the context holds"),
        (["omnitok-tiny-mask", "--frames", "99"], 2, "--size asks for 1664 codes, more than the context of 321"),
        ([str(tmp_path / "none")], 1, "none"),
    ):
        assert main(["export", "-o", out, *options]) == code
        shown = capsys.readouterr()
        assert said in shown.err + shown.out
        assert "internal error" not in shown.err
    (tmp_path / "out").touch()
    assert main(["export", str(model), "-o", out]) == 1
    assert "is a file" in capsys.readouterr().err


def test_a_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(TINY).eval()
    settings = GeneratorSettings("x", tokenizer.fingerprint, height=8, width=12, num_frames=5)
    sizes = {"latent_frames": 3, "latent_height": 2, "latent_width": 3, "width": 16, "depth": 1, "heads": 2}
    model = LanguageModel(LanguageModelConfig(codebook_size=64, **sizes)).eval()
    folder = save_generator(model, settings, tmp_path / "lm", tokenizer)
    for options, slots in (([], 2 + 3 * 2 * 3), (["--frames", "1", "--size", "8x8"], 2 + 2 * 2)):
        assert main(["export", str(folder), "-o", str(tmp_path / "out"), "--json", *options]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["part"], row["max_error"]) == ("step", 0)
        notes = {NOTE: ""}
        step = torch.export.load(row["output"], extra_files=notes).module()
        shape = json.loads(notes[NOTE])["cache_shape"]
        assert shape == [1, None, 2, slots, 8]
        past = torch.zeros(1, 4, 2, slots, 8)
        assert step(torch.zeros(4, 1, dtype=torch.int64), torch.tensor([0]), past, past)[0].shape[:2] == (4, 1)
    for option, value, said in (
        ("--size", "7x8", "must be multiples of 4, the tokenizer's patch, found 7x8"),
        ("--frames", "4", "must fill latent frames, as 5 do, found 4"),
    ):
        assert main(["export", str(folder), "-o", str(tmp_path / "out"), option, value]) == 2
        assert capsys.readouterr().err == f"omnitok: error: {option} {said}\n"
