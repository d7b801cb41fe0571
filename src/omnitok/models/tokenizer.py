"""The tokenizer: `OmniTokenizer(encoder, bottleneck, decoder)`, one set of weights for images and videos."""

import dataclasses
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.models.autoencoder import Decoder, Encoder, TokenizerConfig
from omnitok.models.bottlenecks import Bottleneck, BottleneckOutput, build_bottleneck
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
    make_encoding,
)
from omnitok.models.protocol import LatentStatistics, StreamSize, Tokenizer
from omnitok.models.streaming import DecoderStream, EncoderStream
from omnitok.models.tiling import decode_tiles, encode_tiles
from omnitok.models.transformer import Stack

if TYPE_CHECKING:
    from omnitok.hub.publish import Published
    from omnitok.hub.reconstruct import Reconstruction, Source

__all__ = ["Autoencoding", "Encoding", "OmniTokenizer", "Publishable", "TokenizerConfig"]


@dataclass(frozen=True)
class Autoencoding:
    """A reconstruction together with what the bottleneck did, for training."""

    reconstruction: Tensor  # the input's shape; not clamped
    bottleneck: BottleneckOutput


class Publishable(ABC):
    """A tokenizer or generator that can be written as a folder, and so go onto the hub."""

    @abstractmethod
    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
    ) -> "Published":
        """Upload it to the Hugging Face hub; see `omnitok.hub.publish.push_to_hub`."""
        from omnitok.hub.publish import push_to_hub

        return push_to_hub(self, repo_id, private=private, revision=revision, commit_message=commit_message)


