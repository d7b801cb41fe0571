"""Where files are: on this machine, in folders and linked folders, behind patterns, and elsewhere by URL.

This is the only place that walks over files, so every verb sees the same ones.
"""

import glob
import hashlib
import os
import re
import stat
import threading
import urllib.request
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from omnitok.atomic import atomic_path, scratch_folder
from omnitok.errors import MediaError, OmnitokError, reading, reason
from omnitok.limits import MAX_DOWNLOAD

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

SAMPLE_NOTE = "generate.json"
"""Beside the samples of `omnitok generate`; in its folder only files named as samples count, so no grid does."""

FRAMES_SUFFIX = ".frames"
"""A folder of that name is no folder of files, but a video of the images in it."""

_URL = re.compile(r"([a-z][a-z0-9]+):/{1,2}([^/].*)", re.DOTALL | re.IGNORECASE)
_SCHEMES = {"http", "https", "s3", "gs", "gcs", "hf", "az", "abfs", "memory"}
_BUCKETS = {"s3", "gs", "gcs", "az", "abfs"}  # which nobody makes by writing to them
_TIMEOUT = 60  # seconds without an answer
_KEPT_COPIES = 64  # of files elsewhere, per process
_BLOCK = 2**20

_SAMPLE_NAME = re.compile(r"[0-9]{6,}(-.*)?\.[a-z0-9]+", re.DOTALL)

_copies: OrderedDict[tuple[int, str], Path] = OrderedDict()
_copies_lock = threading.Lock()


def sample_slug(name: str) -> str:
    """What a class or a text becomes in the name of a sample."""
    return re.sub(r"[^\w.-]+", "_", name)[:60]


def url_of(path: str | os.PathLike[str]) -> str:
    """The URL that a path stands for, or "". `Path` leaves one slash of the two after the scheme."""
    match = _URL.fullmatch(os.fspath(path))
    return f"{match[1].lower()}://{match[2]}" if match and match[1].lower() in _SCHEMES else ""


def check_scheme(text: str) -> None:
    """Raise MediaError where a text is a URL that fsspec is not asked about, which would be taken for a folder here."""
    scheme, separator, _ = text.partition("://")
    if separator and re.fullmatch("[a-z][a-z0-9+]+", scheme.lower()) and scheme.lower() not in {*_SCHEMES, "file"}:
        known = ", ".join(sorted(_SCHEMES))
        raise MediaError(f"{text}: {scheme} is not among the kinds of URLs that are read and written: {known}")


def name_of(path: str) -> str:
    """The last part of a path; of a URL without what asks for something (`?...`)."""
    return os.path.basename(re.sub(r"[?#].*", "", path) if url_of(path) else path)


def beside(path: str, suffix: str) -> str:
    """Name of the file that may say more of an image or video: as its own, but with this suffix."""
    return os.path.splitext(path)[0] + suffix


def find_beside(path: str, suffix: str) -> str | None:
    """As `beside`; None where there is no such file. Whether one is there beside a URL shows when it is read."""
    file = beside(path, suffix)
    return file if url_of(file) or os.path.lexists(file) else None


def expand(path: str | os.PathLike[str]) -> list[str]:
    """What a path stands for: itself, or all that its pattern (`*`, `?`, `[...]`, `**`) matches, sorted.

    Raises:
        MediaError: there is nothing of that name.
    """
    text, url = os.fspath(path), url_of(path)
    if url and (url.startswith("http") or not glob.has_magic(url)):
        return [url]  # whether it is there shows when it is read
    if url:
        with reading(url, MediaError, "file elsewhere"):
            system, inside = _file_system(url)
            found = sorted(_with_scheme(url, name) for name in system.glob(inside) if "/." not in name)
    elif os.path.exists(text):
        return [text]
    else:
        found = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not found:
        raise MediaError(f"{text}: no such file or folder")
    return found


def find_files(paths: Paths, suffixes: frozenset[str], what: str) -> list[Path]:
    """Files as given, whatever their suffix, and in place of each folder those in it (`walk`); each is listed once.

    Args:
        paths: one or several files, folders, patterns and URLs.
        suffixes: of the files in folders.
        what: they are, for messages: "images or videos (such as .png and .mp4)".

    Raises:
        MediaError: a path that does not exist, or a folder without such files.
    """
    found: dict[Path, None] = {}  # an ordered set
    for path in expand_all(paths):
        inside = walk(path, suffixes) if is_folder(path) else [path]
        if not inside:
            raise MediaError(f"{path}: the folder has no {what}")
        found.update(dict.fromkeys(map(Path, inside)))
    return list(found)


def require_regular(path: str | os.PathLike[str], what: str = "a file", error: type[OmnitokError] = MediaError) -> None:
    """Check that `path` can be opened and ends: opening a pipe waits for whoever writes into it.

    Args:
        what: is wanted, for messages: "an image or video".

    Raises:
        MediaError: or `error`: it is missing, a folder, a pipe, a socket or a device, or may not be read.
    """
    with reading(path, error, "file"):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise error(f"{path}: is a folder; {what} is wanted")
        if not stat.S_ISREG(mode):
            raise error(f"{path}: is no regular file, but a pipe, a socket or a device")
        open(path, "rb").close()


def expand_all(paths: Paths) -> list[str]:
    """`expand` of one path or of several, in order."""
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [file for path in given for file in expand(path)]


def is_folder(path: str) -> bool:
    """Whether this is a folder of files, here or elsewhere; what http gives is a file."""
    if os.path.splitext(path)[1].lower() == FRAMES_SUFFIX:
        return False
    url = url_of(path)
    if not url or url.startswith("http"):
        return not url and os.path.isdir(path)
    with reading(url, MediaError, "folder elsewhere"):
        system, inside = _file_system(url)
        return bool(system.isdir(inside))


