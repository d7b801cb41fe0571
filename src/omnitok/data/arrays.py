"""Images and videos of any number of channels: multi-band TIFF, and arrays of numpy.

Values have no range of their own here: each channel's range, given by the user, is mapped to [-1, 1] and back.
"""

import math
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.data.pixel_format import PixelFormat, Ranges
from omnitok.data.transforms import Box, resize
from omnitok.errors import MediaError, reading, writing
from omnitok.limits import MAX_PIXELS, Limit

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
ARRAY_SUFFIXES = TIFF_SUFFIXES | {".npy"}

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIPS, _SAMPLES, _ROWS, _STRIP_SIZES = 256, 257, 258, 259, 273, 277, 278, 279
_PHOTOMETRIC, _EXTRA = 262, 338
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _FORMAT = 284, 317, 322, 323, 324, 325, 339
_KINDS = {1: "u", 2: "i", 3: "f"}
_NOT_COMPRESSED, _DEFLATE = (1,), (8, 32946)


def read_image_array(path: str | os.PathLike[str], ranges: Ranges | None = None) -> Tensor:
    """An image of any number of channels, (c, H, W) float32 in [-1, 1].

    Args:
        path: a `.npy` array (H, W, c) or (H, W); a TIFF of whole or floating-point samples with one image, uncompressed
            or deflated.
        ranges: (low, high) of each channel, or one for all; they become -1 and 1, and what lies beyond is clamped.
            None takes all that whole numbers of the file's type can say, 0 to 255 or 0 to 65535.

    Raises:
        MediaError: a file that is missing, damaged, of another kind, or of more than 3 times `OMNITOK_MAX_PIXELS`
            values; NaN.
        ValueError: ranges that do not fit the channels, or none where the file has floating-point numbers.
    """
    path = Path(path)
    return scaled(path, _open_image(path), ranges)


def read_video_array(path: str | os.PathLike[str], ranges: Ranges | None = None) -> Tensor:
    """A video of any number of channels, (c, T, H, W) float32 in [-1, 1], from a `.npy` array (T, H, W, c).

    Other arguments and errors are those of `read_image_array`.
    """
    path = Path(path)
    array = open_video(path)
    _check_size(path, array.shape)
    return scaled(path, array, ranges)


class ArrayImage:
    """An image of the channels that `pixel_format` says, whole or in part. Use it in a `with`, as `ImageReader`.

    Attributes:
        height, width: in pixels.
        dtype: numpy's name of the type of its numbers.

    Raises:
        MediaError: as `read_image_array`, or other channels.
    """

    def __init__(self, path: Path, pixel_format: PixelFormat, limit: Limit = MAX_PIXELS) -> None:
        self.path, self._ranges = path, pixel_format.ranges
        self._array = _open_image(path, limit)
        self.height, self.width, channels = self._array.shape
        self.dtype = self._array.dtype.name
        pixel_format.check_channels(path, channels)

    def __enter__(self) -> "ArrayImage":
        return self

    def __exit__(self, *error: object) -> None:
        return

    def pixels(self) -> Tensor:
        """The whole image as float32 (c, H, W) in [-1, 1]."""
        return scaled(self.path, self._array, self._ranges)

    def crop(self, box: Box, height: int, width: int) -> Tensor:
        """The part `box` of the image, resized to float32 (c, height, width) in [-1, 1]."""
        top, left, h, w = box
        part = scaled(self.path, self._array[top : top + h, left : left + w], self._ranges)
        return resize(part[:, None], height, width)[:, 0]


def write_image_array(path: str | os.PathLike[str], x: Tensor, dtype: str = "uint8", ranges: Ranges = ()) -> None:
    """Write an image of any number of channels as `.npy` (H, W, c) or as a TIFF, as `read_image_array` reads it.

    Args:
        path: ends in .npy, .tif or .tiff.
        x: float (c, H, W) in [-1, 1].
        dtype, ranges: of the numbers in the file, as for `numbers_of`.

    Raises:
        MediaError: the file cannot be written (then nothing is left under its name).
    """
    path = Path(path)
    array = numbers_of(x, dtype, ranges)
    with writing(path), atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix.lower() == ".npy":
            np.save(file, array)
        else:
            _write_tiff(file, array)


