"""What the tokenizer and its streams refuse, each with a sentence that says what was found."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from omnitok.errors import NotFiniteError
from omnitok.models.tokenizer import OmniTokenizer

Tiny = Callable[..., OmniTokenizer]


def test_videos_for_a_tokenizer_of_images(tiny: Tiny) -> None:
    video = torch.zeros(1, 3, 5, 8, 8)
    calls: list[Callable[[OmniTokenizer], object]] = [
        lambda tokenizer: tokenizer.encode(video),
        lambda tokenizer: tokenizer(video),
        lambda tokenizer: tokenizer.encoder_stream(),
    ]
    for call in calls:
        tokenizer = copy.deepcopy(tiny()).eval()  # it is shared by tests
        call(tokenizer)  # of what it does not know it says nothing
        tokenizer.trained_on = ("image",)
        tokenizer.encode(video[:, :, 0])
        tokenizer.encode(video[:, :, :1])
        with pytest.warns(UserWarning, match="trained on images only, so what it makes of videos is noise"):
            call(tokenizer)
        call(tokenizer)  # once


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((1, 3, 8, 8)), "must be a torch.Tensor, found ndarray"),
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\); accepted are float images"),
        (torch.zeros(1, 1, 3, 2, 8, 8), "have shape"),
        (torch.zeros(1, 4, 8, 8), r"shape \(1, 4, 8, 8\)"),
        (torch.zeros(1, 8, 8, 3), "have shape"),
        (torch.zeros(1, 3, 0, 8, 8), "are empty"),
        (torch.zeros(0, 3, 8, 8), "are empty"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"dtype torch.uint8; .*x\.float\(\) / 127\.5 - 1"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "dtype torch.int64"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.complex64), "dtype torch.complex64"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN or infinite"),
        (torch.eye(8).where(torch.eye(8) > 0, torch.tensor(float("nan"))).expand(1, 3, 8, 8), "NaN or infinite"),
        (torch.full((1, 3, 8, 8), -float("inf")), "NaN or infinite"),
        (torch.rand(1, 3, 8, 8) * 255, r"lie in \[.*\]; accepted"),
        (torch.linspace(0, 1, 192).reshape(1, 3, 8, 8), r"looks like \[0, 1\]; .*use 2 \* x - 1"),
    ],
)
def test_pixels(tiny: Tiny, x: Tensor, message: str) -> None:
    for call in (tiny().encode, tiny()):
        with pytest.raises(ValueError, match=message):
            call(x)


@pytest.mark.parametrize("bottleneck", ("vq", "kl", "fsq"))
def test_features_that_are_not_finite_are_never_code_0(fresh: Tiny, bottleneck: str) -> None:
    tok, x = fresh(bottleneck=bottleneck), torch.zeros(1, 3, 5, 8, 8)
    with torch.no_grad():
        tok.encoder.temporal.norm.weight[0] = float("nan")
    for call in (tok.encode, tok, lambda x: tok.encode(x, tile=8), lambda x: tok.encoder_stream().push(x)):
        with pytest.raises(NotFiniteError, match="features hold NaN or infinite values"):
            call(x)


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_latents_and_decoded_pixels_that_are_not_finite_are_refused(fresh: Tiny, value: float) -> None:
    tok = fresh(bottleneck="kl")
    latents = torch.zeros(1, 4, 2, 2, 2)
    latents[0, 1, 1, 0, 1] = value
    for call in (tok.decode, lambda z: tok.decoder_stream().push(z)):
        with pytest.raises(NotFiniteError, match="latents hold NaN or infinite values"):
            call(latents)
    with torch.no_grad():
        tok.decoder.to_video.bias[0] = value
    for call in (tok.decode, lambda z: tok.decoder_stream().push(z)):
        with pytest.raises(NotFiniteError, match="decoded pixels hold NaN or infinite values"):
            call(torch.zeros(1, 4, 2, 2, 2))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float64))
def test_any_floating_point_pixels_in_any_precision(fresh: Tiny, dtype: torch.dtype) -> None:
    tok = fresh().to(dtype)
    for given in (torch.float32, dtype):
        x = torch.zeros(1, 3, 8, 8, dtype=given)
        assert tok(x).shape == x.shape
        assert tok.encode(x).codes.shape == (1, 2, 2)


def test_what_things_are_in_one_line(fresh: Tiny) -> None:
    tok = fresh()
    assert repr(tok) == "OmniTokenizer(0.0 M parameters, patches of 2x4x4, 64 codes, cpu, float32)"
    assert repr(tok.encode(torch.zeros(1, 3, 8, 8))) == "Encoding(codes=(1, 2, 2), size=(1, 8, 8), cpu)"


def test_bright_pixels_on_request_and_overshoot(tiny: Tiny) -> None:
    bright = torch.linspace(0, 1, 192).reshape(1, 3, 8, 8)
    assert tiny().encode(bright, check_range=False).codes.shape == (1, 2, 2)
    assert tiny().encode(torch.linspace(-1.1, 1.1, 192).reshape(1, 3, 8, 8)).codes.shape == (1, 2, 2)
    assert tiny().encode(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).latents.dtype == torch.float32


@pytest.mark.parametrize(
    "codes, message",
    [
        ([[[0]]], "codes must be a torch.Tensor, found list"),
        (np.zeros((1, 2, 2), dtype=np.int64), "codes must be a torch.Tensor, found ndarray"),
        (torch.zeros(2, 2, dtype=torch.int64), r"codes must be \(b, h, w\) or \(b, t, h, w\), found \(2, 2\)"),
        (torch.zeros(1, 1, 1, 2, 2, dtype=torch.int64), "codes must be"),
        (torch.zeros(1, 2, 2), "codes must be integers, found torch.float32"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), "codes must be integers, found torch.bool"),
        (torch.full((1, 2, 2), 64), r"codes must lie in \[0, 63\], found \[64, 64\]"),
        (torch.full((1, 2, 2), -1), r"codes must lie in \[0, 63\], found \[-1, -1\]"),
        (torch.full((1, 2, 2), 2**40), "codes must lie in"),
        (torch.full((1, 2, 2), 65535, dtype=torch.uint16), r"found \[65535, 65535\]"),
        (torch.zeros(1, 0, 2, 2, dtype=torch.int64), "nothing to decode"),
        (torch.zeros(0, 2, 2, dtype=torch.int64), "nothing to decode: .* of 0 items"),
    ],
)
def test_codes(tiny: Tiny, codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().decode_codes(codes)


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int16, torch.int32, torch.uint16, torch.int64))
def test_codes_of_any_integer_type(tiny: Tiny, dtype: torch.dtype) -> None:
    codes = torch.arange(4).reshape(1, 2, 2)
    assert torch.equal(tiny().decode_codes(codes.to(dtype)), tiny().decode_codes(codes))


@pytest.mark.parametrize(
    "latents, message",
    [
        (np.zeros((1, 4, 2, 2)), "latents must be a torch.Tensor, found ndarray"),
        (torch.zeros(4, 2, 2), r"latents must be floating point \(b, c, h, w\)"),
        (torch.zeros(1, 4, 2, 2, dtype=torch.int64), "latents must be floating point"),
        (torch.zeros(1, 2, 2, 4), "latents must have 4 channels, found 2"),
        (torch.zeros(1, 4, 0, 2, 2), r"nothing to decode: the latent grid \(t, h, w\) is \(0, 2, 2\)"),
    ],
)
def test_latents(tiny: Tiny, latents: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(bottleneck="kl").decode(latents)


@pytest.mark.parametrize("size", ((1, 9, 8), (2, 8, 8), (1, 0, 8), (-1, 8, 8), (8, 8), (1, 1, 8, 8)))
def test_sizes_that_latents_do_not_cover(tiny: Tiny, size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"size \(T, H, W\) must lie between \(1, 1, 1\) and \(1, 8, 8\)"):
        tiny().decode(torch.zeros(1, 4, 2, 2), size)


def test_a_vae_has_no_codes(tiny: Tiny) -> None:
    vae = tiny(bottleneck="kl")
    codes = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    for call in (vae.decode_codes, vae.lookup_codes, vae.decoder_stream().push):
        with pytest.raises(ValueError, match="this tokenizer is a VAE"):
            call(codes)


@pytest.mark.parametrize("tile", (7, 0, -8))
def test_tile_too_small(tiny: Tiny, tile: int) -> None:
    message = rf"tile must be at least 8 pixels \(one attention window\), found {tile}"
    with pytest.raises(ValueError, match=message):
        tiny().encode(torch.zeros(1, 3, 16, 16), tile=tile)
    with pytest.raises(ValueError, match=message):
        tiny().decode(torch.zeros(1, 4, 4, 4), tile=tile)


# --------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    "changes",
    ({"temporal_convolution_layout": "released"}, {"causal": False}, {"causal_convolution": False}),
)
def test_no_streams_where_the_future_matters(tiny: Tiny, changes: dict[str, object]) -> None:
    tok = tiny(**changes)
    for open_stream in (tok.encoder_stream, tok.decoder_stream):
        with pytest.raises(ValueError, match=r"not causal .* cannot stream"):
            open_stream()


def test_encoder_stream_refuses(tiny: Tiny) -> None:
    stream = tiny().encoder_stream()
    with pytest.raises(ValueError, match="nothing was pushed"):
        stream.flush()
    with pytest.raises(ValueError, match=r"takes frames \(b, 3, n, H, W\), found \(1, 3, 8, 8\)"):
        stream.push(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        stream.push(torch.full((1, 3, 2, 8, 8), float("nan")))
    stream.push(torch.zeros(1, 3, 2, 8, 8))
    for shape in ((1, 3, 1, 8, 9), (2, 3, 1, 8, 8), (1, 3, 1, 4, 8)):
        with pytest.raises(ValueError, match=r"changed from .* within one stream"):
            stream.push(torch.zeros(shape))
    assert stream.push(torch.zeros(1, 3, 1, 8, 8)).codes.shape == (1, 1, 2, 2)  # what was refused left no trace
    stream.flush()
    with pytest.raises(ValueError, match="was flushed"):
        stream.push(torch.zeros(1, 3, 1, 8, 8))
    with pytest.raises(ValueError, match="already flushed"):
        stream.flush()


def test_streams_take_tensors_only(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"torch.Tensor of frames \(b, 3, n, H, W\), found list"):
        tiny().encoder_stream().push([0.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"torch.Tensor of codes or latents, found list"):
        tiny().decoder_stream().push([0])  # type: ignore[arg-type]


def test_decoder_stream_refuses(tiny: Tiny) -> None:
    stream = tiny().decoder_stream((9, 8, 8))
    with pytest.raises(ValueError, match="nothing was pushed"):
        stream.flush()
    with pytest.raises(ValueError, match=r"takes codes \(b, t, h, w\), found \(1, 2, 2\)"):
        stream.push(torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"latents must be \(b, 4, t, h, w\)"):
        stream.push(torch.zeros(1, 3, 1, 2, 2))
    with pytest.raises(ValueError, match="codes must lie in"):
        stream.push(torch.full((1, 1, 2, 2), 64))
    with pytest.raises(ValueError, match="nothing to decode"):
        stream.push(torch.zeros(0, 1, 2, 2, dtype=torch.int64))
    assert stream.push(torch.zeros(1, 1, 2, 2, dtype=torch.int64)).shape == (1, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"changed from .* within one stream"):
        stream.push(torch.zeros(1, 1, 2, 3, dtype=torch.int64))
    assert stream.flush().shape == (1, 3, 0, 8, 8)
    with pytest.raises(ValueError, match="was flushed"):
        stream.push(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="already flushed"):
        stream.flush()
    with pytest.raises(ValueError, match="is larger than"):
        tiny().decoder_stream((1, 9, 8)).push(torch.zeros(1, 1, 2, 2, dtype=torch.int64))


def test_decoder_stream_crops_to_its_size(tiny: Tiny) -> None:
    stream = tiny().decoder_stream((4, 7, 5))
    codes = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    assert [stream.push(codes).shape[2:] for _ in range(4)] == [(1, 7, 5), (2, 7, 5), (1, 7, 5), (0, 7, 5)]
    stream = tiny().decoder_stream((None, 7, 5))
    assert [stream.push(codes).shape[2:] for _ in range(4)] == [(1, 7, 5), (2, 7, 5), (2, 7, 5), (2, 7, 5)]


def test_empty_pushes_and_a_stream_of_nothing(tiny: Tiny) -> None:
    stream = tiny().encoder_stream()
    empty = stream.push(torch.zeros(1, 3, 0, 8, 8))
    assert empty.codes.shape == (1, 0, 2, 2)
    assert empty.latents.shape == (1, 4, 0, 2, 2)
    assert empty.size == (0, 8, 8)
    assert stream.flush().codes.shape == (1, 0, 2, 2)
