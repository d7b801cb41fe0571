"""Models of other channels than three on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small import SMALL
from omnitok.cli import main
from omnitok.data import list_media, read_image, read_video
from omnitok.data.pixel_format import PixelFormat
from omnitok.generation.loading import load_generator
from omnitok.hub.folder import load_tokenizer, save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer

RANDOM = np.random.default_rng(0)


def model(folder: Path, channels: int, ranges: tuple[tuple[float, float], ...] = ()) -> Path:
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(replace(SMALL, channels=channels)).eval()
    tokenizer.channel_ranges = ranges
    return tokenizer.save_pretrained(folder)


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """An image and a video of 5 bands in a folder, and a model of such with ranges."""
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", RANDOM.integers(0, 10000, (20, 26, 5), dtype=np.uint16))
    np.save(tmp_path / "in/v.npy", RANDOM.integers(0, 10000, (6, 20, 26, 5), dtype=np.uint16))
    model(tmp_path / "five", 5, ((0, 10000),))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[int, Any, str]:
    """Exit code, what JSON says, and stderr."""
    code = main([*map(str, line), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def test_bands_through_every_verb_of_files(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, _ = run(capsys, "reconstruct", bands / "in", "--model", bands / "five", "-o", bands / "out")
    assert code == 0
    assert [(Path(row["output"]).name, row["frames"]) for row in rows] == [("a.npy", 1), ("v.npy", 6)]
    for row in rows:
        assert len(row["psnr_per_channel"]) == len(row["ssim_per_channel"]) == 5
        assert sum(row["psnr_per_channel"]) / 5 == pytest.approx(row["psnr"], abs=0.5)  # of decibels, not of errors
        assert sum(row["ssim_per_channel"]) / 5 == pytest.approx(row["ssim"], abs=1e-4)
    assert run(capsys, "encode", bands / "in", "--model", bands / "five", "-o", bands / "tokens")[0] == 0
    assert run(capsys, "decode", bands / "tokens", "-o", bands / "decoded")[0] == 0
    for name in ("a.npy", "v.npy"):
        given, whole, decoded = (np.load(bands / folder / name) for folder in ("in", "out", "decoded"))
        assert (whole.shape, whole.dtype) == (given.shape, given.dtype)
        np.testing.assert_array_equal(whole, decoded)
        assert whole.max() > 1000
    code, _, _ = run(capsys, "decode", bands / "tokens/a.safetensors", "-o", bands / "b.tif", "--ranges", "0:5000")
    assert code == 0  # the ranges that are given win
    code, rows, _ = run(capsys, "reconstruct", bands / "b.tif", "--model", bands / "five", "-o", bands / "c.tif")
    assert (code, rows[0]["output"]) == (0, str(bands / "c.tif"))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_shards_of_any_channels_are_looked_at_in_colour(
    channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", RANDOM.integers(0, 256, (20, 26, channels), dtype=np.uint8))
    shards, grid = tmp_path / "shards", tmp_path / "grid.png"
    made = run(capsys, "tokenize", tmp_path / "a.npy", "--model", model(tmp_path / "m", channels), "-o", shards)
    assert made[0] == 0
    assert run(capsys, "tokenize", shards, "--inspect", "-o", grid)[0] == 0
    assert read_image(grid).shape == (3, 20, 26)


def test_alpha_and_grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (20, 26, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(RANDOM.integers(0, 65536, (20, 26), dtype=np.uint16)).save(tmp_path / "d.png")
    for channels, name, mode in ((4, "a.png", "RGBA"), (1, "d.png", "I;16"), (1, "a.png", "L")):
        folder = model(tmp_path / str(channels), channels)
        code, rows, _ = run(capsys, "reconstruct", tmp_path / name, "--model", folder, "-o", tmp_path / "out")
        assert (code, len(rows[0]["psnr_per_channel"])) == (0, channels)
        with Image.open(tmp_path / "out" / name) as image:
            assert image.mode == mode


def test_what_does_not_fit_is_told_in_a_sentence(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, five, three = bands / "in/a.npy", bands / "five", model(bands / "three", 3)
    Image.new("RGB", (20, 20)).save(bands / "rgb.png")
    for line, code, message in (
        ((array, "--model", three), 1, "a.npy: must have 3 channels, found 5"),
        ((bands / "rgb.png", "--model", five), 1, "5 channels are wanted, and an ordinary image"),
        ((array, "--model", five, "--ranges", "0:1,0:2"), 2, "1 or 5 ranges are needed for 5 channels, found 2"),
        ((array, "--model", five, "--ranges", "7:7"), 2, "range 1 must be LOW:HIGH with LOW below HIGH, found 7:7"),
        (
            (array, "--model", five, "-o", bands / "x.jpg"),
            1,
            "x.jpg: 5 channels are written as .npy, those of an image",
        ),
    ):
        found, _, told = run(capsys, "reconstruct", "-o", bands / "out", *line)
        assert (found, message in told) == (code, True), told


def test_models_of_other_channels_are_compared(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    five, other = bands / "five", model(bands / "other", 5, ((0, 10000),) * 5)
    narrow, three, gone = model(bands / "narrow", 5, ((0, 100),)), model(bands / "three", 3), model(bands / "gone", 5)
    (gone / "model.safetensors").write_bytes(b"damaged")
    how = ("compare", bands / "in", "-o", bands / "out", "--frames", 2)
    code, rows, _ = run(capsys, *how, "--models", gone, five, other, narrow, three)
    assert (code, [row["modality"] for row in rows]) == (1, ["image", "video"] * 5)
    for row in rows[2:6]:
        assert (row["n"], len(row["psnr_per_channel"]), len(row["ssim_per_channel"])) == (1, 5, 5)
        assert sum(row["ssim_per_channel"]) / 5 == pytest.approx(row["ssim"], abs=1e-4)
    assert rows[2]["psnr"] == rows[4]["psnr"]
    assert "narrow: takes the ranges 0.0:100.0 and the first model 0.0:10000.0; give --ranges" in rows[6]["error"]
    assert "three: takes 3 channels and the first model 5; " in rows[8]["error"]
    assert not {row["codec"] for row in rows} - {None}
    assert sorted(path.suffix for path in (bands / "out/pictures").iterdir()) == [".mp4", ".png"]
    assert "channel 4" in (bands / "out/index.html").read_text()
    code, rows, _ = run(capsys, *how, "--models", five, narrow, "--ranges", "0:5000", "--pictures", 0)
    assert (code, len(rows)) == (0, 4)
    code, _, told = run(capsys, *how, "--models", five, "--metrics", "lpips")
    assert (code, "lpips sees colour, and this model's pixels have 5 channels" in told) == (1, True)
    code, _, told = run(capsys, *how, "--models", five, "--ranges", "0:1,0:2")
    assert (code, "1 or 5 ranges are needed for 5 channels, found 2" in told) == (2, True)


def test_cards_name_channels_and_ranges(bands: Path) -> None:
    assert "| pixels | 5 channels; of .npy, TIFF and 16-bit files the values 0:10000 are" in (
        bands / "five/README.md"
    ).read_text("utf-8")
    assert "| pixels | 3 channels (red, green, blue) |" in (model(bands / "three", 3) / "README.md").read_text("utf-8")


def test_alpha_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (20, 26, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    code, rows, _ = run(capsys, "compare", tmp_path, "--models", model(tmp_path / "m", 4), "-o", tmp_path / "out")
    assert (code, rows[0]["n"], len(rows[0]["psnr_per_channel"])) == (0, 2, 4)
    assert "alpha" in (tmp_path / "out/index.html").read_text()


def language_model(tokenizer: Path, folder: Path) -> Path:
    torch.manual_seed(0)
    config = LanguageModelConfig(
        codebook_size=64, latent_frames=3, latent_height=2, latent_width=2, width=32, depth=1, heads=2
    )
    settings = GeneratorSettings(str(tokenizer), fingerprint(load_tokenizer(tokenizer)), (), 16, 16, 5, {}, 8.0)
    return save_generator(LanguageModel(config), settings, folder)


def test_bands_are_generated_as_arrays(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm, ranged, out = language_model(bands / "five", bands / "lm"), PixelFormat(5, ((0, 10000),)), bands / "samples"
    assert run(capsys, "generate", lm, "--count", 2, "--grid", "-o", out)[0] == 0
    expected = load_generator(lm).sample(indices=[0, 1])
    for number, path in enumerate(files := list_media(out, arrays=True)):
        assert np.load(path).dtype == np.float32
        torch.testing.assert_close(read_image(path, pixel_format=ranged), expected[number].clamp(-1, 1))
    assert [path.name for path in files] == ["000000.npy", "000001.npy"]
    assert read_image(out / "grid.png").shape == (3, 16, 32)
    assert run(capsys, "generate", lm, "--frames", 5, "-o", bands / "videos")[0] == 0
    assert np.load(bands / "videos/000000.npy").shape == (5, 16, 16, 5)
    for frames in (5, 9):  # at once, and streamed
        line = ("generate", lm, "--video", bands / "in/v.npy", "--given", 1, "--frames", frames, "--mark")
        assert run(capsys, *line, "-o", bands / "more.npy")[0] == 0
        assert read_video(bands / "more.npy", pixel_format=ranged).shape == (5, frames, 16, 16)
    Image.new("L", (26, 20), 255).save(bands / "mask.png")
    filling = ("generate", lm, "--inpaint", bands / "in/a.npy", "--mask", bands / "mask.png")
    assert run(capsys, *filling, "-o", bands / "filled.tif")[0] == 0
    assert read_image(bands / "filled.tif", pixel_format=ranged).shape == (5, 16, 16)
    for line, code, message in (
        ((*filling, "-o", bands / "filled.png"), 2, "give a folder, or a name that ends in .npy, .tif, .tiff"),
        (("generate", lm, "--npz", "-o", out), 2, "--npz is for colour, and this model's pixels have 5 channels"),
        (("generate", lm, "--outpaint", bands / "mask.png", "--padding", 4), 1, "5 channels are wanted"),
    ):
        found, _, told = run(capsys, *line)
        assert (found, message in told) == (code, True), told


def test_alpha_and_bands_without_ranges_are_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for channels, suffix, read_as in ((4, ".png", "RGBA"), (1, ".png", "L"), (2, ".npy", "uint16")):
        lm = language_model(model(tmp_path / f"m{channels}", channels), tmp_path / f"lm{channels}")
        assert run(capsys, "generate", lm, "-o", tmp_path / f"out{channels}")[0] == 0
        path = tmp_path / f"out{channels}/000000{suffix}"
        if suffix == ".npy":
            assert (np.load(path).dtype, np.load(path).shape) == (read_as, (16, 16, 2))
        else:
            with Image.open(path) as image:
                assert image.mode == read_as
        found = read_image(path, pixel_format=PixelFormat(channels))
        expected = load_generator(lm).sample()[0].clamp(-1, 1)
        torch.testing.assert_close(found, expected, atol=1 / 127.5, rtol=0)
    with pytest.raises(ValueError, match=r"must be \(b, 2, …, H, W\) of images or videos, found \(1, 3, 16, 16\)"):
        load_generator(lm).continue_video(torch.zeros(1, 3, 16, 16))
