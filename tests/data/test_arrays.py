"""Images and videos of any number of channels: against numpy and tifffile."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnitok.data import detect_modality, read_image_array, read_video_array, write_image, write_video
from omnitok.data.index import build_index
from omnitok.data.video_writer import video_writer
from omnitok.errors import MediaError

VALUES = np.random.default_rng(0).integers(0, 65536, (21, 34, 5), dtype=np.uint16)


def expected(values: np.ndarray, low: float, high: float) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis((values - low) / (high - low) * 2 - 1, -1, 0).astype(np.float32)).clamp(-1, 1)


def test_arrays_of_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    torch.testing.assert_close(read_image_array(tmp_path / "a.npy"), expected(VALUES, 0, 65535))
    np.save(tmp_path / "grey.npy", VALUES[..., 0].astype(np.uint8))
    assert read_image_array(tmp_path / "grey.npy").shape == (1, 21, 34)
    depth = np.linspace(-3, 12, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    np.save(tmp_path / "v.npy", depth)
    ranges = [(float(i), 10.0) for i in range(5)]
    video = read_video_array(tmp_path / "v.npy", ranges)
    assert video.shape == (5, 1, 3, 4)
    for i in range(5):
        torch.testing.assert_close(video[i : i + 1], expected(depth[..., i : i + 1], i, 10))
    assert (video.min(), video.max()) == (-1, 1)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.int16, np.float32, np.float64))
@pytest.mark.parametrize(
    "layout",
    (
        {},
        {"planarconfig": "separate"},
        {"tile": (16, 16)},
        {"tile": (16, 32), "planarconfig": "separate", "compression": "zlib"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 4},
        {"byteorder": ">"},
    ),
    ids=str,
)
def test_bands_of_tiff(tmp_path: Path, dtype: type, layout: dict[str, object]) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = (VALUES % 251).astype(dtype)
    if "predictor" in layout and np.dtype(dtype).kind == "f":
        layout = {**layout, "predictor": False}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", **({"planarconfig": "contig"} | layout)) if (
        layout.get("planarconfig") != "separate"
    ) else tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(values, -1, 0), photometric="minisblack", **layout)
    image = read_image_array(tmp_path / "a.tif", [(0, 250)])
    torch.testing.assert_close(image, expected(values, 0, 250))


def test_floating_point_tiff_with_differences_of_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((21, 34), dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif", compression="tiff_adobe_deflate", tiffinfo={317: 2})
    torch.testing.assert_close(read_image_array(tmp_path / "a.tif", [(0, 1)]), expected(values[..., None], 0, 1))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "uint32"])
def test_full_range_of_large_numbers(tmp_path: Path, dtype: str) -> None:
    x = torch.tensor([[[-1.0, 0.0, 1.0]]])
    write_image(tmp_path / "a.npy", x, dtype)
    torch.testing.assert_close(read_image_array(tmp_path / "a.npy"), x)


@pytest.mark.parametrize("count", [2, 3])
def test_numbers_need_one_range_or_one_for_each_channel(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=rf"1 channels?, so 1 range is needed, found {count}"):
        write_image(tmp_path / "a.npy", torch.zeros(1, 2, 2), "float32", [(0, 1)] * count)


def test_array_videos_refuse_frames_as_other_videos_do(tmp_path: Path) -> None:
    for name in ("a.npy", "a.mp4"):
        with pytest.raises(ValueError, match=r"^pixels must be float"):
            write_video(tmp_path / name, torch.zeros(3, 1, 4, 4, dtype=torch.uint8), 5)


@pytest.mark.parametrize("name", ["a.npy", "a.mp4"])
def test_errors_of_the_block_are_its_own(tmp_path: Path, name: str) -> None:
    writer = video_writer(tmp_path / name, 8, 32, 32)

    def break_off() -> None:
        with writer:
            writer.write(torch.zeros(3, 2, 32, 32))
            raise ConnectionError

    with pytest.raises(ConnectionError):
        break_off()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="inside its `with` block"):
        writer.write(torch.zeros(3, 2, 32, 32))
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="cannot be written"), video_writer(tmp_path / "file" / name, 8, 32, 32):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4", b"\x93NUMPY\1\0\xa0\x0f" + b"(" * 4000], ids=["empty", "zip", "deep"]
)
def test_what_is_no_array_is_an_image_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    if content.startswith(b"PK"):
        np.savez(tmp_path / "a.npz", VALUES)
        (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert len(build_index(tmp_path, arrays=True).images) == 1
    with pytest.raises(MediaError, match=r"a\.npy: "):
        read_image_array(tmp_path / "a.npy")
    if content:
        assert detect_modality(tmp_path / "a.npy") == "image"


def test_what_is_no_array_of_channels(tmp_path: Path) -> None:
    def refused(name: str, message: str, error: type[Exception] = MediaError, **options: object) -> None:
        with pytest.raises(error, match=message):
            read_image_array(tmp_path / name, **options)

    refused("absent.npy", "absent.npy: no such file")
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    refused("objects.npy", "cannot be read as an image")
    np.save(tmp_path / "video.npy", np.zeros((2, 3, 4, 5), np.uint8))
    refused("video.npy", r"must be an array \(H, W, c\)")
    np.save(tmp_path / "float.npy", np.full((2, 2, 2), np.nan, np.float32))
    refused("float.npy", "range .* is needed", ValueError)
    refused("float.npy", "holds NaN", ranges=[(0, 1)])
    refused("float.npy", "2 channels, so 1 or 2 ranges are needed, found 3", ValueError, ranges=[(0, 1)] * 3)
    refused("float.npy", r"low < high, found \(1, 1\)", ValueError, ranges=[(1, 1)])
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0")
    refused("a.tif", "a.tif: cannot be read as an image")
    (tmp_path / "b.tif").write_bytes(b"GIF89a")
    refused("b.tif", "is no TIFF")
