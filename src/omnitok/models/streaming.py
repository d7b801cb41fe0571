"""Streams over a tokenizer: a video in pieces of any length gives what the whole gives, in memory that does not grow.

The stream object is the state; the model keeps none, so any number of streams can share one model.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.models.encoding import (
    DECODED_WHY,
    FEATURES_WHY,
    LATENTS_WHY,
    Encoding,
    check_finite,
    check_pixels,
    make_encoding,
)
from omnitok.models.protocol import StreamSize, Tokenizer

if TYPE_CHECKING:
    from omnitok.models.tokenizer import OmniTokenizer

T = TypeVar("T")


def _check_streamable(tokenizer: "OmniTokenizer") -> None:
    if not tokenizer.config.streamable:
        raise ValueError(
            "this tokenizer is not causal (released weights mix later frames into earlier ones), so it cannot stream: "
            "encode and decode the whole video, or use a model with causal=True and temporal_convolution_layout='grid'"
        )


class _Stream(ABC):
    """What streams in both directions share: one video goes through each."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._of = tokenizer
        self._finished = False

    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the stream holds between pushes."""

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("this stream was flushed; open a new one for another video")

    def _finish(self, pushed: T | None) -> T:
        """What there is of the pushes before, none of which follows."""
        if self._finished:
            raise ValueError("this stream was already flushed")
        if pushed is None:
            raise ValueError("nothing was pushed into this stream")
        self._finished = True
        return pushed


class FramesIn(_Stream):
    """Frames that arrive in pieces and wait until they fill a latent frame (the first is one by itself)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._per_latent, self._channels = tokenizer.downsample[0], tokenizer.channels
        self._waiting: Tensor | None = None  # (b, channels, < frames per latent frame, H, W)
        self._started = False

    @abstractmethod
    def _encode(self, frames: Tensor, size: tuple[int, int, int]) -> Encoding:
        """Frames (b, 3, n, H, W) that fill latent frames (maybe n = 0) -> their tokens; `size` is for the result."""

    @abstractmethod
    def _cache_nbytes(self) -> int:
        """Bytes that are held of the frames before, without those that wait."""

    @torch.no_grad()
    def push(self, frames: Tensor) -> Encoding:
        """Take frames (b, 3, n, H, W) in [-1, 1], n >= 0, and give the latent frames completed by them (maybe t = 0).

        `size` of the result is (frames it stands for, H, W).

        Raises:
            ValueError: frames of another size than before, invalid pixels, or a stream already flushed.
        """
        self._check_open()
        if not isinstance(frames, Tensor):
            raise ValueError(
                f"a stream takes a torch.Tensor of frames (b, {self._channels}, n, H, W), found {type(frames).__name__}"
            )
        if frames.ndim != 5:
            raise ValueError(f"a stream takes frames (b, {self._channels}, n, H, W), found {tuple(frames.shape)}")
        if frames.shape[2]:
            check_pixels(frames, check_range=False, channels=self._channels)
        waiting = self._waiting
        if waiting is not None and (waiting.shape[:2], waiting.shape[3:]) != (frames.shape[:2], frames.shape[3:]):
            raise ValueError(
                f"frames (b, c, n, H, W) changed from {tuple(waiting.shape)} to {tuple(frames.shape)} within one stream"
            )
        frames = frames if waiting is None else torch.cat([waiting, frames], dim=2)
        return self._take(frames, self._complete(frames.shape[2]))

    @torch.no_grad()
    def flush(self) -> Encoding:
        """Complete the last patch by repeating the last frame; the stream is then finished.

        Raises:
            ValueError: nothing was ever pushed, or flushed before.
        """
        waiting = self._finish(self._waiting)
        real = waiting.shape[2]
        if real == 0:
            return self._take(waiting, 0)
        missing = self._per_latent - real
        frames = F.pad(waiting, (0, 0, 0, 0, 0, missing), mode="replicate") if missing else waiting
        return self._take(frames, frames.shape[2], real)

    def nbytes(self) -> int:
        waiting = 0 if self._waiting is None else self._waiting.numel() * self._waiting.element_size()
        return waiting + self._cache_nbytes()

    def _complete(self, frames: int) -> int:
        """How many of the frames at hand fill patches."""
        s = self._per_latent
        if self._started:
            return frames // s * s
        return 0 if frames == 0 else 1 + (frames - 1) // s * s

    def _take(self, frames: Tensor, complete: int, real: int | None = None) -> Encoding:
        self._waiting = frames[:, :, complete:].clone()
        size = (complete if real is None else real, frames.shape[3], frames.shape[4])
        encoding = self._encode(frames[:, :, :complete], size)
        self._started = self._started or complete > 0
        return encoding


