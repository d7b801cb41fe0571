"""Small files that went wrong in other tools of the field, one after another; see the README of `../shared/cases`.

What each stands for has tests of its own where it belongs, with files that they make.
"""

import warnings
from pathlib import Path

import pytest
import torch

from omnitok.cli import main
from omnitok.data import VideoReader, read_image, read_video
from omnitok.data.index import build_index
from omnitok.data.samples import NO_LABEL

CASES = Path(__file__).resolve().parents[2] / "../shared/cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")

# Rate that is asked for, frames, seconds, height and width.
VIDEOS: list[tuple[str, float | None, int, float, tuple[int, int] | None]] = [
    ("ab.ts", None, 40, 4, (48, 64)),
    ("ab.ts", 10, 40, 4, (48, 64)),
    ("vob.vob", None, 100, 4, (48, 64)),
    ("vob.vob", 10, 40, 4, (48, 64)),
    ("v.mp4", None, 70, 4, (48, 64)),
    ("v.mkv", None, 70, 4, (48, 64)),
    ("t.ogv", None, 150, 6, (48, 64)),
    ("two.mkv", None, 100, 4, (96, 128)),
    ("var.gif", None, 4, 3.2, None),
    ("var.webp", None, 4, 3.2, None),
]
LABELS: dict[str, dict[str, str | int | None]] = {
    "space.csv": {"a.png": "cat", "b.png": "dog"},
    "case.csv": {"a.png": "cat", "b.png": "dog"},
    "float.csv": {"a.png": 10, "b.png": 2, "c.png": None},
    "value.csv": {"a.png": "cat", "b.png": "cat"},
    "mask.tar": {"mask.tar/0.jpg": 1},
    "dots.tar": {f"dots.tar/v1.000{i}.png": i for i in range(3)},
}
PIXELS = {"clear.webm", "w.tif", "a.png", "b.png", "c.png"}


def test_every_file_is_here() -> None:
    assert {path.name for path in CASES.iterdir()} == {name for name, *_ in VIDEOS} | {*LABELS, *PIXELS, "README.md"}


@pytest.mark.parametrize(("name", "fps", "frames", "seconds", "size"), VIDEOS)
def test_videos(name: str, fps: float | None, frames: int, seconds: float, size: tuple[int, int] | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name in ("ab.ts", "vob.vob") else "error")
        with VideoReader(CASES / name, fps) as reader:
            assert sum(1 for _ in reader) == frames
            assert sum(reader.durations) == pytest.approx(seconds, abs=0.01)
            assert size is None or (reader.height, reader.width) == size
            assert reader.frame_count is None or reader.frame_count < 200


@pytest.mark.parametrize("name", ["var.gif", "var.webp"])
def test_delays_of_animations_last(name: str, tmp_path: Path) -> None:
    assert main(["reconstruct", str(CASES / name), "-o", str(tmp_path), "--model", "omnitok-tiny-vq"]) == 0
    (result,) = tmp_path.iterdir()
    with VideoReader(result) as reader:
        assert len(list(reader)) == 4
        assert reader.durations == pytest.approx([2.0, 0.1, 0.1, 1.0], abs=0.011)


def test_images() -> None:
    assert (read_video(CASES / "clear.webm") > 0.98).all()
    assert torch.allclose(read_image(CASES / "w.tif"), torch.tensor(21 / 127.5 - 1))


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.filterwarnings("ignore:.*are left out")
def test_labels(name: str) -> None:
    index = build_index(CASES / name)
    names = {label: index.classes[label] if index.classes else label for label in index.images.labels.tolist()}
    labels = {sample.key: names[sample.label] for sample in index.images}
    assert {key: None if label == NO_LABEL else label for key, label in labels.items()} == LABELS[name]
