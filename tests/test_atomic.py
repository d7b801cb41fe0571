"""A final name holds a complete file or folder, or what it held before."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from omnitok import atomic
from omnitok.atomic import atomic_path, lock_folder
from omnitok.errors import OmnitokError


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


def test_folder_replaces_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/kept").touch()
    (tmp_path / "model").symlink_to("real")
    with atomic_path(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "fresh").touch()
    assert os.listdir(tmp_path / "model") == ["fresh"]
    assert os.listdir(tmp_path / "real") == ["kept"]
    assert sorted(os.listdir(tmp_path)) == ["model", "real"]


def kill_while_writing(target: Path, code: str = "temporary.write_text('half')", apart: bool = False) -> None:
    """Have another process die in the middle of `atomic_path(target)`."""
    program = (
        "import os, signal, sys; from omnitok.atomic import atomic_path\n"
        f"with atomic_path(sys.argv[1], apart={apart}) as temporary:\n    {code}\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(target)]).returncode == -signal.SIGKILL


def clear(target: Path) -> None:
    """What the next run of the same command does."""
    atomic._leftovers.cache_clear()
    with atomic_path(target) as temporary:
        temporary.write_text("whole")


@pytest.mark.parametrize("name", ["a.png", "a" * 240 + ".png", "é" * 120 + ".png", ".hidden", "no suffix"])
def test_next_writer_of_a_name_clears_what_a_killed_one_left(tmp_path: Path, name: str) -> None:
    kill_while_writing(tmp_path / name)
    assert len(os.listdir(tmp_path)) == 1
    clear(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_first_writer_killed_with_both_names_leaves_none_behind(tmp_path: Path) -> None:
    """As `generate` is when it has named its note and not yet removed the temporary name."""
    target = tmp_path / "note.json"
    kill_while_writing(target, "temporary.write_text('first'); os.link(temporary, sys.argv[1])")
    assert len(os.listdir(tmp_path)) == 2
    atomic._leftovers.cache_clear()
    with pytest.raises(FileExistsError), atomic_path(target, replace=False) as temporary:
        temporary.write_text("second")
    assert os.listdir(tmp_path) == ["note.json"]
    assert target.read_text() == "first"


def test_what_a_writer_keeps_beside_its_file_is_cleared_too(tmp_path: Path) -> None:
    """safetensors writes to a temporary name of its own first."""
    kill_while_writing(tmp_path / "a.safetensors", "temporary.with_name('.tmpX').write_text('half')", apart=True)
    assert len(os.listdir(tmp_path)) == 1
    clear(tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == ["a.safetensors"]
    with atomic_path(tmp_path / "b.safetensors", apart=True) as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "b.safetensors").read_text() == "whole"
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]


def test_other_names_and_living_writers_keep_their_temporary_files(tmp_path: Path) -> None:
    kill_while_writing(tmp_path / "a.png")
    kill_while_writing(tmp_path / "b.png")
    foreign = [".b.0123.partial.png", f".b.000000-{os.getpid()}-abcdef.partial.png", ".b.png"]
    for name in foreign:
        (tmp_path / name).touch()
    with atomic_path(tmp_path / "b.png") as mine:
        mine.touch()
        clear(tmp_path / "b.png")
        assert mine.exists()
    left = [name for name in os.listdir(tmp_path) if name != "b.png"]
    assert sorted(name for name in left if name in foreign) == sorted(foreign)
    assert len(left) == len(foreign) + 1  # and that of a.png


def test_folder_killed_between_its_two_renames_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    kill_while_writing(
        target,
        "from omnitok import atomic; from pathlib import Path; temporary.mkdir();"
        " os.rename(sys.argv[1], atomic._temporary_name(Path(sys.argv[1]), 'retired'))",
    )
    assert not target.exists()
    atomic._leftovers.cache_clear()
    with pytest.raises(RuntimeError), atomic_path(target):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(target) == ["old"]


def test_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from omnitok.atomic import lock_folder\n"
        "with lock_folder(sys.argv[1], 'omnitok train'):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(OmnitokError, match=rf"omnitok train \(process {holder.pid} on .+\) is writing"),
        lock_folder(tmp_path, "omnitok train"),
    ):
        pass
    holder.kill()
    holder.communicate()
    with lock_folder(tmp_path, "omnitok generate"):  # that of a dead process is free
        assert len(os.listdir(tmp_path)) == 2
    assert os.listdir(tmp_path) == []


def _no_links(*names: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_of_several_writers_the_first_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    for has_links in (True, False):
        with atomic_path(path, replace=False) as temporary:
            temporary.write_text("first")
        with pytest.raises(FileExistsError), atomic_path(path, replace=False) as temporary:
            temporary.write_text("second")
        assert path.read_text() == "first"
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()
        if has_links:
            monkeypatch.setattr(os, "link", _no_links)


def test_temporary_files_of_killed_processes_are_cleared(tmp_path: Path) -> None:
    program = "import os\nfrom omnitok.atomic import scratch_folder\nprint(scratch_folder(), flush=True)\n{end}"

    def run(end: str) -> Path:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", program.format(end=end)]
        return Path(subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip())

    assert not run("").exists()
    killed = run("os.kill(os.getpid(), 9)")
    (killed / "half").touch()
    foreign = tmp_path / "omnitok-mine"
    foreign.mkdir()
    living = tmp_path / killed.name.replace(killed.name.split("-")[2], str(os.getppid()))
    living.mkdir()
    run("")
    assert sorted(tmp_path.iterdir()) == sorted([foreign, living])
