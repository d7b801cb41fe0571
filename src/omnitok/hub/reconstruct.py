"""A tokenizer in a notebook: from a path, a PIL image or an array to PIL images."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from omnitok.data.pil import Source, to_pil, to_pixels
from omnitok.data.pixel_format import MODES, PixelFormat, as_color
from omnitok.models.encoding import Encoding
from omnitok.models.protocol import Tokenizer

__all__ = ["Reconstruction", "Source", "reconstruct"]


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


@torch.inference_mode()
def reconstruct(tokenizer: Tokenizer, source: Source, tile: int | None = None) -> Reconstruction:
    """Encode and decode; see `OmniTokenizer.reconstruct`."""
    is_tensor = isinstance(source, Tensor)
    pixel_format = PixelFormat(tokenizer.channels, tokenizer.channel_ranges)
    encoding = tokenizer.encode(to_pixels(source, pixel_format), tile=tile, check_range=is_tensor)
    decode = tokenizer.decode_codes if encoding.codes is not None else tokenizer.decode
    pixels = decode(encoding.tokens, encoding.size, tile)
    return Reconstruction(pixels.float().clamp(-1, 1).cpu(), encoding)
