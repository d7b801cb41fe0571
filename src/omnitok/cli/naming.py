"""Which files a verb works on, and the name of what each becomes."""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnitok.cli.failures import UsageError, explain_for
from omnitok.data import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoReader, detect_modality
from omnitok.data.arrays import ARRAY_SUFFIXES
from omnitok.data.image import image_reader
from omnitok.data.modality import Modality
from omnitok.data.pixel_format import PixelFormat
from omnitok.errors import OmnitokError
from omnitok.files import is_folder

_LONGEST_NAME = 255  # bytes, on all usual file systems
_FOREIGN = {".psd", ".heic", ".svg", ".npz", ".pt", ".json", ".csv", ".txt", ".mp3", ".wav", ".safetensors"}
"""Suffixes of other files that nobody gives to a folder; `results.v2` may be one."""


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
    file_suffixes: frozenset[str],
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
    names_a_file = _names_a_file(out, file_suffixes)
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


def _names_a_file(out: Path, accepted: frozenset[str]) -> bool:
    suffix = out.suffix.lower()
    if out.is_dir() or not suffix:
        return False
    if suffix not in accepted and suffix in _FOREIGN | IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise UsageError(f"-o {out}: results are written as {', '.join(sorted(accepted))}, or into a folder")
    return suffix in accepted


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
    absolute = [Path(os.path.abspath(item.source)) for item in items]
    above = Path(os.path.commonpath([path.parent for path in absolute])) if items else Path()
    choices: list[list[Path]] = []  # per item: name, name with the old suffix, and both below the folders above
    for item, path, suffix in zip(items, absolute, suffixes, strict=True):
        nested = path.relative_to(above)
        choices.append([_name(place, suffix, keep) for place in (item.relative, nested) for keep in (False, True)])
    inputs = {_key(item.source.resolve()) for item in items}
    uses = [Counter(_key(name) for name in level) for level in zip(*choices, strict=True)]
    own_names = Counter(_key(item.relative) for item in items)
    outputs: dict[Path, Path] = {}
    taken = set[str]()
    for item, names, suffix in zip(items, choices, suffixes, strict=True):
        numbered = (_name(names[-1].with_name(f"{names[-1].stem}-{n}"), suffix, True) for n in itertools.count(2))
        for level, name in enumerate(itertools.chain(names, numbered)):
            is_own = level == 0 and name == item.relative and own_names[_key(name)] == 1
            is_free = level >= len(uses) or uses[level][_key(name)] == 1 or is_own
            if is_free and _key(name) not in taken and _key((out / name).resolve()) not in inputs:
                taken.add(_key(name))
                outputs[item.source] = out / name
                break
    return outputs


def _name(path: Path, suffix: str, keep: bool) -> Path:
    """The path with a new suffix, after the old one or in its place; a name too long is cut, and told by a hash."""
    path = path.with_name(path.name + suffix) if keep else path.with_suffix(suffix)
    if len(os.fsencode(path.name)) <= _LONGEST_NAME:
        return path
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    kept = os.fsencode(path.stem)[: _LONGEST_NAME - 9 - len(os.fsencode(suffix))].decode("utf-8", "ignore")
    return path.with_name(f"{kept}-{digest}{suffix}")


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def result_suffix(source: Path, pixel_format: PixelFormat) -> str:
    """The suffix for a reconstruction of a file; see `suffix_for`.

    Raises:
        MediaError: it is no image or video, or has other channels than the model.
    """
    modality, dtype = detect_modality(source), None
    if modality == "video" and (source.suffix.lower() == ".npy" or source.is_dir()):
        with VideoReader(source, pixel_format=pixel_format) as video:
            dtype = video.dtype
    elif modality == "image" and source.suffix.lower() in ARRAY_SUFFIXES:
        with image_reader(source, pixel_format=pixel_format) as image:
            dtype = image.dtype
    return suffix_for(modality, source.name, dtype)


def suffix_for(modality: Modality, source: str, dtype: str | None) -> str:
    """Images become .png, videos .mp4; an animated .gif stays one, and so do .npy and, where it is read as numbers,
    TIFF.

    Args:
        source: name of the file.
        dtype: of its numbers; None where it is an ordinary image or video.
    """
    suffix = Path(source).suffix.lower()
    if modality == "video":
        return ".npy" if dtype is not None else ".gif" if suffix == ".gif" else ".mp4"
    if dtype is None or suffix not in ARRAY_SUFFIXES:
        return ".png"
    return ".npy" if suffix == ".npy" else ".tif"
