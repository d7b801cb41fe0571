"""What a verb tells: rows as an aligned table or as JSON on stdout; progress and failures on stderr."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, its least width, and the text of a row's cell."""

    title: str
    width: int
    cell: Callable[[Row], str]


class Report:
    """Collects one row an input, in order, and prints each as it comes (or all of them at the end as JSON)."""

    def __init__(self, columns: Sequence[Column], names: Iterable[str], as_json: bool, name_key: str = "input") -> None:
        self.rows: list[Row] = []
        self._columns, self._as_json, self._name_key = columns, as_json, name_key
        self._name_width = max([len(name_key), *(len(name) for name in names)])
        self._has_header = False

    @property
    def failures(self) -> int:
        """How many rows so far say `error`."""
        return sum("error" in row for row in self.rows)

    def add(self, row: Row) -> None:
        """A finished input."""
        self.rows.append(row)
        self._print([column.cell(row) for column in self._columns], str(row[self._name_key]))

    def fail(self, source: str, sentence: str) -> None:
        """An input that failed: a row with `error`, and the sentence on stderr."""
        self.rows.append({self._name_key: source, "error": sentence})
        self._print(["failed"], source)
        say(f"error: {sentence}")

    def finish(self, closing: str = "") -> int:
        """Print what is left and give the exit code: 1 if anything failed. The closing line is for people only."""
        if self._as_json:
            print(json.dumps(self.rows, indent=2))
        elif closing and len(self.rows) > self.failures:
            print(closing)
        return 1 if self.failures else 0

    def _print(self, cells: list[str], name: str) -> None:
        if self._as_json:
            return
        if not self._has_header:
            self._has_header = True
            titles = [column.title for column in self._columns]
            _write(_line(self._name_key, self._name_width, titles, self._columns))
        _write(_line(name, self._name_width, cells, self._columns))


def _line(name: str, name_width: int, cells: list[str], columns: Sequence[Column]) -> str:
    padded = [cell.rjust(column.width) for cell, column in zip(cells, columns, strict=False)]
    return "  ".join([name.ljust(name_width), *padded]).rstrip()


def _write(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)  # print would tear a progress bar
    sys.stdout.flush()


def say(message: str) -> None:
    """A message for people, on stderr."""
    from tqdm import tqdm

    tqdm.write(f"omnitok: {message}", file=sys.stderr)


def progress_bar(total: int | None, what: str, unit: str) -> Any:
    """A tqdm bar on stderr, gone when done; silent where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=os.path.basename(what), unit=unit, leave=False, file=sys.stderr, disable=None)


def number(value: float, digits: int) -> float | None:
    """Rounded for the result; None where JSON has no such number (an infinite PSNR, an SSIM that is not defined)."""
    return round(value, digits) if math.isfinite(value) else None


def cell(key: str, digits: int | None = None) -> Callable[[Row], str]:
    """The text of `row[key]`, with a fixed number of decimals; "-" for None."""

    def text(row: Row) -> str:
        value = row[key]
        if value is None:
            return "-"
        return str(value) if digits is None else f"{value:.{digits}f}"

    return text
