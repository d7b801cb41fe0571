"""Streams of a tokenizer of images: the frames of a video are coded one by one, so that none waits for another."""

import torch
from torch import Tensor

from omnitok.models.encoding import Encoding
from omnitok.models.streaming import FramesIn, LatentsIn


class FrameEncoder(FramesIn):
    """Encodes frames as they arrive."""

    def _encode(self, frames: Tensor, size: tuple[int, int, int]) -> Encoding:
        if frames.shape[2]:
            return self._of.encode(frames, check_range=False)
        of, b = self._of, len(frames)
        _, h, w = of.latent_shape(1, *size[1:])
        latents = torch.empty(b, of.latent_channels, 0, h, w, device=of.device, dtype=of.dtype)
        codes = torch.empty(b, 0, h, w, device=of.device, dtype=torch.int64) if of.is_discrete else None
        return Encoding(latents, codes, None, size)

    def _cache_nbytes(self) -> int:
        return 0


class FrameDecoder(LatentsIn):
    """Decodes latent frames as they arrive."""

    def _decode(self, latents: Tensor, ends: bool) -> Tensor:
        return self._of.decode(latents)

    def nbytes(self) -> int:
        return 0
