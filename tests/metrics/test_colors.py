"""The named colours of drawn objects and backgrounds, at several sizes, after JPEG and after noise."""

import pytest
import torch
from torch import Tensor

from omnitok.metrics.colors import COLORS, from_oklab, measure_colors, object_mask, oklab
from omnitok.metrics.samples import from_uint8, jpeg_roundtrip, to_uint8

PAINTS = {
    "black": (15, 15, 18),
    "grey": (128, 128, 128),
    "white": (250, 250, 250),
    "red": (200, 25, 30),
    "orange": (250, 130, 20),
    "yellow": (250, 220, 30),
    "green": (40, 140, 50),
    "blue": (30, 60, 180),
    "purple": (120, 40, 150),
    "pink": (245, 140, 190),
    "brown": (110, 65, 35),
}


def paint(color: str, height: int, width: int) -> Tensor:
    return (torch.tensor(PAINTS[color]) / 127.5 - 1)[:, None, None].expand(3, height, width)


def draw(color: str, ground: str, height: int = 64, width: int = 64, shape: str = "disc") -> Tensor:
    """(3, H, W): a disc, a frame-filling strip as of trousers, or an object off the centre."""
    y = ((torch.arange(height) * 2 + 1) / height - 1)[:, None]
    x = ((torch.arange(width) * 2 + 1) / width - 1)[None]
    inside = {
        "disc": y**2 + x**2 < 0.4,
        "strip": (x.abs() < 0.4).expand(height, width),
        "aside": (y - 0.25) ** 2 + (x + 0.25) ** 2 < 0.2,
    }[shape]
    return torch.where(inside, paint(color, height, width), paint(ground, height, width))


def measured(image: Tensor) -> tuple[str, str]:
    found = measure_colors(image[None])[0]
    return found.object.name, found.background.name


def test_every_colour_is_named_on_every_other() -> None:
    pairs = [(a, b) for a in COLORS for b in COLORS if a != b]
    found = measure_colors(torch.stack([draw(a, b) for a, b in pairs]))
    assert [(one.object.name, one.background.name) for one in found] == pairs
    # A grey object gains the least where the few pixels of a vivid background that are let in count most.
    assert min(one.object.margin for one in found) > 0.4
    assert min(one.background.margin for one in found) > 0.99


@pytest.mark.parametrize("shape", ["strip", "aside"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (300, 140), (121, 217)])
def test_size_and_place_do_not_matter(height: int, width: int, shape: str) -> None:
    for color, ground in (("red", "white"), ("green", "brown"), ("black", "grey"), ("white", "blue")):
        assert measured(draw(color, ground, height, width, shape)) == (color, ground)


def test_noise_and_jpeg_keep_the_names() -> None:
    generator = torch.Generator().manual_seed(0)
    for color in COLORS:
        ground = "white" if color != "white" else "brown"
        clean = draw(color, ground, 128, 128)
        noisy = (clean + 0.15 * torch.randn(clean.shape, generator=generator)).clamp(-1, 1)
        assert measured(noisy) == (color, ground)
        assert measured(from_uint8(jpeg_roundtrip(to_uint8(clean)[None], 30)[0])) == (color, ground)


def test_shade_on_the_background_is_no_object() -> None:
    light = torch.linspace(1, 0.55, 64)[None, :, None]
    ground = (paint("brown", 64, 64) + 1) * light - 1
    inside = draw("blue", "white")[0] < 0.5
    assert measured(torch.where(inside, paint("blue", 64, 64), ground)) == ("blue", "brown")


def test_an_object_of_two_colours_is_unsure() -> None:
    image = draw("red", "white")
    halves = torch.where(torch.arange(64) < 32, image, draw("green", "white"))
    assert measure_colors(halves[None])[0].object.margin < 0.2
    assert measure_colors(image[None])[0].object.margin > 0.8


def test_an_object_that_fills_the_image_has_its_colour() -> None:
    found = measure_colors(paint("green", 64, 64)[None])[0]
    assert (found.object.name, found.object.share) == ("green", pytest.approx(1))


def test_backgrounds_are_light_or_dark_or_neither() -> None:
    images = torch.stack([draw("red", ground) for ground in ("white", "black", "grey")])
    assert [found.background_tone for found in measure_colors(images)] == ["light", "dark", None]


def test_8_bit_images_give_the_same() -> None:
    image = draw("purple", "yellow")[None]
    assert measure_colors(to_uint8(image))[0] == measure_colors(from_uint8(to_uint8(image)))[0]


def test_a_single_pixel_is_measured() -> None:
    assert measured(paint("blue", 1, 1)) == ("blue", "blue")


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs \(b, 3, H, W\)"):
        measure_colors(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        measure_colors(torch.full((1, 3, 8, 8), torch.nan))


def test_oklab_has_the_published_coordinates() -> None:
    """Of white, red, green and blue of sRGB, as in CSS Color 4's conversions of the same definition."""
    rgb = torch.tensor([(1.0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
    wanted = torch.tensor(
        [(1, 0, 0), (0.62796, 0.22486, 0.12585), (0.86644, -0.23389, 0.17950), (0.45201, -0.03246, -0.31153)]
    )
    torch.testing.assert_close(oklab(rgb.T[:, :, None] * 2 - 1)[:, :, 0].T, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(from_oklab(oklab(rgb.T[:, :, None] * 2 - 1))[:, :, 0].T, rgb * 2 - 1, atol=1e-4, rtol=0)


def test_a_mask_finds_the_object() -> None:
    mask = object_mask(draw("red", "grey"))
    assert mask[32, 32] == 1
    assert mask[:8].max() == mask[-8:].max() == 0
