"""`-o s3://...`: a verb works in a folder of this machine, and what it has finished is copied to the URL at its end."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnitok.atomic import scratch_folder
from omnitok.cli.failures import UsageError
from omnitok.cli.report import progress_bar, rename, say
from omnitok.errors import OmnitokError, reason
from omnitok.files import SAMPLE_NOTE, Elsewhere, name_of, url_of

_LOCAL_ONLY = ("state_dir", "weights_dir")


@contextlib.contextmanager
def writing_elsewhere(verb: Any) -> Iterator[Any]:
    """The verb itself; where its --out is a URL, with a folder of this machine in its place.

    Whatever ends the work, finished files are copied, those of nested folders first, so that an index is there when
    what it lists is. Object stores show a file when it is whole.

    Raises:
        UsageError: the verb cannot work so, or the URL holds something that would be replaced.
        OmnitokError: the URL cannot be reached, or not written; the results are then kept here.
    """
    for name in _LOCAL_ONLY:
        if (url := url_of(getattr(verb, name, None) or "")) != "":
            raise UsageError(f"--{name.replace('_', '-')} {url}: must be a folder of this machine")
    url = url_of(getattr(verb, "out", None) or "")
    if not url:
        yield verb
        return
    _check(verb, url)
    target = Elsewhere(url)
    here = Path(tempfile.mkdtemp(dir=scratch_folder())) / (name_of(url) or "results")
    before = _begin(verb, target, here)
    rename(here, url)
    try:
        yield dataclasses.replace(verb, out=here)
    finally:
        _copy(here, target, before)


def _check(verb: Any, url: str) -> None:
    kind = type(verb).__name__.lower()
    if kind == "train":
        raise UsageError(
            f"--out {url}: a training needs its folder on this machine, where it writes checkpoints and finds them "
            "again; copy the folder when it has ended"
        )
    if url.startswith("http"):
        raise UsageError(f"--out {url}: nothing can be written by http; s3, gs, az, hf and local paths are accepted")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or getattr(verb, "shard", None) is not None:
        raise UsageError(f"--out {url}: several processes share a folder on this machine; copy it when they are done")
    for field in dataclasses.fields(verb):
        value = getattr(verb, field.name)
        for path in value if isinstance(value, tuple) else (value,):
            source = url_of(path) if isinstance(path, Path) and field.name != "out" else ""
            if source and (f"{source}/".startswith(f"{url}/") or f"{url}/".startswith(f"{source}/")):
                raise UsageError(f"--out {url}: is, holds or lies in the input {source}; give another place")


def _begin(verb: Any, target: Elsewhere, here: Path) -> dict[Path, int]:
    """Fetch what the work goes on with; files of a folder here and when they were written."""
    kind = type(verb).__name__.lower()
    found = target.files()
    goes_on = getattr(verb, "resume", False) or (kind == "generate" and SAMPLE_NOTE in found)
    if goes_on:
        for name in found:
            target.fetch(name, here / name)
    elif found and kind in ("tokenize", "convert") and not getattr(verb, "inspect", False):
        hint = "; --resume goes on with them" if kind == "tokenize" else ""
        raise OmnitokError(f"{target.url}: holds files already{hint}, or give another place")
    return _files(here)


def _files(folder: Path) -> dict[Path, int]:
    """Finished files, those of nested folders first: the name of whatever is not finished begins with a dot."""
    found = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    visible.sort(key=lambda path: (-len(path.parts), path))
    return {path: path.stat().st_mtime_ns for path in visible}


def _copy(here: Path, target: Elsewhere, before: dict[Path, int]) -> None:
    files = [path for path, time in _files(here).items() if before.get(path) != time]
    try:
        with progress_bar(len(files), f"to {target.url}", "file") as bar:
            for path in files:
                target.put(path, "" if path == here else path.relative_to(here).as_posix())
                bar.update()
    except BaseException as error:
        kept = Path(tempfile.mkdtemp(prefix="omnitok-results-")) / here.name
        shutil.move(here, kept)
        if not isinstance(error, Exception):
            say(f"not everything was copied to {target.url}; it is kept in {kept}")
            raise
        raise OmnitokError(f"{target.url}: cannot be written ({reason(error)}); the results are in {kept}") from error
    shutil.rmtree(here.parent, ignore_errors=True)