def walk(folder: str | os.PathLike[str], suffixes: frozenset[str]) -> list[str]:
    """Regular files below a folder by suffix, sorted as paths are (part by part), hidden names left out.

    Linked folders are entered, each folder once, however many ways lead to it. A folder that may not be listed is left
    out with a warning. Links are not followed to see whether they lead to a regular file; reading them tells. In a
    folder that `omnitok generate` filled, the samples count and the grids do not.

    Raises:
        MediaError: the folder itself cannot be listed.
    """
    url = url_of(folder)
    found = list(_walk_elsewhere(url) if url else _walk_here(os.fspath(folder)))
    chosen = [path for path in found if os.path.splitext(path)[1].lower() in suffixes]
    if generated := {os.path.dirname(path) for path in found if os.path.basename(path) == SAMPLE_NOTE}:
        places = ((path, *os.path.split(path)) for path in chosen)
        chosen = [path for path, place, name in places if place not in generated or _SAMPLE_NAME.fullmatch(name)]
    return sorted(chosen, key=lambda path: path.replace(os.sep, "\0"))


def _walk_here(folder: str) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    plain, linked = [folder], list[str]()
    while plain or linked:
        parent = plain.pop() if plain else linked.pop(0)  # links last: a folder is named by its own path, if it has one
        try:
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in visited:
                continue
            with os.scandir(parent) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not visited:
                raise MediaError(f"{parent}: cannot be listed ({reason(error)})") from error
            warnings.warn(f"{parent}: cannot be listed ({reason(error)}); what it holds is left out", stacklevel=2)
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in inside:
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() == FRAMES_SUFFIX and os.path.isdir(entry.path):
                yield entry.path
            elif entry.is_symlink() and os.path.isdir(entry.path):
                linked.append(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                plain.append(entry.path)
            elif entry.is_symlink() or entry.is_file(follow_symlinks=False):  # no pipe and no device
                yield entry.path


def _walk_elsewhere(url: str) -> Iterator[str]:
    with reading(url, MediaError, "folder elsewhere"):
        system, inside = _file_system(url)
        for name in system.find(inside):
            if "/." not in name[len(inside) :]:
                yield _with_scheme(url, name)


def localize(path: str | os.PathLike[str]) -> Path:
    """The path itself; for a URL that of a copy here, which is kept while it is among the last that were asked for.

    Raises:
        MediaError: it cannot be read, or is larger than `MAX_DOWNLOAD` allows.
    """
    url = url_of(path)
    if not url:
        return Path(path)
    key = os.getpid(), url
    with _copies_lock:
        if key in _copies:
            _copies.move_to_end(key)
            return _copies[key]
    copy = scratch_folder() / hashlib.sha256(url.encode()).hexdigest()[:16] / (name_of(url) or "file")
    with (
        reading(url, MediaError, "file elsewhere"),
        _open(url) as source,
        atomic_path(copy) as temporary,
        temporary.open("wb") as target,
    ):
        while block := source.read(_BLOCK):
            target.write(block)
            MAX_DOWNLOAD.check(target.tell(), f"{url}: a file of {target.tell()} bytes or more", MediaError)
    with _copies_lock:
        _copies[key] = copy
        if len(_copies) > _KEPT_COPIES:
            (process, _), oldest = _copies.popitem(last=False)
            if process == os.getpid():  # not those of the process that this one was forked from
                oldest.unlink(missing_ok=True)
    return copy


def with_urls(text: str) -> str:
    """A text in which files elsewhere have their URLs, where their copies here were named."""
    with _copies_lock:
        for (_, url), copy in _copies.items():
            text = text.replace(os.fspath(copy), url)
    return text


class Elsewhere:
    """A file or folder behind a URL that is written to.

    Raises:
        MediaError: there is no access to it, or the package for its scheme is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with reading(url, MediaError, "place elsewhere"):
            self._system, self._inside = _file_system(url)
            bucket = self._inside.partition("/")[0]
            if url.partition(":")[0] in _BUCKETS and not self._system.exists(bucket):
                raise MediaError(f"{url}: there is no bucket {bucket!r}, or no access to it")

    def files(self) -> list[str]:
        """Names of the files below it, hidden ones left out; none where it is itself a file, or nothing."""
        with reading(self.url, MediaError, "folder elsewhere"):
            found = self._system.find(self._inside) if self._system.isdir(self._inside) else []
        names = [name[len(self._inside) :].lstrip("/") for name in found]
        return [name for name in names if name and "/." not in f"/{name}"]

    def fetch(self, name: str, path: Path) -> None:
        """Copy one of the files to this machine."""
        with reading(f"{self.url}/{name}", MediaError, "file elsewhere"), atomic_path(path) as temporary:
            self._system.get_file(f"{self._inside}/{name}", str(temporary))

    def put(self, path: Path, name: str) -> None:
        """Copy a file of this machine there; without a name it is the place itself. Raises what fsspec does."""
        self._system.put_file(str(path), f"{self._inside}/{name}".rstrip("/"))


def _open(url: str) -> IO[bytes]:
    if url.startswith("http"):
        file: IO[bytes] = urllib.request.urlopen(url, timeout=_TIMEOUT)
        return file
    system, inside = _file_system(url)
    return system.open(inside, "rb")


def _with_scheme(url: str, name: str) -> str:
    return f"{url.partition(':')[0]}://{name.lstrip('/')}"


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec.core

    try:
        system, inside = fsspec.core.url_to_fs(url)
    except ImportError as error:  # of the scheme's own package
        raise MediaError(f"{url}: cannot be reached ({reason(error)})") from error
    return system, inside
