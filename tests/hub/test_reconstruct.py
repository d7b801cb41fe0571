"""From what notebooks have to PIL images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnitok import OmniTokenizer
from omnitok.data import read_image, to_pil, to_pixels, write_image, write_video
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
    with pytest.raises(ValueError, match=r"must be \(H, W\), \(H, W, 3\) or \(T, H, W, 3\), found \(4, 4, 4\)"):
        tok.reconstruct(np.zeros((4, 4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="of one size, found 2 sizes"):
        tok.reconstruct([Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))])
    with pytest.raises(ValueError, match=r"found \(1, 2, 4, 4\)"):
        to_pil(torch.zeros(2, 4, 4))
