"""Which files a verb works on, the name of what each becomes, and the work itself: one file after the other."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnitok.cli.failures import UsageError, explain_for, show_traceback_if_debugging
from omnitok.cli.report import Report, Row, progress_bar
from omnitok.errors import OmnitokError
from omnitok.files import is_folder

_LONGEST_NAME = 255  # bytes, on all usual file systems


@dataclass(frozen=True)
class Job:
    """One input and where its result goes; or why there will be none."""

    source: Path
    output: Path = Path()
    error: str | None = None


@dataclass(frozen=True)
class _Found:
    source: Path
    relative: Path  # below the folder that was given, or just the name


def plan_jobs(
    inputs: Sequence[Path],
    out: Path,
    file_suffixes: Iterable[str],
    expand: Callable[[Path], list[Path]],
    suffix_of: Callable[[Path], str],
) -> list[Job]:
    """One job per file, in the order given; a path that cannot be used is a job with an `error`.

    Names under OUT keep the stem, and sub-folders of a folder that was given. Where two results would share a name, or
    a result would replace an input, the one whose input has that very name keeps it, and the others add to the whole
    old name (`a.png` and `a.jpg` become `a.png` and `a.jpg.png`), then the folders above, then a number. Names that
    differ in case or in Unicode form only are the same file on some systems, so they count as one.

    Args:
        out: a folder, or one file if it ends in one of `file_suffixes` and is no folder.
        expand: files in place of a folder (may raise OmnitokError).
        suffix_of: suffix of the result for a source (may raise OmnitokError).

    Raises:
        UsageError: OUT names one file and there are several inputs, or it is an input, or another kind of file.
    """
    found, jobs = _expand_all(inputs, out, expand)
    names_a_file = _names_a_file(out, set(file_suffixes))
    if names_a_file and len(jobs) > 1:
        raise UsageError(f"-o {out} names one file, but there are several inputs: give a folder")
    suffixes: dict[Path, str] = {}
    for item in found:
        try:
            suffixes[item.source] = suffix_of(item.source)
        except (OmnitokError, OSError) as error:
            jobs[item.source] = Job(item.source, error=explain_for(item.source, error))
    usable = [item for item in found if item.source in suffixes]
    if names_a_file:
        if any(_same(item.source, out) for item in found):
            raise UsageError(f"-o {out} is the input itself: give another name")
        outputs = {item.source: out for item in usable}
    else:
        outputs = _name_all(usable, out, [suffixes[item.source] for item in usable])
    for source, output in outputs.items():
        jobs[source] = Job(source, output)
    return list(jobs.values())


def run_jobs(jobs: Sequence[Job], report: Report, work: Callable[[Job], Row]) -> None:
    """Every job's row into the report; one that fails is reported, and the others go on."""
    with progress_bar(len(jobs), "files", "file") as bar:
        for job in jobs:
            if job.error is not None:
                report.fail(str(job.source), job.error)
            else:
                try:
                    report.add(work(job))
                except Exception as error:
                    show_traceback_if_debugging()
                    report.fail(str(job.source), explain_for(job.source, error))
            bar.update()


def _names_a_file(out: Path, accepted: set[str]) -> bool:
    suffix = out.suffix.lower()
    if out.is_dir() or not suffix:
        return False
    if suffix not in accepted and suffix in _foreign_suffixes():
        raise UsageError(f"-o {out}: results are written as {', '.join(sorted(accepted))}, or into a folder")
    return suffix in accepted


def _foreign_suffixes() -> set[str]:
    """Suffixes that nobody gives to a folder; others, such as `results.v2`, may be one."""
    from PIL import Image

    from omnitok.data import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    more = {".safetensors", ".npz", ".npy", ".pt", ".json", ".csv", ".txt", ".svg", ".heic", ".mp3", ".wav"}
    return {*Image.registered_extensions(), *IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *more}


def _expand_all(
    inputs: Sequence[Path], out: Path, expand: Callable[[Path], list[Path]]
) -> tuple[list[_Found], dict[Path, Job]]:
    """Files found, and a dict in the order of the result whose failures are filled in."""
    found: list[_Found] = []
    jobs: dict[Path, Job] = {}
    seen: set[Path] = set()
    for given in inputs:
        try:
            files = expand(given)
        except (OmnitokError, OSError) as error:
            jobs[given] = Job(given, error=explain_for(given, error))
            continue
        in_folder = is_folder(str(given))
        for file in files:
            is_earlier_output = in_folder and not _same(given, out) and out.resolve() in file.resolve().parents
            if file.resolve() in seen or is_earlier_output:
                continue
            seen.add(file.resolve())
            found.append(_Found(file, file.relative_to(given) if in_folder else Path(file.name)))
            jobs[file] = Job(file)
    return found, jobs


def _name_all(items: list[_Found], out: Path, suffixes: list[str]) -> dict[Path, Path]:
    if not items:
        return {}
    absolute = [Path(os.path.abspath(item.source)) for item in items]
    above = Path(os.path.commonpath([path.parent for path in absolute]))
    choices = []
    for item, path, suffix in zip(items, absolute, suffixes, strict=True):
        nested = path.relative_to(above)
        names = [
            item.relative.with_suffix(suffix),
            item.relative.with_name(item.relative.name + suffix),
            nested.with_suffix(suffix),
            nested.with_name(nested.name + suffix),
        ]
        choices.append([_shortened(name) for name in names])
    inputs = {_key(item.source.resolve()) for item in items}
    level = [0] * len(items)
    while True:
        names = [_choice(options, n) for options, n in zip(choices, level, strict=True)]
        uses = Counter(_key(name) for name in names)
        clashes = [i for i, name in enumerate(names) if uses[_key(name)] > 1 or _key((out / name).resolve()) in inputs]
        if not clashes:
            return {item.source: out / name for item, name in zip(items, names, strict=True)}
        moving = [i for i in clashes if names[i] != items[i].relative or _key((out / names[i]).resolve()) in inputs]
        for rank, i in enumerate(moving or clashes):
            level[i] += 1 if level[i] < 3 else 1 + rank  # past the choices, numbers that differ


def _choice(options: list[Path], level: int) -> Path:
    last = options[-1]
    if level < len(options):
        return options[level]
    return _shortened(last.with_name(f"{last.stem}-{level - 2}{last.suffix}"))


def _shortened(path: Path) -> Path:
    """The path with a name that file systems take: a long one is cut, and told from others by a hash."""
    if len(os.fsencode(path.name)) <= _LONGEST_NAME:
        return path
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    kept = os.fsencode(path.stem)[: _LONGEST_NAME - 9 - len(os.fsencode(path.suffix))].decode("utf-8", "ignore")
    return path.with_name(f"{kept}-{digest}{path.suffix}")


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def media_files(path: Path) -> list[Path]:
    """The path itself, or for a folder the images and videos in it."""
    from omnitok.data import list_media

    return list_media([path])


def result_suffix(source: Path) -> str:
    """Images become .png, videos .mp4; an animated .gif stays one."""
    from omnitok.data import media_kind

    if media_kind(source) == "image":
        return ".png"
    return ".gif" if source.suffix.lower() == ".gif" else ".mp4"
