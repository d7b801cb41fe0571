"""Real files that readers trip over, against what a careful reader finds in each (skips without ../shared)."""

import csv
import warnings
from pathlib import Path

import pytest
import torch

from omnitok.data import VideoReader, detect_modality, read_image, read_video
from omnitok.errors import MediaError

SAMPLES = Path(__file__).resolve().parents[2] / "../shared/data/io_samples"
MANIFEST = SAMPLES / "manifest.csv"
ROWS = list(csv.DictReader(MANIFEST.read_text().splitlines())) if MANIFEST.exists() else []
COUNTED_BELOW = 400 * 1920 * 1080 // 10  # pixels decoded in all; of the larger files only the first frames are read

pytestmark = pytest.mark.skipif(not ROWS, reason="needs ../shared/data/io_samples")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_sample(row: dict[str, str]) -> None:
    path = SAMPLES / row["file"]
    if not row["frames_decoded"]:
        with pytest.raises(MediaError, match="no video stream" if path.suffix == ".mp4" else "not an image"):
            read_video(path)
        return
    width, height, frames = int(row["width"]), int(row["height"]), int(row["frames_decoded"])
    if row["rotation"] in ("[90]", "[-90]", "6", "8"):
        width, height = height, width
    if row["container"] in ("JPEG", "PNG"):
        assert detect_modality(path) == "image"
        x = read_image(path)
        assert x.shape == (3, height, width)
        assert x.dtype == torch.float32
        assert x.min() >= -1
        assert x.max() <= 1
        assert x.std() > 0.1
        return
    assert detect_modality(path) == "video"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with VideoReader(path) as reader:
            assert (reader.width, reader.height) == (width, height)
            assert reader.has_audio == (row["audio"] == "1")
            assert reader.frame_count is None or abs(reader.frame_count - frames) <= 9  # the edit list hides 9
            assert 10 < reader.fps < 65
            count = 0
            for frame in reader:
                assert frame.shape == (3, height, width)
                count += 1
                if frames * width * height > COUNTED_BELOW and count == 3:
                    return
    assert count == frames


@pytest.mark.parametrize(
    "name", ["A4.ogv", "counting.mp4", "white.webm", "sample.avi", "flower.webm", "sample_vvc.mp4", "cockatoo.mp4"]
)
def test_seeking_gives_the_frames_of_reading_through(name: str) -> None:
    with VideoReader(SAMPLES / name, fps=5) as reader:
        whole = list(reader)
    late = read_video(SAMPLES / name, fps=5, start=2.2, max_frames=3)
    assert torch.equal(late, torch.stack(whole[11:14], 1))


def test_upright() -> None:
    # Sky is above ground in all of these; the reflected one is a plain transposition, as its display matrix asks.
    for name in ("img_landscape_6.jpg", "sample_edit_list.mp4"):
        x = read_video(SAMPLES / name, max_frames=1)[:, 0]
        rows = x.mean((0, 2))
        assert rows[: len(rows) // 4].mean() > rows[-len(rows) // 4 :].mean()
    x = read_video(SAMPLES / "sample_rotate_and_reflect.mp4", max_frames=1)[:, 0]
    upright = read_video(SAMPLES / "sample_with_htc_rotation_track_name.mkv", max_frames=1)[:, 0]
    assert (x.transpose(1, 2) - upright).abs().mean() < 0.1


def test_high_dynamic_range_is_neither_dull_nor_blown_out() -> None:
    x = read_video(SAMPLES / "hdr10-video-with-sdr-container.mp4", max_frames=1)
    assert x.mean().abs() < 0.5
    assert x.std() > 0.3
    assert (x > 0.999).float().mean() < 0.1
