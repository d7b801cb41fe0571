"""What a verb tells: rows as a table or as JSON on stdout; progress and failures on stderr.

rich and tqdm are imported where something is printed: together they take longer than the rest of `--help`.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

_LONG = 1  # minutes that are announced


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, the text of a row's cell, and the key of the figure that is averaged."""

    title: str
    cell: Callable[[Row], str]
    mean_of: str | None = None


class Report:
    """Collects one row per input, in order, and prints them at the end, as a table or as JSON."""

    def __init__(self, columns: Sequence[Column], as_json: bool, name_key: str = "input") -> None:
        self.rows: list[Row] = []
        self._columns, self._as_json, self._name_key = columns, as_json, name_key

    @property
    def failures(self) -> int:
        """How many rows so far say `error`."""
        return sum("error" in row for row in self.rows)

    def add(self, row: Row) -> None:
        """A finished input."""
        self.rows.append(row)

    def fail(self, source: str, sentence: str) -> None:
        """An input that failed: a row with `error`, and the sentence on stderr."""
        self.rows.append({self._name_key: source, "error": sentence})
        say(f"error: {sentence}")

    def interrupt(self) -> None:
        """Print the rows so far, for people; JSON is whole or not at all."""
        if self.rows and not self._as_json:
            self.finish()

    def finish(self, closing: str = "") -> int:
        """Print the rows and give the exit code: 1 if anything failed. The closing line is for people only."""
        if self._as_json:
            print_json(self.rows)
            return 1 if self.failures else 0
        cells = [["failed"] if "error" in row else [column.cell(row) for column in self._columns] for row in self.rows]
        names = [renamed(str(row[self._name_key])) for row in self.rows]
        means = self._means()
        if any(means):
            cells.append(means)
            names.append("mean")
        print_table(
            [self._name_key, *(column.title for column in self._columns)],
            [[name, *texts] for name, texts in zip(names, cells, strict=True)],
        )
        if closing and len(self.rows) > self.failures:
            print(renamed(closing))
        return 1 if self.failures else 0

    def _means(self) -> list[str]:
        """Cells of a last row, where there are several results to average."""
        done = [row for row in self.rows if "error" not in row]
        means = []
        for column in self._columns if len(done) > 1 else ():
            key = column.mean_of or ""
            values = [row[key] for row in done if row.get(key) is not None]
            means.append(column.cell({key: sum(values) / len(values)}) if values else "")
        return means


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """An aligned table on stdout: words to the left, columns of figures to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="")
    for number, title in enumerate(titles):
        figures = all(row[number][:1] in "-0123456789" for row in rows if number < len(row))
        table.add_column(title, justify="right" if figures else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A pipe or a file has no width to keep to.
    width = None if sys.stdout.isatty() else 10_000
    Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False).print(table)


_shown_as: dict[str, str] = {}


def rename(path: os.PathLike[str], url: str) -> None:
    """From now on tell the URL in place of the path whose files go there; there is one such at a time."""
    _shown_as.clear()
    _shown_as.update({os.fspath(path): url, json.dumps(os.fspath(path))[1:-1]: json.dumps(url)[1:-1]})


def renamed(text: str) -> str:
    """A text with the URLs of `rename`."""
    for path, url in _shown_as.items():
        text = text.replace(path, url)
    return text


def print_json(value: object) -> None:
    """A result on stdout for machines."""
    print(renamed(json.dumps(value, indent=2)))


def say(message: str) -> None:
    """A message for people, on stderr."""
    from tqdm import tqdm

    tqdm.write(f"omnitok: {renamed(message)}", file=sys.stderr)  # print would tear a progress bar


def progress_bar(total: int | None, what: str, unit: str) -> Any:
    """A tqdm bar on stderr, gone when done; silent where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=os.path.basename(what), unit=unit, leave=False, file=sys.stderr, disable=None)


@contextlib.contextmanager
def frame_bar(source: os.PathLike[str]) -> Iterator[Callable[[int, int | None], None]]:
    """A bar over the frames of a file; what it yields takes the frames done since the last call, and how many come.

    Where no bar can be shown, work that will take minutes is announced when its first frames are done.
    """
    started, count = time.monotonic(), 0
    with progress_bar(None, os.fspath(source), "frame") as bar:

        def progress(done: int, total: int | None) -> None:
            nonlocal count
            bar.total = total
            bar.update(done)
            if bar.disable and not count and total is not None:
                minutes = (time.monotonic() - started) / done * (total - done) / 60
                if minutes >= _LONG:
                    say(f"note: {os.fspath(source)}: {total} frames will take about {minutes:.0f} minutes")
            count += done

        yield progress


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
