"""Images and animations through Pillow: files to float tensors and back."""

import functools
import io
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError

from omnitok.atomic import atomic_path
from omnitok.data.arrays import ARRAY_SUFFIXES, TIFF_SUFFIXES, ArrayImage, numbers_of, scaled, write_image_array
from omnitok.data.pixel_format import MODES, RGB, PixelFormat, Ranges, as_color
from omnitok.data.transforms import Box, center_square, crop, resize
from omnitok.errors import MediaError, OmnitokError, reading, writing
from omnitok.files import localize, require_regular
from omnitok.limits import MAX_PIXELS, Limit

IMAGE_SUFFIXES = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
        *(".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    }
)
"""Suffixes under which images are found in folders (some of them may be animated)."""

# Pillow's decoders that run other programs, only recognize a format, or take a video for an image.
_REFUSED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_ANIMATED_FORMATS = {"GIF", "WEBP", "PNG", "AVIF"}  # TIFF and MPO have pages, not the frames of a video
_WRITERS = {
    ".png": ("PNG", {"compress_level": 4}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95, "method": 4}),
}
WRITTEN_IMAGE_SUFFIXES = frozenset(_WRITERS) | ARRAY_SUFFIXES
"""Suffixes that `write_image` writes."""

_LARGE = 2**22  # pixels from which an image is made smaller as bytes; below, floats cost little and round nothing
_REDUCED_TIMES = 8  # as many pixels as `MAX_PIXELS` may such an image have
_STRIP_PIXELS = 2**22  # converted at a time
_LEAST_SIDE = 32  # pixels that a row or column costs at least
# EXIF orientation (EXIF 2.3, tag 0x0112) -> how an image is shown: turned by, and the rows and columns exchanged,
# then mirrored, that lead from shown to stored places.
_ORIENTATION_TAG, _PHOTOMETRIC_TAG = 0x0112, 262
_Turn = tuple[Image.Transpose | None, bool, bool, bool]
UPRIGHT: _Turn = (None, False, False, False)
_TURNS: dict[int, _Turn] = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, False, False, True),
    3: (Image.Transpose.ROTATE_180, False, True, True),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, True, False),
    5: (Image.Transpose.TRANSPOSE, True, False, False),
    6: (Image.Transpose.ROTATE_270, True, True, False),
    7: (Image.Transpose.TRANSVERSE, True, True, True),
    8: (Image.Transpose.ROTATE_90, True, False, True),
}
_limit_lock = threading.Lock()


