"""What the tab Compare does: the same files through several tokenizers, as `omnitok compare` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnitok.app.models import Models
from omnitok.app.uploads import check_files
from omnitok.hub.names import short_names
from omnitok.metrics.comparison import PLOT, compare
from omnitok.metrics.comparison_page import write_page
from omnitok.metrics.reconstruction import EvaluatedModel
from omnitok.metrics.tables import Table

SHOWN = 4
"""So many images and videos are shown side by side."""


@dataclass(frozen=True)
class Compared:
    """What there is to show: tables of titles and rows, a plot, images and videos, and one page of everything."""

    tables: list[Table]
    plot: Path
    shown: list[tuple[Path, str]]
    page: Path


def compare_files(
    models: Models,
    paths: Sequence[str] | None,
    names: Sequence[str],
    references: bool,
    folder: Path,
    progress: Callable[[int, int], None],
) -> Compared:
    """Measure the tokenizers of these names on the files; results are written to `folder`.

    Raises:
        OmnitokError: a file that cannot be read or is above a bound.
        ValueError: no tokenizer.
    """
    if not names:
        raise ValueError("choose at least one tokenizer")

    def load(name: str) -> EvaluatedModel:
        return EvaluatedModel(models.tokenizers[name], name, models.tokenizers[name].fingerprint)

    found, shown = compare(
        check_files(paths),
        short_names(names),
        load,
        folder,
        references=references,
        shown=SHOWN,
        progress=progress,
    )
    page = folder / "comparison.html"
    write_page(found, shown, folder / PLOT, page)
    return Compared(found.tables(), folder / PLOT, [(item.path, item.title) for item in shown], page)
