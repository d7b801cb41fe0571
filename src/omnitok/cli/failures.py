"""What went wrong, in one sentence."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Container, Iterator

from omnitok.errors import OmnitokError, TooLittleMemoryError, describe, is_disk_full, reason
from omnitok.files import url_of, with_urls

_LONGEST_SENTENCE = 4000
"""Characters: room for every missing file of weights, and no more for a hostile file that ends up in a message."""

_MEMORY_ADVICE = "use --tile (such as --tile 512), a smaller --fps or --batch-size, or another --device"

# The words of loaders, allocators and libraries that have no exception of their own for it.
_MEMORY_WORDS = ("out of memory", "cannot allocate memory", "can't allocate memory", "failed to map segment")


class UsageError(Exception):
    """Options that make no sense, alone or together; the command line exits with 2."""


def explain(error: BaseException, advice: str = _MEMORY_ADVICE, fewer: str = "--batch-size {}") -> str:
    """One sentence for anything raised: plain for what a user can cause, marked as our fault otherwise.

    Args:
        advice: what takes less memory.
        fewer: what asks for `{}` items at once.
    """
    if isinstance(error, TooLittleMemoryError):
        return error.sentence(fewer)
    causes = list(_causes(error))
    text = describe(str(error), _LONGEST_SENTENCE)
    environment = _environment(causes, advice)
    if environment is not None:
        if not isinstance(error, OmnitokError):
            return f"{_file_name(causes)}{environment}"
        return text if environment.split(";")[0] in text else f"{text}: {environment}"
    if isinstance(error, OmnitokError | UsageError | ValueError):
        return text or type(error).__name__
    if isinstance(error, OSError):
        return f"{_file_name(causes)}{reason(error)}"
    kind = type(error).__name__
    return f"internal error, please report it; OMNITOK_DEBUG=1 shows where ({kind}: {describe(text)})"


def explain_for(path: os.PathLike[str] | str, error: BaseException) -> str:
    """`explain`, naming the file where the message does not."""
    sentence, name = with_urls(explain(error)), describe(url_of(path) or os.fspath(path), _LONGEST_SENTENCE)
    return sentence if name in sentence else f"{name}: {sentence}"


@contextlib.contextmanager
def naming_options() -> Iterator[None]:
    """Turn what the library says about a field or an argument into what is wrong with the option of that name."""
    try:
        yield
    except ValueError as error:
        field, _, problem = str(error).partition(" ")
        raise UsageError(f"--{field.replace('_', '-')} {problem}") from error


_OPTIONS = {
    "optimizer.lr": "--lr",
    "data.image_batch": "--batch-size",
    "data.video_batch": "--batch-size",
    "checkpoint_every": "--checkpoint-every",
    "seed": "--seed",
}
"""Settings that have an option of their own."""


@contextlib.contextmanager
def naming_settings(given: Container[str]) -> Iterator[None]:
    """Turn what a setting is refused for into what is wrong with its option, where it is among those `given` by one."""
    try:
        yield
    except OmnitokError as error:
        key, _, problem = str(error).partition(": ")[2].partition(" ")
        option = _OPTIONS.get(key) if key in given else None
        raise UsageError(f"{option} {problem}" if option else str(error)) from error


def show_traceback_if_debugging() -> None:
    """Inside an except clause: the traceback on stderr where OMNITOK_DEBUG=1."""
    if os.environ.get("OMNITOK_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from; libraries wrap what the system says."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _environment(causes: list[BaseException], advice: str) -> str | None:
    """What is short, where that is the reason."""
    if any(_is_out_of_memory(cause) for cause in causes):
        return f"out of memory; {advice}"
    if any(is_disk_full(cause) for cause in causes):
        return "the disk is full; nothing half-written is left"
    # torch raises it wherever the main process happens to be when the worker dies.
    if any(isinstance(cause, RuntimeError) and str(cause).startswith("DataLoader worker") for cause in causes):
        return "a process that reads data was ended from outside; if memory ran short, fewer workers take less"
    return None


def _file_name(causes: list[BaseException]) -> str:
    names = [cause.filename for cause in causes if isinstance(cause, OSError) and cause.filename is not None]
    return f"{describe(os.fsdecode(names[0]), _LONGEST_SENTENCE)}: " if names else ""


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch has a class of its own on accelerators only; where memory is short, shared libraries cannot be loaded.
    text = str(error).lower() if isinstance(error, RuntimeError | ImportError | OSError) else ""
    return any(words in text for words in _MEMORY_WORDS)
