"""Pictures and animations through Pillow: files to float tensors and back."""

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

from omnitok.atomic import atomic_path
from omnitok.errors import MediaError

MAX_PIXELS = 2**28
"""Largest picture read by default: 268 megapixels, 3.2 GB as float32."""

_ANIMATED_FORMATS = {"GIF", "WEBP", "PNG", "AVIF"}  # TIFF and MPO have pages, not frames of a clip
_WRITERS = {
    ".png": ("PNG", {"compress_level": 4}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95, "method": 4}),
}
# Everything Pillow raises for damaged or hostile files; it has no common base.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_limit_lock = threading.Lock()


def require_file(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path to a readable file that is not empty.

    Raises:
        MediaError: it is missing, a folder, empty or may not be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise MediaError(f"{path}: is a folder; a picture or clip is wanted") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error})") from error
    if is_empty:
        raise MediaError(f"{path}: the file is empty (0 bytes)")
    return path


def open_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image | None:
    """The file opened by Pillow (header only), or None if it is in no format that Pillow knows.

    Raises:
        MediaError: the picture has more than `max_pixels` pixels or a damaged header.
    """
    try:
        # Pillow's own bound is one global that refuses 180 megapixels; ours is per call.
        with _limit_lock:
            bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = bound
    except UnidentifiedImageError:
        return None
    except _DECODING_ERRORS as error:
        raise MediaError(f"{path}: cannot be read as a picture ({error})") from error
    if picture.width * picture.height > max_pixels:
        size = f"{picture.width}x{picture.height}"
        picture.close()
        raise MediaError(f"{path}: {size} is more than max_pixels={max_pixels}; give a larger max_pixels to read it")
    return picture


def is_animated(path: Path, picture: Image.Image) -> bool:
    """Whether the file holds several frames of a clip (not merely several pages)."""
    return picture.format in _ANIMATED_FORMATS and _frame_count(path, picture) > 1


def _frame_count(path: Path, picture: Image.Image) -> int:
    try:
        count = int(getattr(picture, "n_frames", 1))  # only the formats that can have several define it
    except _DECODING_ERRORS as error:
        raise MediaError(f"{path}: the animation is damaged or incomplete ({error})") from error
    return count - 1 if picture.format == "PNG" and picture.info.get("default_image") else count


def read_image(path: str | os.PathLike[str], size: int | None = None, *, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """Read a picture in any format that Pillow knows; of an animation the first frame.

    EXIF orientation is applied, transparency composited over white; palette, grey, 1-bit, CMYK and YCbCr become RGB
    (CMYK and Lab through the embedded ICC profile where there is one; RGB profiles are not applied). 16-bit grey is
    scaled by 1/65535, not clipped; 16-bit colour has 8 bits left after Pillow.

    Args:
        path: the file.
        size: if given, the largest centre square is cut out and resized to (size, size), bicubic and antialiased.
        max_pixels: bound against decompression bombs.

    Returns:
        float32 (3, H, W) in [-1, 1].

    Raises:
        MediaError: missing, empty, unreadable, not a picture, damaged, or larger than `max_pixels`.
    """
    path = require_file(path)
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    picture = open_picture(path, max_pixels)
    if picture is None:
        raise MediaError(f"{path}: not a picture in a format that Pillow reads")
    with picture:
        pixels = decode_picture(path, picture)
    return pixels if size is None else _centre_square(pixels, size)


def decode_picture(path: Path, picture: Image.Image) -> torch.Tensor:
    """The current frame of an opened picture as float32 (3, H, W) in [-1, 1]."""
    try:
        picture.load()
        return _to_tensor(path, _upright(picture))
    except _DECODING_ERRORS as error:
        raise MediaError(f"{path}: the picture is damaged or incomplete ({error})") from error


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except _DECODING_ERRORS:  # damaged EXIF does not make the pixels unreadable
        return picture


def _to_tensor(path: Path, picture: Image.Image) -> torch.Tensor:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep_grey(path, picture)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, rgba)
    elif picture.mode in ("CMYK", "LAB"):
        picture = _through_profile(picture)
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))  # (H, W, 3) uint8
    return from_bytes(pixels)


def _deep_grey(path: Path, picture: Image.Image) -> torch.Tensor:
    """Grey of more than 8 bits; Pillow's own conversion to RGB clips it at 255."""
    grey = torch.from_numpy(np.array(picture).astype(np.float32))  # (H, W)
    low, high = grey.min().item(), grey.max().item()
    if picture.mode == "F":
        if not 0 <= low <= high <= 1:  # also refuses NaN
            raise MediaError(f"{path}: float pixels span [{low:g}, {high:g}]; only [0, 1] is understood")
        scale = 1.0
    elif low >= 0 and high <= 65535:
        scale = 65535.0
    else:
        raise MediaError(f"{path}: integer pixels span [{low:g}, {high:g}]; only 16-bit [0, 65535] is understood")
    key = picture.info.get("transparency")
    if isinstance(key, int):
        grey = torch.where(grey == key, scale, grey)
    return (grey * (2 / scale) - 1).expand(3, -1, -1).contiguous()


