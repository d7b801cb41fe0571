"""Clips in pieces give what one call gives, with and without tiles."""

from dataclasses import replace

import pytest
import torch

from helpers.small import SMALL
from helpers.video_peers import build_video_peer
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.peers.vidtok import VidTok
from omnitok.tokenization.coding import bits_per_pixel, decode_video, encode_video, frames_at_once, token_count
from omnitok.tokenization.files import _HeldFrames


def tokenizer(config: TokenizerConfig) -> OmniTokenizer:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(config).eval()


@pytest.mark.parametrize("bottleneck", ["vq", "kl"])
@pytest.mark.parametrize("tile", [None, 32, 64])
@pytest.mark.parametrize("at_once", [1, 4, 7])
@torch.inference_mode()
def test_pieces_equal_the_whole(bottleneck: str, tile: int | None, at_once: int) -> None:
    model = tokenizer(replace(SMALL, bottleneck=bottleneck))
    clip = torch.rand(3, 10, 75, 106) * 2 - 1
    encoding = model.encode(clip[None], tile=tile)
    whole = encoding.latents if encoding.codes is None else encoding.codes
    pieces = list(encode_video(model, clip.split(at_once, dim=1), tile))
    tokens = torch.cat(pieces, dim=1 if bottleneck == "vq" else 2)
    torch.testing.assert_close(tokens, whole, atol=1e-5, rtol=0)

    decoded = model.decode(encoding.latents, encoding.size, tile=tile)[0].clamp(-1, 1)
    frames = torch.cat(list(decode_video(model, iter(pieces), (75, 106), tile)), dim=1)
    assert frames.shape[1] == 13  # 10 frames fill 4 latent frames, which stand for 13
    torch.testing.assert_close(frames[:, :10], decoded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vidtok_fsq", "vidtok_kl", "cosmos_dv", "tats_4x8x8"])
@torch.inference_mode()
def test_peers_in_pieces(name: str) -> None:
    """Also where frames wait for the next latent frame, none is lost; and TATS takes the whole."""
    model = build_video_peer(name)
    clip = torch.rand(3, 10, 9, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoding = model.encode(clip[None])
    pieces = list(encode_video(model, clip.split(3, dim=1), None))
    tokens = torch.cat(pieces, dim=1 if model.is_discrete else 2)
    torch.testing.assert_close(tokens, encoding.tokens, atol=1e-5, rtol=0)
    frames = torch.cat(list(decode_video(model, iter(pieces), (9, 16), None)), dim=1)
    assert frames.shape[1] == model.num_frames(model.latent_shape(10, 9, 16)[0])
    expected = model.decode(encoding.latents, encoding.size)[0].clamp(-1, 1)
    torch.testing.assert_close(frames[:, :10], expected, atol=5e-5, rtol=0)


@torch.inference_mode()
def test_a_model_that_cannot_stream_takes_the_whole() -> None:
    model = tokenizer(replace(SMALL, temporal_convolution_layout="released", temporal_window=None))
    clip = torch.rand(3, 6, 40, 40) * 2 - 1
    pieces = list(encode_video(model, clip.split(2, dim=1), None))
    assert len(pieces) == 1
    frames = torch.cat(list(decode_video(model, iter(pieces), (40, 40), None)), dim=1)
    torch.testing.assert_close(frames[:, :6], model(clip[None])[0].clamp(-1, 1), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_frames_that_wait_for_the_next_latent_frame_come_at_the_end() -> None:
    torch.manual_seed(0)
    config = {"widths": [8, 8, 8, 8], "blocks": 1, "latent_channels": 3, "fsq_levels": [8, 8, 8]}
    model = VidTok(config).eval()
    video = torch.rand(3, 9, 16, 16) * 2 - 1
    pieces = list(encode_video(model, video.split(4, dim=1), None))
    frames = torch.cat(list(decode_video(model, iter(pieces), (16, 16), None)), dim=1)
    assert frames.shape == video.shape
    torch.testing.assert_close(frames, model(video[None])[0].clamp(-1, 1), atol=1e-4, rtol=0)


def test_pieces_are_whole_latent_frames_and_smaller_for_larger_frames() -> None:
    model = tokenizer(SMALL)
    assert frames_at_once(model, 720, 1280, None) == 4
    assert frames_at_once(model, 256, 256, None) == 32
    assert [frames_at_once(model, 720, 1280, tile) for tile in (128, 256, 512)] == [8, 8, 4]
    assert [frames_at_once(model, 2000, 2000, tile) for tile in (128, 256)] == [4, 4]  # whole frames are held


@pytest.mark.parametrize("tile", [1, 3])
def test_a_tile_below_a_patch_is_told_as_too_small(tile: int) -> None:
    model = tokenizer(SMALL)
    clip = torch.zeros(3, 5, 40, 40)
    with pytest.raises(ValueError, match="tile must be at least"):
        list(encode_video(model, clip.split(frames_at_once(model, 40, 40, tile), dim=1), tile))


def test_counts_of_tokens_and_bits() -> None:
    vq = OmniTokenizer.from_config(SMALL)
    vae = OmniTokenizer.from_config(replace(SMALL, bottleneck=KLConfig(latent_channels=4)))
    assert token_count(vq, 1, 16, 24) == 6
    assert token_count(vq, 17, 9, 8) == 5 * 2 * 1
    assert bits_per_pixel(vq, 1, 8, 8) == 6 / 64  # 64 codes are 6 bits
    assert bits_per_pixel(vae, 1, 8, 8) == 4 * 16 / 64


def test_held_frames_come_back_in_order_and_no_more_than_there_are() -> None:
    clip = torch.arange(5.0).view(1, 5, 1, 1).expand(3, 5, 2, 2)
    held = _HeldFrames(clip.split(2, dim=1))
    for _ in held:
        pass
    assert held.take(2)[0, :, 0, 0].tolist() == [0, 1]
    assert held.take(9)[0, :, 0, 0].tolist() == [2, 3, 4]
