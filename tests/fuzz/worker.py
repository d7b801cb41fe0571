"""A process that reads mutants, so that a hang, a crash or a flood of memory is its own; see `test_readers`.

It answers a first line once it has started, then takes a JSON line `[reader, seed, first, count, folder]` per task and
answers each mutant with one.
"""

import contextlib
import json
import os
import random
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from fuzz.readers import READERS
from omnitok.cli.failures import UsageError
from omnitok.errors import OmnitokError

GIB = 2**30


def peak_memory() -> int:
    """Bytes of memory at the highest since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def read_mutant(reader: str, seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Make one mutant, read it, and say what came of it; its files stay in the folder."""
    place = folder / reader
    rng = random.Random(f"{reader} {seed} {number}")
    path = READERS[reader].make(place, rng)
    reset_peak()
    before, started = peak_memory(), time.perf_counter()
    result: dict[str, Any] = {"number": number, "outcome": "read", "message": ""}
    try:
        READERS[reader].read(path)
    except (OmnitokError, UsageError) as error:
        result |= {"outcome": "refused", "message": str(error)}
    except BaseException as error:
        where = traceback.format_exc(limit=-6)
        result |= {"outcome": "raw", "message": f"{type(error).__name__}: {str(error)[:300]}\n{where}"}
    result["seconds"] = round(time.perf_counter() - started, 3)
    result["grown"] = max(peak_memory() - before, 0)
    return result


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a reader prints is not an answer
    warnings.simplefilter("ignore")
    # A flood of memory ends as MemoryError in the worker, not on the machine; it is told from `grown`.
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 6 * GIB, resource.RLIM_INFINITY))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        reader, seed, first, count, folder = json.loads(line)
        for number in range(first, first + count):
            print(json.dumps(read_mutant(reader, seed, number, Path(folder))), file=answers, flush=True)


if __name__ == "__main__":
    main()
