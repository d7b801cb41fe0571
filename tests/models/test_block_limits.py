"""Limits of blocks: part of the architecture, off unless they are given, and no hindrance to streams and tiles."""

from dataclasses import replace

import pytest
import torch

from helpers.small import SMALL
from omnitok import OmniTokenizer


def test_limits_are_given_for_every_block_or_not_at_all() -> None:
    assert SMALL.block_limits is None
    for wrong in ((), (1.0,) * 3, (1.0, 1.0, 0.0, 1.0), (1.0, 1.0, 1.0, float("inf"))):
        with pytest.raises(ValueError, match="block_limits"):
            replace(SMALL, block_limits=wrong)


@torch.inference_mode()
def test_limits_travel_with_the_model_and_hold_in_streams(tmp_path: object) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, bottleneck="kl", normalize_stacks=False, block_limits=(0.5, 0.6, 0.7, 0.4))
    tokenizer = OmniTokenizer.from_config(config).eval()
    tokenizer.save_pretrained(str(tmp_path))
    loaded = OmniTokenizer.from_pretrained(str(tmp_path))
    assert loaded.config.block_limits == config.block_limits
    clip = torch.rand(1, 3, 9, 48, 40) * 2 - 1
    whole = loaded(clip)
    assert torch.equal(whole, tokenizer(clip))
    features = loaded.decoder.spatial(10 * torch.randn(1, 2, 3, 3, 32))
    assert features.norm(dim=-1).max() <= 0.4 * (1 + 1e-6)
    encoder, decoder = loaded.encoder_stream(), loaded.decoder_stream((9, 48, 40))
    pushed = [encoder.push(piece).latents for piece in clip.split((2, 4, 3), dim=2)] + [encoder.flush().latents]
    pixels = torch.cat([decoder.push(latents) for latents in pushed if latents.shape[2]], dim=2)
    assert (pixels - whole).abs().max() < 1e-5
    loaded.limit_blocks(None)
    assert loaded.config.block_limits is None
    assert not torch.equal(loaded(clip), whole)
