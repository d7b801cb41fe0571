"""Results behind a URL: what is finished is there at the end, under the names and in the words of a folder here."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

import omnitok.files
from omnitok.atomic import scratch_folder
from omnitok.cli import main
from omnitok.cli.reconstruct import Reconstruct


@pytest.fixture
def store() -> Iterator[dict[str, object]]:
    store: dict[str, object] = fsspec.filesystem("memory").store
    yield store
    store.clear()
    omnitok.files._copies.clear()


@pytest.fixture
def media(tmp_path: Path, make_picture: Callable[..., Path], make_clip: Callable[..., Path]) -> Path:
    make_picture(tmp_path / "media/sub/a.png")
    make_clip(tmp_path / "media/b.mp4", frames=5)
    return tmp_path / "media"


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_tokens_go_and_come_back(
    store: dict[str, object], media: Path, vq_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", str(media), "-o", "memory://box/tokens", "--model", str(vq_folder), "--json"]) == 0
    assert [row["output"] for row in rows(capsys)] == [
        "memory://box/tokens/b.safetensors",
        "memory://box/tokens/sub/a.safetensors",
    ]
    assert sorted(store) == ["/box/tokens/b.safetensors", "/box/tokens/sub/a.safetensors"]
    assert main(["decode", "memory://box/tokens/sub", "-o", "memory://box/one.png"]) == 0
    assert "memory://box/one.png" in capsys.readouterr().out
    assert main(["reconstruct", "memory://box/one.png", "-o", "memory://box/two", "--model", str(vq_folder)]) == 0
    assert "/box/two/one.png" in store
    assert main(["reconstruct", "memory://box/two", "-o", "memory://box/two/again"]) == 2
    assert "lies in the input memory://box/two" in capsys.readouterr().err
    assert not list(scratch_folder().glob("*/tokens"))


def test_shards_are_resumed(
    store: dict[str, object], media: Path, vq_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["tokenize", str(media), "-o", "memory://shards", "--model", str(vq_folder), "--workers", "0", "--json"]
    line += ["--resolution", "24", "--frames", "5", "--shard-size", "1", "--batch-size", "1"]
    assert main(line) == 0
    assert {"/shards/index.json", "/shards/plan.json", "/shards/00001/shard.json"} <= store.keys()
    assert main(line) == 1
    assert "memory://shards: holds files already; --resume" in capsys.readouterr().err
    for name in [name for name in store if name.startswith("/shards/00001/") or name == "/shards/index.json"]:
        del store[name]
    assert main([*line, "--resume"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["resumed_shards"], summary["shards"], summary["output"]) == (1, 2, "memory://shards")
    assert "/shards/00001/shard.json" in store


def test_whatever_ends_the_work_finished_files_are_copied(
    store: dict[str, object], media: Path, vq_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Reconstruct.run

    def interrupted(verb: Reconstruct) -> int:
        run(verb)
        (verb.out / ".half.partial").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Reconstruct, "run", interrupted)
    assert main(["reconstruct", str(media), "-o", "memory://cut", "--model", str(vq_folder)]) == 130
    assert sorted(store) == ["/cut/b.mp4", "/cut/sub/a.png"]


def test_what_cannot_be_copied_is_kept_here(
    store: dict[str, object], media: Path, vq_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec.filesystem("memory").pipe("/file", b"x")
    assert main(["reconstruct", str(media), "-o", "memory://file/below", "--model", str(vq_folder)]) == 1
    message = capsys.readouterr().err
    assert "memory://file/below: cannot be written (" in message
    kept = Path(message.split("the results are in ")[1].strip())
    assert (kept / "sub/a.png").exists()
    shutil.rmtree(kept.parent)


@pytest.mark.parametrize(
    "line, problem",
    [
        ("train tiny-image --out s3://box/run", "a training needs its folder on this machine"),
        ("reconstruct x.png -o http://host/out", "nothing can be written by http"),
        ("tokenize x --shard 0/2 -o memory://out", "several processes share a folder"),
        ("evaluate statistics --data x --state-dir s3://box/state", "--state-dir s3://box/state: must be a folder"),
    ],
)
def test_what_cannot_work_is_refused(line: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert problem in capsys.readouterr().err


def test_a_damaged_file_elsewhere_is_named_by_its_url(
    store: dict[str, object], vq_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fsspec.open("memory://box/listing", "wb") as file:
        file.write(b"<html>")
    assert main(["reconstruct", "memory://box/listing", "-o", "memory://out", "--model", str(vq_folder)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("omnitok: error: memory://box/listing: not a video that can be opened")
    assert str(scratch_folder()) not in message


def test_a_file_url_is_a_path(media: Path, vq_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    line = ["reconstruct", f"file://{media}/sub/a.png", f"--out=file://{out}", "--model", f"file://{vq_folder}"]
    assert main(line) == 0
    assert out.exists()


@pytest.mark.parametrize("out", [["-o", "ftp://host/a"], ["--out=ftp://host/a"]])
def test_a_url_that_nothing_writes_is_refused(out: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "none.png", *out]) == 1
    assert capsys.readouterr().err.startswith("omnitok: error: ftp://host/a: ftp is not among the kinds of URLs")


@pytest.mark.parametrize("address", [["--ray-address", "ray://host:1"], ["--ray_address=ray://host:1"]])
def test_the_address_of_a_ray_cluster_is_no_file(address: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenize", "none", "--engine", "ray", *address]) == 1
    assert capsys.readouterr().err == "omnitok: error: none: no such file or folder\n"
