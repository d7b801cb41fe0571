"""Too little memory, said in one sentence: before the work where it can be known, after the allocator gave up else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from omnitok.errors import OmnitokError


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on the device now; None where that cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )  # by torch, for the next tensors
        return free + kept
    if device.type == "cpu":
        return _available_on_linux()
    return None


def _available_on_linux() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


@contextmanager
def memory_guard(batch: int, bytes_per_item: int, device: torch.device) -> Iterator[None]:
    """Refuse work on `batch` items that cannot fit, and say what would, also when the allocator fails inside.

    Raises:
        OmnitokError: too little memory.
    """
    free = available_bytes(device)
    if free is not None and batch * bytes_per_item > free:
        raise OmnitokError(_sentence(batch, bytes_per_item, free, device))
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OmnitokError(_sentence(batch, bytes_per_item, free, device, failed=True)) from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):  # the CPU's allocator
            raise
        raise OmnitokError(_sentence(batch, bytes_per_item, free, device, failed=True)) from error


def _sentence(batch: int, bytes_per_item: int, free: int | None, device: torch.device, failed: bool = False) -> str:
    needed = f"too little memory on {device}: {batch} items at once need {_in_words(batch * bytes_per_item)}"
    needed += " or more" if failed else ""
    known = "" if free is None else f", {_in_words(free)} are free"
    fits = batch // 2 if free is None or failed else min(batch - 1, free // max(bytes_per_item, 1))
    if failed and free is not None:
        fits = min(fits, free // max(bytes_per_item, 1))
    advice = f"batch_size={fits} may fit" if fits >= 1 else "not even one fits; use a smaller model or fewer frames"
    return f"{needed}{known}; {advice}"


def _in_words(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
