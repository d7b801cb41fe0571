"""Files read as grey, with alpha and in bands, and written as they came."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnitok.data import (
    PixelFormat,
    detect_modality,
    list_media,
    read_image,
    read_image_array,
    read_video,
    write_image,
    write_video,
)
from omnitok.data.image import image_reader
from omnitok.data.index import build_index
from omnitok.data.pixel_format import as_color, format_ranges, parse_ranges
from omnitok.data.video_reader import WindowSampling, read_window
from omnitok.errors import MediaError

RANDOM = np.random.default_rng(0)
BANDS = RANDOM.integers(0, 10000, (21, 34, 5), dtype=np.uint16)
GREY, ALPHA, FIVE = PixelFormat(1), PixelFormat(4), PixelFormat(5, ((0, 10000),))


def test_ranges_as_text() -> None:
    ranges = ((0.0, 1.0), (-5.25, 40.0))
    assert parse_ranges("0:1,-5.25:40") == ranges == parse_ranges(format_ranges(ranges))
    assert PixelFormat(2, "0:1,-5.25:40").ranges == ranges  # type: ignore[arg-type]
    for text, message in (
        ("0:1,3:3", "range 2 must be LOW:HIGH with LOW below HIGH, found 3:3"),
        ("5", "range 1 must be LOW:HIGH, such as 0:10000, found '5'"),
        ("0:inf", "range 1 must be a finite number, found inf"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_ranges(text)
    with pytest.raises(ValueError, match="1 or 5 ranges are needed for 5 channels, found 2"):
        PixelFormat(5, ranges)


@pytest.mark.parametrize("suffix", (".npy", ".tif"))
@pytest.mark.parametrize("dtype", ("uint16", "int16", "float32"))
def test_bands_come_back_as_they_were(tmp_path: Path, suffix: str, dtype: str) -> None:
    path, copy = tmp_path / f"a{suffix}", tmp_path / f"copy{suffix}"
    values, ranges = BANDS.astype(dtype), tuple((0.0, 10000.0 + i) for i in range(5))
    np.save(tmp_path / "a.npy", values)
    if suffix == ".tif":
        write_image(path, read_image_array(tmp_path / "a.npy", ranges), dtype, ranges)
    with image_reader(path, pixel_format=PixelFormat(5, ranges)) as reader:
        assert (reader.height, reader.width, reader.dtype) == (21, 34, dtype)
        write_image(copy, reader.pixels(), reader.dtype, ranges)
        part = reader.crop((2, 3, 16, 16), 8, 8)
    assert part.shape == (5, 8, 8)
    if suffix == ".npy":
        np.testing.assert_allclose(np.load(copy), values, rtol=2e-6, atol=1e-3)
    assert detect_modality(path) == "image"
    if suffix == ".tif":
        tifffile = pytest.importorskip("tifffile")
        np.testing.assert_allclose(tifffile.imread(copy), values, rtol=2e-6, atol=1e-3)


def test_alpha_is_kept_where_it_is_wanted(tmp_path: Path) -> None:
    rgba = RANDOM.integers(0, 256, (9, 12, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", pixel_format=ALPHA)
    write_image(tmp_path / "b.png", pixels)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b.png")), rgba)
    torch.testing.assert_close(as_color(pixels), read_image(tmp_path / "a.png"), atol=0.01, rtol=0)  # over white
    Image.fromarray(rgba[..., :3]).save(tmp_path / "c.png")
    assert (read_image(tmp_path / "c.png", pixel_format=ALPHA)[3] == 1).all()
    write_image(tmp_path / "d.tif", pixels)
    assert torch.equal(read_image(tmp_path / "d.tif", pixel_format=ALPHA), pixels)
    write_image(tmp_path / "d.jpg", pixels)
    assert read_image(tmp_path / "d.jpg").shape == (3, 9, 12)


def test_grey_of_16_bits_has_a_range(tmp_path: Path) -> None:
    depth = RANDOM.integers(0, 10000, (9, 12), dtype=np.uint16)
    Image.fromarray(depth).save(tmp_path / "a.png")
    metres = PixelFormat(1, ((0, 10000),))
    with image_reader(tmp_path / "a.png", pixel_format=metres) as reader:
        assert reader.dtype == "uint16"
        pixels = reader.pixels()
    torch.testing.assert_close(pixels[0], torch.from_numpy(depth / 5000 - 1).float())
    write_image(tmp_path / "b.png", pixels, "uint16", metres.ranges)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b.png")), depth)
    torch.testing.assert_close(
        read_image(tmp_path / "a.png", pixel_format=GREY)[0], (pixels[0] + 1) * 5000 / 32767.5 - 1
    )


def test_videos(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 10000, (7, 16, 18, 5), dtype=np.uint16)
    np.save(tmp_path / "v.npy", values)
    assert detect_modality(tmp_path / "v.npy") == "video"
    video = read_video(tmp_path / "v.npy", pixel_format=FIVE)
    torch.testing.assert_close(video, torch.from_numpy(values / 5000 - 1).float().permute(3, 0, 1, 2))
    write_video(tmp_path / "copy.npy", video, 25, dtype="uint16", ranges=FIVE.ranges)
    assert (tmp_path / "copy.npy").read_bytes() == (tmp_path / "v.npy").read_bytes()
    window = read_window(tmp_path / "v.npy", WindowSampling(3, stride=2, start="center"), pixel_format=FIVE)
    assert torch.equal(window.pixels, video[:, 1:6:2])
    color = video[:3]
    write_video(tmp_path / "v.mp4", color, 10)
    red, green, blue = read_video(tmp_path / "v.mp4")
    grey = read_video(tmp_path / "v.mp4", pixel_format=GREY)
    torch.testing.assert_close(grey[0], 0.299 * red + 0.587 * green + 0.114 * blue)
    assert (read_video(tmp_path / "v.mp4", pixel_format=ALPHA)[3] == 1).all()
    write_video(tmp_path / "a.apng", video[:4].clamp(-1, 1), 10)  # no alpha is written
    assert read_video(tmp_path / "a.apng", pixel_format=ALPHA).shape == (4, 7, 16, 18)
    with pytest.raises(ValueError, match=r"shape \(3, n, H, W\)"):
        write_video(tmp_path / "w.mp4", video, 10)
    assert not (tmp_path / "w.mp4").exists()


def test_arrays_in_folders_are_samples_where_they_are_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BANDS)
    np.save(tmp_path / "b.npy", BANDS[None])
    write_image(tmp_path / "c.png", torch.zeros(3, 4, 4))
    assert [path.name for path in list_media(tmp_path)] == ["c.png"]
    index = build_index(tmp_path, arrays=True)
    assert [sample.key for sample in index.images] == ["a.npy", "c.png"]
    assert [sample.key for sample in index.videos] == ["b.npy"]
    assert len(build_index(tmp_path / "b.npy").videos) == 1


@pytest.mark.parametrize(
    "name, pixel_format, message",
    [
        ("a.npy", PixelFormat(), "must have 3 channels, found 5"),
        ("a.tif", PixelFormat(), "must have 3 channels, found 5"),
        ("a.npy", ALPHA, "must have 4 channels, found 5"),
        ("c.png", FIVE, "5 channels are wanted, and an ordinary image or video is read as 1, 3 or 4"),
        ("v.npy", FIVE, r"must be an array \(H, W, c\)"),
    ],
)
def test_files_of_other_channels(tmp_path: Path, name: str, pixel_format: PixelFormat, message: str) -> None:
    np.save(tmp_path / "a.npy", BANDS)
    np.save(tmp_path / "v.npy", BANDS[None])
    write_image(tmp_path / "a.tif", torch.zeros(5, 4, 4))
    write_image(tmp_path / "c.png", torch.zeros(3, 4, 4))
    with pytest.raises(MediaError, match=f"{name}: {message}"):
        read_image(tmp_path / name, pixel_format=pixel_format)
