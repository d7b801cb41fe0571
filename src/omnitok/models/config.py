"""Bounds that fields of several configurations share; see `omnitok.checked`."""

from typing import Annotated

from pydantic import Field

_LARGEST = 2**31 - 1  # of a size: beyond it torch overflows

Count = Annotated[int, Field(ge=0, le=_LARGEST, strict=True)]
Size = Annotated[int, Field(ge=1, le=_LARGEST, strict=True)]
Depth = Annotated[int, Field(ge=1, le=64, strict=True)]
Widths = Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]
Channels = Annotated[int, Field(ge=1, le=1000, strict=True)]  # of pixels
