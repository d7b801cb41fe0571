"""Released checkpoint files -> plain weights and flags, without running anything that is in them.

A file of torch (a Lightning `.ckpt`, a `.pt`, a TorchScript `.jit`) holds its weights under some key, its flags maybe
under another. The reference files and our own exports are `.safetensors`: weights under `state_dict.`, flags as JSON in
the metadata; those of others hold weights alone.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from omnitok.errors import CheckpointError, reading, reason
from omnitok.hub.released.pickles import Foreign, Malformed, TensorRecord, kind_of_value
from omnitok.hub.released.torch_files import ACCEPTED, ZIP_START, Load, is_old, open_old, open_zip, read_tensors

PREFIX = "state_dict."

# What a file may claim. The released files stay two orders of magnitude below each.
MAX_WEIGHTS = 100_000
MAX_FLAGS = 10_000
MAX_DEPTH = 16

_FOREIGN_BEGINNINGS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"version https://git-lfs": "a Git LFS pointer instead of the file it stands for",
    b"<": "an HTML or XML page",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x80": "a bare pickle",
}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """What a released file holds, under the released names.

    state_dict: every weight of the file, discriminator and LPIPS included, on the CPU, dtypes as stored. Tensors that
        shared memory when saved share it here.
    hyper_parameters: the released flags, one flat dict of plain values; values of foreign classes are left out.
    sha256: of the whole file, in hexadecimal.
    """

    state_dict: dict[str, Tensor]
    hyper_parameters: dict[str, object]
    sha256: str


def read_released_checkpoint(path: str | os.PathLike[str]) -> ReleasedCheckpoint:
    """Read a released file of torch or of safetensors; the content decides which, not the suffix.

    Nothing in the file is executed or imported. In a file of torch the weights are under `state_dict`, else `ema`, else
    `model`, or are all that there is; flags are under `hyper_parameters` (Lightning: a dict, a Namespace, or a dict
    with a Namespace under `args`) or `args`, and many files have none.

    Raises CheckpointError, one sentence beginning with the path, for whatever is not such a file.
    """
    path = Path(path)
    with reading(path, CheckpointError, "checkpoint"), path.open("rb") as file:
        head = file.read(64)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            if head.startswith(ZIP_START):
                with zipfile.ZipFile(file) as archive:
                    state_dict, flags = _read(*open_zip(archive, path.stat().st_size))
            elif is_old(head):
                state_dict, flags = _read(*open_old(file))
            elif head[8:9] == b"{":  # 8 bytes of length, then a JSON header
                state_dict, flags = _read_safetensors(path)
            else:
                raise Malformed(f"found {_describe(head)}; {ACCEPTED}")
        except Malformed as error:
            raise CheckpointError(f"{path}: {error}") from error
        return ReleasedCheckpoint(state_dict, flags, digest)


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    for beginning, name in _FOREIGN_BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    is_text = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)
    return "a text file" if is_text else "an unknown format"


# ------------------------------------------------------------------------------------------------------------ weights


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    with safe_open(path, framework="pt") as file:
        flags_text = (file.metadata() or {}).get("hyper_parameters")
        names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118 (not a dict)
        if flags_text is None and not names:  # the weights of another project and nothing else
            names = list(file.keys())
        state_dict = {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    if not state_dict:
        raise Malformed(f"found a safetensors file without weights under '{PREFIX}'")
    try:
        flags = json.loads(flags_text or "{}")
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the metadata key 'hyper_parameters' is not JSON ({reason(error)})") from error
    return state_dict, _plain_flags(flags)


def _read(payload: object, load: Load) -> tuple[dict[str, Tensor], dict[str, object]]:
    weights, flags = _weights_and_flags(payload)
    plain = _plain_flags(flags)  # first: they are cheap, and tell a foreign file before its gigabytes are read
    return read_tensors(weights, load), plain


def _weights_and_flags(payload: object) -> tuple[Mapping[object, object], object]:
    if isinstance(payload, Foreign) and payload.name.startswith("__torch__."):
        return _script_weights(payload), {}
    if not isinstance(payload, dict):
        raise Malformed(f"the checkpoint holds {kind_of_value(payload)} instead of a dict with 'state_dict'")
    if payload and all(isinstance(value, TensorRecord) for value in payload.values()):
        return payload, {}
    weights = next((payload[key] for key in ("state_dict", "ema", "model") if payload.get(key) is not None), None)
    if not isinstance(weights, dict) or not weights:
        keys = ", ".join(sorted(repr(key) for key in payload if isinstance(key, str))[:10]) or "none"
        raise Malformed(f"the checkpoint has no weights under 'state_dict' (its keys: {keys})")
    flags = payload.get("hyper_parameters", payload.get("args"))
    return weights, {} if flags is None else flags


def _script_weights(module: Foreign) -> dict[object, object]:
    """The tensors among the attributes of a TorchScript module and of its parts, under their dotted names."""
    found: dict[object, object] = {}
    todo, count = [("", module, 0)], 0
    while todo:
        prefix, part, depth = todo.pop()
        attributes = part.attributes()
        count += 1 + len(attributes)  # parts that hold one another many times over end here
        if count > MAX_WEIGHTS or depth > MAX_DEPTH:
            raise Malformed(f"it has more than {MAX_WEIGHTS} attributes, or modules nested deeper than {MAX_DEPTH}")
        for name, value in attributes.items():
            if isinstance(value, TensorRecord):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Foreign):
                todo.append((f"{prefix}{name}.", value, depth + 1))
    return found


# ------------------------------------------------------------------------------------------------------------ flags


def _plain_flags(flags: object) -> dict[str, object]:
    """One flat dict of plain values from a dict, a Namespace, or either of them under `args`."""
    outer = _mapping(flags)
    if outer is None:
        raise Malformed(f"the flags are {kind_of_value(flags)} instead of a dict or a Namespace")
    inner = _mapping(outer.get("args"))
    if inner is not None:
        outer = {key: value for key, value in outer.items() if key != "args"} | inner
    copier = _PlainCopier()
    copied = {key: copier.copy(value, 1) for key, value in outer.items() if isinstance(key, str)}
    return {key: value for key, value in copied.items() if value is not _LEFT_OUT}


def _mapping(value: object) -> dict[object, object] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, Foreign) and value.attributes():
        return value.attributes()
    return None


_LEFT_OUT = object()


class _PlainCopier:
    """Copies None, bool, int, float, str, bytes and their lists, tuples and dicts; everything else is left out."""

    def __init__(self) -> None:
        self.count = 0  # values so far: lists that hold themselves, or one another many times over, end here

    def copy(self, value: object, depth: int) -> object:
        self.count += 1
        if self.count > MAX_FLAGS or depth > MAX_DEPTH:
            raise Malformed(f"more than {MAX_FLAGS} flag values, or nested deeper than {MAX_DEPTH}")
        if isinstance(value, int) and value.bit_length() > 64:
            return _LEFT_OUT  # no flag is; Python refuses to write such numbers
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if isinstance(value, list | tuple):
            items = [self.copy(item, depth + 1) for item in value]
            kept = [item for item in items if item is not _LEFT_OUT]
            return tuple(kept) if isinstance(value, tuple) else kept
        if isinstance(value, dict):
            pairs = {key: self.copy(item, depth + 1) for key, item in value.items() if isinstance(key, str)}
            return {key: item for key, item in pairs.items() if item is not _LEFT_OUT}
        return _LEFT_OUT
