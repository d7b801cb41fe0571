"""Text files that list samples: lines of paths, CSV tables and JSON lines, as entries one after another.

A line that makes no sense is an entry with an `error`, which is counted and listed like a file that cannot be read. A
file that makes no sense as a whole ends in a MediaError.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omnitok.data.captions import parse_captions
from omnitok.data.embeddings import KEY as EMBEDDING_KEY
from omnitok.data.modality import Modality
from omnitok.errors import MediaError, describe, reading
from omnitok.files import require_regular
from omnitok.limits import MAX_TEXT

TABLES = frozenset({".csv", ".jsonl", ".ndjson"})
LISTS = TABLES | {".txt", ".tsv", ".lst"}
SOURCE_KEYS = ("domain", "source")
_PATH_KEYS, _LABEL_KEYS = ("path", "file"), ("label", "class")

# Spreadsheets write 10.0 for 10 where another cell of the column is empty.
_INTEGER = re.compile(r"[+-]?[0-9]+(\.0*)?")
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample that a list or a tar names.

    Attributes:
        path: as written: of a file, or of a member of a tar.
        label: a number, a name, or None.
        source: the kind of scene or collection that it comes from, or "".
        error: why it cannot be used, or "".
        modality, offset, size: of a member of a tar, the latter in bytes.
        captions: where they are asked for.
        embedding: the file of embeddings, as written, where one is asked for; "" is none.
    """

    path: str
    label: int | str | None = None
    source: str = ""
    error: str = ""
    modality: Modality | None = None
    offset: int = 0
    size: int = 0
    captions: tuple[str, ...] = ()
    embedding: str = ""


def read_entries(path: Path, captions: bool = False, embeddings: bool = False) -> Iterator[Entry]:
    """The entries of a list or table, by its suffix.

    - `.txt`, `.tsv`, `.lst`: lines of `PATH` or `PATH<TAB>LABEL`, the label an integer (the released annotations);
    - `.csv`: a header that has `path` (or `file`) and perhaps `label` (or `class`) and `domain` (or `source`), then one
      row per sample. Case and surrounding spaces of the header do not matter, nor do those around labels; columns are
      separated by commas, semicolons or tabs;
    - `.jsonl`, `.ndjson`: one JSON object per line with the same keys.

    With `captions`, tables may have `caption` (or `captions`, `text`): one in a cell, one or a list of them in JSON.
    With `embeddings`, they may have `embedding`, the path of a `.npy` file.

    Raises:
        MediaError: not such a file, or a line longer than `MAX_TEXT` allows.
    """
    suffix = path.suffix.lower()
    rows: Iterable[tuple[int, str | list[str]]] = _lines(path)
    columns: list[str] = []
    if suffix == ".csv":
        columns, rows = _open_csv(path)
    labelled: bool | None = None
    for number, row in rows:
        where = f"{path}, line {number}"
        try:
            with reading(where, MediaError, "JSON object" if suffix in TABLES else "line"):
                if isinstance(row, list):
                    if len(row) != len(columns):
                        raise MediaError(f"{where}: has more or fewer than the header's {len(columns)} columns")
                    entry = _from_row(dict(zip(columns, row, strict=True)), where, captions, embeddings)
                elif not row.strip():
                    continue
                elif suffix in TABLES:
                    entry = _from_row(json.loads(row), where, captions, embeddings)
                else:
                    entry = _from_line(row, where, labelled)
                    labelled = entry.label is not None
                if "\0" in entry.path or "\0" in entry.embedding:
                    raise MediaError(
                        f"{where}: the path holds a NUL character: {describe(entry.path + entry.embedding)}"
                    )
        except MediaError as error:
            entry = Entry(where, error=str(error))
        yield entry


def table_columns(path: Path) -> list[str]:
    """The columns of a CSV table, in lower case; none where the file is no table."""
    try:
        return _header(next(_lines(path), (1, ""))[1])
    except MediaError:
        return []


