"""Streams of a tokenizer of images: the frames of a video are coded one by one, so that none waits for another."""

import torch
from torch import Tensor

from omnitok.models.encoding import Encoding
from omnitok.models.protocol import Tokenizer
from omnitok.models.streaming import FramesIn, LatentsIn


class FrameEncoder(FramesIn):
    """Encodes frames as they arrive."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(frames=1)
        self._tokenizer = tokenizer

    def _encode(self, frames: Tensor, size: tuple[int, int, int]) -> Encoding:
        if frames.shape[2]:
            return self._tokenizer.encode(frames, check_range=False)
        of, b = self._tokenizer, len(frames)
        _, h, w = of.latent_shape(1, *size[1:])
        latents = torch.empty(b, of.latent_channels, 0, h, w, device=of.device, dtype=of.dtype)
        codes = torch.empty(b, 0, h, w, device=of.device, dtype=torch.int64) if of.is_discrete else None
        return Encoding(latents, codes, None, size)

    def _cache_nbytes(self) -> int:
        return 0


class FrameDecoder(LatentsIn):
    """Decodes latent frames as they arrive."""

    def _decode(self, latents: Tensor, ends: bool) -> Tensor:
        if latents.shape[2]:
            return self._of.decode(latents)
        _, height, width = self._of.downsample
        sides = (latents.shape[3] * height, latents.shape[4] * width)
        return torch.empty(len(latents), 3, 0, *sides, device=self._of.device, dtype=self._of.dtype)

    def nbytes(self) -> int:
        """Bytes that the stream holds between pushes."""
        return 0
