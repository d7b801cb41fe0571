"""Where files are: one walk, patterns, and files elsewhere by URL."""

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import torch

import omnitok.files
from omnitok.cli import main
from omnitok.data import list_media, read_image, write_image
from omnitok.data.index import build_index
from omnitok.data.samples import Sample, sample_file
from omnitok.errors import MediaError
from omnitok.files import expand, localize, url_of, walk


def read(sample: Sample) -> torch.Tensor:
    with sample_file(sample) as path:
        return read_image(path)


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    write_image(tmp_path / "image.png", torch.full((3, 16, 16), 0.5))
    return (tmp_path / "image.png").read_bytes()


@pytest.fixture
def elsewhere(image: bytes) -> Iterator[str]:
    """memory://set with two classes, a list, a tar and a hidden file."""
    system = fsspec.filesystem("memory")
    for name in ("ape/1.png", "bear/2.png", ".hidden/3.png"):
        system.pipe(f"/set/{name}", image)
    system.pipe("/lists/ape.png", image)
    system.pipe("/lists/list.txt", b"ape.png\t4\nabsent.png\t5\n")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("k.png")
        info.size = len(image)
        tar.addfile(info, io.BytesIO(image))
    system.pipe("/tars/s.tar", buffer.getvalue())
    yield "memory://set"
    system.store.clear()
    omnitok.files._copies.clear()


@pytest.mark.parametrize(
    "path, url",
    [
        ("https://host/a.png", "https://host/a.png"),
        (Path("https://host/a b.png?x=1"), "https://host/a b.png?x=1"),
        (Path("s3://bucket/x"), "s3://bucket/x"),
        ("HTTPS://Host/a.png", "https://Host/a.png"),
        ("file:///etc/passwd", ""),
        ("simplecache::s3://b/x", ""),
        ("C:/images", ""),
        ("a/b.png", ""),
        ("http:", ""),
    ],
)
def test_urls_are_told_from_paths(path: str | Path, url: str) -> None:
    assert url_of(path) == url


def test_a_collection_elsewhere(elsewhere: str, image: bytes) -> None:
    index = build_index(elsewhere, labels="auto")
    assert [sample.key for sample in index.images] == ["ape/1.png", "bear/2.png"]
    assert index.classes == ("ape", "bear")
    assert read(index.images[1]).shape == (3, 16, 16)
    assert list_media("memory://set/*/*.png") == [Path("memory:/set/ape/1.png"), Path("memory:/set/bear/2.png")]
    listed = build_index("memory://lists/list.txt")
    assert listed.images.labels.tolist() == [4, 5]
    assert read(listed.images[0]).shape == (3, 16, 16)
    with pytest.raises(MediaError, match=r"memory://lists/absent\.png: no such file"):
        read(listed.images[1])
    assert read(build_index("memory://tars/s.tar").images[0]).shape == (3, 16, 16)
    assert localize("memory://set/ape/1.png").read_bytes() == image
    assert localize("memory://set/ape/1.png").name == "1.png"


def test_a_list_here_of_files_elsewhere(elsewhere: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("memory://set/ape/1.png\nmemory://set/bear/2.png\n")
    images = build_index(tmp_path / "list.txt").images
    assert [sample.key for sample in images] == ["memory://set/ape/1.png", "memory://set/bear/2.png"]
    assert read(images[1]).shape == (3, 16, 16)


def test_a_damaged_file_elsewhere_is_named_by_its_url(elsewhere: str) -> None:
    fsspec.filesystem("memory").pipe("/set/ape/1.png", b"no image")
    with pytest.raises(MediaError, match=r"^memory://set/ape/1\.png: not an image"):
        read(build_index(elsewhere).images[0])


def test_few_copies_are_kept(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omnitok.files, "_KEPT_COPIES", 1)
    first = localize("memory://set/ape/1.png")
    assert localize("memory://set/ape/1.png") == first
    second = localize("memory://set/bear/2.png")
    assert second.exists()
    assert not first.exists()
    monkeypatch.setenv("OMNITOK_MAX_DOWNLOAD", "10")
    with pytest.raises(MediaError, match=r"ape/1\.png: a file of .* OMNITOK_MAX_DOWNLOAD"):
        localize("memory://set/ape/1.png")


def test_http(image: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert read_image(f"{url}/image.png?size=1").shape == (3, 16, 16)
        with pytest.raises(MediaError, match=r"http://127.*absent\.png: cannot be read as a file elsewhere: .*404"):
            read_image(f"{url}/absent.png")
        assert main(["reconstruct", f"{url}/image.png", "-o", str(tmp_path / "out"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["output"] == str(tmp_path / "out/image.png")
        server.shutdown()


def test_patterns_stand_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "a/2.jpg", "b/3.png", "odd[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert expand("*/*.png") == ["a/1.png", "b/3.png"]
    assert expand("**/*.png") == ["a/1.png", "b/3.png", "odd[1].png"]
    assert expand("odd[1].png") == ["odd[1].png"]  # a name that exists is no pattern
    assert [sample.path for sample in build_index("?/*.png").images] == ["a/1.png", "b/3.png"]
    with pytest.raises(MediaError, match=r"\*\.mp4: no such file or folder"):
        expand("*.mp4")


def test_grids_are_no_samples(tmp_path: Path) -> None:
    for name in ("000000-cat.png", "000001.png", "000002-grid.mp4", "grid.png", "grid.mp4", "generate.json"):
        (tmp_path / name).write_bytes(b"x")
    found = walk(tmp_path, frozenset({".png", ".mp4"}))
    assert [Path(path).name for path in found] == ["000000-cat.png", "000001.png", "000002-grid.mp4"]


def test_grids_elsewhere_are_no_samples(elsewhere: str, image: bytes) -> None:
    system = fsspec.filesystem("memory")
    for name in ("run/000000-cat.png", "run/grid.png", "run/generate.json", "other/cat.png"):
        system.pipe(f"/set/{name}", image)
    found = walk(elsewhere, frozenset({".png"}))
    names = ["ape/1.png", "bear/2.png", "other/cat.png", "run/000000-cat.png"]
    assert found == [f"{elsewhere}/{name}" for name in names]
