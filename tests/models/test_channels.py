"""Tokenizers of grey, RGBA and multispectral pixels."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.models.tokenizer import OmniTokenizer

Make = Callable[..., OmniTokenizer]
Pixels = Callable[..., Tensor]


@pytest.mark.parametrize("channels", (1, 2, 4, 5))
def test_the_contracts_hold_for_any_number_of_channels(tiny: Make, pixels: Pixels, channels: int) -> None:
    tok = tiny(channels=channels)
    video = pixels(2, channels, 7, 9, 6)
    whole = tok.encode(video)
    assert tok(video).shape == video.shape
    assert tok(video[:, :, 0]).shape == (2, channels, 9, 6)
    assert torch.equal(tok.encode(video[:, :, 0]).codes, tok.encode(video[:, :, :1]).codes[:, 0])
    encoder, decoder = tok.encoder_stream(), tok.decoder_stream(whole.size)
    parts = [encoder.push(video[:, :, :2]), encoder.push(video[:, :, 2:]), encoder.flush()]
    assert (torch.cat([part.codes for part in parts], dim=1) == whole.codes).float().mean() > 0.97
    frames = [decoder.push(whole.codes[:, :0]), decoder.push(whole.codes), decoder.flush()]
    torch.testing.assert_close(torch.cat(frames, dim=2), tok.decode_codes(whole.codes, whole.size), atol=1e-5, rtol=0)
    image = pixels(1, channels, 40, 37)
    assert tok.decode(tok.encode(image, tile=16).latents, tile=16).shape == (1, channels, 40, 40)


def test_pixels_of_other_channels_are_refused_by_number(tiny: Make, pixels: Pixels) -> None:
    tok = tiny(channels=5)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 8, 8\); accepted are float images \(b, 5, H, W\)"):
        tok.encode(pixels(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\(b, 5, n, H, W\), found \(1, 3, 8, 8\)"):
        tok.encoder_stream().push(pixels(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\(b, 3, H, W\)"):
        tiny()(pixels(1, 4, 8, 8))
    with pytest.raises(ValueError, match="channels must be at least 1, found 0"):
        tiny(channels=0)


def test_bands_that_follow_from_one_another_are_learnt(fresh: Make) -> None:
    """A tokenizer of five bands learns to give back all of them."""
    tok = fresh(bottleneck="kl", channels=5).requires_grad_(True).train()
    ramp = torch.linspace(-1, 1, 16)
    x = torch.stack([(a * ramp[:, None] + b * ramp).sin() for a, b in ((2, 1), (0, 3), (-3, 2), (1, -1))])
    x = torch.stack([x * gain for gain in (1.0, -1.0, 0.5, 0.2, -0.6)], dim=1)
    optimizer = torch.optim.Adam(tok.parameters(), lr=5e-3)
    losses = []
    for step in range(25):
        losses.append(
            F.mse_loss(tok.autoencode(x, seeds=[4 * step + i for i in range(4)]).reconstruction, x, reduction="none")
        )
        losses[-1].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    first, last = (sum(part).mean(dim=(0, 2, 3)) for part in (losses[:3], losses[-3:]))
    assert (last < 0.7 * first).all(), (first, last)
