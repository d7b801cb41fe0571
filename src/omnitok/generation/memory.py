"""Too little memory, said in one sentence: before the work where it can be known, after the allocator gave up else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from omnitok.errors import TooLittleMemoryError


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on the device now; None where that cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # and what torch keeps for the next tensors
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    with suppress(OSError, StopIteration), open("/proc/meminfo", encoding="ascii") as file:  # Linux
        return int(next(line for line in file if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


@contextmanager
def memory_guard(batch: int, bytes_per_item: int, device: torch.device) -> Iterator[None]:
    """Refuse work on `batch` items that cannot fit, and say what would, also when the allocator fails inside.

    Raises:
        TooLittleMemoryError: it does not fit.
    """
    free = available_bytes(device)
    if free is not None and batch * bytes_per_item > free:
        raise _too_little(batch, bytes_per_item, free, device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        of_cpu = "not enough memory" in str(error) or "can't allocate memory" in str(error)
        if not of_cpu and not isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        raise _too_little(batch, bytes_per_item, free, device, failed=True) from error


def _too_little(
    batch: int, bytes_per_item: int, free: int | None, device: torch.device, failed: bool = False
) -> TooLittleMemoryError:
    needed = f"too little memory on {device}: {batch} items at once need {_in_words(batch * bytes_per_item)}"
    needed += " or more" if failed else ""
    known = "" if free is None else f", {_in_words(free)} are free"
    fits = batch // 2 if failed else batch - 1
    if free is not None:
        fits = min(fits, free // max(bytes_per_item, 1))
    return TooLittleMemoryError(f"{needed}{known}", fits)


def _in_words(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