def _through_profile(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except ImageCms.PyCMSError:
            pass  # a broken profile must not lose the picture
    return picture.convert("RGB")


def _centre_square(pixels: torch.Tensor, size: int) -> torch.Tensor:
    _, height, width = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[None, :, top : top + side, left : left + side]  # (1, 3, side, side)
    resized = torch.nn.functional.interpolate(square, size=(size, size), mode="bicubic", antialias=True)
    return resized[0].clamp(-1, 1)


def from_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in [-1, 1]."""
    return pixels.permute(2, 0, 1).contiguous().float().mul_(2 / 255).sub_(1)


def to_bytes(pixels: torch.Tensor) -> np.ndarray:
    """Float (3, H, W) in [-1, 1] to uint8 (H, W, 3), clamped and rounded to the nearest."""
    scaled = pixels.detach().cpu().float().add(1).mul_(127.5).round_().clamp_(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def check_pixels(x: torch.Tensor, shape: str) -> None:
    """Raise ValueError unless `x` is finite float, of the rank in `shape` such as "(3, H, W)", and roughly in [-1, 1].

    What a decoder overshoots by is clamped when written; what can only be another range (0 to 255) is refused.
    """
    rank = shape.count(",") + 1
    if x.ndim != rank or x.shape[0] != 3 or min(x.shape[-2:]) < 1:
        raise ValueError(f"pixels must have the shape {shape}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"pixels must be float in [-1, 1], got {x.dtype}; convert bytes by x / 127.5 - 1")
    if x.numel() and not torch.isfinite(x).all():
        raise ValueError("pixels must be finite, got NaN or infinity")
    if x.numel() and x.abs().max() > 16:
        raise ValueError(f"pixels must be in [-1, 1], got values up to {x.abs().max().item():g}")


def write_image(path: str | os.PathLike[str], x: torch.Tensor) -> None:
    """Write a picture as PNG, JPEG (quality 95, no chroma subsampling) or WebP, chosen by the suffix.

    Args:
        path: ends in .png, .jpg, .jpeg or .webp; missing folders are made, an existing file is replaced at the end.
        x: float (3, H, W) in [-1, 1]; clamped and rounded to 8 bits.

    Raises:
        MediaError: an unknown suffix, or the file cannot be written (then nothing is left under its name).
        ValueError: `x` has another shape, type or range.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise MediaError(
            f"{path}: pictures are written as {', '.join(_WRITERS)}, not {path.suffix or 'without suffix'!r}"
        )
    check_pixels(x, "(3, H, W)")
    file_format, options = _WRITERS[path.suffix.lower()]
    try:
        with atomic_path(path) as temporary:
            Image.fromarray(to_bytes(x)).save(temporary, format=file_format, **options)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


class AnimatedPicture:
    """A picture file as a clip: every frame of a GIF, animated WebP, APNG or AVIF, or the one frame of a still.

    Frames have their own durations; one of 10 ms or less counts as 100 ms, as browsers do.
    """

    has_audio = False

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.path = path
        self._max_pixels = max_pixels
        with self._open() as picture:
            self.is_still = not is_animated(self.path, picture)
            self.frame_count: int | None = 1 if self.is_still else _frame_count(path, picture)
            first = decode_picture(path, next(self._frames(picture)))
            self.height, self.width = first.shape[-2:]
            seconds = 1.0 if self.is_still else self._total_duration(picture)
        self.duration: float | None = seconds
        self.fps = self.frame_count / seconds

    def _open(self) -> Image.Image:
        picture = open_picture(self.path, self._max_pixels)
        if picture is None:
            raise MediaError(f"{self.path}: not a picture in a format that Pillow reads")
        return picture

    def _frames(self, picture: Image.Image) -> Iterator[Image.Image]:
        if not is_animated(self.path, picture):
            yield picture
            return
        for index, frame in enumerate(ImageSequence.Iterator(picture)):
            if index == 0 and picture.format == "PNG" and picture.info.get("default_image"):
                continue  # the stand-in that an APNG shows where animation is not understood
            yield frame

    def _total_duration(self, picture: Image.Image) -> float:
        try:
            return sum(_duration(frame) for frame in self._frames(picture))
        except _DECODING_ERRORS as error:
            raise MediaError(f"{self.path}: the animation is damaged or incomplete ({error})") from error

    def decode(self, start: float) -> Iterator[tuple[float, float, torch.Tensor]]:
        """(time, duration, float32 (3, H, W)) of every frame; frames that end before `start` seconds are left out."""
        with self._open() as picture:
            time = 0.0
            frames = self._frames(picture)
            while True:
                try:
                    frame = next(frames)
                except StopIteration:
                    return
                except _DECODING_ERRORS as error:
                    raise MediaError(f"{self.path}: the animation is damaged at {time:.2f} s ({error})") from error
                duration = 1.0 if self.is_still else _duration(frame)
                if time + duration > start:
                    yield time, duration, decode_picture(self.path, frame)
                time += duration

    def to_pixels(self, frame: torch.Tensor) -> torch.Tensor:
        """The frame as float32 (3, H, W) in [-1, 1]: already so."""
        return frame


def _duration(frame: Image.Image) -> float:
    if frame.format == "WEBP" or frame.format == "AVIF":
        frame.load()  # their durations are known only after decoding
    milliseconds = float(frame.info.get("duration", 0))
    return (milliseconds if milliseconds > 10 else 100.0) / 1000
