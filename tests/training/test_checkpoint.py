"""A checkpoint is there whole or not at all."""

import dataclasses
import enum
import io
import pickle
import zipfile
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from helpers.processes import full_disk
from omnitok.distributed import Processes
from omnitok.errors import CheckpointError
from omnitok.training.checkpoint import Checkpoints, flatten_state, keys_of_group

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


def test_what_a_killed_process_did_not_come_to_remove_goes(tmp_path: Path) -> None:
    """Killed between the rename of the last checkpoint and the removal of the one before it."""
    checkpoints = Checkpoints(tmp_path, 3, ALONE)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    checkpoints.finish()
    again = Checkpoints(tmp_path, 2, ALONE)
    again.clear_partial()
    assert again.steps() == [2, 3]


def test_a_failed_write_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    checkpoints.save(1, state(1))
    checkpoints.finish()
    with full_disk(100_000):
        checkpoints.save(2, state(2, size=100_000))
        with pytest.raises(CheckpointError, match=r"step 2 could not be written .*; the one of step 1 is complete"):
            checkpoints.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    loaded = state(0)
    checkpoints.load(1, loaded)
    assert torch.equal(loaded["model/weight"], torch.ones(8))


def test_an_interruption_is_no_failed_write(tmp_path: Path) -> None:
    """The second Ctrl-C, while the end of a run waits for its checkpoint."""

    class Interrupted(Future[None]):
        def result(self, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    (tmp_path / ".step-000000001.partial").mkdir()
    checkpoints._pending = 1, Interrupted()
    with pytest.raises(KeyboardInterrupt):
        checkpoints.finish()
    assert (tmp_path / ".step-000000001.partial").is_dir()  # it may still be written to


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


def checkpoint_of(folder: Path) -> Path:
    """A checkpoint of two tensors at step 1."""
    checkpoints = Checkpoints(folder, 2, ALONE)
    checkpoints.save(1, state(1))
    checkpoints.finish()
    return folder / "step-000000001"


class Opens:
    """Pickled, a program that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def test_an_index_cannot_run_code(tmp_path: Path) -> None:
    saved = checkpoint_of(tmp_path)
    (saved / "SHA256SUMS").unlink()
    metadata = dcp.FileSystemReader(saved).read_metadata()
    entry = next(iter(metadata.state_dict_metadata.values()))
    made = tmp_path / "made"
    hostile = (
        Opens(made),
        dataclasses.replace(metadata, planner_data=Opens(made)),
        dataclasses.replace(metadata, state_dict_metadata={"model/weight": Opens(made)}),
        # torch reads what is said to be no tensor with the whole of pickle
        dataclasses.replace(metadata, state_dict_metadata={"model/weight": BytesStorageMetadata()}),
        dataclasses.replace(metadata, storage_data={MetadataIndex("model/weight", (0,)): _StorageInfo("../a", 0, 9)}),
        dataclasses.replace(metadata, state_dict_metadata={"model/weight": dataclasses.replace(entry, size=(10**30,))}),
        metadata.state_dict_metadata,
        b"",
    )
    for index in hostile:
        (saved / ".metadata").write_bytes(pickle.dumps(index))
        checkpoints = Checkpoints(tmp_path, 2, ALONE)
        for read in (lambda: checkpoints.keys(1), lambda: checkpoints.load(1, state(0))):  # noqa: B023
            with pytest.raises(CheckpointError, match="step-000000001: cannot be read"):
                read()
    assert not made.exists()


def test_an_index_of_any_python_is_read(tmp_path: Path) -> None:
    """Python 3.11.0 to 3.11.3 pickle a member of an Enum as `getattr(class, name)`, others as `class(value)`."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: object) -> object:
            return (getattr, (type(value), value.name)) if isinstance(value, enum.Enum) else NotImplemented

    saved = checkpoint_of(tmp_path)
    metadata = dcp.FileSystemReader(saved).read_metadata()
    (saved / "SHA256SUMS").unlink()
    with (saved / ".metadata").open("wb") as file:
        Pickler(file).dump(metadata)
    assert b"getattr" in (saved / ".metadata").read_bytes()
    loaded = state(0)
    Checkpoints(tmp_path, 2, ALONE).load(1, loaded)
    assert torch.equal(loaded["model/weight"], torch.ones(8))


def test_data_cannot_run_code_nor_fill_the_memory(tmp_path: Path) -> None:
    saved = checkpoint_of(tmp_path)
    (saved / "SHA256SUMS").unlink()
    made = tmp_path / "made"
    for content in (Opens(made), None):
        file = io.BytesIO()
        if content is None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("archive/data/0", bytes(10**7))
        else:
            torch.save(content, file)
        metadata = dcp.FileSystemReader(saved).read_metadata()
        places = {key: _StorageInfo("__0_0.distcp", 0, file.tell()) for key in metadata.storage_data}
        (saved / "__0_0.distcp").write_bytes(file.getvalue())
        (saved / ".metadata").write_bytes(pickle.dumps(dataclasses.replace(metadata, storage_data=places)))
        with pytest.raises(CheckpointError):
            Checkpoints(tmp_path, 2, ALONE).load(1, state(0))
    assert not made.exists()


def test_a_flipped_bit_is_told_with_the_file(tmp_path: Path) -> None:
    saved = checkpoint_of(tmp_path)
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    assert {path.name for path in saved.iterdir()} == {".metadata", "__0_0.distcp", "SHA256SUMS"}
    data = saved / "__0_0.distcp"
    content = data.read_bytes()
    place = content.index(state(1)["model/weight"].numpy().tobytes()) + 2  # inside a weight
    data.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: the file has changed since it was written"):
        checkpoints.load(1, state(0))
    data.unlink()
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp"):
        checkpoints.load(1, state(0))
    data.write_bytes(content)
    checkpoints.load(1, state(0))
    (saved / "SHA256SUMS").unlink()  # as checkpoints had none before
    loaded = state(0)
    checkpoints.load(1, loaded)
    assert torch.equal(loaded["model/weight"], torch.ones(8))
