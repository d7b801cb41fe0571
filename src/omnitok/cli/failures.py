"""What went wrong, in one sentence."""

import errno
import os
import sys
import traceback

from omnitok.errors import OmnitokError


class UsageError(Exception):
    """Options that make no sense, alone or together; the command line exits with 2."""


def explain(error: BaseException) -> str:
    """One sentence for anything raised: plain for what a user can cause, marked as our fault otherwise."""
    if _is_out_of_memory(error):
        return "out of memory; use --tile (such as --tile 512), a smaller --fps, or another --device"
    if _is_disk_full(error):
        return f"the disk is full, nothing half-written is left ({_one_line(error)})"
    if isinstance(error, OmnitokError | ValueError | OSError | UsageError):
        return _one_line(error)
    kind = type(error).__name__
    return f"internal error, please report it; OMNITOK_DEBUG=1 shows where ({kind}: {_one_line(error)})"


def explain_for(path: os.PathLike[str] | str, error: BaseException) -> str:
    """`explain`, naming the file where the message does not."""
    sentence = explain(error)
    return sentence if str(path) in sentence else f"{path}: {sentence}"


def show_traceback_if_debugging() -> None:
    """Inside an except clause: the traceback on stderr where OMNITOK_DEBUG=1."""
    if os.environ.get("OMNITOK_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()  # torch has its own class on accelerators only; on the CPU a plain RuntimeError
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):  # from libraries that have their own exceptions
            return True
        error = error.__cause__
    return False
