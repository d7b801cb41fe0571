"""A model of colour images as the start of one of other channels."""

import dataclasses

import pytest
import torch

from helpers.small import TINY
from omnitok.errors import OmnitokError
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.transfer import convert_channels, inflate_video_patches


def colour() -> OmniTokenizer:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, normalize_patches=False, bottleneck="kl")
    return OmniTokenizer.from_config(config).eval().requires_grad_(False)


def test_more_channels_leave_the_first_as_they_are() -> None:
    tok, x = colour(), torch.rand(1, 6, 5, 9, 12) * 2 - 1
    more = convert_channels(tok, 6).eval()
    assert more.config == dataclasses.replace(tok.config, channels=6)
    latents = tok.encode(x[:, :3]).latents
    assert torch.allclose(more.encode(x).latents, latents, atol=1e-5)
    pixels, expected = more.decode(latents), tok.decode(latents)
    assert torch.allclose(pixels[:, :3], expected, atol=1e-5)
    for band in (3, 4, 5):
        assert torch.allclose(pixels[:, band], expected.mean(dim=1), atol=1e-4)
    inflate_video_patches(more)  # knows of the channels
    assert torch.allclose(more.encode(x).latents[:, :, 0], latents[:, :, 0], atol=1e-5)


def test_grey_is_the_same_in_all_colours() -> None:
    tok, x = colour(), torch.rand(1, 1, 9, 12) * 2 - 1
    grey = convert_channels(tok, 1).eval()
    latents = tok.encode(x.expand(1, 3, 9, 12)).latents
    assert torch.allclose(grey.encode(x).latents, latents, atol=1e-5)
    assert torch.allclose(grey.decode(latents)[:, 0], tok.decode(latents).mean(dim=1), atol=1e-4)
    with pytest.raises(OmnitokError, match=r"must be 1, or 3 or more, .* found 2"):
        convert_channels(tok, 2)
