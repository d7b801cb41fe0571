"""What was measured as tables: for the command line, for pages, and for notebooks, which show them by themselves."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape

Table = tuple[list[str], list[list[str]]]
"""Titles, and rows of cells."""


class ShownAsTables(ABC):
    """What a notebook shows as tables, with sentences below them."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """What to show."""

    def notes(self) -> list[str]:
        """What has to be known of the figures."""
        return []

    def _repr_html_(self) -> str:
        return "".join(map(html_table, self.tables())) + "".join(f"<p>{escape(note)}</p>" for note in self.notes())


def html_table(table: Table) -> str:
    """The table as an element of HTML; whatever is in its cells is text there."""
    titles, rows = table
    return f"<table>{_row('th', titles)}{''.join(_row('td', row) for row in rows)}</table>"


def _row(tag: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"
