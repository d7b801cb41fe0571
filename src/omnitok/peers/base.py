"""What every tokenizer of another project is here: one file per family, which `peers/__init__.py` finds.

The file of a family of released checkpoints holds

- a subclass of `PeerTokenizer`. Its constructor takes the family's `config` (plain JSON values, as `config.json` of a
  converted folder keeps them), calls `super().__init__(config, Traits(...))` and builds its layers with fresh weights;
  it also runs on the meta device, so it reads no tensor's values. It has `encode_pixels`, `decode_latents` and, for a
  quantizer, `lookup`.
- `recognises(shapes)`: whether a file that holds these weights (name -> shape, under the released names, discriminators
  and all) is of this family. It claims no other family's file, nor one of OmniTokenizer.
- `convert(state_dict, flags)`: the config, and the weights under the names of the subclass. Weights of the training
  (discriminators, losses) are left out; averaged weights are taken where the authors take them. A weight that nobody
  knows stays under its name and one that is missing stays missing: the loader lists both. Flags are what the file
  says of itself, for many nothing at all: what names and shapes tell is read from them.

It declares `FAMILY = Family(NAME, Subclass, recognises, convert)`. The file of a family that a library computes lies in
`peers/libraries` under the name that its models begin with, and declares `FAMILY = Family(NAME, Subclass, library=…)`.
Everything else is done here: pixels, codes and latents are checked, padded, cropped, moved and saved, so that what a
hook is given is valid, and on the device and in the precision of the weights.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.errors import OmnitokError
from omnitok.hub.folder import token_facts, write_model
from omnitok.hub.header import PEER
from omnitok.models.bottlenecks import GaussianPosterior
from omnitok.models.bottlenecks.kl import LATENT_BITS
from omnitok.models.encoding import (
    DECODED_WHY,
    FEATURES_WHY,
    Encoding,
    check_codes,
    check_crop,
    check_finite,
    check_latents,
    check_pixels,
    describe_model,
)
from omnitok.models.protocol import DecoderStream, EncoderStream, LatentStatistics, StreamSize, Tokenizer
from omnitok.models.tokenizer import Publishable
from omnitok.peers.frames import FrameDecoder, FrameEncoder
from omnitok.version import VERSION


@dataclass(frozen=True)
class Traits:
    """What a tokenizer is, beside its weights.

    Attributes:
        name: for messages: "VQGAN".
        latent_channels: c, of what the decoder is given (of the code vectors of a quantizer).
        downsample: (t, h, w) pixels per latent position; t is 1 for a tokenizer of images.
        vocab_size: number of codes; None without codes.
        code_bases: of the digits that a code is made of; () where it is no more than a number.
        is_video_model: it takes videos (b, 3, T, H, W) whole. Otherwise the hooks are given images (b, 3, H, W), and a
            video goes through frame by frame.
        first_frame_alone: of a video model, whether the first frame is a latent frame by itself (T = 1 + k t), so that
            it takes images too; otherwise T = k t, and images are refused.
        multiple: pixels that height and width are padded to a multiple of; None means those of `downsample`.
        frame_multiple: frames that (T - 1, or T) is padded to a multiple of; None means that of `downsample`.
        channels: of the pixels; where it is not 3, that many stand in place of 3 everywhere.
        statistics: of its latents, for generators to normalise with; a shift m and a scaling factor s are the mean m
            and the deviation 1/s.
    """

    name: str
    latent_channels: int
    downsample: tuple[int, int, int]
    vocab_size: int | None = None
    code_bases: tuple[int, ...] = ()
    is_video_model: bool = False
    first_frame_alone: bool = True
    multiple: tuple[int, int] | None = None
    frame_multiple: int | None = None
    channels: int = 3
    statistics: LatentStatistics | None = None


@dataclass(frozen=True)
class Coded:
    """What `encode_pixels` gives: latents and log-variance (b, c, h, w) or (b, c, t, h, w), codes (b, h, w) or
    (b, t, h, w). The latents of a quantizer are its code vectors, those of a Gaussian its mean."""

    latents: Tensor
    codes: Tensor | None = None
    logvar: Tensor | None = None


class PeerTokenizer(nn.Module, Publishable, Tokenizer):
    """A tokenizer of another project behind the `Tokenizer` protocol; see the top of this file.

    Here a tokenizer of images streams and one of videos does not; see `CausalPeer` for one that does.
    """

    family: str | None = None  # the name of its family, once it was loaded from a file or folder of ours

    def __init__(self, config: Mapping[str, Any], traits: Traits) -> None:
        super().__init__()
        self.config, self.traits = dict(config), traits
        self.latent_statistics = traits.statistics
        self.channel_ranges: tuple[tuple[float, float], ...] = ()
        self.compatible_tokenizers: tuple[str, ...] = ()

    # ------------------------------------------------------------------------------------------------------- hooks

    def encode_pixels(self, pixels: Tensor) -> Coded:
        """Tokens of padded pixels in [-1, 1]: (b, 3, T, H, W) for a video model, else (b, 3, H, W)."""
        raise NotImplementedError

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels of latents (b, c, t, h, w) for a video model, else (b, c, h, w); all that they decode to."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Code vectors (..., c) of valid codes (...); quantizers only."""
        raise NotImplementedError

    def pad_frames(self, video: Tensor) -> Tensor:
        """A video (b, 3, T, H, W) whose T fills latent frames: the last frame is repeated."""
        missing = self._padded_frames(video.shape[2]) - video.shape[2]
        return F.pad(video, (0, 0, 0, 0, 0, missing), mode="replicate") if missing else video

    def pad_sides(self, video: Tensor) -> Tensor:
        """A video (b, 3, T, H, W) of whole latent positions: the last row and column are repeated."""
        height, width = video.shape[3:]
        full_height, full_width = self._padded_sides(height, width)
        if (height, width) == (full_height, full_width):
            return video
        return F.pad(video, (0, full_width - width, 0, full_height - height, 0, 0), mode="replicate")

    def in_tiles(self, tile: int) -> contextlib.AbstractContextManager[None]:
        """Within it, the other hooks work in square tiles of `tile` pixels, `tile_unit` or more."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def channels(self) -> int:
        """Of the pixels."""
        return self.traits.channels

    @property
    def vocab_size(self) -> int | None:
        """Number of codes; None without codes."""
        return self.traits.vocab_size

    @property
    def code_bases(self) -> tuple[int, ...]:
        """Of the digits that a code is made of, the first one counting 1."""
        return self.traits.code_bases or (() if self.vocab_size is None else (self.vocab_size,))

    @property
    def latent_channels(self) -> int:
        """c, channels of the latents."""
        return self.traits.latent_channels

    @property
    def bits_per_token(self) -> float:
        """Log2 of the number of codes, or 16 per channel."""
        return float(LATENT_BITS * self.latent_channels) if self.vocab_size is None else math.log2(self.vocab_size)

    @property
    def downsample(self) -> tuple[int, int, int]:
        """(t, h, w) pixels per latent position."""
        return self.traits.downsample

    @property
    def causal(self) -> bool:
        """Whether videos can be streamed: a tokenizer of images codes each frame by itself."""
        return not self.traits.is_video_model

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a video of `frames` x `height` x `width` pixels; an image has frames = 1."""
        t, h, w = self.downsample
        latent_frames = math.ceil(self._padded_frames(frames) / t)
        full_height, full_width = self._padded_sides(height, width)
        return latent_frames, full_height // h, full_width // w

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames decode to."""
        t = self.downsample[0]
        return 1 + (latent_frames - 1) * t if self.traits.first_frame_alone else latent_frames * t

    def _padded_frames(self, frames: int) -> int:
        multiple = self.traits.frame_multiple or self.downsample[0]
        alone = int(self.traits.first_frame_alone)
        return alone + math.ceil((frames - alone) / multiple) * multiple

    def _padded_sides(self, height: int, width: int) -> tuple[int, int]:
        mh, mw = self.traits.multiple or self.downsample[1:]
        return math.ceil(height / mh) * mh, math.ceil(width / mw) * mw

    def __repr__(self) -> str:
        t, h, w = self.downsample
        tokens = f"{self.vocab_size} codes" if self.is_discrete else f"{self.latent_channels} latent channels"
        return describe_model(self, f"{self.traits.name}, patches of {t}x{h}x{w}, {tokens}")

    # --------------------------------------------------------------------------------------------- pixels <-> tokens

    def encode(self, x: Tensor, tile: int | None = None, check_range: bool = True) -> Encoding:
        """Tokens of images (b, 3, H, W) or videos (b, 3, T, H, W) in [-1, 1]; see `OmniTokenizer.encode`.

        Raises:
            ValueError: wrong rank, channels, dtype or range.
            OmnitokError: an image for a model of videos only, or tiles that it cannot work in.
            NotFiniteError: pixels, or what the encoder makes of them, hold NaN or infinity.
        """
        check_pixels(x, check_range, self.channels)
        is_image = x.ndim == 4
        self._check_image(is_image)
        video = x.unsqueeze(2) if is_image else x
        size = (video.shape[2], video.shape[3], video.shape[4])
        video = self.pad_sides(self.pad_frames(video))
        with self._tiles(tile, size):
            coded = self._encode(video.to(self.device, self.dtype))
        check_finite(coded.latents, "features", FEATURES_WHY)

        def rank(grid: Tensor, axis: int) -> Tensor:
            return grid.squeeze(axis) if is_image else grid

        latents = rank(coded.latents, 2)
        posterior = None if coded.logvar is None else GaussianPosterior(latents, rank(coded.logvar, 2))
        return Encoding(latents, None if coded.codes is None else rank(coded.codes, 1), posterior, size)

    def _encode(self, video: Tensor) -> Coded:
        if self.traits.is_video_model:
            return self.encode_pixels(video)
        frames = [self.encode_pixels(frame) for frame in video.unbind(2)]
        codes = [each.codes for each in frames if each.codes is not None]
        logvars = [each.logvar for each in frames if each.logvar is not None]
        return Coded(
            torch.stack([each.latents for each in frames], dim=2),
            torch.stack(codes, dim=1) if codes else None,
            torch.stack(logvars, dim=2) if logvars else None,
        )

    def decode(self, latents: Tensor, size: tuple[int, int, int] | None = None, tile: int | None = None) -> Tensor:
        """Pixels, not clamped, of latents (b, c, h, w) or (b, c, t, h, w), cropped to `size` = (T, H, W).

        Raises:
            ValueError: wrong rank, channels or dtype; a size that the latents do not cover.
            OmnitokError: an image for a model of videos only, or tiles that it cannot work in.
            NotFiniteError: latents, or what the decoder makes of them, hold NaN or infinity.
        """
        check_latents(latents, self.latent_channels)
        is_image = latents.ndim == 4
        self._check_image(is_image)
        grid = latents.unsqueeze(2) if is_image else latents
        t, h, w = grid.shape[2:]
        full = (self.num_frames(t), h * self.downsample[1], w * self.downsample[2])
        if 0 in (t, h, w):
            raise ValueError(f"there is nothing to decode: the latent grid (t, h, w) is {(t, h, w)}")
        crop = check_crop(size, full, is_image)
        with self._tiles(tile, full):
            pixels = self._decode(grid.to(self.device, self.dtype))[:, :, : crop[0], : crop[1], : crop[2]]
        check_finite(pixels, "decoded pixels", DECODED_WHY)
        return pixels.squeeze(2) if is_image else pixels

    def _decode(self, grid: Tensor) -> Tensor:
        if self.traits.is_video_model:
            return self.decode_latents(grid)
        return torch.stack([self.decode_latents(frame) for frame in grid.unbind(2)], dim=2)

    def decode_codes(self, codes: Tensor, size: tuple[int, int, int] | None = None, tile: int | None = None) -> Tensor:
        """Pixels of codes (b, h, w) or (b, t, h, w); otherwise as `decode`."""
        return self.decode(self.lookup_codes(codes).movedim(-1, 1), size, tile)

    def lookup_codes(self, codes: Tensor) -> Tensor:
        """Code vectors (..., c) of codes (b, h, w) or (b, t, h, w), after checking rank, dtype and range."""
        return self.lookup(check_codes(codes, self.vocab_size).to(self.device))

    def code_vectors(self) -> Tensor:
        """The latents of all codes, (vocab_size, c).

        Raises:
            ValueError: it has no codes.
        """
        codes = torch.arange(self.vocab_size or 0, device=self.device)
        return self.lookup(check_codes(codes[:, None, None], self.vocab_size)[:, 0, 0])

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x, of x's own shape, with the checks of `encode`."""
        encoding = self.encode(x)
        return self.decode(encoding.latents, encoding.size)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) for `load_tokenizer`.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        fields = {"family": self.family, "config": self.config, "tokens": token_facts(self)}
        return write_model(folder, PEER, fields, self.state_dict(), self._card)

    def _card(self, name: str) -> str:
        return (
            f"# {name}\n\nA {self.traits.name} tokenizer, converted by omnitok {VERSION}. Licence and training data "
            "are those of the file that it was made of.\n\n"
            '```python\nimport omnitok\n\ntokenizer = omnitok.load_tokenizer("path/to/this/folder")\n```\n'
        )

    def encoder_stream(self) -> EncoderStream:
        """A stream over the frames of a video.

        Raises:
            OmnitokError: a tokenizer of videos, where its subclass has no streams.
        """
        self._check_streams()
        return FrameEncoder(self)

    def decoder_stream(self, size: StreamSize = None) -> DecoderStream:
        """A stream over the latent frames of a video; otherwise as `encoder_stream`."""
        self._check_streams()
        return FrameDecoder(self, size)

    def _check_streams(self) -> None:
        if not self.causal:
            raise OmnitokError(f"{self.traits.name} cannot stream here: encode and decode the whole video")

    def _tiles(self, tile: int | None, size: tuple[int, int, int]) -> contextlib.AbstractContextManager[None]:
        if tile is None or tile >= max(size[1:]):
            return contextlib.nullcontext()
        if self.tile_unit is None:
            raise OmnitokError(f"{self.traits.name} cannot work in tiles; leave the tile out")
        if tile < self.tile_unit:
            raise OmnitokError(f"tiles of {self.traits.name} have at least {self.tile_unit} pixels, found {tile}")
        return self.in_tiles(tile)

    def _check_image(self, is_image: bool) -> None:
        if is_image and self.traits.is_video_model and not self.traits.first_frame_alone:
            raise OmnitokError(
                f"{self.traits.name} takes videos only, {self.downsample[0]} frames at a time; an image is none"
            )