def open_video(path: Path) -> np.ndarray[Any, Any]:
    """The array (T, H, W, c) of a `.npy` video, mapped into memory rather than read.

    Raises:
        MediaError: it is none.
    """
    with reading(path, MediaError, "video"):
        array = _read_npy(path, (4,), "(T, H, W, c)")
        _check_size(path, array.shape[1:])
    return array


def holds_video(path: str | os.PathLike[str]) -> bool:
    """Whether the header of a `.npy` file is that of a video; False for one that cannot be read."""
    try:
        return np.lib.format.open_memmap(path, "r").ndim == 4
    except Exception:  # numpy raises what it likes over a damaged header
        return False


def _open_image(path: Path, limit: Limit = MAX_PIXELS) -> np.ndarray[Any, Any]:
    """(H, W, c)"""
    with reading(path, MediaError, "image"):
        if path.suffix.lower() != ".npy":
            return _read_tiff(path, limit)
        array = _read_npy(path, (2, 3), "(H, W, c)")
        _check_size(path, array.shape, limit)
        return array[..., None] if array.ndim == 2 else array


def _read_npy(path: Path, ranks: tuple[int, ...], shape: str) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.lib.format.open_memmap(path, "r")
    if array.ndim not in ranks or array.dtype.kind not in "uif" or 0 in array.shape:
        raise MediaError(f"{path}: must be an array {shape} of numbers, found {array.dtype} {array.shape}")
    return array


def _check_size(path: Path, shape: tuple[int, ...], limit: Limit = MAX_PIXELS) -> None:
    limit.check(math.prod(shape), f"{path}: {math.prod(shape)} values, {shape},", MediaError, times=3)


