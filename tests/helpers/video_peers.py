"""TATS, VidTok and Cosmos, small, with the weights of the reference tensors."""

import functools
from collections.abc import Callable
from typing import Any

from helpers.seeded_weights import seeded_weights
from omnitok.peers.base import PeerTokenizer
from omnitok.peers.cosmos import Cosmos
from omnitok.peers.tats import TATS
from omnitok.peers.vidtok import VidTok

_VIDTOK = {"widths": (8, 16, 32, 32), "blocks": 1}
_COSMOS = {"width": 4, "widths": (8, 16, 16), "downsample_time": 4}
_FSQ = {"latent_channels": 6, "fsq_levels": (8, 8, 8, 5, 5, 5)}
_COSMOS_SCALES = {"decoder.conv_out.1.conv3d.weight": 0.2 / (192 * 3) ** 0.5}
_TATS_SCALES = {"embeddings": 0.2} | {
    f"{i}.up.convt.weight": 1 / n**0.5 for i, n in enumerate((32 * 8, 32 * 8, 16 * 8))
}

VIDEO_PEERS: dict[str, tuple[Callable[[dict[str, Any]], PeerTokenizer], dict[str, Any], dict[str, float]]] = {
    "vidtok_fsq": (VidTok, _VIDTOK | {"halve_time": (0, 1, 2), "double_time": (1, 2, 3)}, {}),
    "vidtok_kl": (VidTok, _VIDTOK | {"latent_channels": 4, "fsq_levels": None}, {}),
    "cosmos_cv": (Cosmos, _COSMOS | {"decoder_widths": (8, 16)}, _COSMOS_SCALES),
    "cosmos_dv": (Cosmos, _COSMOS | _FSQ | {"decoder_widths": (8, 16, 16), "blocks": 1}, _COSMOS_SCALES),
    "tats_4x8x8": (TATS, {"width": 4, "latent_channels": 16, "codebook_size": 128}, _TATS_SCALES),
    "tats_2x4x4": (
        TATS,
        {"width": 4, "latent_channels": 8, "codebook_size": 64, "downsample": (2, 4, 4)},
        {"embeddings": 0.2, "0.up.convt.weight": (16 * 8) ** -0.5, "1.up.convt.weight": (16 * 8) ** -0.5},
    ),
}


@functools.cache
def build_video_peer(name: str) -> PeerTokenizer:
    """A tokenizer of `VIDEO_PEERS` as a released file makes it."""
    build, config, scales = VIDEO_PEERS[name]
    tokenizer = build(config)
    tokenizer.load_state_dict(seeded_weights(tokenizer.state_dict(), scales))
    return tokenizer.eval()
