"""Images and videos of notebooks (paths, PIL images, arrays) to pixels, and pixels to PIL images."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnitok.data.arrays import scaled
from omnitok.data.image import UPRIGHT, decode_image, from_uint8, read_image, to_pillow
from omnitok.data.modality import detect_modality
from omnitok.data.pixel_format import MODES, RGB, PixelFormat
from omnitok.data.video_reader import read_video

Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor | Sequence[Image.Image]


def to_pixels(source: Source, pixel_format: PixelFormat = RGB) -> Tensor:
    """Pixels (b, c, H, W) of an image or (1, c, T, H, W) of a video, float32 in [-1, 1].

    Args:
        source: a file's path; a PIL image, or several of one size (a batch); an array of bytes (H, W), (H, W, c) or, as
            a video, (T, H, W, c), for other channels than colour or where there are ranges also of other numbers; a
            tensor of pixels as `encode` takes it, or without the batch: (c, H, W).
        pixel_format: channels and ranges of the pixels; of arrays as of `.npy` files.

    Raises:
        MediaError: a file that cannot be read, or an image that cannot have the channels, or of floats or integers out
            of range.
        ValueError: an array that holds no bytes or has another shape, images of several sizes, or none.
    """
    if isinstance(source, Tensor):
        return source[None] if source.ndim == 3 else source
    if isinstance(source, str | os.PathLike):
        read = read_video if detect_modality(source) == "video" else read_image
        return read(source, pixel_format=pixel_format)[None]
    if isinstance(source, np.ndarray):
        return _from_array(source, pixel_format)
    pixel_format.check_ordinary("a PIL image")
    images = [source] if isinstance(source, Image.Image) else list(source)
    sizes = {image.size for image in images}
    if len(sizes) != 1:
        raise ValueError(f"a batch needs images of one size, found {len(sizes)} sizes")
    return torch.stack([decode_image("a PIL image", image, UPRIGHT, pixel_format) for image in images])


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """PIL images of pixels (3, H, W) or (b, 3, H, W), or of the frames (3, T, H, W) of a video, in [-1, 1].

    Grey (1, H, W) and alpha (4, H, W) are taken too, and batches of them: then the frames of a video come one by one.

    Raises:
        ValueError: another shape.
    """
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if pixels.ndim == 4 and pixels.shape[1] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(0, 1)  # a video's frames
    if pixels.ndim != 4 or pixels.shape[1] not in MODES:
        raise ValueError(
            f"pixels must be (3, H, W), (b, 3, H, W) or (3, T, H, W), or of 1 or 4 channels, found "
            f"{tuple(pixels.shape)}"
        )
    return [to_pillow(image) for image in pixels]


def token_colours(vectors: Tensor, spread: Tensor) -> Tensor:
    """Latents or code vectors as colours: what is alike looks alike.

    Red, green and blue are the three principal components of `spread`, each from -2 to 2 standard deviations.

    Args:
        vectors: float32 (h, w, c).
        spread: (n, c) vectors that colours are to tell apart: all of a codebook, or those of an image.

    Returns:
        (3, h, w) in [-1, 1].
    """
    mean = spread.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov((spread - mean).T, correction=0).reshape(len(mean), -1))
    # Largest first; an eigenvector's sign is any, so its largest component is made positive.
    variance, directions = variance.flip(0)[:3], directions.flip(1)[:, :3]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign() / (2 * variance.clamp_min(1e-12).sqrt())
    colours = torch.zeros(3, *vectors.shape[:2])
    colours[: directions.shape[1]] = ((vectors - mean) @ directions).permute(2, 0, 1)
    return colours.clamp(-1, 1)


def _from_array(array: np.ndarray, pixel_format: PixelFormat) -> Tensor:
    channels, are_bytes = pixel_format.channels, array.dtype == np.uint8
    if not are_bytes and not pixel_format.has_arrays:
        raise ValueError(f"an array of pixels must hold bytes (uint8), found {array.dtype}")
    array = np.repeat(array[..., None], channels, axis=-1) if array.ndim == 2 and channels in (1, 3) else array
    if array.ndim not in (3, 4) or array.shape[-1] != channels or array.dtype.kind not in "uif":
        grey = "(H, W), " if channels in (1, 3) else ""
        wanted = f"{grey}(H, W, {channels}) or (T, H, W, {channels})"
        raise ValueError(f"an array of pixels must be {wanted}, found {array.dtype} {array.shape}")
    if are_bytes and not pixel_format.ranges:
        frames = [from_uint8(torch.from_numpy(image.copy())) for image in array.reshape(-1, *array.shape[-3:])]
        pixels = torch.stack(frames, dim=1)
    else:
        pixels = scaled(Path("an array"), array.reshape(-1, *array.shape[-3:]), pixel_format.ranges)
    return pixels.transpose(0, 1) if array.ndim == 3 else pixels[None]
