"""A checkpoint is there whole or not at all."""

import resource
from pathlib import Path

import pytest
import torch

from omnitok.errors import CheckpointError
from omnitok.training.checkpoint import Checkpoints, flatten_state, keys_of_group
from omnitok.training.distributed import Processes

ALONE = Processes(0, 1, torch.device("cpu"))


def state(value: float, size: int = 8) -> dict[str, torch.Tensor]:
    return {"model/weight": torch.full((size,), value), "progress/updates": torch.tensor(int(value))}


def test_what_is_saved_is_the_moment_of_the_call(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    saved = state(1)
    checkpoints.save(1, saved)
    saved["model/weight"].fill_(7)  # while the background thread writes
    checkpoints.finish()
    loaded = state(0)
    checkpoints.load(1, loaded)
    assert torch.equal(loaded["model/weight"], torch.ones(8))
    assert int(loaded["progress/updates"]) == 1


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    for step in (1, 2, 3, 10):
        checkpoints.save(step, state(step))
    checkpoints.finish()
    assert checkpoints.steps() == [3, 10]
    assert checkpoints.latest() == 10
    assert len(list(tmp_path.iterdir())) == 2


def test_unfinished_folders_do_not_count_and_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    checkpoints.save(1, state(1))
    checkpoints.finish()
    (tmp_path / ".step-000000002.partial").mkdir()
    (tmp_path / ".step-000000002.partial" / "__0_0.distcp").write_bytes(b"half")
    assert checkpoints.latest() == 1
    checkpoints.clear_partial()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


def test_a_failed_write_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    checkpoints.save(1, state(1))
    checkpoints.finish()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as a full disk would
    try:
        checkpoints.save(2, state(2, size=100_000))
        with pytest.raises(CheckpointError, match=r"step 2 could not be written .*; the one of step 1 is complete"):
            checkpoints.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    loaded = state(0)
    checkpoints.load(1, loaded)
    assert torch.equal(loaded["model/weight"], torch.ones(8))


def test_damaged_and_foreign_checkpoints_are_one_sentence(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    checkpoints.save(1, state(1))
    checkpoints.finish()
    with pytest.raises(CheckpointError, match="holds no model/other"):
        checkpoints.load(1, {"model/other": torch.zeros(8)})
    (tmp_path / "step-000000001" / ".metadata").write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="cannot be read") as failure:
        checkpoints.load(1, state(0))
    assert "\n" not in str(failure.value)


def test_groups_are_flattened_and_found_again() -> None:
    flat = flatten_state({"model": {"a.b": torch.zeros(1)}, "ema": {"a.b": torch.ones(1)}})
    assert set(flat) == {"model/a.b", "ema/a.b"}
    assert keys_of_group(set(flat), "ema") == {"a.b"}
