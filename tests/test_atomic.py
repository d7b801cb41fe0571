"""A final name holds a complete file or folder, or what it held before."""

import os
import stat
from pathlib import Path

import pytest

from omnitok.atomic import atomic_path


def test_file_appears_complete_with_usual_permissions(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "tokens.bin"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"half")
        temporary.chmod(0o600)
        assert not target.exists()
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    probe = tmp_path / "probe"
    probe.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(probe.stat().st_mode)
    assert os.listdir(target.parent) == ["tokens.bin"]


def test_failure_keeps_what_was_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "tokens.bin"
    target.write_bytes(b"old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["tokens.bin"]


def test_folder_replaces_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "stale").touch()
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "fresh").touch()
    assert os.listdir(target) == ["fresh"]
    assert os.listdir(tmp_path) == ["model"]
