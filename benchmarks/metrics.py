"""Time and memory of the metrics at the sizes of the paper: 50 000 x 2048 features, precision and recall at 10 000.

Memory is the growth of the peak resident size over the inputs, each figure in a process of its own. Times are also
given in units of one 2048 x 2048 x 2048 float32 matrix product with the same threads, to compare machines.

    python benchmarks/metrics.py [--threads 1] [--samples 50000] [--neighbours 10000]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from omnitok.metrics import FrechetAccumulator, frechet_distance, kid, precision_recall

DIMENSION = 2048


def features(n: int, seed: int) -> torch.Tensor:
    """Like pool3: not negative, with a mean."""
    return torch.randn(n, DIMENSION, generator=torch.Generator().manual_seed(seed)).mul_(0.4).abs_()


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def product_seconds() -> float:
    matrix = torch.randn(DIMENSION, DIMENSION)
    times = []
    for _ in range(5):
        start = time.process_time()
        matrix @ matrix
        times.append(time.process_time() - start)
    return min(times)


def statistics(samples: int, _: int) -> tuple[float, float, dict[str, float]]:
    """Streaming sums in batches of 250."""
    batch = features(250, 0)
    accumulator_before = peak_megabytes()
    start = time.process_time()
    accumulator = FrechetAccumulator(DIMENSION)
    for _ in range(samples // len(batch)):
        accumulator.update(batch)
    accumulator.compute()
    return time.process_time() - start, peak_megabytes() - accumulator_before, {"samples": samples}


def distance(samples: int, _: int) -> tuple[float, float, dict[str, float]]:
    """One Fréchet distance between full-rank statistics."""
    sides = []
    for seed in (0, 1):
        accumulator = FrechetAccumulator(DIMENSION)
        for part in range(max(2 * DIMENSION, min(samples, 3 * DIMENSION)) // 256):
            accumulator.update(features(256, 2 * part + seed))
        sides.append(accumulator.compute())
    before = peak_megabytes()
    start = time.process_time()
    value = frechet_distance(*sides)
    return time.process_time() - start, peak_megabytes() - before, {"value": value}


def neighbours(_: int, count: int) -> tuple[float, float, dict[str, float]]:
    """Precision and recall with k = 3."""
    real, fake = features(count, 0), features(count, 1).mul_(0.99)
    before = peak_megabytes()
    start = time.process_time()
    both = precision_recall(real, fake)
    seconds = time.process_time() - start
    return seconds, peak_megabytes() - before, {"precision": both.precision, "recall": both.recall}


def kernel(_: int, count: int) -> tuple[float, float, dict[str, float]]:
    """KID over 100 subsets of 1000."""
    real, fake = features(count, 0), features(count, 1)
    before = peak_megabytes()
    start = time.process_time()
    value = kid(real, fake).mean
    return time.process_time() - start, peak_megabytes() - before, {"value": value}


WORK: dict[str, Callable[[int, int], tuple[float, float, dict[str, float]]]] = {
    "statistics": statistics,
    "distance": distance,
    "precision_recall": neighbours,
    "kid": kernel,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--neighbours", type=int, default=10_000)
    parser.add_argument("--only", choices=list(WORK), help=argparse.SUPPRESS)  # in the process of one figure
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only is None:
        for name in WORK:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], check=True)
        return
    torch.randn(64, 64) @ torch.randn(64, 64)  # the library's own buffers
    unit = product_seconds()
    seconds, megabytes, result = WORK[arguments.only](arguments.samples, arguments.neighbours)
    row = {
        "work": arguments.only,
        "threads": arguments.threads,
        "processor_seconds": round(seconds, 2),
        "units": round(seconds / unit, 1),
        "megabytes": round(megabytes, 1),
        **result,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