class OmniTokenizer(nn.Module, Publishable, Tokenizer):
    """Joint image-video tokenizer (arXiv 2406.09399).

    Args:
        encoder, decoder: built from the same `TokenizerConfig`.
        bottleneck: `VectorQuantizer` (codes), `DiagonalGaussian` (latents) or another one.

    Pixels are float in [-1, 1], an image (b, 3, H, W), a video (b, 3, T, H, W), of any size and length; where the
    architecture has other `channels`, that many stand in place of 3. Rank is preserved. It is a `Tokenizer` (see
    `omnitok.models.protocol`).

    Attributes:
        config: the architecture.
        channel_ranges: see `Tokenizer`; of the files of the last training.
        latent_statistics: mean and deviation of the latents over training data, for generators to normalise with; None
            where not measured.
        compatible_tokenizers: fingerprints of the tokenizers that this one shares encoder and bottleneck with, its
            decoder having been trained on from theirs; their codes or latents are this one's too.
        trained_on: "image", "video" or both, by all trainings up to now; empty where not known. Videos make a tokenizer
            of images alone warn, once.
    """

    def __init__(self, encoder: Encoder, bottleneck: Bottleneck, decoder: Decoder) -> None:
        super().__init__()
        if encoder.config.width != bottleneck.project_in.in_features:
            found = (encoder.config.width, bottleneck.project_in.in_features)
            raise ValueError(f"encoder and bottleneck must have the same width, found {found[0]} and {found[1]}")
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.config: TokenizerConfig = dataclasses.replace(encoder.config, bottleneck=bottleneck.config)
        self.channel_ranges: tuple[tuple[float, float], ...] = ()
        self.latent_statistics: LatentStatistics | None = None
        self.compatible_tokenizers: tuple[str, ...] = ()
        self.trained_on: tuple[str, ...] = ()
        self._has_warned = False

    @classmethod
    def from_config(cls, config: TokenizerConfig) -> "OmniTokenizer":
        """A tokenizer with fresh random weights."""
        bottleneck = build_bottleneck(config.width, config.bottleneck)
        return cls(Encoder(config), bottleneck, Decoder(config))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "OmniTokenizer":
        """A trained tokenizer in `eval` mode.

        Args:
            name_or_path: a bundled name (`omnitok.list_models()`), a folder with `config.json` and
                `model.safetensors`, a hub id, or a released `.ckpt` / reference `.safetensors`.
            device, dtype: where and how the weights are kept; the bottleneck always computes in float32.

        Raises:
            CheckpointError: missing, corrupt or foreign files, with the reason.
        """
        from omnitok.hub.folder import load_tokenizer

        return load_tokenizer(name_or_path, device=device, dtype=dtype)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write `config.json`, `model.safetensors` and `README.md` (model card; an existing one is kept)."""
        from omnitok.hub.folder import save_tokenizer

        return save_tokenizer(self, folder)

    @property
    def stacks(self) -> tuple[Stack, Stack, Stack, Stack]:
        """The stacks of blocks in the order of computation."""
        return self.encoder.spatial, self.encoder.temporal, self.decoder.temporal, self.decoder.spatial

    def limit_blocks(self, limits: Sequence[float] | None) -> None:
        """Set `TokenizerConfig.block_limits`, here and in the stacks.

        Raises:
            ValueError: not one positive number per block.
        """
        limits = None if limits is None else tuple(limits)
        for part in (self, self.encoder, self.decoder):
            part.config = dataclasses.replace(part.config, block_limits=limits)
        for number, stack in enumerate(self.stacks):
            stack.limits = self.config.limits_of(number)

    def reconstruct(self, source: "Source", tile: int | None = None) -> "Reconstruction":
        """Encode and decode an image or video as notebooks have it; `.images` of the result are PIL images.

        Args:
            source: a file's path; a PIL image or several of one size; an array of bytes (H, W, 3) or (T, H, W, 3), or
                where pixels are not in colour of numbers (…, H, W, c) in the channels' ranges; a tensor of pixels.
            tile: as in `encode`.

        Raises:
            MediaError: a file that cannot be read.
            ValueError: what is no image or video.
        """
        from omnitok.hub.reconstruct import reconstruct

        return reconstruct(self, source, tile)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.to_image.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the encoder and decoder."""
        return self.decoder.to_image.weight.dtype

    # ---------------------------------------------------------------- what it is

    @property
    def channels(self) -> int:
        """Of the pixels."""
        return self.config.channels

    @property
    def vocab_size(self) -> int | None:
        """Number of codes; None for a VAE."""
        return self.bottleneck.vocab_size

    @property
    def code_bases(self) -> tuple[int, ...]:
        """Of the digits that a code is made of, the first one counting 1."""
        return self.bottleneck.code_bases

    @property
    def latent_channels(self) -> int:
        """c, channels of the latents, of the code vectors where there are codes."""
        return self.bottleneck.latent_channels

    @property
    def bits_per_token(self) -> float:
        """Of one position of the latent grid: log2 of the number of codes, or 16 per channel of a VAE."""
        return self.bottleneck.bits_per_token

    @property
    def downsample(self) -> tuple[int, int, int]:
        """(t, h, w) pixels per latent position; the first frame is a latent frame by itself."""
        return self.config.temporal_patch_size, self.config.patch_size, self.config.patch_size

    @property
    def causal(self) -> bool:
        """Whether past frames alone decide each latent frame, so that videos can be streamed."""
        return self.config.streamable

    @property
    def tile_unit(self) -> int:
        """Pixels of the smallest tile that it can work in: one attention window."""
        return self.config.window_size * self.config.patch_size

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent grid (t, h, w) of a video of `frames` x `height` x `width` pixels; an image has frames = 1.

        >>> OmniTokenizer.from_pretrained("omnitok-tiny-vq").latent_shape(17, 128, 100)
        (5, 16, 13)
        """
        return self.config.latent_shape(frames, height, width)

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames decode to.

        >>> OmniTokenizer.from_pretrained("omnitok-tiny-vq").num_frames(5)
        17
        """
        return self.config.num_frames(latent_frames)

    def configure_bottleneck(self, config: Any) -> None:
        """Let the bottleneck learn as `config` says from now on (a codebook's decay and restarts).

        Raises:
            ValueError: `config` is of another type or shape.
        """
        now = self.bottleneck.config
        if now != dataclasses.replace(config, **{name: getattr(now, name, None) for name in config.learning}):
            raise ValueError(f"the bottleneck is {now}, which {config} does not fit")
        self.bottleneck.config = config
        self.config = dataclasses.replace(self.config, bottleneck=config)

    def __repr__(self) -> str:
        t, h, w = self.downsample
        tokens = f"{self.vocab_size} codes" if self.is_discrete else f"{self.latent_channels} latent channels"
        return describe_model(self, f"patches of {t}x{h}x{w}, {tokens}")

    # ---------------------------------------------------------------- pixels -> latents

    def encode(self, x: Tensor, tile: int | None = None, check_range: bool = True) -> Encoding:
        """Encode images (b, 3, H, W) or videos (b, 3, T, H, W) in [-1, 1].

        Args:
            tile: encode in square tiles of this many pixels (rounded down to whole attention windows) with a halo
                around them, in memory bounded by the tile. Equal to the plain call where one tile covers the input.
            check_range: refuse pixels that look like [0, 1] instead of [-1, 1]. For pixels of files, whose range is
                known, say False: a bright image is no mistake.

        Raises:
            ValueError: wrong rank, channels, dtype or range.
            NotFiniteError: pixels, or what the encoder makes of them, hold NaN or infinity.
        """
        check_pixels(x, check_range, self.channels)
        is_image = x.ndim == 4
        video = x.unsqueeze(2) if is_image else x
        size = (video.shape[2], video.shape[3], video.shape[4])
        out = self.bottleneck.encode(self._features(video, tile))
        return make_encoding(out, size, is_image)

    def _features(self, video: Tensor, tile: int | None = None) -> Tensor:
        if video.shape[2] > 1 and not self.training:
            self.warn_if_untrained_on_videos()
        padded = self._pad(video).to(self.device, self.dtype)
        features = self.encoder(padded) if tile is None else encode_tiles(self.encoder, padded, tile)
        if not self.training:  # training counts and skips such steps
            check_finite(features, "features", FEATURES_WHY)
        return features

    def warn_if_untrained_on_videos(self) -> None:
        """Say, the first time, that videos are nothing that this tokenizer knows: its results look like noise."""
        if torch.compiler.is_compiling() or self.trained_on != ("image",) or self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            "this tokenizer was trained on images only, so what it makes of videos is noise; train it on videos too "
            "(omnitok train tiny-joint --videos DIR --init MODEL) or use another one",
            stacklevel=2,
        )

    def encoder_stream(self) -> EncoderStream:
        """A stream that takes a video in pieces of any length; see `EncoderStream`."""
        return EncoderStream(self)

    # ---------------------------------------------------------------- latents -> pixels

    def decode(self, latents: Tensor, size: tuple[int, int, int] | None = None, tile: int | None = None) -> Tensor:
        """Decode latents (b, c, h, w) to images or (b, c, t, h, w) to videos, not clamped.

        Args:
            size: (T, H, W) to crop to, as in `Encoding.size`.
            tile: decode in tiles of this many pixels, blended over their halos.

        Raises:
            ValueError: wrong rank, channels or dtype; a size that the latents do not cover.
            NotFiniteError: latents, or what the decoder makes of them, hold NaN or infinity.
        """
        check_latents(latents, self.latent_channels)
        is_image = latents.ndim == 4
        grid = (latents.unsqueeze(2) if is_image else latents).permute(0, 2, 3, 4, 1)  # b t h w c
        return self._decode_grid(grid.to(self.device), is_image, size, tile)

    def decode_codes(self, codes: Tensor, size: tuple[int, int, int] | None = None, tile: int | None = None) -> Tensor:
        """Decode codes (b, h, w) to images or (b, t, h, w) to videos; other arguments as in `decode`.

        Raises:
            ValueError: a VAE, or codes of the wrong rank, dtype or range.
        """
        grid = self.lookup_codes(codes)
        is_image = codes.ndim == 3
        return self._decode_grid(grid.unsqueeze(1) if is_image else grid, is_image, size, tile)

    def decoder_stream(self, size: StreamSize = None) -> DecoderStream:
        """A stream that takes latent frames in pieces of any length and crops to `size`; see `DecoderStream`."""
        return DecoderStream(self, size)

    def lookup_codes(self, codes: Tensor) -> Tensor:
        """Code vectors of codes (b, h, w) or (b, t, h, w): (..., c), after checking rank, dtype and range.

        Raises:
            ValueError: naming what was found and what is accepted.
        """
        return self.bottleneck.lookup(check_codes(codes, self.vocab_size).to(self.device))

    def code_vectors(self) -> Tensor:
        """The latents of all codes, (vocab_size, c).

        Raises:
            ValueError: a VAE.
        """
        if self.vocab_size is None:
            raise ValueError("this tokenizer is a VAE: it has latents and no codes")
        return self.bottleneck.lookup(torch.arange(self.vocab_size, device=self.device))

    # ---------------------------------------------------------------- both

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x, of x's own shape, with the checks of `encode`."""
        check_pixels(x, channels=self.channels)
        return self.autoencode(x).reconstruction

    def autoencode(
        self,
        x: Tensor,
        quantize: bool = True,
        seeds: Sequence[int] | None = None,
        kept: Mapping[int, Tensor] = {},
    ) -> Autoencoding:
        """Reconstruction of x with the bottleneck's codes, losses and statistics; in training updates the codebook.

        Pixels are trusted to lie in [-1, 1].

        Args:
            quantize: False lets the latents of a quantizer pass as they are, for the first steps of a training.
            seeds: one per sample, of its noise and of its part in restarts of codes; None draws them.
            kept: codes (t, h, w) that samples have in place of the nearest ones, by their places; see `Bottleneck`.
        """
        is_image = x.ndim == 4
        video = x.unsqueeze(2) if is_image else x
        size = (video.shape[2], video.shape[3], video.shape[4])
        out = self.bottleneck(self._features(video), quantize, seeds, kept)
        return Autoencoding(self._decode_grid(out.latents, is_image, size, None), out)

    def _pad(self, video: Tensor) -> Tensor:
        """Replicate the last frame, row and column up to whole patches."""
        p, s = self.config.patch_size, self.config.temporal_patch_size
        frames, height, width = video.shape[2:]
        padding = (0, -width % p, 0, -height % p, 0, (1 - frames) % s)
        return F.pad(video, padding, mode="replicate") if any(padding) else video

    def _decode_grid(self, grid: Tensor, is_image: bool, size: tuple[int, int, int] | None, tile: int | None) -> Tensor:
        """grid (b, t, h, w, c) -> pixels, cropped to size."""
        t, h, w = grid.shape[1:4]
        full = (self.config.num_frames(t), h * self.config.patch_size, w * self.config.patch_size)
        if not grid.numel():
            raise ValueError(
                f"there is nothing to decode: the latent grid (t, h, w) is {(t, h, w)}, of {len(grid)} items"
            )
        crop = check_crop(size, full, is_image)
        decode: Callable[[Tensor], Tensor] = self._decode_features
        pixels = decode(grid) if tile is None else decode_tiles(decode, grid, tile, self.config)
        pixels = pixels[:, :, : crop[0], : crop[1], : crop[2]]
        return pixels.squeeze(2) if is_image else pixels

    def _decode_features(self, grid: Tensor) -> Tensor:
        pixels = self.decoder(self.bottleneck.decode(grid).to(self.dtype))
        if not self.training:
            check_finite(pixels, "decoded pixels", DECODED_WHY)
        return pixels
