"""Bounds on what one file may cost, each lifted by an environment variable, so that every verb and worker knows them.

A few kilobytes can ask for gigabytes of pixels or millions of frames. Readers compare what a header asks for with a
`Limit` before they start: `MAX_PIXELS.check(height * width, f"{path}: an image of {width}x{height} pixels")`.
"""

import os
from dataclasses import dataclass

from omnitok.errors import OmnitokError, describe


@dataclass(frozen=True)
class Limit:
    """A bound on one kind of cost.

    Attributes:
        variable: the environment variable that sets another value.
        default: the value without it.
        is_fixed: whether that stands, whatever the variable says.
    """

    variable: str
    default: int
    is_fixed: bool = False

    @property
    def value(self) -> int:
        """The bound in force.

        Raises:
            OmnitokError: the variable holds no whole number.
        """
        text = "" if self.is_fixed else os.environ.get(self.variable, "")
        if not text:
            return self.default
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise OmnitokError(
                f"the environment variable {self.variable} must be a whole number, found {describe(text)!r}"
            )
        return int(text)

    def check(self, amount: int, what: str, error: type[OmnitokError] = OmnitokError, times: int = 1) -> None:
        """Raise `error` where `amount` is above `times` the bound.

        Args:
            amount: what the file asks for.
            what: the sentence's start, with the file: "a.png: an image of 16000x16000 pixels".
            error: what is raised.
            times: where the same amount costs less, as many times as much is allowed.
        """
        bound = times * self.value
        if amount > bound:
            raise error(f"{what} is above the bound of {bound}; the environment variable {self.variable} sets another")


MAX_PIXELS = Limit("OMNITOK_MAX_PIXELS", 2**25)
"""Pixels of an image or a video frame that is held whole as floats: 33 megapixels (8K UHD), 400 MB. Images that are
made smaller while they are read may have eight times as many, because until then they are bytes; animations a quarter,
because several frames are held."""

MAX_ANIMATION_PIXELS = Limit("OMNITOK_MAX_ANIMATION_PIXELS", 2**32)
"""Pixels of all frames of a GIF, WebP, APNG or AVIF, whose frames compress to nothing; each counts as at least 2**15.
Videos have no such bound: their files grow with their frames, and they are streamed."""

MAX_TEXT = Limit("OMNITOK_MAX_TEXT", 2**20)
"""Bytes of a line of a list, or of a label in a tar."""

MAX_DOWNLOAD = Limit("OMNITOK_MAX_DOWNLOAD", 2**34)
"""Bytes of a file that is copied from a URL."""

MAX_REPEATS = Limit("OMNITOK_MAX_REPEATS", 10_000)
"""Frames that sampling at a rate may repeat because nothing new is shown, beyond 60 for each decoded frame."""
