"""Memory by kind of work: videos need as much at their end as at their beginning, batches the same again and again.

PyTorch's CPU tensors come from malloc, and glibc keeps what is freed for later. The tensors of a 720p video are 3 to 60
MB each; those that live for one piece lie between those that live for several, so the free stretches seldom fit what is
asked for next, and the peak grows with the number of pieces, by chance and without end. Blocks that are mapped on their
own leave no holes: freed, they are gone at once, and the peak is that of the tensors in use.

A batch of a training or an evaluation asks for the sizes that the one before has freed. Where they go back to the
system in between, every page is paid for again.
"""

import contextlib
import ctypes
import functools
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 2**30
_OWN_MAPPING_BYTES = 2**17  # glibc's own beginning


def prepare_for_streams() -> None:
    """Let the work on videos need as much memory at its end as at its beginning; call it before torch is imported.

    From now on blocks of 128 KB and more go back to the system when they are freed. By itself glibc starts so too, but
    raises the limit to the size of what is freed, up to 32 MB. A fresh mapping costs a fault per page: with pages of 4
    KB half of the time of a 720p video, so PyTorch's large tensors use pages of 2 MB. Without glibc, nothing changes.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it allocates first
    _call("mallopt", _M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


def keep_freed_blocks() -> None:
    """From now on what is freed is kept, but for blocks of 1 GB and more. Does nothing without glibc."""
    _call("mallopt", _M_MMAP_THRESHOLD, _KEPT_BYTES)
    _call("mallopt", _M_TRIM_THRESHOLD, _KEPT_BYTES)


def return_freed_blocks() -> None:
    """Give back now what was freed between blocks that are in use. Does nothing without glibc.

    For tokens that wait for their shard to be full and lie between what batches free: the holes would be kept. (Mapping
    large blocks on their own, as for videos, costs small batches half their speed.)
    """
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library, such as musl
            getattr(_c_library(), function)(*arguments)


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
