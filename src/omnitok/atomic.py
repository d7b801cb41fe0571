"""Writing files so that the final name only ever holds a complete file."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` on success, remove it on any failure.

    The temporary name keeps the suffix of `path` (writers choose formats by it), starts with a dot and lies in the same
    folder, so the rename is atomic. Works for files and folders; an existing folder at `path` is replaced whole. A file
    gets the usual permissions, whatever the library that wrote it chose (safetensors: the owner alone).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            retired = path.with_name(f".{path.name}.{secrets.token_hex(4)}.retired")
            os.rename(path, retired)
            os.rename(temporary, path)
            shutil.rmtree(retired)
        else:
            if temporary.is_file():
                temporary.chmod(0o666 & ~_UMASK)
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
