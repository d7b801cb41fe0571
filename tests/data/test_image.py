"""Pictures: every kind of pixel Pillow knows, and every way in which a file can be bad."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnitok.data import detect_modality, read_image, read_video, write_image
from omnitok.data.image import ImageReader
from omnitok.errors import MediaError


@pytest.fixture
def colours() -> np.ndarray:
    """(24, 40, 3) uint8 with a different colour in every quarter."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:12, :20], pixels[:12, 20:] = (200, 30, 40), (20, 180, 60)
    pixels[12:, :20], pixels[12:, 20:] = (30, 60, 220), (240, 230, 20)
    return pixels


def as_bytes(x: torch.Tensor) -> np.ndarray:
    return ((x.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()


def test_rgb_is_exact(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.png")
    x = read_image(tmp_path / "a.png")
    assert x.shape == (3, 24, 40)
    assert x.dtype == torch.float32
    assert np.array_equal(as_bytes(x), colours)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_round_trip(tmp_path: Path, colours: np.ndarray, suffix: str) -> None:
    x = torch.from_numpy(colours).permute(2, 0, 1).float() / 127.5 - 1
    write_image(tmp_path / f"new folder/a{suffix}", x)
    error = (read_image(tmp_path / f"new folder/a{suffix}") - x).abs()
    assert error.max() < 1e-6 if suffix == ".png" else error.mean() < 0.05


def test_written_values_are_rounded_not_truncated(tmp_path: Path) -> None:
    levels = torch.tensor([-1.5, -1 + 0.6 / 127.5, 0.6 / 127.5, 1.5])
    write_image(tmp_path / "a.png", levels.expand(3, 1, 4))
    assert np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, colours: np.ndarray, orientation: int, suffix: str) -> None:
    # What is stored is the upright picture moved by the inverse of what the tag asks for (EXIF 2.3, tag 0x0112).
    stored = {
        1: colours,
        2: colours[:, ::-1],
        3: colours[::-1, ::-1],
        4: colours[::-1],
        5: colours.transpose(1, 0, 2),
        6: np.rot90(colours, 1),
        7: colours[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(colours, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a{suffix}", exif=exif, lossless=True)
    assert np.array_equal(as_bytes(read_image(tmp_path / f"a{suffix}")), colours)
    assert np.array_equal(as_bytes(read_video(tmp_path / f"a{suffix}")[:, 0]), colours)


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, :3] = (100, 0, 200)
    rgba[0, :, 3] = (0, 128, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    seen = as_bytes(read_image(tmp_path / "a.png"))[0]
    assert seen[0].tolist() == [255, 255, 255]
    assert seen[2].tolist() == [100, 0, 200]
    assert np.abs(seen[1].astype(int) - (177, 127, 227)).max() <= 1


def test_palette_with_transparency_grey_one_bit_and_grey_alpha(tmp_path: Path, colours: np.ndarray) -> None:
    palette = Image.fromarray(colours).quantize(4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    seen = as_bytes(read_image(tmp_path / "p.png"))
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert np.abs(seen[20, 30].astype(int) - colours[20, 30]).max() <= 2
    Image.fromarray(colours[..., 0]).save(tmp_path / "l.png")
    assert np.array_equal(as_bytes(read_image(tmp_path / "l.png"))[..., 2], colours[..., 0])
    Image.fromarray(colours[..., 0] > 100).save(tmp_path / "1.png")
    assert set(read_image(tmp_path / "1.png").unique().tolist()) == {-1.0, 1.0}
    Image.fromarray(np.dstack([colours[..., 0], np.zeros((24, 40), np.uint8)]), mode="LA").save(tmp_path / "la.png")
    assert (read_image(tmp_path / "la.png") == 1).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        seen = read_image(tmp_path / name)
        assert seen.shape == (3, 1, 4)
        assert torch.allclose(seen[1, 0], torch.tensor([-1, 512 / 65535 - 1, 65536 / 65535 - 1, 1]), atol=1e-6)


def test_cmyk_jpeg(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "a.jpg", quality=95, subsampling=0)
    assert np.abs(as_bytes(read_image(tmp_path / "a.jpg")).astype(int) - colours).mean() < 4


def test_float_tiff(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tiff")
    assert torch.allclose(read_image(tmp_path / "a.tiff")[0, 0], torch.tensor([-1.0, 0.0, 1.0]))
    Image.fromarray(np.array([[0.0, 7.5]], np.float32)).save(tmp_path / "b.tiff")
    with pytest.raises(MediaError, match=r"7.5"):
        read_image(tmp_path / "b.tiff")


def test_size_cuts_the_centre_square(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.png")
    x = read_image(tmp_path / "a.png", size=24)
    assert np.array_equal(as_bytes(x), colours[:, 8:32])
    assert read_image(tmp_path / "a.png", size=10).shape == (3, 10, 10)


@pytest.mark.parametrize("size", [19, 20])
def test_a_square_as_large_as_it_stands_is_cut_out_of_a_large_image_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 240_000, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=0)
    monkeypatch.setenv("OMNITOK_MAX_PIXELS", "1000000")
    x = read_image(tmp_path / "a.png", size=size)
    assert x.shape == (3, size, size)
    assert size < 20 or np.array_equal(as_bytes(x), pixels[:, 119_990:120_010])


def test_a_crop_does_not_depend_on_those_before(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).resize((2400, 1800), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg")
    box = (700, 1000, 256, 256)
    with ImageReader(tmp_path / "a.jpg") as reader:
        alone = reader.crop(box, 256, 256)
    with ImageReader(tmp_path / "a.jpg") as reader:
        reader.crop((0, 0, 1800, 1800), 128, 128)  # which JPEG's decoder makes smaller
        assert torch.equal(reader.crop(box, 256, 256), alone)
        assert reader.pixels().shape == (3, 1800, 2400)


def test_bound_on_pixels_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (14000, 14000)).save(tmp_path / "large.png")  # 196 megapixels: more than Pillow's own bound
    with pytest.raises(MediaError, match=r"14000x14000.* bound of 1000; .*OMNITOK_MAX_PIXELS"):
        read_image(tmp_path / "large.png", max_pixels=1000)
    monkeypatch.setenv("OMNITOK_MAX_PIXELS", "1000000000")
    with pytest.raises(MediaError, match="bound of 1000;"):
        read_image(tmp_path / "large.png", max_pixels=1000)
    assert detect_modality(tmp_path / "large.png") == "image"
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's global bound is as it was


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_are_clips(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (20, 12), (40 * i, 0, 250 - 40 * i)) for i in range(5)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=200, lossless=True)
    assert detect_modality(tmp_path / f"a{suffix}") == "video"
    clip = read_video(tmp_path / f"a{suffix}")
    assert clip.shape == (3, 5, 12, 20)
    assert torch.allclose((clip[0, :, 6, 10] + 1) * 127.5, torch.arange(5) * 40.0, atol=1.5)
    assert torch.equal(read_image(tmp_path / f"a{suffix}"), clip[:, 0])
    assert read_video(tmp_path / f"a{suffix}", fps=10).shape[1] == 10


def test_variable_delays_of_a_gif(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (i * 100, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 100])
    levels = (read_video(tmp_path / "a.gif", fps=10)[0, :, 4, 4] + 1) * 127.5
    assert levels.round().tolist() == [0, 100, 100, 100, 200]
    late = (read_video(tmp_path / "a.gif", fps=10, start=0.2, duration=0.3)[0, :, 4, 4] + 1) * 127.5
    assert late.round().tolist() == [100, 100, 200]
    within = read_video(tmp_path / "a.gif", start=0.2, duration=0.1)[0, :, 4, 4]
    assert ((within + 1) * 127.5).round().tolist() == [100]


def test_still_picture_is_a_clip_of_one_frame(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.jpg")
    assert detect_modality(tmp_path / "a.jpg") == "image"
    assert read_video(tmp_path / "a.jpg", fps=24).shape == (3, 1, 24, 40)


def test_pages_are_not_an_animation(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), (i, i, i)) for i in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    assert detect_modality(tmp_path / "a.tiff") == "image"
    assert read_video(tmp_path / "a.tiff").shape[1] == 1


def damaged_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"this is no picture", "not an image"),
        (damaged_jpeg()[:1500], "cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "an image"),
    ],
    ids=["empty", "text", "truncated", "corrupt header"],
)
def test_bad_pictures(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=words) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))


def test_corrupt_png_body(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(MediaError, match="cannot be read as an image"):
        read_image(path)


def test_missing_folder_unreadable(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(MediaError, match="is a folder"):
        read_image(tmp_path)
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    path.chmod(0)
    with pytest.raises(MediaError, match="cannot be read"):
        read_image(path)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4),
        torch.zeros(1, 3, 4, 4),
        torch.zeros(5, 4, 3),
        torch.full((3, 4, 4), float("nan")),
        torch.full((3, 4, 4), 200.0),
    ],
    ids=["bytes", "rank", "batch", "channels last", "nan", "0 to 255"],
)
def test_bad_tensors_are_refused(tmp_path: Path, x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="pixels must"):
        write_image(tmp_path / "a.png", x)
    assert not list(tmp_path.iterdir())


def test_unknown_suffix_and_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"\.png"):
        write_image(tmp_path / "a.xyz", torch.zeros(3, 4, 4))
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", torch.zeros(3, 4, 4))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".tiff"])
def test_random_damage_is_always_a_media_error(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(0)
    frames = [Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)) for _ in range(3)]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, **({} if suffix == ".jpg" else {"save_all": True, "append_images": frames[1:]}))
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, len(damaged), 8):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged[: generator.integers(1, 2 * len(damaged))])
        for reading in (read_image, read_video, detect_modality):
            with contextlib.suppress(MediaError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reading(path)
