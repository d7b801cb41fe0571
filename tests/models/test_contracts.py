"""Contracts 1 to 5 of the tokenizer, as properties over sizes, lengths and cuts.

float32 bounds are absolute. bfloat16 has 8 bits: a value near 1 is known to 4e-3, and a few layers and a different
order of sums make of it up to `BF16` on latents and pixels whose standard deviation is about 0.6.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnitok.models.tokenizer import OmniTokenizer

Tiny = Callable[..., OmniTokenizer]
Pixels = Callable[..., Tensor]

FLOAT32 = 1e-5
BF16 = 0.05

properties = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
sides = st.integers(1, 13)
lengths = st.integers(1, 8)
bottlenecks = pytest.mark.parametrize("bottleneck", ("vq", "kl"))
dtypes = pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))


def bound(dtype: torch.dtype) -> float:
    return FLOAT32 if dtype == torch.float32 else BF16


def in_dtype(fresh: Tiny, bottleneck: str, dtype: torch.dtype) -> OmniTokenizer:
    return fresh(bottleneck=bottleneck).to(dtype)


def near(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    return a.shape == b.shape and (a.numel() == 0 or float((a - b).abs().max()) <= bound(dtype))


# ---------------------------------------------------------------------------------------- 1. one weight, both media


@bottlenecks
@dtypes
@properties
@given(height=sides, width=sides, frames=lengths)
def test_an_image_is_a_first_frame(
    fresh: Tiny,
    pixels: Pixels,
    assert_same_codes: Callable[..., None],
    bottleneck: str,
    dtype: torch.dtype,
    height: int,
    width: int,
    frames: int,
) -> None:
    tok = in_dtype(fresh, bottleneck, dtype)
    video = pixels(2, 3, frames, height, width)
    image = video[:, :, 0]
    of_image, of_one, of_video = tok.encode(image), tok.encode(image.unsqueeze(2)), tok.encode(video)
    assert of_image.size == of_one.size == (1, height, width)
    assert torch.equal(of_image.latents, of_one.latents.squeeze(2))
    if bottleneck == "vq":
        assert torch.equal(of_image.codes, of_one.codes[:, 0])
        if dtype == torch.float32:
            assert_same_codes(tok, image.unsqueeze(2), of_one.codes, of_video.codes[:, :1])
    else:
        assert near(of_image.latents, of_video.latents[:, :, 0], dtype)
        assert near(of_image.posterior.logvar, of_video.posterior.logvar[:, :, 0], dtype)
    decoded = tok.decode(of_video.latents[:, :, 0])
    assert torch.equal(decoded.unsqueeze(2), tok.decode(of_video.latents[:, :, :1]))
    assert near(decoded, tok.decode(of_video.latents)[:, :, 0], dtype)


@bottlenecks
def test_rank_is_preserved(tiny: Tiny, pixels: Pixels, bottleneck: str) -> None:
    tok = tiny(bottleneck=bottleneck)
    for x, rank in ((pixels(2, 3, 9, 7), 4), (pixels(2, 3, 3, 9, 7), 5)):
        encoding = tok.encode(x)
        assert encoding.latents.ndim == rank
        assert tok.decode(encoding.latents, encoding.size).shape == x.shape
        assert tok(x).shape == x.shape
        if bottleneck == "vq":
            assert encoding.codes.ndim == rank - 1
            assert encoding.posterior is None
            assert tok.decode_codes(encoding.codes, encoding.size).shape == x.shape
        else:
            assert encoding.codes is None
            assert encoding.posterior.mean.shape == encoding.posterior.logvar.shape == encoding.latents.shape


# ------------------------------------------------------------------------------------------------ 2. causal for real


@bottlenecks
@dtypes
@properties
@given(frames=st.integers(2, 8), data=st.data())
def test_later_frames_change_nothing_earlier(
    fresh: Tiny, pixels: Pixels, bottleneck: str, dtype: torch.dtype, frames: int, data: st.DataObject
) -> None:
    tok = in_dtype(fresh, bottleneck, dtype)
    k = data.draw(st.integers(1, frames - 1))
    video = pixels(1, 3, frames, 8, 12)
    other = video.clone()
    other[:, :, k:] = pixels(1, 3, frames - k, 8, 12, seed=1)
    before = 1 + (k - 1) // tok.config.temporal_patch_size  # latent frames made of frames before k alone
    a, b = tok.encode(video), tok.encode(other)
    assert torch.equal(a.latents[:, :, :before], b.latents[:, :, :before])
    assert not torch.equal(tok.encoder(tok._pad(video).to(dtype)), tok.encoder(tok._pad(other).to(dtype)))
    if bottleneck == "vq":
        assert torch.equal(a.codes[:, :before], b.codes[:, :before])
    earlier = tok.config.num_frames(before)
    assert torch.equal(tok.decode(a.latents)[:, :, :earlier], tok.decode(b.latents)[:, :, :earlier])


@properties
@given(latent_frames=st.integers(2, 6), data=st.data())
def test_later_latents_change_no_earlier_pixels(tiny: Tiny, latent_frames: int, data: st.DataObject) -> None:
    tok = tiny()
    k = data.draw(st.integers(1, latent_frames - 1))
    codes = torch.randint(64, (1, latent_frames, 2, 3))
    other = codes.clone()
    other[:, k:] = (other[:, k:] + 1) % 64
    a, b = tok.decode_codes(codes), tok.decode_codes(other)
    unchanged = tok.config.num_frames(k)
    assert torch.equal(a[:, :, :unchanged], b[:, :, :unchanged])
    assert all(not torch.equal(a[:, :, i], b[:, :, i]) for i in range(unchanged, a.shape[2]))


def test_the_released_layout_is_not_causal(tiny: Tiny, pixels: Pixels) -> None:
    """So the tests above can fail, and released weights are rightly refused by streams."""
    tok = tiny(temporal_convolution_layout="released")
    video = pixels(1, 3, 5, 8, 12)
    other = video.clone()
    other[:, :, 2] = 0
    assert not torch.equal(tok.encoder(video)[:, 0], tok.encoder(other)[:, 0])


# ---------------------------------------------------------------------------------------- 3. any size, any length


@bottlenecks
@properties
@given(height=st.integers(1, 17), width=st.integers(1, 17), frames=st.integers(0, 7))
def test_any_size_and_length(tiny: Tiny, pixels: Pixels, bottleneck: str, height: int, width: int, frames: int) -> None:
    tok = tiny(bottleneck=bottleneck)
    x = pixels(1, 3, frames, height, width) if frames else pixels(1, 3, height, width)
    encoding = tok.encode(x)
    grid = tok.config.latent_shape(max(frames, 1), height, width)
    assert encoding.latents.shape == (1, 4, *(grid if frames else grid[1:]))
    reconstruction = tok.decode(encoding.latents, encoding.size)
    assert reconstruction.shape == x.shape
    assert reconstruction.isfinite().all()
    assert torch.equal(reconstruction, tok(x))
    uncropped = tok.decode(encoding.latents)[..., :height, :width]
    assert torch.equal(uncropped[:, :, :frames] if frames else uncropped, reconstruction)


def test_padding_is_replication(tiny: Tiny, pixels: Pixels) -> None:
    tok = tiny()
    x = pixels(1, 3, 2, 5, 6)
    rows = torch.cat([x, x[..., -1:, :].expand(-1, -1, -1, 3, -1)], dim=3)
    whole = torch.cat([rows, rows[..., -1:].expand(-1, -1, -1, -1, 2)], dim=4)
    whole = torch.cat([whole, whole[:, :, -1:]], dim=2)
    assert whole.shape == (1, 3, 3, 8, 8)
    assert torch.equal(tok.encode(x).latents, tok.encode(whole).latents)


# ------------------------------------------------------------------------------------------- 4. streams equal the whole


def cut(video: Tensor, cuts: list[int], axis: int = 2) -> list[Tensor]:
    """Pieces of the lengths in `cuts` (0 allowed) and the rest."""
    pieces, start = [], 0
    for length in cuts:
        pieces.append(video.narrow(axis, min(start, video.shape[axis]), max(min(length, video.shape[axis] - start), 0)))
        start += length
    if start < video.shape[axis]:
        pieces.append(video.narrow(axis, start, video.shape[axis] - start))
    return pieces


@bottlenecks
@dtypes
@properties
@given(
    frames=st.integers(1, 13),
    height=sides,
    cuts=st.lists(st.integers(0, 5), max_size=5),
    latent_cuts=st.lists(st.integers(0, 3), max_size=4),
)
def test_streams_equal_the_whole(
    fresh: Tiny,
    pixels: Pixels,
    assert_same_codes: Callable[..., None],
    bottleneck: str,
    dtype: torch.dtype,
    frames: int,
    height: int,
    cuts: list[int],
    latent_cuts: list[int],
) -> None:
    tok = in_dtype(fresh, bottleneck, dtype)
    video = pixels(2, 3, frames, height, 6)
    whole = tok.encode(video)
    stream = tok.encoder_stream()
    parts = [stream.push(piece) for piece in cut(video, cuts)]
    parts.append(stream.flush())
    assert sum(part.size[0] for part in parts) == frames
    assert all(part.size[1:] == (height, 6) for part in parts)
    if bottleneck == "vq" and dtype == torch.float32:
        assert_same_codes(tok, video, torch.cat([part.codes for part in parts], dim=1), whole.codes)
    if bottleneck == "kl":
        assert near(torch.cat([part.latents for part in parts], dim=2), whole.latents, dtype)
        logvar = torch.cat([part.posterior.logvar for part in parts], dim=2)
        assert near(logvar, whole.posterior.logvar, dtype)

    decoder = tok.decoder_stream(whole.size)
    source = whole.latents if whole.codes is None else whole.codes
    pieces = [decoder.push(piece) for piece in cut(source, latent_cuts, 2 if whole.codes is None else 1)]
    pieces.append(decoder.flush())
    assert near(torch.cat(pieces, dim=2), tok.decode(whole.latents, whole.size), dtype)


@bottlenecks
def test_frame_by_frame(tiny: Tiny, pixels: Pixels, bottleneck: str) -> None:
    """The finest cut, over a clip much longer than the temporal window, with unlimited and one-frame windows too."""
    for window in (1, 3, None):
        tok = tiny(bottleneck=bottleneck, temporal_window=window)
        video = pixels(1, 3, 21, 5, 9)
        whole = tok.encode(video)
        stream, decoder = tok.encoder_stream(), tok.decoder_stream(whole.size)
        parts = [stream.push(frame) for frame in video.split(1, dim=2)] + [stream.flush()]
        assert [part.latents.shape[2] for part in parts] == [1] + [0, 1] * 10 + [0]
        latents = torch.cat([part.latents for part in parts], dim=2)
        assert near(latents, whole.latents)
        frames = [decoder.push(part.latents) for part in parts] + [decoder.flush()]
        assert near(torch.cat(frames, dim=2), tok.decode(whole.latents, whole.size))


def test_released_like_positions_stream(tiny: Tiny, pixels: Pixels) -> None:
    """ALiBi and relative bias on the grid layout stream too."""
    tok = tiny(spatial_position="relative", temporal_position="alibi", bottleneck="kl", normalize_context=False)
    video = pixels(1, 3, 11, 8, 8)
    stream = tok.encoder_stream()
    latents = [stream.push(piece).latents for piece in cut(video, [2, 1, 4])] + [stream.flush().latents]
    assert near(torch.cat(latents, dim=2), tok.encode(video).latents)


def test_interleaved_streams_never_mix(tiny: Tiny, pixels: Pixels) -> None:
    tok = tiny(bottleneck="kl")
    videos = [pixels(1, 3, 9, 8, 8, seed=1), pixels(2, 3, 9, 5, 12, seed=2)]
    streams, decoders = [tok.encoder_stream() for _ in videos], [tok.decoder_stream() for _ in videos]
    latents: list[list[Tensor]] = [[], []]
    frames: list[list[Tensor]] = [[], []]
    for start in range(0, 9, 2):
        for i, video in enumerate(videos):
            latents[i].append(streams[i].push(video[:, :, start : start + 2]).latents)
            frames[i].append(decoders[i].push(latents[i][-1]))
        tok.encode(videos[0])  # nor do whole calls disturb them
    for i, video in enumerate(videos):
        whole = tok.encode(video).latents
        assert near(torch.cat([*latents[i], streams[i].flush().latents], dim=2), whole)
        assert near(torch.cat(frames[i], dim=2), tok.decode(whole))


def test_stream_memory_does_not_grow(tiny: Tiny, pixels: Pixels) -> None:
    tok = tiny()
    stream, decoder = tok.encoder_stream(), tok.decoder_stream()
    sizes = []
    for _ in range(40):
        decoder.push(stream.push(pixels(1, 3, 2, 8, 8)).codes)
        sizes.append((stream.nbytes(), decoder.nbytes()))
    assert sizes[9] == sizes[39]
    assert min(sizes[9]) > 0
    held = [*stream._cache.spatial, *stream._cache.temporal, *decoder._cache.spatial, *decoder._cache.temporal]
    for tensor in (tensor for cache in held for tensor in cache.tensors()):  # and no view keeps more alive
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_bfloat16_is_near_float32(tiny: Tiny, fresh: Tiny, pixels: Pixels) -> None:
    exact, rounded = tiny(bottleneck="kl"), in_dtype(fresh, "kl", torch.bfloat16)
    video = pixels(2, 3, 7, 9, 12)
    latents = exact.encode(video).latents
    error = (rounded.encode(video).latents - latents).abs()
    assert error.mean() <= 0.03
    assert error.max() <= 0.3
    error = (rounded.decode(latents) - exact.decode(latents)).abs()
    assert error.mean() <= 0.02
    assert error.max() <= 0.2


# -------------------------------------------------------------------------------------------- the temporal window


def reach(tok: OmniTokenizer, spatial: str) -> int:
    """Latent frames back that can influence one: 2 a positional convolution, window - 1 a temporal attention."""
    plain = spatial.count("t") + (spatial.count("w") if tok.config.window_convolution else 0)
    return 2 * plain + tok.config.encoder_temporal_blocks * (2 + tok.config.temporal_window - 1)


def test_frames_beyond_the_reach_have_no_influence(tiny: Tiny, pixels: Pixels) -> None:
    tok = tiny(bottleneck="kl")
    video = pixels(1, 3, 33, 8, 8)
    other = video.clone()
    other[:, :, 0] = pixels(1, 3, 8, 8, seed=1)
    limit = reach(tok, tok.config.encoder_blocks)
    assert limit == 6
    same = (tok.encode(video).latents == tok.encode(other).latents).all(dim=4).all(dim=3).all(dim=1).squeeze(0)
    assert same[limit + 1 :].all()
    assert not same[: limit + 1].any()

    latents = tok.encode(video).latents
    changed = latents.clone()
    changed[:, :, 0] += 1
    equal = (tok.decode(latents) == tok.decode(changed)).all(dim=4).all(dim=3).all(dim=1).squeeze(0)
    first_free = tok.config.num_frames(reach(tok, tok.config.decoder_blocks) + 1)
    assert equal[first_free:].all()
    assert not equal[:first_free].any()


# ------------------------------------------------------------------------------------------------------ 5. tiles


@bottlenecks
@pytest.mark.parametrize("shape", ((1, 3, 13, 10), (1, 3, 3, 16, 9)))
def test_a_covering_tile_is_the_plain_call(tiny: Tiny, pixels: Pixels, bottleneck: str, shape: tuple[int, ...]) -> None:
    tok = tiny(bottleneck=bottleneck)
    x = pixels(*shape)
    whole = tok.encode(x)
    tiled = tok.encode(x, tile=16)
    assert torch.equal(tiled.latents, whole.latents)
    assert torch.equal(tok.decode(whole.latents, whole.size, tile=16), tok.decode(whole.latents, whole.size))


@pytest.mark.parametrize("size, blocks", (((40, 40), "w"), ((37, 50), "w"), ((8, 61), "w"), ((37, 50), "s")))
def test_tiles_of_a_windowed_encoder_are_exact(tiny: Tiny, pixels: Pixels, size: tuple[int, int], blocks: str) -> None:
    """One window block and one temporal block look no further than the halo, so the tiles make no difference at all."""
    tok = tiny(bottleneck="kl", encoder_blocks=blocks, decoder_blocks=blocks)
    x = pixels(1, 3, 3, *size)
    assert near(tok.encode(x, tile=16).latents, tok.encode(x).latents)


@pytest.mark.parametrize("core", ((slice(0, 4), slice(3, 7)), (slice(5, 9), slice(0, 10)), (slice(5, 6), slice(4, 5))))
def test_the_core_alone_is_as_of_the_whole(tiny: Tiny, pixels: Pixels, core: tuple[slice, slice]) -> None:
    tok = tiny(encoder_temporal_blocks=2)
    video = pixels(1, 3, 9, 36, 40)
    whole = tok.encoder(video)[:, :, core[0], core[1]]
    assert near(tok.encoder(video, core=core), whole)
    cache = tok.encoder.new_cache()
    parts = [tok.encoder(part, cache, core) for part in (video[:, :, :5], video[:, :, 5:])]
    assert near(torch.cat(parts, dim=1), whole)
    full = tok.encoder.new_cache()
    tok.encoder(video, full)
    assert cache.nbytes() < full.nbytes()


@pytest.mark.parametrize("tile", (8, 16, 23))
def test_seams_are_bounded(tiny: Tiny, pixels: Pixels, tile: int) -> None:
    tok = tiny(bottleneck="kl", encoder_blocks="ww", decoder_blocks="ww", window_convolution=True)
    x = pixels(1, 3, 45, 52)
    whole = tok.encode(x)
    difference = (tok.encode(x, tile=tile).latents - whole.latents).abs()
    assert difference.mean() <= 0.05 * whole.latents.std()
    plain = tok.decode(whole.latents, whole.size)
    tiled = tok.decode(whole.latents, whole.size, tile=tile)
    assert tiled.shape == plain.shape
    assert (tiled - plain).abs().mean() <= 0.1 * plain.std()
    assert (tiled - plain).abs().max() <= 1.0 * plain.std()


def test_tiles_bound_what_a_block_sees(tiny: Tiny, pixels: Pixels) -> None:
    """No call of the encoder sees more than a tile and its halos."""
    tok = tiny()
    seen = []
    hook = tok.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-2:]))
    tok.encode(pixels(1, 3, 64, 80), tile=16)
    hook.remove()
    assert len(seen) == 4 * 5
    assert max(max(size) for size in seen) <= 16 + 2 * 8


# ------------------------------------------------------------------------------------- shifted windows, joint attention


def test_shifted_and_joint_blocks_keep_the_contracts(tiny: Tiny, pixels: Pixels) -> None:
    tok = tiny(bottleneck="kl", encoder_blocks="js", decoder_blocks="sj", window_size=3)
    video = pixels(2, 3, 9, 17, 14)
    whole = tok.encode(video)
    assert near(tok.encode(video[:, :, 0]).latents, whole.latents[:, :, 0])
    changed = video.clone()
    changed[:, :, 5:] += 0.1
    assert near(tok.encode(changed.clamp(-1, 1)).latents[:, :, :3], whole.latents[:, :, :3])
    assert not near(tok.encode(changed.clamp(-1, 1)).latents[:, :, 3:], whole.latents[:, :, 3:])
    encoder, decoder = tok.encoder_stream(), tok.decoder_stream(whole.size)
    held = []
    parts = []
    for piece in (video[:, :, :2], video[:, :, 2:3], video[:, :, 3:8], video[:, :, 8:]):
        parts.append(encoder.push(piece).latents)
        held.append(encoder.nbytes())
    parts.append(encoder.flush().latents)
    assert near(torch.cat(parts, dim=2), whole.latents)
    assert held[-1] <= held[-2]
    frames = torch.cat([*(decoder.push(piece) for piece in whole.latents.split([1, 2, 2], dim=2)), decoder.flush()], 2)
    assert near(frames, tok.decode(whole.latents, whole.size))
