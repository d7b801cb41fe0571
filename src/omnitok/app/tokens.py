"""What the tabs of tokenizers do: pixels through a tokenizer and back, its tokens as an image, and tokens exchanged."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.data.pil import token_colours
from omnitok.metrics.drawing import error_map
from omnitok.metrics.frame_quality import FrameQuality
from omnitok.metrics.samples import to_uint8
from omnitok.models.protocol import Tokenizer
from omnitok.tokenization.coding import (
    bits_per_pixel,
    decode,
    decode_video,
    encode,
    encode_video,
    frames_at_once,
    time_axis,
    token_count,
)

LONGEST_SIDE = 512
"""Pixels of an image of tokens, each of which is a square."""

Change = Literal["replace", "shuffle", "swap"]


@dataclass(frozen=True)
class Grid:
    """An image as tokens.

    Attributes:
        tokens: codes (1, h, w) or latents (1, c, h, w).
        size: (H, W) of the image.
    """

    tokens: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Reconstruction:
    """What a tokenizer made of an image or video.

    Attributes:
        pixels: of the original's shape, in [-1, 1].
        tokens: codes (1, …) or latents (1, c, …).
        count, bits_per_pixel, psnr, ssim: of all frames; the last two are their means.
    """

    pixels: Tensor
    tokens: Tensor
    count: int
    bits_per_pixel: float
    psnr: float
    ssim: float


@torch.inference_mode()
def reconstruct(tokenizer: Tokenizer, pixels: Tensor) -> Reconstruction:
    """An image (3, H, W), or a video (3, T, H, W), which is streamed, through the tokenizer and back."""
    size = (pixels.shape[-2], pixels.shape[-1])
    if pixels.ndim == 3:
        tokens = encode(tokenizer, pixels[None])
        result = decode(tokenizer, tokens, size, None)[0]
    else:
        parts = list(encode_video(tokenizer, pixels.split(frames_at_once(tokenizer, *size, None), dim=1), None))
        result = torch.cat(list(decode_video(tokenizer, parts, size, None)), dim=1)[:, : pixels.shape[1]]
        tokens = torch.cat(parts, dim=time_axis(parts[0]))
    quality = FrameQuality()
    quality.add(_frames(pixels), _frames(result))
    length = (_frames(pixels).shape[1], *size)
    figures = (token_count(tokenizer, *length), bits_per_pixel(tokenizer, *length), quality.psnr, quality.ssim)
    return Reconstruction(result, tokens, *figures)


def error_of(original: Tensor, result: Tensor) -> Tensor:
    """Where an image (3, H, W) differs from another, as one in [-1, 1]."""
    return error_map(to_uint8(original)[:, None], to_uint8(result)[:, None])[:, 0].float() / 127.5 - 1


@torch.inference_mode()
def draw(tokenizer: Tokenizer, tokens: Tensor, frame: int = 0) -> Tensor:
    """The tokens (1, …) of an image, or those of one frame of a video, as an image (3, H', W') in [-1, 1].

    Similar tokens have similar colours: see `token_colours`.
    """
    is_latent = tokens.is_floating_point()
    if tokens.ndim == (5 if is_latent else 4):
        first = tokenizer.latent_shape(frame + 1, *tokenizer.downsample[1:])[0] - 1
        tokens = tokens.select(time_axis(tokens), min(first, tokens.shape[time_axis(tokens)] - 1))
    if is_latent:
        vectors = tokens[0].permute(1, 2, 0)  # h w c
        spread = vectors.flatten(0, 1)
    else:
        vectors, spread = tokenizer.lookup_codes(tokens)[0], tokenizer.code_vectors()
    colours = token_colours(vectors.float().cpu(), spread.float().cpu())
    scale = max(1, LONGEST_SIDE // max(colours.shape[1:]))
    return colours.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


@torch.inference_mode()
def tokenize(tokenizer: Tokenizer, image: Tensor) -> Grid:
    """The tokens of an image (3, H, W)."""
    return Grid(encode(tokenizer, image[None]), (image.shape[1], image.shape[2]))


@torch.inference_mode()
def to_image(tokenizer: Tokenizer, grid: Grid) -> Tensor:
    """The image (3, H, W) of tokens."""
    return decode(tokenizer, grid.tokens, grid.size, None)[0]


def chosen_tokens(painted: Tensor, grid: Grid) -> Tensor:
    """Which tokens, bool (h, w), were touched by paint, bool (H', W') over the image of all tokens."""
    return F.adaptive_max_pool2d(painted[None].float(), grid.tokens.shape[-2:])[0] > 0


def change(
    tokenizer: Tokenizer, grid: Grid, chosen: Tensor, how: Change, value: float = 0, other: Grid | None = None
) -> tuple[Grid, Grid | None]:
    """The grid with other tokens where `chosen`, bool (h, w), says so, and what became of the other grid.

    Args:
        how: "replace" puts the code `value` (of latents: the number, in all channels) there; "shuffle" exchanges the
            chosen tokens among themselves, by the seed `value`; "swap" exchanges them with those of the other grid.

    Raises:
        ValueError: no token is chosen, there is no such code, or no other grid of the same size.
    """
    if not chosen.any():
        raise ValueError("paint on the tokens that are to change first")
    tokens = grid.tokens.clone()
    if how == "replace":
        codes = tokenizer.vocab_size
        if codes is not None and not (value == int(value) and 0 <= value < codes):
            raise ValueError(f"a code is a whole number from 0 to {codes - 1}, found {value:g}")
        if not math.isfinite(value):
            raise ValueError(f"a latent is a finite number, found {value}")
        tokens[..., chosen] = value
        return replace(grid, tokens=tokens), other
    if how == "shuffle":
        order = torch.randperm(int(chosen.sum()), generator=torch.Generator().manual_seed(int(value)))
        tokens[..., chosen] = tokens[..., chosen][..., order]
        return replace(grid, tokens=tokens), other
    if other is None or other.tokens.shape != tokens.shape:
        found = "none" if other is None else f"{other.size[1]}x{other.size[0]}"
        raise ValueError(f"swapping needs a second image of {grid.size[1]}x{grid.size[0]} pixels, found {found}")
    theirs = other.tokens.clone()
    tokens[..., chosen], theirs[..., chosen] = other.tokens[..., chosen], grid.tokens[..., chosen]
    return replace(grid, tokens=tokens), replace(other, tokens=theirs)


def _frames(pixels: Tensor) -> Tensor:
    return pixels if pixels.ndim == 4 else pixels[:, None]
