"""What `torch.save` and TorchScript write: one pickle, and the bytes of the tensors that it speaks of.

Since torch 1.6 the file is a zip archive with a record per storage; before, it was a row of pickles (a magic number, a
version, the machine, the data, the keys of the storages) and then each storage: its length in 8 bytes, and its bytes.
Only the storages of the wanted tensors are read, after what the pickle claims of them was held against the file.
"""

import math
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from omnitok.hub.released.pickles import Malformed, Storage, TensorRecord, kind_of_value, unpickle

Load = Callable[[Storage], bytes]
"""The bytes of a storage, exactly as many as it claims; raises Malformed."""

MAX_RECORDS = 100_000
MAX_PICKLE_BYTES = 32 * 2**20
ACCEPTED = (
    "accepted are a released .ckpt, .pt or .jit (torch.save or TorchScript) and a .safetensors file, whose names are "
    "the released ones or have 'state_dict.' before them"
)
ZIP_START = b"PK\x03\x04"
_OLD_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, the first pickle of an old file
_OLD_PROTOCOL = 1001


def is_old(head: bytes) -> bool:
    """Whether a file that begins like this was written before torch 1.6."""
    return head.startswith(b"\x80") and _OLD_MAGIC.to_bytes(10, "little") in head[:24]


def open_zip(archive: zipfile.ZipFile, length: int) -> tuple[object, Load]:
    """Data and storages of an archive in a file of `length` bytes, which must stay open for both.

    Raises:
        Malformed: no such archive, or sizes that the file cannot hold.
    """
    records = archive.infolist()
    if len(records) > MAX_RECORDS:
        raise Malformed(f"claims {len(records)} records, accepted are {MAX_RECORDS}")
    pickles = [r for r in records if r.filename.endswith("/data.pkl") and r.filename.count("/") == 1]
    if len(pickles) != 1:
        raise Malformed(f"found a zip archive with {len(pickles)} records 'data.pkl' instead of one; {ACCEPTED}")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise Malformed(f"its pickle has {pickles[0].file_size} bytes, accepted are {MAX_PICKLE_BYTES}")
    root = pickles[0].filename.removesuffix("/data.pkl")
    claimed = 0
    for record in records:
        if record.filename.startswith(f"{root}/code/"):
            continue  # TorchScript's code, which nobody reads
        # torch stores records as they are; a compressed one could unpack to anything, overlapping ones too
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise Malformed(f"record {record.filename!r} is compressed, which torch never does")
        claimed += record.file_size
    if claimed > length:
        raise Malformed(f"the records claim {claimed} bytes in a file of {length}")
    if f"{root}/byteorder" in archive.NameToInfo and archive.read(f"{root}/byteorder") != b"little":
        raise Malformed("its numbers are not little-endian; save it again on an ordinary machine")

    def load(storage: Storage) -> bytes:
        info = archive.NameToInfo.get(f"{root}/data/{storage.key}")
        if info is None:
            raise Malformed(f"the record 'data/{storage.key[:40]}' of a weight is missing")
        claimed = storage.numel * storage.dtype.itemsize
        if info.file_size != claimed:
            raise Malformed(f"the record 'data/{storage.key}' has {info.file_size} bytes, the pickle claims {claimed}")
        return archive.read(info)

    payload, _ = unpickle(archive.read(pickles[0]))
    return payload, load


def open_old(file: BinaryIO) -> tuple[object, Load]:
    """Data and storages of a file older than torch 1.6, which must stay open for both.

    Raises:
        Malformed: no such file, or sizes that it cannot hold.
    """
    length, position = os.fstat(file.fileno()).st_size, 0

    def next_pickle() -> tuple[object, dict[str, Storage | None]]:
        nonlocal position
        file.seek(position)
        data, unpickler = unpickle(file.read(MAX_PICKLE_BYTES))
        position += unpickler.taken
        return data, unpickler.storages

    _, (version, _), (machine, _), (payload, storages), (keys, _) = (next_pickle() for _ in range(5))
    if version != _OLD_PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Malformed("it was written by an unknown version of torch, or on a machine that is not little-endian")
    if not isinstance(keys, list) or len(keys) > MAX_RECORDS:
        raise Malformed(f"its storages are {kind_of_value(keys)}, accepted is a list of at most {MAX_RECORDS}")
    places: dict[str, int] = {}
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise Malformed("it has a storage of unknown type, after which nothing can be found")
        file.seek(position)
        numel = int.from_bytes(file.read(8), "little")
        size = storage.numel * storage.dtype.itemsize
        if numel != storage.numel or position + 8 + size > length:
            raise Malformed(
                f"storage {key[:40]!r} has {numel} elements with {max(0, length - position - 8)} bytes to the end of "
                f"the file, the pickle claims {storage.numel} elements of {storage.dtype}"
            )
        places[key] = position + 8
        position += 8 + size

    def load(storage: Storage) -> bytes:
        if storage.key not in places:
            raise Malformed(f"the storage {storage.key[:40]!r} of a weight is missing")
        file.seek(places[storage.key])
        return file.read(storage.numel * storage.dtype.itemsize)

    return payload, load


def read_tensors(weights: Mapping[object, object], load: Load) -> dict[str, Tensor]:
    """The tensors of those names; the ones that share a storage share memory.

    Raises:
        Malformed: a name that is no text, a weight that is no tensor or does not fit its storage.
    """
    storages: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, record in weights.items():
        if not isinstance(name, str) or not isinstance(record, TensorRecord):
            raise Malformed(
                f"the weight {name if isinstance(name, str) else kind_of_value(name)!r} is {kind_of_value(record)}"
            )
        tensors[name] = _read_tensor(record, load, storages)
    return tensors


def _read_tensor(record: TensorRecord, load: Load, storages: dict[str, Tensor]) -> Tensor:
    storage, itemsize = record.storage, record.dtype.itemsize
    elements = storage.numel * storage.dtype.itemsize // itemsize
    reach = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True)) + 1
    numel = math.prod(record.size)
    if numel > elements or (numel and reach > elements):
        raise Malformed(f"a tensor of shape {record.size} does not fit its storage of {elements} elements")
    if numel == 0:
        return torch.empty(record.size, dtype=record.dtype)
    if storage.key not in storages:
        # bytearray: torch warns about memory it may not write to
        storages[storage.key] = torch.frombuffer(bytearray(load(storage)), dtype=torch.uint8)
    whole = storages[storage.key][: elements * itemsize].view(record.dtype)
    return whole.as_strided(record.size, record.stride, record.offset)
