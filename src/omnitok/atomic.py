"""Files whose final name only ever holds a complete file, folders that one process at a time writes to, scratch and
hashes."""

import contextlib
import errno
import hashlib
import json
import multiprocessing.util
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import filelock

from omnitok.errors import OmnitokError, describe, is_disk_full

LOCK_NAME = ".omnitok.lock"

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)

# Process ids are unique on one machine only, and a folder may be shared between several.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_LEFTOVER = re.compile(rf"(\.[^/]*)\.{_HOST}-([0-9]+)-[0-9a-f]{{6}}\.(partial|retired)([^/]*)", re.DOTALL)
_SCRATCH = re.compile(rf"omnitok-{_HOST}-([0-9]+)-.*", re.DOTALL)
_LONGEST_NAME = 200  # bytes; file systems allow 255, and the temporary part needs some


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], replace: bool = True, apart: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` on success, remove it on any failure.

    The temporary name keeps the suffix of `path` (writers choose formats by it), starts with a dot and lies in the same
    folder, so the rename is atomic. Works for files and folders; an existing folder at `path` is replaced whole. A file
    gets the usual permissions, whatever the library that wrote it chose (safetensors: the owner alone).

    Without `replace`, a file of that name stays, and FileExistsError is raised: of several processes, one is the first.
    A full disk is an OSError that names `path`. `apart` puts the temporary file in a temporary folder, for writers that
    make temporary files of their own beside it (safetensors), which nobody would clear.

    What a killed process left behind while it wrote this very `path` is cleared first, and nothing else: temporary
    names carry the machine and the process that made them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary = _temporary_name(path, "partial")
    written = temporary / f"file{path.suffix}" if apart else temporary
    try:
        if apart:
            temporary.mkdir()
        yield written
        if written.is_dir() and path.is_dir():
            retired = _temporary_name(path, "retired")
            os.rename(path, retired)
            os.rename(written, path)
            _remove(retired)  # which may have been a link
        else:
            if written.is_file():
                written.chmod(0o666 & ~_UMASK)
            if replace or not _link(written, path):
                os.replace(written, path)
    except Exception as error:
        if is_disk_full(error):  # the writer of a file object knows no name, and the temporary one means nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)) from error
        raise
    finally:
        _remove(temporary)


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its name if nothing has it; False where the file system has no links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path)) from None
        return False
    return True


def _temporary_name(path: Path, role: str) -> Path:
    return path.with_name(f"{_prefix(path)}.{_HOST}-{os.getpid()}-{secrets.token_hex(3)}.{role}{path.suffix}")


def _prefix(path: Path) -> str:
    """What the temporary names of `path` start with; a long name is cut, and told from others by a hash."""
    if len(os.fsencode(path.name)) <= _LONGEST_NAME:
        return f".{path.stem}"
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    kept = os.fsencode(path.stem)[: _LONGEST_NAME - len(os.fsencode(path.suffix)) - 60].decode("utf-8", "ignore")
    return f".{kept}-{digest}"


def _clear_leftovers(path: Path) -> None:
    for leftover in _leftovers(path.parent).pop((_prefix(path), path.suffix), ()):
        # Killed between the two renames that replace a folder: the old one is the only complete one there is.
        if ".retired" in leftover.name and not path.exists():
            with contextlib.suppress(OSError):
                os.rename(leftover, path)
        _remove(leftover)


@cache  # a folder is listed once per process: a run may write a million files to it
def _leftovers(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """Temporary files of dead processes of this machine in a folder, by what the names they stand for start with."""
    found: dict[tuple[str, str], list[Path]] = {}
    for name in os.listdir(folder):
        match = _LEFTOVER.fullmatch(name)
        if match is not None and not _is_alive(int(match[2])):
            found.setdefault((match[1], match[4]), []).append(folder / name)
    return found


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `atomic_path` gives on this machine, also where a killed process left it."""
    return _LEFTOVER.fullmatch(name) is not None


def scratch_folder() -> Path:
    """This process's own folder for temporary files, below the system's; those of killed processes are cleared."""
    return _scratch_folder(os.getpid())  # a forked process has one of its own


@cache
def _scratch_folder(process: int) -> Path:
    shared = Path(tempfile.gettempdir())
    for name in os.listdir(shared):
        match = _SCRATCH.fullmatch(name)
        if match is not None and not _is_alive(int(match[1])):
            shutil.rmtree(shared / name, ignore_errors=True)  # not those of other users
    folder = tempfile.mkdtemp(prefix=f"omnitok-{_HOST}-{process}-")
    multiprocessing.util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=0)  # also where a worker ends
    return Path(folder)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str], command: str) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made where it is absent, until the context ends.

    The operating system holds the lock, so that of a killed process is free at once.

    Args:
        command: what this process does, for the message that another one gets: "omnitok train".

    Raises:
        OmnitokError: another process holds the lock; the message names its command, process id and machine.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK_NAME, timeout=0)
    note = folder / f"{LOCK_NAME}.json"
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OmnitokError(f"{folder}: {_owner(note)} is writing to this folder; wait for it or name another") from None
    try:
        note.write_text(json.dumps({"command": command, "process": os.getpid(), "machine": socket.gethostname()}))
        yield
    finally:
        # Both go while the lock is still held: whoever comes now makes and locks files of their own.
        note.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _owner(note: Path) -> str:
    """The process that holds a lock, as far as its note can be read: it may be writing it this moment."""
    try:
        with note.open("rb") as file:
            owner = json.loads(file.read(10_000))
        process, machine = int(owner["process"]), describe(owner["machine"])
        return f"{describe(owner['command'])} (process {process} on {machine})"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
