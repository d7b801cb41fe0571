import os
import unicodedata
from pathlib import Path

import pytest

from omnitok.cli.failures import UsageError
from omnitok.cli.naming import Job, plan_jobs
from omnitok.errors import MediaError

SUFFIX = ".safetensors"
SUFFIXES = frozenset({".png", ".mp4"})


def listed(path: Path) -> list[Path]:
    if not path.exists():
        raise MediaError(f"{path}: no such file or folder")
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def suffix(path: Path) -> str:
    return {".mp4": ".mp4", ".mov": ".mp4", ".gif": ".gif"}.get(path.suffix, ".png")


def plan(inputs: list[Path], out: Path) -> list[Job]:
    return plan_jobs(inputs, out, SUFFIXES, listed, suffix)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def outputs(jobs: list[Job], out: Path) -> list[str]:
    return [job.output.relative_to(out).as_posix() for job in jobs]


def test_stems_stay_and_suffixes_follow_the_kind(tmp_path: Path) -> None:
    names = ["a.jpg", "b.mov", "c.gif", "d.tar.webp"]
    touch(*(tmp_path / name for name in names))
    out = tmp_path / "out"
    assert outputs(plan([tmp_path / name for name in names], out), out) == ["a.png", "b.mp4", "c.gif", "d.tar.png"]


def test_sub_folders_of_a_folder_are_kept(tmp_path: Path) -> None:
    touch(tmp_path / "in/x/a.png", tmp_path / "in/y/a.png", tmp_path / "in/b.png")
    out = tmp_path / "out"
    assert outputs(plan([tmp_path / "in"], out), out) == ["b.png", "x/a.png", "y/a.png"]


def test_clashes_of_suffixes_and_of_folders(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "a.png", tmp_path / "x/b.png", tmp_path / "y/b.png")
    out = tmp_path / "out"
    files = [tmp_path / name for name in ("a.jpg", "a.png", "x/b.png", "y/b.png")]
    assert outputs(plan(files, out), out) == ["a.jpg.png", "a.png", "x/b.png", "y/b.png"]


def test_every_clash_is_resolved(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.jpg.png", "a.jpg.jpg", "a.png.jpg", "s/a.png", "s/a.jpg"]
    touch(*(tmp_path / name for name in names))
    out = tmp_path / "out"
    found = outputs(plan([tmp_path / name for name in names], out), out)
    assert len(set(found)) == len(names)


def test_no_input_is_ever_overwritten(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "b.png")
    jobs = plan([tmp_path], tmp_path)
    assert not {job.output for job in jobs} & {job.source for job in jobs}
    with pytest.raises(UsageError, match="is the input itself"):
        plan([tmp_path / "a.png"], tmp_path / "a.png")


def test_one_file_may_be_named_as_the_output_of_one_input(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert plan([tmp_path / "a.jpg"], tmp_path / "r.png")[0].output == tmp_path / "r.png"
    with pytest.raises(UsageError, match="several inputs"):
        plan([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "r.png")
    (tmp_path / "folder.png").mkdir()
    assert plan([tmp_path / "a.jpg"], tmp_path / "folder.png")[0].output == tmp_path / "folder.png/a.png"


def test_failures_keep_their_place_and_files_count_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.png")
    jobs = plan([tmp_path / "a.png", tmp_path / "none.png", tmp_path / "b.png", tmp_path / "a.png"], tmp_path / "out")
    assert [job.source.name for job in jobs] == ["a.png", "none.png", "b.png"]
    assert jobs[1].error is not None
    assert "no such file" in jobs[1].error


def test_results_of_an_earlier_run_are_not_inputs(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "out/a.png")
    assert [job.source for job in plan([tmp_path], tmp_path / "out")] == [tmp_path / "a.png"]


def test_names_never_meet_whatever_the_system_takes_for_the_same(tmp_path: Path) -> None:
    """Letters of either case, two ways to write é, and names of 255 bytes that need a longer suffix."""
    long = "n" * 250
    names = ["x.png", "X.PNG", "cafe\u0301.jpg", "caf\u00e9.jpg", f"{long}a.jpg", f"{long}b.jpg", "50%discount.mp4"]
    touch(*(tmp_path / name for name in names))
    out = tmp_path / "out"
    jobs = plan_jobs([tmp_path / n for n in names], out, frozenset({SUFFIX}), listed, lambda _: SUFFIX)
    found = [job.output for job in jobs]
    assert len({unicodedata.normalize("NFC", str(path)).casefold() for path in found}) == len(names)
    assert all(len(path.name.encode()) <= 255 for path in found)
    assert found[-1].name == "50%discount.safetensors"
    touch(*found)


def test_a_name_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    name = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    touch(name)
    assert os.fsencode(plan([name], tmp_path / "out")[0].output).endswith(b"out/caf\xe9.png")


def test_a_file_whose_name_fits_keeps_it_in_any_company(tmp_path: Path) -> None:
    touch(tmp_path / "x.png", tmp_path / "x.jpg")
    out = tmp_path / "out"
    assert outputs(plan([tmp_path / "x.png"], out), out) == ["x.png"]
    assert outputs(plan([tmp_path / "x.jpg", tmp_path / "x.png"], out), out) == ["x.jpg.png", "x.png"]


def test_a_file_that_cannot_be_written_is_no_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"-o .*x\.psd: results are written as \.mp4, \.png"):
        plan([tmp_path / "a.png"], tmp_path / "x.psd")
    assert plan([tmp_path / "a.png"], tmp_path / "results.v2")[0].output == tmp_path / "results.v2/a.png"
