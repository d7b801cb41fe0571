"""Memory of long clips and of batches; the peaks of whole runs are compared in test_reconstruct.py."""

import os
import subprocess
import sys

import pytest

HAS_GLIBC = sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")

# What a clip does to the heap: something large has come and gone, a tensor of one piece lies below one that stays.
PIECE = """
import os, sys
from omnitok.memory import prepare_for_streams
import torch

def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

torch.ones(7 * 2**20)  # 28 MB
if sys.argv[1] == "mapped":
    prepare_for_streams()
before = megabytes()
for_one_piece = torch.ones(5 * 2**20)
stays = torch.ones(2**14)
del for_one_piece
print(megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_freed_tensor_leaves_no_hole() -> None:
    kept = {}
    for name in ("mapped", "heap"):
        line = [sys.executable, "-c", PIECE, name]
        kept[name] = float(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    assert kept["mapped"] < 2
    if HAS_GLIBC:
        assert kept["heap"] > 15, "glibc gives freed blocks back by itself now: prepare_for_streams may go"


# Batches whose large blocks live side by side, as activations do.
BATCHES = """
import resource, sys
from omnitok.memory import keep_freed_blocks
import torch

if sys.argv[1] == "kept":
    keep_freed_blocks()
for batch in range(18):
    if batch == 8:  # the heap grows for up to five, as what is small comes to lie between the blocks
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(10 * 2**20) for _ in range(4)]  # 40 MB each, more than glibc's own limit
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not HAS_GLIBC, reason="mallopt is glibc's")
def test_the_memory_of_a_batch_is_kept_for_the_next() -> None:
    faults = {}
    # Another test's command line may have asked for large pages.
    small_pages = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}
    for name in ("kept", "returned"):
        line = [sys.executable, "-c", BATCHES, name]
        faults[name] = int(subprocess.run(line, check=True, capture_output=True, text=True, env=small_pages).stdout)
    assert faults["kept"] < faults["returned"] / 5


def test_large_pages_are_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    from omnitok.memory import prepare_for_streams

    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    prepare_for_streams()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    prepare_for_streams()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
