import json
from pathlib import Path

import pytest
import torch

from omnitok.cli import main
from omnitok.hub.released import convert_checkpoint
from omnitok.models.tokenizer import OmniTokenizer

REFERENCE = Path(__file__).resolve().parents[2] / "../shared/reference"


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs ../shared/reference")
@pytest.mark.parametrize("name", ["vqvae_lightning.ckpt", "vae.safetensors"])
def test_a_released_file_becomes_a_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(REFERENCE / name), str(tmp_path / "model"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["output"] == str(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    written, direct = OmniTokenizer.from_pretrained(tmp_path / "model"), convert_checkpoint(REFERENCE / name)
    for (key, a), (_, b) in zip(written.state_dict().items(), direct.state_dict().items(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 broken zip"])
def test_files_that_are_no_checkpoint(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.ckpt").write_bytes(content)
    assert main(["convert", str(tmp_path / "bad.ckpt"), str(tmp_path / "model")]) == 1
    said = capsys.readouterr().err
    assert "bad.ckpt" in said
    assert "internal error" not in said
    assert not (tmp_path / "model").exists()


def test_nothing_else_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["convert", str(tmp_path / "a.ckpt"), str(tmp_path / "file")]) == 1
    assert "is a file" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "a.ckpt"), str(tmp_path)]) == 1
    assert "holds other files" in capsys.readouterr().err
