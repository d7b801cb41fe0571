"""Names that are not UTF-8, hold a percent sign, a linked folder or a NUL go through every verb, one file at a time."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from omnitok.cli import main
from omnitok.data import TokenShards

ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def collection(tmp_path: Path, make_picture: Callable[..., Path], make_clip: Callable[..., Path]) -> Path:
    """set/b/2.png, a class folder, an image and a video with odd names, and a linked folder."""
    root = tmp_path / "set"
    make_picture(tmp_path / "image.png")
    for name in ("b/2.png", f"{ODD}/1{ODD}.png", "../elsewhere/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "image.png", root / name)
    shutil.move(make_clip(tmp_path / "clip.mp4"), root / "b/50%d.mp4")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    return root


def test_files_go_there_and_back(
    collection: Path, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["b/2.png", "b/50%d.mp4", f"{ODD}/1{ODD}.png", "linked/3.png"]
    tokens = [str(Path(name).with_suffix(".safetensors")) for name in names]
    for verb, source, results in (
        ("reconstruct", "set", names),
        ("encode", "set", tokens),
        ("decode", "encode", names),
    ):
        command = [verb, str(tmp_path / source), "-o", str(tmp_path / verb), "--model", str(vq_folder)]
        assert main([*command, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert {row["output"] for row in rows} == {str(tmp_path / verb / name) for name in results}
        assert all((tmp_path / verb / name).is_file() for name in results)
    shutil.rmtree(tmp_path / "reconstruct")
    assert main(["reconstruct", str(collection), "-o", str(tmp_path / "reconstruct"), "--model", str(vq_folder)]) == 0
    assert "caf" in capsys.readouterr().out


def test_shards_have_every_readable_file_of_a_list(
    collection: Path, vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["set/b/2.png", "set/b/\0.png", f"set/{ODD}/1{ODD}.png", f"set/{ODD}.png", "set/linked/3.png"]
    (tmp_path / "list.txt").write_bytes(os.fsencode("\n".join(lines)))
    options = ["--model", str(vq_folder), "--frames", "5", "--workers", "0"]
    out = str(tmp_path / "shards")
    assert main(["tokenize", str(tmp_path / "list.txt"), "-o", out, *options, "--max-errors", "2", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["items"], row["skipped"]) == (3, 2)
    shards = TokenShards(out, verify=True)
    assert [shards[i].key for i in range(3)] == [lines[0], lines[2], lines[4]]
    errors = [json.loads(line) for line in (tmp_path / "shards/errors.jsonl").read_text().splitlines()]
    assert [error["key"] for error in errors] == ["list.txt, line 2", lines[3]]

    assert main(["tokenize", str(collection), "-o", out + "2", *options]) == 0
    assert r"3 classes: b, caf\udce9, linked" in capsys.readouterr().out
    assert TokenShards(out + "2", verify=True).classes == ("b", ODD, "linked")
