"""Processor seconds of several ways to do the same, measured in turn; for the other benchmarks."""

import statistics
import time
from collections.abc import Callable


def medians(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds of each, the rounds alternating, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if round_number:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}