def parse_label(value: object, where: str, names: bool = True) -> int | str | None:
    """A label as written in a cell, a line, or JSON: a number in [0, 2^31), a name, or None where there is none.

    Raises:
        MediaError: anything else, or a name where `names` is False; the message starts with `where`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise MediaError(f"{where}: a label is an integer or a name, found {describe(value)!r}")
    text = "" if value is None else describe(value) if isinstance(value, int) else value.strip()
    if not text:
        return None
    if _INTEGER.fullmatch(text):
        number = int(text.partition(".")[0]) if len(text) < 20 else 2**31
        if not 0 <= number < 2**31:
            raise MediaError(f"{where}: the label must lie in [0, 2^31), found {describe(text)}")
        return number
    if not names or _FRACTION.fullmatch(text):
        raise MediaError(f"{where}: the label must be an integer, found {describe(text)!r}")
    return text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends. Bytes that are not UTF-8 become surrogates, as they do in file names."""
    require_regular(path)
    bound = MAX_TEXT.value
    with reading(path, MediaError, "list"), open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        number = 0
        while line := file.readline(bound + 1):
            number += 1
            MAX_TEXT.check(len(line), f"{path}, line {number}: a line of {len(line)} bytes or more", MediaError)
            if number == 1 and line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                raise MediaError(f"{path}: is UTF-16 text; save the list as UTF-8")
            yield number, line.rstrip("\n")


def _from_line(line: str, where: str, labelled: bool | None) -> Entry:
    """`labelled` says whether the lines before have labels, None before the first."""
    name, *rest = line.split("\t")
    if not name or len(rest) > 1:
        raise MediaError(f"{where}: expected PATH or PATH<TAB>LABEL, found {describe(line)!r}")
    label = parse_label(rest[0], where, names=False) if rest else None
    if labelled is not None and labelled != (label is not None):
        raise MediaError(
            f"{where}: {'lacks' if labelled else 'has'} a label, unlike the lines before: {describe(line)!r}"
        )
    return Entry(name, label)


def _from_row(values: object, where: str, captions: bool, embeddings: bool) -> Entry:
    if not isinstance(values, dict):
        raise MediaError(f"{where}: a JSON object is wanted, found {describe(values)!r}")
    row = {key.strip().casefold(): value for key, value in values.items()}
    name, label, source = (
        next((row[key] for key in keys if row.get(key) not in (None, "")), None)
        for keys in (_PATH_KEYS, _LABEL_KEYS, SOURCE_KEYS)
    )
    if not isinstance(name, str):
        raise MediaError(f"{where}: has no {' or '.join(_PATH_KEYS)}, only {describe(', '.join(row)) or 'nothing'!r}")
    if not isinstance(source, str | None):
        raise MediaError(f"{where}: a {SOURCE_KEYS[0]} is a name, found {describe(source)!r}")
    told = parse_captions(row, where) if captions else ()
    embedding = row.get(EMBEDDING_KEY) if embeddings else None
    if not isinstance(embedding, str | None):
        raise MediaError(f"{where}: an {EMBEDDING_KEY} is the path of a .npy file, found {describe(embedding)!r}")
    number, kind = parse_label(label, where), (source or "").strip()
    return Entry(name, number, kind, captions=told, embedding=(embedding or "").strip())


def _header(line: str) -> list[str]:
    row = next(csv.reader([line], delimiter=_delimiter(line), skipinitialspace=True), [])
    return [name.strip().casefold() for name in row]


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _open_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Columns, in lower case, and the numbered rows."""
    lines = _lines(path)
    first = next(lines, (1, ""))[1]
    with reading(path, MediaError, "CSV table"):
        columns = _header(first)
    if first.strip() and not set(columns) & set(_PATH_KEYS):
        found = describe(", ".join(columns))
        raise MediaError(f"{path}: the header needs a column {' or '.join(_PATH_KEYS)}, found {found}")
    if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise MediaError(f"{path}: the header has the column {describe(twice[0])!r} twice")
    return columns, _csv_rows(path, lines, _delimiter(first))


def _csv_rows(path: Path, lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    length, bound = 0, 2 * MAX_TEXT.value  # of the row so far: a quotation mark that is never closed swallows all lines

    def text() -> Iterator[str]:
        nonlocal length
        for number, line in lines:
            length += len(line) + 1
            if length > bound:
                raise MediaError(f"{path}, line {number}: a quotation mark above is not closed within {bound} bytes")
            yield line + "\n"

    with reading(path, MediaError, "CSV table"):
        table = csv.reader(text(), delimiter=delimiter, skipinitialspace=True)
        for row in table:
            length = 0
            if row:
                yield table.line_num + 1, row
