"""What the rest of the house may ask of a tokenizer, ours or another project's."""

import hashlib
import os
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from pydantic import model_validator
from torch import Tensor, nn

from omnitok.checked import NotNegative, checked
from omnitok.models.encoding import Encoding

StreamSize = tuple[int | None, int, int] | None
"""(T, H, W) that the pixels of a stream are cropped to; T is None where it is not known."""


@checked
class LatentStatistics:
    """Mean and standard deviation of each latent channel over training data, for generators to normalise with."""

    mean: tuple[float, ...]
    std: tuple[NotNegative, ...]

    @model_validator(mode="after")
    def _check(self) -> "LatentStatistics":
        if len(self.mean) != len(self.std):
            raise ValueError(f"as many means as deviations are needed, found {len(self.mean)} and {len(self.std)}")
        return self


class EncoderStream(Protocol):
    """Takes a video as its frames arrive; the stream holds the state."""

    def push(self, frames: Tensor) -> Encoding:
        """Frames (b, 3, n, H, W) in [-1, 1], n >= 0 -> the latent frames that they complete (maybe t = 0)."""
        ...

    def flush(self) -> Encoding:
        """The rest, the last frame repeated to fill a patch."""
        ...


class DecoderStream(Protocol):
    """Takes latent frames as they arrive; the stream holds the state."""

    def push(self, x: Tensor) -> Tensor:
        """Codes (b, t, h, w) or latents (b, c, t, h, w) -> pixels (b, 3, n, H, W)."""
        ...

    def flush(self) -> Tensor:
        """What is left (maybe n = 0)."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Pixels to tokens and back. Pixels are float in [-1, 1]: images (b, 3, H, W), videos (b, 3, T, H, W).

    Attributes:
        channels: of the pixels; where it is not 3, that many stand in place of 3 everywhere.
        channel_ranges: the values (low, high) in files that are -1 and 1 of each channel, or one pair for all; empty
            where they are all that whole numbers of the files' type can say.
        is_discrete: whether its tokens are codes; else they are latents.
        vocab_size: number of codes; None without codes.
        code_bases: of the digits that a code is made of, the first one counting 1, whose product is `vocab_size`; one
            where a code is no more than a number, and none without codes.
        latent_channels: c, channels of the latents (of the code vectors where there are codes).
        bits_per_token: of one position of the latent grid, as it is stored.
        downsample: (t, h, w) pixels per latent position; the first frame is a latent frame by itself.
        causal: whether past frames alone decide each latent frame, so that videos can be streamed.
        latent_statistics: of the latents over training data; None where not measured.
        compatible_tokenizers: fingerprints of other tokenizers whose tokens are this one's too.
        fingerprint: SHA-256 of its weights, which tells whose tokens are whose.
        tile_unit: pixels of the smallest tile that it can work in; None where it has no tiles.
        device, dtype: of its weights.
    """

    channel_ranges: tuple[tuple[float, float], ...]
    latent_statistics: LatentStatistics | None
    compatible_tokenizers: tuple[str, ...]

    @property
    def channels(self) -> int: ...
    @property
    def is_discrete(self) -> bool:
        """Whether its tokens are codes; else they are latents."""
        return self.vocab_size is not None

    @property
    def vocab_size(self) -> int | None: ...
    @property
    def code_bases(self) -> tuple[int, ...]: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def bits_per_token(self) -> float: ...
    @property
    def downsample(self) -> tuple[int, int, int]: ...
    @property
    def causal(self) -> bool: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights as they are now, in their present precision."""
        assert isinstance(self, nn.Module), "other tokenizers have their own"
        return fingerprint(self)

    @property
    def tile_unit(self) -> int | None:
        """Pixels of the smallest tile that it can work in; None where it has no tiles."""
        return None

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the weights, and convert them to another precision; as `nn.Module.to`."""
        ...

    def eval(self) -> Self:
        """Leave the mode of training; as `nn.Module.eval`."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Whether its weights are trained; as `nn.Module.requires_grad_`."""
        ...

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder that `omnitok.load_tokenizer` takes."""
        ...

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a video of `frames` x `height` x `width` pixels; an image has frames = 1."""
        ...

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames decode to."""
        ...

    def encode(self, x: Tensor, tile: int | None = None, check_range: bool = True) -> Encoding:
        """Tokens of images or videos of any size."""
        ...

    def decode(self, latents: Tensor, size: tuple[int, int, int] | None = None, tile: int | None = None) -> Tensor:
        """Pixels of latents (b, c, h, w) or (b, c, t, h, w), cropped to `size` = (T, H, W)."""
        ...

    def decode_codes(self, codes: Tensor, size: tuple[int, int, int] | None = None, tile: int | None = None) -> Tensor:
        """Pixels of codes (b, h, w) or (b, t, h, w), cropped to `size` = (T, H, W)."""
        ...

    def lookup_codes(self, codes: Tensor) -> Tensor:
        """Code vectors (..., c) of codes (b, h, w) or (b, t, h, w)."""
        ...

    def code_vectors(self) -> Tensor:
        """The latents of all codes, (vocab_size, c)."""
        ...

    def encoder_stream(self) -> EncoderStream:
        """A stream over the frames of a video."""
        ...

    def decoder_stream(self, size: StreamSize = None) -> DecoderStream:
        """A stream over the latent frames of a video."""
        ...


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of all weights and buffers: written beside tokens, to tell models."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        contiguous = tensor.detach().cpu().contiguous()
        digest.update(contiguous.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
