"""When to stop before the last step: a signal, a time limit, a step limit."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Annotated

from pydantic import Field

from omnitok.checked import checked


@checked
class Limits:
    """Of one process; the schedule of the run is not changed by them.

    Attributes:
        max_steps: stop when this many steps of the run are done; None runs all.
        time_limit: stop after so many minutes of wall-clock time; None has no limit.
    """

    max_steps: Annotated[int | None, Field(ge=1)] = None
    time_limit: Annotated[float | None, Field(gt=0)] = None


class StopSignal:
    """Notices SIGTERM, SIGINT and the time limit; the loop asks after each step. A second signal acts at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, minutes: float | None) -> None:
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # only there can signals be caught
            self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def reason(self) -> str | None:
        """Why to stop now; None to go on."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "time limit"
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        self._previous = {}
