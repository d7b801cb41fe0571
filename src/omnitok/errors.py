"""Errors a user can cause and mend. Each carries one sentence: what was named, what was found, what is accepted."""

import contextlib
import errno
import os
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

LONGEST_QUOTE = 200
"""Characters of a foreign value or message that one of ours quotes."""

# Bounded in depth and length while it is built: nested references can make megabytes of a few hundred bytes.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LONGEST_QUOTE


class OmnitokError(Exception):
    """Base of every error about input, files or the environment; the command line prints it and exits with 1."""


class MediaError(OmnitokError):
    """An image or video that cannot be read or written; the message starts with the file's name."""


class CheckpointError(OmnitokError):
    """A model file that is corrupt, foreign, incomplete or of another architecture."""


class NotFiniteError(OmnitokError, ValueError):
    """Pixels, features or latents that hold NaN or infinity; says which of them."""


class MissingWeightsError(OmnitokError):
    """Weights of a feature network that are absent or have the wrong hash; says file, hash, source and option."""


class MissingExtraError(OmnitokError, ImportError):
    """An optional package that is not installed; the message says the `pip install` that mends it."""

    @classmethod
    def of(cls, package: str, requirement: str | None = None) -> Self:
        """The error for a package; it is made of its message alone elsewhere, as when it comes from another process.

        Args:
            package: what is imported.
            requirement: what pip is to install, where it is called otherwise.
        """
        # Not `omnitok[extra]`: that would send whoever runs a checkout to an index that may not have omnitok.
        install = requirement or package
        return cls(f"this needs the package {package!r}, which is not installed: pip install {install!r}")


class TooLittleMemoryError(OmnitokError):
    """Work on a batch that does not fit into memory.

    Args:
        found: what is needed, and what is free.
        fits: items that may fit at once.
    """

    def __init__(self, found: str, fits: int) -> None:
        super().__init__(found, fits)
        self.found, self.fits = found, fits

    def __str__(self) -> str:
        return self.sentence("batch_size={}")

    def sentence(self, fewer: str) -> str:
        """The message; `fewer` is what asks for `{}` items at once, as the reader calls it."""
        if self.fits < 1:
            return f"{self.found}; not even one fits; use a smaller model or fewer frames"
        return f"{self.found}; {fewer.format(self.fits)} may fit"


class ShardError(OmnitokError):
    """Token shards that are incomplete, damaged, edited, or of another tokenizer; the message names the file."""


def describe(value: object, longest: int = LONGEST_QUOTE) -> str:
    """A value or a foreign message as one line of at most `longest` characters, to be quoted in ours."""
    try:
        text = value[: 8 * longest] if isinstance(value, str) else _REPR.repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        text = f"a huge {type(value).__name__}"
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def reason(error: BaseException) -> str:
    """Why something failed, in a few words, whatever raised it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "out of memory"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OSError) and isinstance(inner := getattr(error, "reason", None), OSError):  # of a URL
        return reason(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if type(error).__module__.startswith("pydantic"):  # its own text has many lines, types and web addresses
        return _first_problem(error.errors(include_url=False)[0])  # type: ignore[attr-defined]
    lines = str(error).strip().splitlines()
    return describe(lines[0]) if lines else type(error).__name__


_PLAINER = {
    "Input should": "must",
    "String should": "must",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def _first_problem(problem: Mapping[str, Any]) -> str:
    """What is wrong with the first bad field: its name, what it must be, and what was found."""
    name = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name} {message}".strip()
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{name} is not a known field"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{name} is missing"
    for theirs, ours in _PLAINER.items():
        message = message.replace(theirs, ours, 1)
    found = problem["input"]
    quoted = repr(found[:LONGEST_QUOTE]) if isinstance(found, str) else describe(found)
    return f"{name} {message[0].lower()}{message[1:]}, found {quoted}"


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for lack of space, whatever library says so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "no space left on device" in str(error).lower()  # safetensors, for one, has an exception of its own


@contextlib.contextmanager
def reading(
    path: str | os.PathLike[str], error: type[OmnitokError] = OmnitokError, what: str = "file"
) -> Iterator[None]:
    """Turn whatever a parser raises over a damaged or hostile file into our own error, with the file and the reason.

    Parsers raise what they like (`zlib.error`, `struct.error`, `RecursionError`, `MemoryError`, `KeyError`), so nothing
    is listed here. Errors of ours pass as they are; Ctrl-C and exits are no `Exception`.

    Args:
        path: of the file, for the message.
        error: what is raised.
        what: the thing that cannot be read: "image", "token file".
    """
    try:
        yield
    except OmnitokError:
        raise
    except Exception as cause:
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        if isinstance(cause, FileNotFoundError):
            raise error(f"{name}: no such file") from cause
        raise error(f"{name}: cannot be read as {_article(what)}: {reason(cause)}") from cause


@contextlib.contextmanager
def writing(
    path: str | os.PathLike[str], errors: tuple[type[Exception], ...] = (OSError, ValueError)
) -> Iterator[None]:
    """Turn what fails while an image or a video is written into a MediaError with the file and the reason.

    Args:
        path: of the file, for the message.
        errors: what the writers raise.
    """
    try:
        yield
    except errors as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
