"""Tokenizers of videos whose latent frames depend on the past alone, so that videos can be streamed."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.models.bottlenecks import GaussianPosterior
from omnitok.models.bottlenecks.kl import DiagonalGaussian
from omnitok.models.encoding import DECODED_WHY, FEATURES_WHY, Encoding, check_finite
from omnitok.models.protocol import StreamSize
from omnitok.models.streaming import FramesIn, LatentsIn
from omnitok.peers.base import Coded, PeerTokenizer, Traits
from omnitok.peers.blocks import ResidualBlock, scalar_quantizer

Memory = dict[nn.Module, Tensor]
"""Of one stream: what each layer keeps of the frames before; empty at first. None where the whole video is at hand."""


def after_past(layer: nn.Module, x: Tensor, frames: int, memory: Memory | None) -> Tensor:
    """x (b, c, t, ...) after the `frames` frames before it: those of the piece before, else the first frame again."""
    past = None if memory is None else memory.get(layer)
    if past is None:
        past = x[:, :, :1].expand(-1, -1, frames, *x.shape[3:])
    x = torch.cat([past, x], dim=2)
    if memory is not None:
        memory[layer] = x[:, :, x.shape[2] - frames :].clone()
    return x


def check_levels(fsq_levels: tuple[int, ...] | None, latent_channels: int) -> None:
    """Refuse (ValueError) other than one number of levels per latent channel."""
    if fsq_levels is not None and len(fsq_levels) != latent_channels:
        raise ValueError(f"fsq_levels must have {latent_channels} entries, one per channel, found {len(fsq_levels)}")


class CausalBlock(ResidualBlock):
    """A residual block whose convolutions see the past."""

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(b, inputs, t, ...) -> (b, outputs, t, ...)."""
        h = self.conv1(F.silu(self.norm1(x)), memory)
        h = self.conv2(F.silu(self.norm2(h)), memory)
        return self.nin_shortcut(x) + h


class CausalPeer(PeerTokenizer):
    """A tokenizer whose first frame is a latent frame by itself, with FSQ, a Gaussian, or latents as they are.

    A subclass has `encode_piece` and `decode_piece`, which take a video whole (memory None) or piece by piece.

    Args:
        fsq_levels: of each latent channel; None without codes.
        is_gaussian: `encode_piece` gives mean and log-variance.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        name: str,
        latent_channels: int,
        downsample: tuple[int, int, int],
        fsq_levels: tuple[int, ...] | None,
        is_gaussian: bool = False,
    ) -> None:
        quantizer = None if fsq_levels is None else scalar_quantizer(fsq_levels)
        codes, bases = (None, ()) if quantizer is None else (quantizer.vocab_size, quantizer.code_bases)
        super().__init__(config, Traits(name, latent_channels, downsample, codes, bases, is_video_model=True))
        self.quantizer, self.is_gaussian = quantizer, is_gaussian

    def encode_piece(self, pixels: Tensor, memory: Memory | None) -> Tensor:
        """Frames (b, 3, n, H, W), n = 1 + t k at the beginning and t k later -> latents, not yet quantized."""
        raise NotImplementedError

    def decode_piece(self, latents: Tensor, memory: Memory | None, ends: bool) -> Tensor:
        """Latents (b, c, t, h, w) -> pixels that need no later latent frame; all if it `ends` (maybe with t = 0)."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------- whole

    def encode_pixels(self, pixels: Tensor) -> Coded:
        """Of a whole video."""
        return self.coded(self.encode_piece(pixels, None))

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Of a whole video."""
        return self.decode_piece(latents, None, ends=True)

    def coded(self, z: Tensor) -> Coded:
        """What `encode_piece` gave as tokens."""
        if self.quantizer is not None:
            out = self.quantizer.encode(z.movedim(1, -1))
            return Coded(out.latents.movedim(-1, 1), out.codes)
        if self.is_gaussian:
            mean, logvar = z.chunk(2, dim=1)
            return Coded(mean, logvar=logvar.clamp(*DiagonalGaussian.LOGVAR_RANGE))
        return Coded(z)

    def lookup(self, codes: Tensor) -> Tensor:
        """The levels that a code is made of."""
        assert self.quantizer is not None
        return self.quantizer.lookup(codes)

    # ---------------------------------------------------------------------------------------------------- in pieces

    @property
    def causal(self) -> bool:
        """Whether videos can be streamed."""
        return True

    def encoder_stream(self) -> "PeerEncoderStream":
        """A stream that takes a video in pieces of any length."""
        return PeerEncoderStream(self)

    def decoder_stream(self, size: StreamSize = None) -> "PeerDecoderStream":
        """A stream that takes latent frames in pieces of any length and crops to `size`."""
        return PeerDecoderStream(self, size)


class PeerEncoderStream(FramesIn):
    """Encodes a video as its frames arrive."""

    def __init__(self, tokenizer: CausalPeer) -> None:
        super().__init__(tokenizer)
        self._tokenizer = tokenizer
        self._memory: Memory = {}

    def _encode(self, frames: Tensor, size: tuple[int, int, int]) -> Encoding:
        tokenizer = self._tokenizer
        b, _, n, height, width = frames.shape
        if n == 0:
            channels = tokenizer.latent_channels * (2 if tokenizer.is_gaussian else 1)
            _, h, w = tokenizer.latent_shape(1, height, width)
            z = torch.empty(b, channels, 0, h, w, device=tokenizer.device, dtype=tokenizer.dtype)
        else:
            pixels = tokenizer.pad_sides(frames).to(tokenizer.device, tokenizer.dtype)
            z = tokenizer.encode_piece(pixels, self._memory)
            check_finite(z, "features", FEATURES_WHY)
        coded = tokenizer.coded(z)
        posterior = None if coded.logvar is None else GaussianPosterior(coded.latents, coded.logvar)
        return Encoding(coded.latents, coded.codes, posterior, size)

    def _cache_nbytes(self) -> int:
        return _nbytes(self._memory)


class PeerDecoderStream(LatentsIn):
    """Decodes a video as its latent frames arrive. Frames that need the next latent frame wait for it or the end."""

    def __init__(self, tokenizer: CausalPeer, size: StreamSize) -> None:
        super().__init__(tokenizer, size)
        self._peer = tokenizer
        self._memory: Memory = {}

    def _decode(self, latents: Tensor, ends: bool) -> Tensor:
        peer = self._peer
        pixels = peer.decode_piece(latents.to(peer.device, peer.dtype), self._memory, ends)
        check_finite(pixels, "decoded pixels", DECODED_WHY)
        return pixels

    def _waits(self) -> bool:
        return bool(self._memory)

    def nbytes(self) -> int:
        return _nbytes(self._memory)


def _nbytes(memory: Memory) -> int:
    return sum(kept.numel() * kept.element_size() for kept in memory.values())
