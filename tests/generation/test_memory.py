"""Too little memory is one sentence with what would fit."""

import pytest
import torch

from omnitok.errors import OmnitokError
from omnitok.generation import memory

CPU = torch.device("cpu")


def test_refused_before_the_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000_000)
    with (
        pytest.raises(OmnitokError, match=r"8 items at once need 16\.0 MB, 10\.0 MB are free; batch_size=5 may fit"),
        memory.memory_guard(8, 2_000_000, CPU),
    ):
        pytest.fail("the work began")
    with pytest.raises(OmnitokError, match="not even one fits"), memory.memory_guard(8, 20_000_000, CPU):
        pass
    with memory.memory_guard(5, 2_000_000, CPU):
        pass


def test_the_allocators_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    with (
        pytest.raises(OmnitokError, match=r"8 items at once need 1\.0 kB or more; batch_size=4 may fit"),
        memory.memory_guard(8, 125, CPU),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OmnitokError, match="too little memory on cpu"), memory.memory_guard(1, 1, CPU):
        torch.empty(2**55, dtype=torch.uint8)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), memory.memory_guard(1, 1, CPU):
        raise RuntimeError("shapes differ")


def test_this_machine_says_what_is_free():
    free = memory.available_bytes(CPU)
    assert free is None or free > 2**20
    assert memory.available_bytes(torch.device("meta")) is None
