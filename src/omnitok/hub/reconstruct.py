"""A tokenizer in a notebook: from a path, a PIL image or an array to PIL images."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from omnitok.data.pil import Source, to_pil, to_pixels, token_colours
from omnitok.data.pixel_format import MODES, PixelFormat, as_color
from omnitok.models.encoding import Encoding
from omnitok.models.protocol import Tokenizer

__all__ = ["Reconstruction", "Source", "reconstruct"]

_SHOWN = 8
"""Images of a batch, or latent frames of a video, that a notebook shows."""

_SIDE = 512
"""Pixels of the longest side that it shows them with."""

_MILLISECONDS = 100
"""For which it shows a frame: what a video was read from says more, but is not known here."""


@dataclass(frozen=True)
class Reconstruction:
    """What `OmniTokenizer.reconstruct` gives.

    Attributes:
        pixels: (b, c, H, W) or (1, c, T, H, W), float32 in [-1, 1], on the CPU.
        encoding: the tokens in between.
    """

    pixels: Tensor
    encoding: Encoding

    @property
    def images(self) -> list[Image.Image]:
        """The images of a batch, or the frames of a video; of other channels than 1, 3 and 4 the first three."""
        images = self.pixels if self.pixels.ndim == 4 else self.pixels[0].transpose(0, 1)
        return [to_pil(image if len(image) in MODES else as_color(image))[0] for image in images]

    def __repr__(self) -> str:
        return f"Reconstruction(pixels={tuple(self.pixels.shape)}, {self.encoding!r})"

    def _repr_html_(self) -> str:
        """For notebooks: the images, or the video, above their tokens; similar tokens have similar colors."""
        caption = html.escape(repr(self))
        if self.pixels.shape[1] not in MODES or not self.pixels.numel():
            return caption
        is_video = self.pixels.ndim == 5
        grids = self.encoding.latents[0].movedim(1, 0) if is_video else self.encoding.latents  # n c h w
        vectors = grids.detach().float().cpu().permute(0, 2, 3, 1)
        spread = vectors.flatten(0, 2)
        tokens = [to_pil(token_colours(each, spread))[0] for each in vectors[:_SHOWN]]
        shown = [_image(self.images)] if is_video else [_image([each]) for each in self.images[:_SHOWN]]
        coded = [_image([each], "image-rendering: pixelated; width: 96px") for each in tokens]
        return f"<div>{''.join(shown)}</div><div>{''.join(coded)}</div><div><code>{caption}</code></div>"


@torch.inference_mode()
def reconstruct(tokenizer: Tokenizer, source: Source, tile: int | None = None) -> Reconstruction:
    """Encode and decode; see `OmniTokenizer.reconstruct`."""
    is_tensor = isinstance(source, Tensor)
    pixel_format = PixelFormat(tokenizer.channels, tokenizer.channel_ranges)
    encoding = tokenizer.encode(to_pixels(source, pixel_format), tile=tile, check_range=is_tensor)
    decode = tokenizer.decode_codes if encoding.codes is not None else tokenizer.decode
    pixels = decode(encoding.tokens, encoding.size, tile)
    return Reconstruction(pixels.float().clamp(-1, 1).cpu(), encoding)


def _image(frames: Sequence[Image.Image], style: str = "") -> str:
    """An image, or an animation of several frames, as an element of HTML that holds it."""
    small = [frame.copy() for frame in frames]
    for frame in small:
        frame.thumbnail((_SIDE, _SIDE))
    kind, buffer = "png" if len(small) == 1 else "gif", io.BytesIO()
    if kind == "png":
        small[0].save(buffer, "png")
    else:
        small[0].save(buffer, "gif", save_all=True, append_images=small[1:], duration=_MILLISECONDS, loop=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img style="margin: 2px; {style}" src="data:image/{kind};base64,{data}">'
