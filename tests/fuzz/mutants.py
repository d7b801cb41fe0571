"""Damaged and hostile versions of a file: bytes, JSON or members of a zip changed at random, from a seed."""

import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

HOSTILE_BYTES = [b"", b"\0", b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0" * 64, b"[" * 4000, b"9" * 5000, b"-1", b"1e999"]
HOSTILE_NUMBERS = [0, -1, 1, 2**31 - 1, 2**31, 2**63, 2**64, 10**300, 1e300, -1e300, 5e-324, float("nan"), float("inf")]
HOSTILE_VALUES: list[Any] = [
    *HOSTILE_NUMBERS,
    None,
    True,
    "",
    "\0",
    "../../../etc/passwd",
    "/dev/zero",
    "x" * 10_000,
    "\ud800",
    "@deep@",
    "@digits@",
    [],
    {},
    [[]],
    [0] * 1000,
    {"a": {"b": None}},
]
# What `json.dumps` cannot write, put in as text.
_MARKS = {'"@deep@"': "[" * 20_000 + "]" * 20_000, '"@digits@"': "9" * 5000}


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of any kind; early bytes, where headers are, are changed more often."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        size = len(changed)
        place = min(int(size * rng.random() ** rng.choice((1, 3))), max(size - 1, 0))
        match rng.randrange(7):
            case 0 if size:
                changed[place] ^= 1 << rng.randrange(8)
            case 1 if size:
                changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                hostile = rng.choice(HOSTILE_BYTES)
                changed[place : place + len(hostile)] = hostile
            case 3:
                changed[place:place] = rng.randbytes(rng.randint(1, 64))
            case 4:
                del changed[place:]
            case 5:
                del changed[place : place + rng.randint(1, 64)]
            case _:
                other = rng.randrange(size + 1)
                changed[place:place] = changed[other : other + rng.randint(1, 256)]
    return bytes(changed)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one thing in it replaced, removed, doubled or renamed."""
    if rng.random() < 0.2 or not isinstance(value, dict | list) or not value:
        if isinstance(value, str) and rng.random() < 0.5:
            return mutate_bytes(value.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
        if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
            return rng.choice((value + 1, value - 1, -value, value * 2, value * 10**6, str(value), [value]))
        return rng.choice(HOSTILE_VALUES)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    changed = value.copy()
    match rng.randrange(8):
        case 0:
            del changed[key]
        case 1 if isinstance(changed, dict):
            changed[rng.choice(("", "x", "__class__", "\0"))] = changed.pop(key)
        case 1:
            changed.append(changed[key])
        case _:
            changed[key] = mutate_value(value[key], rng)
    return changed


def dump_json(value: Any) -> bytes:
    text = json.dumps(value, indent=1)
    for mark, hostile in _MARKS.items():
        text = text.replace(mark, hostile)
    return text.encode()


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON file that is well-formed more often than not."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = mutate_value(value, rng)
    return dump_json(value)


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """A file of lines (lists, tables, logs): one of them changed, as JSON where it is, or the bytes."""
    lines = data.splitlines(keepends=True)
    if rng.random() < 0.3 or not lines:
        return mutate_bytes(data, rng)
    number = rng.randrange(len(lines))
    line = lines[number].rstrip(b"\n")
    is_json = line.startswith(b"{")
    lines[number] = (mutate_json(line, rng).replace(b"\n", b"") if is_json else mutate_bytes(line, rng)) + b"\n"
    if rng.random() < 0.1:
        lines *= 100
    return b"".join(lines)


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    """A zip (`.npz`, `.ckpt`): the file itself, or a member with a good checksum, so that its reader is reached."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = [(info.filename, source.read(info), info.compress_type) for info in source.infolist()]
    number = rng.randrange(len(members))
    name, content, compression = members[number]
    match rng.randrange(8):
        case 0:
            members.pop(number)
        case 1:
            members.append(members[number])
        case 2:
            members[number] = (mutate_bytes(name.encode(), rng).decode("latin-1"), content, compression)
        case _:
            members[number] = (name, mutate_bytes(content, rng), compression)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name, content, compression in members:
            target.writestr(zipfile.ZipInfo(name or "x"), content, compression)
    return out.getvalue()


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """A PNG: the file itself, or a chunk with a good checksum."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += size + 12
    if not chunks:
        return mutate_bytes(data, rng)
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    chunks[number] = (kind, mutate_bytes(content, rng)[: 2**20])
    out = bytearray(data[:8])
    for kind, content in chunks:
        out += len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return bytes(out)
