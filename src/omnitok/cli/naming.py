"""Which files to work on, and the name of what each becomes."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnitok.cli.failures import UsageError, explain_for
from omnitok.errors import OmnitokError


@dataclass(frozen=True)
class Job:
    """One input and where its result goes; or why there will be none."""

    source: Path
    kind: str = ""  # "image" or "video"
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
    kind_of: Callable[[Path], str],
    suffix_of: Callable[[str, Path], str],
) -> list[Job]:
    """One job a file, in the order given; a path that cannot be used is a job with an `error`.

    Names under OUT keep the stem, and sub-folders of a folder that was given. Where two results would share a name, or
    a result would replace an input, the old suffix is added (`a.jpg.png`), then the folders above, then a number.

    Args:
        out: a folder, or one file if it ends in one of `file_suffixes` and is no folder.
        expand: files in place of a folder (may raise OmnitokError).
        kind_of: "image" or "video" (may raise OmnitokError).
        suffix_of: suffix of the result for a kind and a source.

    Raises:
        UsageError: OUT names one file and there are several inputs, or it is an input.
    """
    found, jobs = _expand_all(inputs, out, expand)
    names_a_file = out.suffix.lower() in set(file_suffixes) and not out.is_dir()
    if names_a_file and len(jobs) > 1:
        raise UsageError(f"-o {out} names one file, but there are several inputs: give a folder")
    kinds: dict[Path, str] = {}
    for item in found:
        try:
            kinds[item.source] = kind_of(item.source)
        except (OmnitokError, OSError) as error:
            jobs[item.source] = Job(item.source, error=explain_for(item.source, error))
    usable = [item for item in found if item.source in kinds]
    if names_a_file:
        if any(_same(item.source, out) for item in found):
            raise UsageError(f"-o {out} is the input itself: give another name")
        outputs = {item.source: out for item in usable}
    else:
        outputs = _name_all(usable, out, [suffix_of(kinds[item.source], item.source) for item in usable])
    for source, output in outputs.items():
        jobs[source] = Job(source, kinds[source], output)
    return list(jobs.values())


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
        for file in files:
            is_earlier_output = given.is_dir() and not _same(given, out) and out.resolve() in file.resolve().parents
            if file.resolve() in seen or is_earlier_output:
                continue
            seen.add(file.resolve())
            found.append(_Found(file, file.relative_to(given) if given.is_dir() else Path(file.name)))
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
        choices.append(
            [
                item.relative.with_suffix(suffix),
                item.relative.with_name(item.relative.name + suffix),
                nested.with_suffix(suffix),
                nested.with_name(nested.name + suffix),
            ]
        )
    inputs = {item.source.resolve() for item in items}
    level = [0] * len(items)
    while True:
        names = [_choice(options, n) for options, n in zip(choices, level, strict=True)]
        uses = Counter(names)
        clashes = [i for i, name in enumerate(names) if uses[name] > 1 or (out / name).resolve() in inputs]
        if not clashes:
            return {item.source: out / name for item, name in zip(items, names, strict=True)}
        for rank, i in enumerate(clashes):
            level[i] += 1 if level[i] < 3 else 1 + rank  # past the choices, numbers that differ


def _choice(options: list[Path], level: int) -> Path:
    last = options[-1]
    return options[level] if level < len(options) else last.with_name(f"{last.stem}-{level - 2}{last.suffix}")


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def media_files(path: Path) -> list[Path]:
    """The path itself, or for a folder the pictures and clips in it."""
    from omnitok.data import list_media

    return list_media([path])


def kind_of_media(path: Path) -> str:
    """ "image" or "video"."""
    from omnitok.data import media_kind

    return media_kind(path)


def reconstruction_suffix(kind: str, source: Path) -> str:
    """Pictures become .png, clips .mp4; an animated .gif stays one."""
    if kind == "image":
        return ".png"
    return ".gif" if source.suffix.lower() == ".gif" else ".mp4"
