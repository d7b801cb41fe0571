"""Captions of images and videos: what one may be, where they are read from, and which of several a batch gets.

A caption is text of at most `LONGEST` bytes of UTF-8, without NUL, and not empty once the spaces around it are gone; a
file has at most `MOST` of them. Lists give them in a column, tars in members of the sample, and any image or video may
have a text file of its name beside it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from omnitok.errors import MediaError, describe, reading
from omnitok.files import find_beside, localize, require_regular
from omnitok.limits import MAX_TEXT

T = TypeVar("T")

KEYS = ("caption", "captions", "text")
"""Columns of tables and keys of JSON objects that hold captions, in the order in which they are looked for."""

SUFFIX = ".txt"
"""Of a text file of captions, one a line, named like the image or video."""

LONGEST, MOST = 4096, 64


def parse_captions(row: Mapping[str, object], where: str) -> tuple[str, ...]:
    """The captions in a row of a table or in a JSON object: text or a list of texts under one of `KEYS`, or none.

    Raises:
        MediaError: anything else, a caption that is too long, or too many of them; the message starts with `where`.
    """
    value = next((row[key] for key in KEYS if row.get(key) not in (None, "", [])), None)
    values = value if isinstance(value, list) else [] if value is None else [value]
    return _checked(((where, each) for each in values), where)


def parse_lines(content: bytes, where: str) -> tuple[str, ...]:
    """The captions in a text file: its lines that are not empty.

    Raises:
        MediaError: no UTF-8 text, a caption that is too long, or too many of them; the message starts with `where`.
    """
    with reading(where, MediaError, "text file in UTF-8"):
        lines = content.decode("utf-8-sig").split("\n")
    return _checked(((f"{where}, line {number}", line) for number, line in enumerate(lines, 1)), where)


def read_beside(path: str) -> tuple[str, ...]:
    """The captions in the text file beside an image or video (`a.txt` of `a.jpg`); none where there is no such file.

    Raises:
        MediaError: it cannot be read, or does not hold captions; the message starts with `path`.
    """
    file = find_beside(path, SUFFIX)
    if file is None:
        return ()
    where = f"{path}: its captions in {os.path.basename(file)}"
    with reading(where, MediaError, "text file"):
        local = localize(file)
        require_regular(local)
        with local.open("rb") as opened:
            content = opened.read(MAX_TEXT.value + 1)
    MAX_TEXT.check(len(content), f"{where}: a file of {len(content)} bytes or more", MediaError)
    return parse_lines(content, where)


def draw(captions: Sequence[T], seed: tuple[int, ...]) -> T | None:
    """One of several captions, or of what stands for them, each as likely, by a seed; None where there is none."""
    if len(captions) < 2:
        return captions[0] if captions else None
    return captions[int(np.random.default_rng(seed).integers(len(captions)))]


def _checked(found: Iterable[tuple[str, object]], where: str) -> tuple[str, ...]:
    captions: list[str] = []
    for place, value in found:
        if not isinstance(value, str):
            raise MediaError(f"{place}: a caption is text, found {describe(value)!r}")
        if caption := value.strip():
            try:
                size = len(caption.encode())
            except UnicodeEncodeError:  # bytes that are not UTF-8, or half of a pair of surrogates
                raise MediaError(f"{place}: a caption is not UTF-8 text: {describe(caption)!r}") from None
            if size > LONGEST:
                raise MediaError(f"{place}: a caption has {size} bytes, at most {LONGEST} are accepted")
            if "\0" in caption:
                raise MediaError(f"{place}: a caption holds a NUL character: {describe(caption)!r}")
            captions.append(caption)
    if len(captions) > MOST:
        raise MediaError(f"{where}: has {len(captions)} captions, at most {MOST} are accepted")
    return tuple(captions)