def _read_tiff(path: Path, limit: Limit) -> np.ndarray[Any, Any]:
    """(H, W, c) of the first image of a TIFF: strips or tiles, bands beside one another or one after the other."""
    with path.open("rb") as file:
        header = file.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*"):
            raise MediaError(f"{path}: is no TIFF (BigTIFF is not read)")
        order = "<" if header[:2] == b"II" else ">"
        tags = ImageFileDirectory_v2(header)
        file.seek(int.from_bytes(header[4:8], "little" if order == "<" else "big"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is told below
            tags.load(file)
        height, width, bands = int(tags[_HEIGHT]), int(tags[_WIDTH]), int(tags.get(_SAMPLES, 1))
        bits, kinds = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
        if len(bits) != 1 or len(kinds) != 1 or not bits <= {8, 16, 32, 64} or not kinds <= set(_KINDS):
            raise MediaError(f"{path}: bands must all have 8, 16, 32 or 64 bits of one type, found {sorted(bits)} bits")
        if tags.get(_COMPRESSION, 1) not in (*_NOT_COMPRESSED, *_DEFLATE):
            raise MediaError(
                f"{path}: must be uncompressed or deflated, found compression {tags.get(_COMPRESSION)}: write it again "
                "without, or as .npy"
            )
        _check_size(path, (height, width, bands), limit)
        dtype = np.dtype(f"{order}{_KINDS[kinds.pop()]}{bits.pop() // 8}")
        return _assemble(file, tags, (height, width, bands), dtype)


def _assemble(
    file: BinaryIO, tags: ImageFileDirectory_v2, shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    height, width, bands = shape
    is_tiled = _TILES in tags
    tile_w = int(tags[_TILE_WIDTH]) if is_tiled else width
    tile_h = int(tags[_TILE_HEIGHT]) if is_tiled else min(int(tags.get(_ROWS, height)), height)
    offsets, sizes = (tags[_TILES], tags[_TILE_SIZES]) if is_tiled else (tags[_STRIPS], tags[_STRIP_SIZES])
    is_planar = tags.get(_PLANAR, 1) == 2
    depth = 1 if is_planar else bands
    _check_size(Path(file.name), (tile_h, tile_w, depth))
    across, down = -(-width // tile_w), -(-height // tile_h)
    if len(offsets) != len(sizes) or len(offsets) != across * down * (bands if is_planar else 1):
        raise ValueError(f"{across} x {down} parts of its pixels are needed, found {len(offsets)}")
    image = np.empty(shape, dtype.newbyteorder("="))
    for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        band, place = divmod(number, across * down)
        top, left = place // across * tile_h, place % across * tile_w
        rows = tile_h if is_tiled else min(tile_h, height - top)
        file.seek(offset)
        data = file.read(size)
        expected = rows * tile_w * depth * dtype.itemsize
        if tags.get(_COMPRESSION, 1) in _DEFLATE:
            data = zlib.decompressobj().decompress(data, expected)
        part = np.frombuffer(data, dtype, rows * tile_w * depth).reshape(rows, tile_w, depth)
        if tags.get(_PREDICTOR, 1) == 2:  # differences of the bits, also those of floating-point numbers
            whole = np.dtype(f"u{dtype.itemsize}")
            part = np.cumsum(part.astype(image.dtype).view(whole), axis=1, dtype=whole).view(image.dtype)
        elif tags.get(_PREDICTOR, 1) != 1:
            raise ValueError("its predictor for floating-point numbers is not read")
        part = part[: height - top, : width - left]
        target = image[top : top + len(part), left : left + part.shape[1]]
        target[..., slice(band, band + 1) if is_planar else slice(None)] = part
    return image


def _write_tiff(file: BinaryIO, array: np.ndarray[Any, Any]) -> None:
    """One uncompressed strip, the bands of a pixel beside one another."""
    height, width, bands = array.shape
    tags = ImageFileDirectory_v2()  # little-endian
    tags[_WIDTH], tags[_HEIGHT], tags[_SAMPLES], tags[_ROWS] = width, height, bands, height
    tags[_BITS] = (8 * array.dtype.itemsize,) * bands
    tags[_FORMAT] = (next(number for number, kind in _KINDS.items() if kind == array.dtype.kind),) * bands
    tags[_COMPRESSION], tags[_PLANAR] = 1, 1
    tags[_PHOTOMETRIC] = 2 if bands in (3, 4) else 1  # colour, or grey that counts from black
    if bands > 1 and bands != 3:
        tags[_EXTRA] = (2,) if bands == 4 else (0,) * (bands - 1)  # alpha that is not premultiplied, or anything
    tags[_STRIPS], tags[_STRIP_SIZES] = 0, array.nbytes  # Pillow counts from the end of the tags
    tags.save(file)
    file.write(array.astype(array.dtype.newbyteorder("<")).tobytes())


def scaled(path: Path, array: np.ndarray[Any, Any], ranges: Ranges | None) -> Tensor:
    """Numbers (..., c) of any type as float32 (c, ...) in [-1, 1]; `path` is for messages."""
    low, high = _bounds(f"{path}: holds", array.shape[-1], array.dtype, ranges)
    values = np.clip((array - low) * (2 / (high - low)) - 1, -1, 1).astype(np.float32)
    if not np.isfinite(values).all():
        raise MediaError(f"{path}: holds NaN")
    return torch.from_numpy(values).movedim(-1, 0).contiguous()


def numbers_of(x: Tensor, dtype: str = "uint8", ranges: Ranges = ()) -> np.ndarray[Any, Any]:
    """Pixels (c, ...) in [-1, 1] as numbers (..., c) of a file: what `scaled` made them from, clamped.

    Args:
        dtype: numpy's name of their type; whole numbers are rounded.
        ranges: (low, high) of each channel, or one for all; none takes all that whole numbers of the type can say.

    Raises:
        ValueError: floating-point numbers without ranges, or ranges that do not fit the channels.
    """
    kind = np.dtype(dtype)
    low, high = _bounds("there are", len(x), kind, ranges)
    values = (x.detach().cpu().double().clamp(-1, 1).movedim(0, -1).numpy() + 1) * ((high - low) / 2) + low
    if kind.kind == "f":
        return values.astype(kind)
    limits = np.iinfo(kind)
    highest = float(limits.max)
    if int(highest) > limits.max:  # of 64 bits, which floating-point numbers round up
        highest = np.nextafter(highest, 0)
    return np.clip(np.rint(values), limits.min, highest).astype(kind)


def _bounds(what: str, channels: int, dtype: np.dtype[Any], ranges: Ranges | None) -> tuple[Any, Any]:
    """Low and high of each channel, or of all; without ranges of all that whole numbers can say."""
    if not ranges and dtype.kind == "f":
        raise ValueError(f"{what} {dtype} numbers, so the range (low, high) of the channels is needed")
    ranges = ranges or [(float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))]
    if len(ranges) not in (1, channels):
        accepted = "1 range is" if channels == 1 else f"1 or {channels} ranges are"
        raise ValueError(f"{what} {channels} channels, so {accepted} needed, found {len(ranges)}")
    for low, high in ranges:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"a range must be (low, high) with low < high, found {(low, high)}")
    low, high = np.asarray(ranges, dtype=np.float64).T
    return low, high
