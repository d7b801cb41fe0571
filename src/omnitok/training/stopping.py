"""When to stop before the last step: a signal, a time limit, a step limit."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from omnitok.checked import AtLeastOne, Positive, checked


@checked
class Limits:
    """Of one process; the schedule of the run is not changed by them.

    Attributes:
        max_steps: stop when this many steps of the run are done; None runs all.
        time_limit: stop after so many minutes of wall-clock time; None has no limit.
    """

    max_steps: AtLeastOne | None = None
    time_limit: Positive | None = None


@contextlib.contextmanager
def stop_signals(minutes: float | None) -> Iterator[Callable[[], str | None]]:
    """Notice SIGTERM, SIGINT and the time limit: a function that says why to stop now, None to go on. A second signal
    acts at once."""
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    caught: list[str] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        restore()

    if threading.current_thread() is threading.main_thread():  # only there can signals be caught
        previous |= {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: caught[0] if caught else "time limit" if time.monotonic() >= deadline else None
    finally:
        restore()
