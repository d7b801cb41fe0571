"""Images and videos of notebooks (paths, PIL images, arrays) to pixels, and pixels to PIL images."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnitok.data.image import UPRIGHT, decode_image, from_uint8, read_image, to_uint8
from omnitok.data.modality import detect_modality
from omnitok.data.video_reader import read_video

Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor | Sequence[Image.Image]


def to_pixels(source: Source) -> Tensor:
    """Pixels (b, 3, H, W) of an image or (1, 3, T, H, W) of a video, float32 in [-1, 1].

    Args:
        source: a file's path; a PIL image, or several of one size (a batch); an array of bytes (H, W), (H, W, 3) or, as
            a video, (T, H, W, 3); a tensor of pixels as `encode` takes it, or without the batch: (3, H, W).

    Raises:
        MediaError: a file that cannot be read, or an image of floats or integers out of range.
        ValueError: an array that holds no bytes or has another shape, images of several sizes, or none.
    """
    if isinstance(source, Tensor):
        return source[None] if source.ndim == 3 else source
    if isinstance(source, str | os.PathLike):
        return read_video(source)[None] if detect_modality(source) == "video" else read_image(source)[None]
    if isinstance(source, np.ndarray):
        return _from_array(source)
    images = [source] if isinstance(source, Image.Image) else list(source)
    sizes = {image.size for image in images}
    if len(sizes) != 1:
        raise ValueError(f"a batch needs images of one size, found {len(sizes)} sizes")
    return torch.stack([decode_image("a PIL image", image, UPRIGHT) for image in images])


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """PIL images of pixels (3, H, W) or (b, 3, H, W), or of the frames (3, T, H, W) of a video, in [-1, 1].

    Raises:
        ValueError: another shape.
    """
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if pixels.ndim == 4 and pixels.shape[1] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(0, 1)  # a video's frames
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixels must be (3, H, W), (b, 3, H, W) or (3, T, H, W), found {tuple(pixels.shape)}")
    return [Image.fromarray(to_uint8(image)) for image in pixels]


def _from_array(array: np.ndarray) -> Tensor:
    if array.dtype != np.uint8:
        raise ValueError(f"an array of pixels must hold bytes (uint8), found {array.dtype}")
    array = np.repeat(array[..., None], 3, axis=-1) if array.ndim == 2 else array
    if array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise ValueError(f"an array of pixels must be (H, W), (H, W, 3) or (T, H, W, 3), found {array.shape}")
    pixels = torch.stack([from_uint8(torch.from_numpy(image.copy())) for image in array.reshape(-1, *array.shape[-3:])])
    return pixels if array.ndim == 3 else pixels.transpose(0, 1)[None]
