"""What the pixels of files become: so many channels, and which of their values are -1 and 1."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, FiniteFloat, TypeAdapter, ValidationError, model_validator
from torch import Tensor

from omnitok.checked import AtLeastOne, checked
from omnitok.errors import MediaError, describe, reason

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels of what ordinary images and videos can be read as -> Pillow's name of it."""
_LUMA = (0.299, 0.587, 0.114)  # of R'G'B', ITU-R BT.601, which Pillow takes for grey


def _split(given: Any) -> Any:
    return given.split(",") if isinstance(given, str) else given


def _from_text(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        low, high = map(float, given.split(":"))
    except ValueError:
        raise ValueError(f"must be LOW:HIGH, such as 0:10000, found {describe(given)!r}") from None
    return low, high


def _check(given: tuple[float, float]) -> tuple[float, float]:
    low, high = given
    if low >= high:
        raise ValueError(f"must be LOW:HIGH with LOW below HIGH, found {low:g}:{high:g}")
    return given


Ranges = Sequence[tuple[float, float]]
"""(low, high) of each channel, or one for all."""

Range = Annotated[tuple[FiniteFloat, FiniteFloat], BeforeValidator(_from_text), AfterValidator(_check)]
RangesField = Annotated[tuple[Range, ...], BeforeValidator(_split)]
"""Ranges as a field of a checked class; also as text, "0:1,-5:40"."""


NumberType = Literal[
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"
]
"""Numpy's names of the numbers that files hold."""


def parse_ranges(text: str) -> tuple[tuple[float, float], ...]:
    """The ranges that "0:1,-5:40" says.

    Raises:
        ValueError: another form, or a range that is empty.
    """
    try:
        return TypeAdapter(RangesField).validate_python(text)
    except ValidationError as error:
        number, _, problem = reason(error).partition(" ")
        raise ValueError(f"range {int(number.partition('.')[0]) + 1} {problem}") from error


def format_ranges(ranges: Ranges) -> str:
    """What `parse_ranges` reads."""
    return ",".join(f"{low!r}:{high!r}" for low, high in ranges)


@checked
class PixelFormat:
    """How the files are read that a tokenizer takes.

    Ordinary images and videos are read as grey (1 channel), colour (3), or colour with alpha (4, not premultiplied, 1
    where a file has none), 8 bits each. Arrays of numpy and multi-band TIFF have any number of channels.

    Attributes:
        channels: of the pixels.
        ranges: the values (low, high) of each channel that become -1 and 1, or one pair for all; what lies beyond is
            clamped. None are all that whole numbers of the file's type can say. They are of arrays, TIFF and grey
            images of 16 bits.
    """

    channels: AtLeastOne = 3
    ranges: RangesField = ()

    @model_validator(mode="after")
    def _check(self) -> "PixelFormat":
        if len(self.ranges) not in (0, 1, self.channels):
            accepted = "1 range is" if self.channels == 1 else f"1 or {self.channels} ranges are"
            raise ValueError(f"{accepted} needed for {self.channels} channels, found {len(self.ranges)}")
        return self

    @property
    def has_arrays(self) -> bool:
        """Whether `.npy` files in folders are samples; beside ordinary images they may be anything."""
        return self.channels != 3 or bool(self.ranges)

    @property
    def mode(self) -> str:
        """Pillow's name of what ordinary images are read as; "" where they have too few channels or too many."""
        return MODES.get(self.channels, "")

    def check_channels(self, path: object, found: int) -> None:
        """Refuse a file of another number of channels.

        Raises:
            MediaError: naming both numbers.
        """
        if found != self.channels:
            raise MediaError(f"{path}: must have {self.channels} channels, found {found}")

    def check_ordinary(self, path: object) -> None:
        """Refuse an ordinary image or video where it cannot have the channels.

        Raises:
            MediaError: naming what is accepted.
        """
        if not self.mode:
            raise MediaError(
                f"{path}: {self.channels} channels are wanted, and an ordinary image or video is read as 1, 3 or 4; "
                "give .npy, or for an image a TIFF of that many bands"
            )

    def from_color(self, pixels: Tensor) -> Tensor:
        """Colour (3, ...) in [-1, 1] as grey or with an alpha of 1; pixels of `channels` already stay."""
        if pixels.shape[0] == self.channels:
            return pixels
        if self.channels == 1:
            red, green, blue = pixels
            return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[None]
        return torch.cat([pixels, torch.ones_like(pixels[:1])])


RGB = PixelFormat()


def as_color(pixels: Tensor) -> Tensor:
    """Pixels (c, …) in [-1, 1] to look at in colour: of one channel grey, of four over white, of others the first three
    (of two, the second twice)."""
    channels = len(pixels)
    if channels == 4:
        color, alpha = pixels.split([3, 1])
        return color * (alpha + 1) / 2 + (1 - alpha) / 2
    chosen = torch.tensor([min(i, channels - 1) if channels > 1 else 0 for i in range(3)], device=pixels.device)
    return pixels if channels == 3 else pixels.index_select(0, chosen)