class EncoderStream(FramesIn):
    """Encodes a video as its frames arrive; made by `OmniTokenizer.encoder_stream`.

    What travels from push to push is at most t - 1 frames, two feature frames a positional convolution, and
    temporal_window - 1 frames of keys and values a temporal or joint block.

    Args:
        core: latent rows and columns, the rest of which is read and not given, as the halo of a tile.
    """

    def __init__(self, tokenizer: "OmniTokenizer", core: tuple[slice, slice] | None = None) -> None:
        _check_streamable(tokenizer)
        tokenizer.warn_if_untrained_on_videos()
        super().__init__(tokenizer)
        self._tokenizer, self._core = tokenizer, core
        self._cache = tokenizer.encoder.new_cache()

    def _cache_nbytes(self) -> int:
        return self._cache.nbytes()

    def _encode(self, frames: Tensor, size: tuple[int, int, int]) -> Encoding:
        tokenizer = self._tokenizer
        b, _, n, height, width = frames.shape
        if n == 0:
            _, h, w = tokenizer.config.latent_shape(1, height, width)
            empty = torch.empty(b, 0, h, w, tokenizer.config.width, device=tokenizer.device, dtype=tokenizer.dtype)
            empty = empty if self._core is None else empty[:, :, self._core[0], self._core[1]]
            return make_encoding(tokenizer.bottleneck.encode(empty), size, is_image=False)
        p = tokenizer.config.patch_size
        if height % p or width % p:
            frames = F.pad(frames, (0, -width % p, 0, -height % p, 0, 0), mode="replicate")
        features = tokenizer.encoder(frames.to(tokenizer.device, tokenizer.dtype), self._cache, self._core)
        check_finite(features, "features", FEATURES_WHY)
        return make_encoding(tokenizer.bottleneck.encode(features), size, is_image=False)


class LatentsIn(_Stream):
    """Latent frames that arrive in pieces, the frames that they give, and what is cropped of them.

    Args:
        size: (T, H, W) to crop to; without T, as long as it is not known, to H and W alone.
    """

    def __init__(self, tokenizer: Tokenizer, size: StreamSize = None) -> None:
        super().__init__(tokenizer)
        self._size = size
        self._frames = 0  # frames given so far
        self._shape: tuple[int, int, int] | None = None  # batch, latent height and width of the first push

    @abstractmethod
    def _decode(self, latents: Tensor, ends: bool) -> Tensor:
        """Latents (b, c, t, h, w) -> the pixels (b, 3, n, H, W) that are finished, all if it `ends`; t may be 0 then,
        where frames wait."""

    def _waits(self) -> bool:
        """Whether frames wait for the next latent frame or the end."""
        return False

    @torch.no_grad()
    def push(self, x: Tensor) -> Tensor:
        """Take codes (b, t, h, w) or latents (b, c, t, h, w), t >= 0, and give pixels (b, 3, n, H, W), not clamped.

        The very first latent frame stands for one frame, the others for t each, less what `size` crops. A frame that
        depends on the next latent frame, as of some peers, waits for it.

        Raises:
            ValueError: input of another grid than before, invalid codes, or a stream already flushed.
        """
        self._check_open()
        if not isinstance(x, Tensor):
            raise ValueError(f"a stream takes a torch.Tensor of codes or latents, found {type(x).__name__}")
        if x.is_floating_point():
            if x.ndim != 5 or x.shape[1] != self._of.latent_channels:
                raise ValueError(f"latents must be (b, {self._of.latent_channels}, t, h, w), found {tuple(x.shape)}")
            check_finite(x, "latents", LATENTS_WHY)
            latents = x
        else:
            if x.ndim != 4:
                raise ValueError(f"a stream takes codes (b, t, h, w), found {tuple(x.shape)}")
            latents = self._of.lookup_codes(x).movedim(-1, 1)
        shape = (latents.shape[0], latents.shape[3], latents.shape[4])
        if self._shape is not None and shape != self._shape:
            raise ValueError(
                f"the batch and latent grid (b, h, w) changed from {self._shape} to {shape} within one stream"
            )
        if 0 in shape:
            raise ValueError(f"there is nothing to decode: the batch and latent grid (b, h, w) is {shape}")
        self._shape = shape
        _, p_h, p_w = self._of.downsample
        full = (shape[1] * p_h, shape[2] * p_w)
        if self._size is not None and (self._size[1] > full[0] or self._size[2] > full[1]):
            raise ValueError(
                f"size {self._size} (T, H, W) is larger than {full}, the height and width of these latents"
            )
        return self._give(latents, ends=False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Finish the stream and give the frames that waited (b, 3, n, H, W), n = 0 where none ever does.

        Raises:
            ValueError: nothing was ever pushed, or flushed before.
        """
        b, h, w = self._finish(self._shape)
        return self._give(torch.empty(b, self._of.latent_channels, 0, h, w), ends=True)

    def _give(self, latents: Tensor, ends: bool) -> Tensor:
        """The pixels of latents, cropped."""
        if latents.shape[2] or (ends and self._waits()):
            pixels = self._decode(latents, ends)
        else:
            (b, _, _, h, w), (_, p_h, p_w) = latents.shape, self._of.downsample
            size = (b, self._of.channels, 0, h * p_h, w * p_w)
            pixels = torch.empty(size, device=self._of.device, dtype=self._of.dtype)
        if self._size is not None:
            frames, height, width = self._size
            left = None if frames is None else max(frames - self._frames, 0)
            pixels = pixels[:, :, :left, :height, :width]
        self._frames += pixels.shape[2]
        return pixels


class DecoderStream(LatentsIn):
    """Decodes a video as its latent frames arrive, each at once; made by `OmniTokenizer.decoder_stream`."""

    def __init__(self, tokenizer: "OmniTokenizer", size: StreamSize = None) -> None:
        _check_streamable(tokenizer)
        super().__init__(tokenizer, size)
        self._tokenizer = tokenizer
        self._cache = tokenizer.decoder.new_cache()

    def _decode(self, latents: Tensor, ends: bool) -> Tensor:
        tokenizer = self._tokenizer
        features = tokenizer.bottleneck.decode(latents.movedim(1, -1).to(tokenizer.device)).to(tokenizer.dtype)
        pixels = tokenizer.decoder(features, self._cache)
        check_finite(pixels, "decoded pixels", DECODED_WHY)
        return pixels

    def nbytes(self) -> int:
        return self._cache.nbytes()
