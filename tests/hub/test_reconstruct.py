"""From what notebooks have to PIL images."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnitok import OmniTokenizer
from omnitok.data import read_image, to_pil, to_pixels, write_image, write_video
from omnitok.errors import MediaError
from omnitok.models.tokenizer import TokenizerConfig


@pytest.fixture(scope="module")
def tok() -> OmniTokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(width=16, heads=1, head_dim=16, encoder_blocks="w", decoder_blocks="w",
                             encoder_temporal_blocks=1, decoder_temporal_blocks=1)  # fmt: skip
    return OmniTokenizer.from_config(config).eval()


def test_a_path_a_pil_image_and_an_array_are_the_same_image(tok: OmniTokenizer, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (11, 18, 3), dtype=np.uint8)
    image, path = Image.fromarray(array), tmp_path / "a.png"
    image.save(path)
    expected = tok(read_image(path)[None]).clamp(-1, 1)
    for source in (path, str(path), image, array, read_image(path)):
        result = tok.reconstruct(source)
        assert torch.equal(result.pixels, expected)
        assert [made.size for made in result.images] == [(18, 11)]
    assert repr(result) == f"Reconstruction(pixels=(1, 3, 11, 18), {result.encoding!r})"
    assert len(tok.reconstruct([image, image]).images) == 2
    write_image(tmp_path / "b.png", expected[0])
    assert np.array_equal(np.asarray(result.images[0]), np.asarray(Image.open(tmp_path / "b.png")))


def test_videos_are_their_frames(tok: OmniTokenizer, tmp_path: Path) -> None:
    frames = torch.rand(3, 6, 16, 16) * 2 - 1
    write_video(tmp_path / "a.mp4", frames, fps=8.0)
    result = tok.reconstruct(tmp_path / "a.mp4")
    assert result.pixels.shape == (1, 3, 6, 16, 16)
    assert len(result.images) == 6
    assert tok.reconstruct(np.zeros((5, 16, 16, 3), dtype=np.uint8)).pixels.shape == (1, 3, 5, 16, 16)


def test_transparency_is_over_white_and_grey_is_taken() -> None:
    assert torch.equal(to_pixels(Image.new("RGBA", (2, 2), (0, 0, 0, 0))), torch.ones(1, 3, 2, 2))
    assert to_pixels(np.zeros((4, 5), dtype=np.uint8)).shape == (1, 3, 4, 5)
    assert to_pixels(Image.new("L", (5, 4))).shape == (1, 3, 4, 5)
    assert torch.equal(to_pixels(Image.new("I;16", (2, 2), 65535)), torch.ones(1, 3, 2, 2))  # scaled, not cut off


def test_what_is_no_image_is_said(tok: OmniTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold bytes \(uint8\), found float64"):
        tok.reconstruct(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"must be \(H, W\), \(H, W, 3\) or \(T, H, W, 3\), found uint8 \(4, 4, 4\)"):
        tok.reconstruct(np.zeros((4, 4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="of one size, found 2 sizes"):
        tok.reconstruct([Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))])
    with pytest.raises(ValueError, match=r"found \(1, 2, 4, 4\)"):
        to_pil(torch.zeros(2, 4, 4))


def of_channels(tok: OmniTokenizer, channels: int, ranges: tuple[tuple[float, float], ...] = ()) -> OmniTokenizer:
    torch.manual_seed(0)
    made = OmniTokenizer.from_config(replace(tok.config, channels=channels)).eval()
    made.channel_ranges = ranges
    return made


def test_alpha_and_grey_come_back_as_they_are(tok: OmniTokenizer, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (11, 18, 4), dtype=np.uint8)
    for channels, mode in ((4, "RGBA"), (1, "L")):
        image, path = Image.fromarray(array).convert(mode), tmp_path / f"{mode}.png"
        image.save(path)
        model = of_channels(tok, channels)
        for source in (path, image, np.asarray(image)):
            result = model.reconstruct(source)
            assert result.pixels.shape == (1, channels, 11, 18)
            assert torch.equal(result.pixels, model.reconstruct(path).pixels)
            assert [(made.size, made.mode) for made in result.images] == [((18, 11), mode)]
        video = np.zeros((5, 16, 16, channels), dtype=np.uint8)
        assert [made.mode for made in model.reconstruct(video).images] == 5 * [mode]


def test_bands_are_numbers_in_their_ranges(tok: OmniTokenizer, tmp_path: Path) -> None:
    model = of_channels(tok, 5, ((0, 10000),))
    array = np.random.default_rng(0).uniform(0, 10000, (2, 16, 16, 5)).astype(np.float32)
    for source, name in ((array, "v.npy"), (array[0], "a.npy")):
        np.save(tmp_path / name, source)
        result = model.reconstruct(source)
        assert torch.equal(result.pixels, model.reconstruct(tmp_path / name).pixels)
        assert {made.mode for made in result.images} == {"RGB"}
    with pytest.raises(ValueError, match=r"must be \(H, W, 5\) or \(T, H, W, 5\), found float32 \(16, 16, 4\)"):
        model.reconstruct(array[0, ..., :4])
    with pytest.raises(ValueError, match="holds float32 numbers, so the range"):
        of_channels(tok, 5).reconstruct(array[0])
    with pytest.raises(MediaError, match="a PIL image: 5 channels are wanted"):
        model.reconstruct(Image.new("RGB", (16, 16)))


def test_notebooks_show_images_and_videos_with_their_tokens(tok: OmniTokenizer) -> None:
    def shown(source: torch.Tensor) -> list[Image.Image]:
        text = tok.reconstruct(source)._repr_html_()
        assert "Reconstruction(pixels=" in text
        return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall('base64,([^"]+)"', text)]

    images = shown(torch.rand(2, 3, 16, 24) * 2 - 1)
    assert [image.size for image in images] == [(24, 16), (24, 16), (3, 2), (3, 2)]
    assert len({image.convert("RGB").getpixel((0, 0)) for image in images}) > 1
    assert len(shown(torch.rand(11, 3, 8, 8) * 2 - 1)) == 2 * 8
    video, *tokens = shown(torch.rand(1, 3, 9, 16, 16) * 2 - 1)
    assert (video.format, video.n_frames, len(tokens)) == ("GIF", 9, 3)
    assert max(shown(torch.rand(1, 3, 8, 1024) * 2 - 1)[0].size) == 512
