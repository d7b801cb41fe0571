"""The `with` block that every writer of videos shares: all of a file, or none of it."""

import contextlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar

from omnitok.errors import MediaError, writing

Target = TypeVar("Target")


class FrameWriter(ABC, Generic[Target]):
    """Writes a video frame by frame. Use it in a `with` block.

    Nothing appears under `path` before the block ends without an error; after an error, which stays what it is, nothing
    is left. What fails while the file is opened, written or finished is a MediaError.

    Args:
        path: the file or folder.

    Attributes:
        frames_written: so far.
        write_errors: what the libraries raise that write it.
    """

    write_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.frames_written = Path(path), 0
        self._stack = contextlib.ExitStack()
        self._target: Target | None = None

    @abstractmethod
    def _open(self, stack: contextlib.ExitStack) -> Target:
        """What frames are written to; what is to be closed after it goes on the stack."""

    @abstractmethod
    def _finish(self, target: Target) -> None:
        """Write what comes after the last frame."""

    def _opened(self) -> Target:
        if self._target is None:
            raise ValueError(f"{type(self).__name__}.write works only inside its `with` block")
        return self._target

    def __enter__(self) -> Self:
        with writing(self.path, self.write_errors), contextlib.ExitStack() as stack:
            self._target = self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        target, self._target = self._target, None
        if error is not None or target is None:
            self._stack.__exit__(kind, error, trace)
            return
        with writing(self.path, self.write_errors), self._stack:
            if self.frames_written == 0:
                raise MediaError(f"{self.path}: no frames were written, so there is no video")
            self._finish(target)