def require_file(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path to a regular file that is not empty.

    Raises:
        MediaError: it is missing, empty, a folder, a pipe or a device, or may not be read.
    """
    path = localize(path)
    require_regular(path, "an image or video")
    if not path.stat().st_size:
        raise MediaError(f"{path}: the file is empty (0 bytes)")
    return path


def open_image(path: Path) -> Image.Image | None:
    """The file opened by Pillow (header only), or None if it is in no format that Pillow knows.

    Raises:
        MediaError: a damaged header.
    """
    with reading(path, MediaError, "image"), _limit_lock:
        # Pillow's own bound is one global that refuses 180 megapixels; ours is `MAX_PIXELS`.
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_formats())
        except UnidentifiedImageError:
            return None
        finally:
            Image.MAX_IMAGE_PIXELS = bound


def require_image(path: Path) -> Image.Image:
    """The file opened by Pillow.

    Raises:
        MediaError: a damaged header, or a format that Pillow does not know.
    """
    if (image := open_image(path)) is None:
        raise MediaError(f"{path}: not an image in a format that Pillow reads")
    return image


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


def is_animated(path: Path, image: Image.Image) -> bool:
    """Whether the file holds several frames of a video (not merely several pages)."""
    if image.format == "GIF":  # whose frames are counted by walking through all of them
        with reading(path, MediaError, "animation"):
            return bool(getattr(image, "is_animated", False))
    return image.format in _ANIMATED_FORMATS and count_frames(path, image) > 1


def count_frames(path: Path, image: Image.Image) -> int:
    """Frames of an opened image; also its pages."""
    with reading(path, MediaError, "animation"):
        count = int(getattr(image, "n_frames", 1))  # only the formats that can have several define it
    return count - 1 if image.format == "PNG" and image.info.get("default_image") else count


class ImageReader:
    """An image file of which the header has been read: its size, and its pixels, whole or in part. Use it in a `with`.

    Of an animation it is the first frame. EXIF orientation is applied, transparency composited over white; palette,
    gray, 1-bit, CMYK and YCbCr become RGB (CMYK and Lab through the embedded ICC profile where there is one; RGB
    profiles are not applied). 16-bit gray is scaled by 1/65535, not clipped; 16-bit color has 8 bits left after Pillow.

    As grey or with alpha (`pixel_format`) the same holds, but that alpha is kept, and 16-bit gray in its range.

    Args:
        path: the file.
        limit: bound on the pixels of what is held as floats.
        whole: the pixels will be asked for whole, so that the bound holds for all of them.
        pixel_format: channels of the pixels.

    Attributes:
        height, width: as it is shown, in pixels.
        image: as Pillow opened it.
        dtype: "uint16" where the pixels are grey of 16 bits, which can be written again; else None, for 8 bits.

    Raises:
        MediaError: missing, empty, unreadable, not an image, damaged, above the limit, which is eight times as high if
            not `whole`, or other channels.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        limit: Limit = MAX_PIXELS,
        *,
        whole: bool = False,
        pixel_format: PixelFormat = RGB,
    ) -> None:
        self.path, self._limit, self._format = require_file(path), limit, pixel_format
        pixel_format.check_ordinary(self.path)
        self._whole: torch.Tensor | None = None
        self._open()
        width, height = self.image.size
        self._amount = max(width, _LEAST_SIDE) * max(height, _LEAST_SIDE)
        try:
            self._check(1 if whole else _REDUCED_TIMES)
            with reading(self.path, MediaError, "image"):
                self._turn = _orientation(self.image)
        except OmnitokError:
            self.image.close()
            raise
        self.width, self.height = (height, width) if self._turn[1] else (width, height)
        is_deep = pixel_format.channels == 1 and self.image.mode.startswith("I")
        self.dtype: str | None = "uint16" if is_deep else None

    def _open(self) -> None:
        self.image = require_image(self.path)
        self._stored_width = self.image.width

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.image.close()

    def _check(self, times: int) -> None:
        width, height = self.image.size
        self._limit.check(self._amount, f"{self.path}: an image of {width}x{height} pixels", MediaError, times)

    def pixels(self) -> torch.Tensor:
        """The whole image as float32 (c, H, W) in [-1, 1].

        Raises:
            MediaError: it is damaged, or larger than the limit.
        """
        if self._whole is None:
            self._draft(1)
            self._check(times=1)
            self._whole = decode_image(self.path, self.image, self._turn, self._format)
        return self._whole

    def crop(self, box: Box, height: int, width: int) -> torch.Tensor:
        """The part `box` of the image, resized to float32 (c, height, width) in [-1, 1].

        Large images are made smaller as bytes: by a whole factor first, in the decoder of JPEG or strip by strip, to
        no less than twice the size wanted.
        """
        is_cut = box[2:] == (height, width) and self._amount <= self._limit.value
        if self.height * self.width <= _LARGE or is_cut:
            part = crop(self.pixels(), box)[:, None]  # (c, 1, h, w)
            return resize(part, height, width)[:, 0]
        with reading(self.path, MediaError, "image"):
            return _from_pillow(self._shrink(box, height, width))

    def _shrink(self, box: Box, height: int, width: int) -> Image.Image:
        method, swapped, *flips = self._turn
        rows, columns = (
            (whole - start - span, whole - start) if flipped else (start, start + span)
            for start, span, whole, flipped in zip(box[:2], box[2:], (self.height, self.width), flips, strict=True)
        )
        if swapped:
            rows, columns, height, width = columns, rows, width, height
        self._draft(min((rows[1] - rows[0]) // (2 * height), (columns[1] - columns[0]) // (2 * width)))
        ratio = self.image.width / self._stored_width
        left, top, right, bottom = (edge * ratio for edge in (columns[0], rows[0], columns[1], rows[1]))
        outer = int(left), int(top), min(math.ceil(right), self.image.width), min(math.ceil(bottom), self.image.height)
        across = max(1, (outer[2] - outer[0]) // (2 * width))
        down = max(1, (outer[3] - outer[1]) // (2 * height))
        reduced = self._reduce(outer, across, down)
        x, y = (left - outer[0]) / across, (top - outer[1]) / down
        edges = min((right - outer[0]) / across, reduced.width), min((bottom - outer[1]) / down, reduced.height)
        resized = reduced.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, *edges))
        return resized if method is None else resized.transpose(method)

    def _draft(self, scale: int) -> None:
        """Let the decoder of JPEG, if it has not yet decoded, make the image up to `scale` times smaller."""
        if self._stored_width > max(1, scale) * self.image.width + 8:  # an earlier crop took it smaller than this one
            self._open()
        if scale > 1 and self.image.format == "JPEG":
            scale = min(scale, 8)
            self.image.draft(self.image.mode, (self.image.width // scale, self.image.height // scale))

    def _reduce(self, box: tuple[int, int, int, int], across: int, down: int) -> Image.Image:
        """A part (left, top, right, bottom), whole factors smaller, with no more than a strip of it converted."""
        left, top, right, bottom = box
        reduced = Image.new(self._format.mode, (-(-(right - left) // across), -(-(bottom - top) // down)))
        step = max(1, _STRIP_PIXELS // ((right - left) * down)) * down
        white_is_zero = _is_white_zero(self.image)
        for row in range(top, bottom, step):
            part = self.image.crop((left, row, right, min(row + step, bottom)))
            converted = _converted(self.path, part, white_is_zero, self._format)
            strip = to_pillow(converted) if isinstance(converted, torch.Tensor) else converted
            reduced.paste(strip.reduce((across, down)), (0, (row - top) // down))
        return reduced


def image_reader(
    path: str | os.PathLike[str],
    limit: Limit = MAX_PIXELS,
    *,
    whole: bool = False,
    pixel_format: PixelFormat = RGB,
) -> ImageReader | ArrayImage:
    """The reader of an image file: numbers for `.npy`, and for TIFF where Pillow does not have the channels or ranges.

    Raises:
        MediaError: as for `ImageReader`.
    """
    path = require_file(path)
    if _is_array(path, pixel_format):
        return ArrayImage(path, pixel_format, limit)
    return ImageReader(path, limit, whole=whole, pixel_format=pixel_format)


def _is_array(path: Path, pixel_format: PixelFormat) -> bool:
    suffix = path.suffix.lower()
    if suffix not in TIFF_SUFFIXES:
        return suffix in ARRAY_SUFFIXES
    if pixel_format.ranges or not pixel_format.mode:
        return True
    if (image := open_image(path)) is None:
        return True
    with image:
        return pixel_format.mode == "RGBA" and len(image.getbands()) == 4 and image.mode != "RGBA"


def read_image(
    path: str | os.PathLike[str],
    size: int | None = None,
    *,
    max_pixels: int | None = None,
    pixel_format: PixelFormat = RGB,
) -> torch.Tensor:
    """Read an image: any format that Pillow decodes (of an animation the first frame; see `ImageReader`), a `.npy`
    array (H, W, c) or (H, W), a TIFF of any number of bands.

    Args:
        path: the file.
        size: if given, the largest center square is cut out and resized to (size, size), bicubic and antialiased.
            Large images then cost little, and may have eight times as many pixels.
        max_pixels: bound on the pixels; by default `OMNITOK_MAX_PIXELS`, or 2**25.
        pixel_format: channels and ranges of the pixels.

    Returns:
        float32 (c, H, W) in [-1, 1].

    Raises:
        MediaError: missing, empty, unreadable, not an image, damaged, or too large.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    limit = MAX_PIXELS if max_pixels is None else Limit(MAX_PIXELS.variable, max_pixels, is_fixed=True)
    with image_reader(path, limit, whole=size is None, pixel_format=pixel_format) as reader:
        if size is None:
            return reader.pixels()
        return reader.crop(center_square(reader.height, reader.width), size, size)


def _orientation(image: Image.Image) -> _Turn:
    if image.format in ("PNG", "TIFF"):
        image.load()  # EXIF of PNG may come after the pixels; TIFF, Pillow turns itself while it loads it
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1), UPRIGHT)
    except Exception:  # damaged EXIF does not make the pixels unreadable
        return UPRIGHT


def decode_image(
    path: str | os.PathLike[str], image: Image.Image, turn: _Turn | None = None, pixel_format: PixelFormat = RGB
) -> torch.Tensor:
    """The current frame of an opened image as float32 (c, H, W) in [-1, 1]."""
    with reading(path, MediaError, "image"):
        image.load()
        method = (turn or _orientation(image))[0]
        upright = image if method is None else image.transpose(method)
        converted = _converted(path, upright, _is_white_zero(image), pixel_format)
        return converted if isinstance(converted, torch.Tensor) else _from_pillow(converted)


def _from_pillow(image: Image.Image) -> torch.Tensor:
    return from_uint8(torch.from_numpy(np.atleast_3d(np.array(image))))


def _is_white_zero(image: Image.Image) -> bool:
    """Whether it is a TIFF whose gray counts from white, which Pillow turns around up to 8 bits only."""
    return image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == 0


def _converted(
    path: str | os.PathLike[str], image: Image.Image, white_is_zero: bool, pixel_format: PixelFormat
) -> Image.Image | torch.Tensor:
    """In Pillow's mode of `pixel_format`, or, where gray has more than 8 bits, as float32 (c, H, W) in [-1, 1]."""
    if image.mode.startswith("I") or image.mode == "F":
        if pixel_format.channels == 1 and pixel_format.ranges:
            return scaled(Path(path), np.array(image)[..., None], pixel_format.ranges)
        gray = _deep_gray(path, image, white_is_zero)
        return gray if pixel_format.channels == 1 else pixel_format.from_color(gray.expand(3, -1, -1)).contiguous()
    if image.has_transparency_data and pixel_format.mode != "RGBA":
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    elif image.mode in ("CMYK", "LAB"):
        image = _through_profile(image)
    return image.convert(pixel_format.mode)


def _deep_gray(path: str | os.PathLike[str], image: Image.Image, white_is_zero: bool) -> torch.Tensor:
    """Gray of more than 8 bits as (1, H, W); Pillow's own conversion to RGB clips it at 255."""
    gray = torch.from_numpy(np.array(image).astype(np.float32))  # (H, W)
    low, high = gray.min().item(), gray.max().item()
    if image.mode == "F":
        if not 0 <= low <= high <= 1:  # also refuses NaN
            raise MediaError(f"{path}: float pixels span [{low:g}, {high:g}]; only [0, 1] is understood")
        scale = 1.0
    elif low >= 0 and high <= 65535:
        scale = 65535.0
    else:
        raise MediaError(f"{path}: integer pixels span [{low:g}, {high:g}]; only 16-bit [0, 65535] is understood")
    key = image.info.get("transparency")
    transparent = gray == key if isinstance(key, int) else None
    if white_is_zero:
        gray = scale - gray
    if transparent is not None:
        gray = torch.where(transparent, scale, gray)
    return (gray * (2 / scale) - 1)[None]


def _through_profile(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile must not lose the image
    return image.convert("RGB")


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (H, W, c) to float32 (c, H, W) in [-1, 1]."""
    return pixels.permute(2, 0, 1).contiguous().float().mul_(2 / 255).sub_(1)


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """Float (c, H, W) in [-1, 1] to uint8 (H, W, c), clamped and rounded to the nearest."""
    scaled = pixels.detach().cpu().float().add(1).mul_(127.5).round_().clamp_(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def to_pillow(pixels: torch.Tensor) -> Image.Image:
    """Float (1, H, W), (3, H, W) or (4, H, W) in [-1, 1] as an image of 8 bits."""
    array = to_uint8(pixels)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def check_pixels(x: torch.Tensor, shape: str, channels: int = 3) -> None:
    """Raise ValueError unless `x` is finite float, of the rank in `shape` such as "(3, H, W)", and roughly in [-1, 1].

    What a decoder overshoots by is clamped when written; what can only be another range (0 to 255) is refused.
    """
    rank = shape.count(",") + 1
    if x.ndim != rank or x.shape[0] != channels or min(x.shape[-2:]) < 1:
        raise ValueError(f"pixels must have the shape {shape}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"pixels must be float in [-1, 1], got {x.dtype}; convert bytes by x / 127.5 - 1")
    if x.numel() and not torch.isfinite(x).all():
        raise ValueError("pixels must be finite, got NaN or infinity")
    if x.numel() and x.abs().max() > 16:
        raise ValueError(f"pixels must be in [-1, 1], got values up to {x.abs().max().item():g}")


def write_image(path: str | os.PathLike[str], x: torch.Tensor, dtype: str = "uint8", ranges: Ranges = ()) -> None:
    """Write an image as PNG, JPEG (quality 95, no chroma subsampling), WebP, TIFF or `.npy`, chosen by the suffix.

    Args:
        path: ends in .png, .jpg, .jpeg, .webp, .tif, .tiff or .npy; missing folders are made, an existing file is
            replaced at the end.
        x: float (3, H, W) in [-1, 1]; clamped and rounded to 8 bits. PNG takes grey (1, H, W) and alpha (4, H, W) too,
            TIFF and `.npy` any number of channels; the others show grey as colour, and alpha over white.
        dtype, ranges: of the numbers in TIFF and `.npy` files (see `omnitok.data.arrays.numbers_of`), and in PNG of
            one channel, which has uint8 and uint16.

    Raises:
        MediaError: an unknown suffix, one that cannot hold so many channels, or the file cannot be written (then
            nothing is left under its name).
        ValueError: `x` has another shape, type or range.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITTEN_IMAGE_SUFFIXES:
        accepted = ", ".join((*_WRITERS, *sorted(ARRAY_SUFFIXES)))
        raise MediaError(f"{path}: images are written as {accepted}, not {path.suffix or 'without suffix'!r}")
    channels = x.shape[0] if x.ndim == 3 and (x.shape[0] in MODES or suffix in ARRAY_SUFFIXES) else 3
    check_pixels(x, "(3, H, W)", channels)
    if suffix in ARRAY_SUFFIXES:
        write_image_array(path, x, dtype, ranges)
        return
    file_format, options = _WRITERS[suffix]
    with writing(path), atomic_path(path) as temporary:
        if channels == 1 and suffix == ".png" and dtype == "uint16":
            image = Image.fromarray(numbers_of(x, dtype, ranges)[..., 0])
        else:
            image = to_pillow(x if suffix == ".png" else as_color(x))
        image.save(temporary, format=file_format, **options)


class TimedFrame(NamedTuple):
    """When a frame is shown, in seconds from the first; for how many seconds; and what gives its pixels when they are
    wanted, float32 (3, H, W) in [-1, 1]."""

    time: float
    duration: float
    pixels: Callable[[], torch.Tensor]
