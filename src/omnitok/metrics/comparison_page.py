"""A comparison as one HTML page that holds everything it shows."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from omnitok.atomic import atomic_path
from omnitok.metrics.compared import Comparisons
from omnitok.metrics.comparison import Shown
from omnitok.metrics.tables import html_table
from omnitok.version import VERSION

_WIDEST = 1800  # pixels of an image within the page; the files beside it are whole
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1850px;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}tr{border-bottom:1px solid #ddd}"
    "td,th{padding:.25em .8em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img,video{max-width:100%;height:auto}h2{margin-top:2em}"
    ".failed{color:#a00}"
)


def write_page(comparisons: Comparisons, shown: Sequence[Shown], plot: Path, path: Path) -> None:
    """Write tables, plot, images and videos as one file without any link.

    Args:
        plot: a PNG.
        path: of the page.
    """
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>omnitok compare</title><style>{_STYLE}</style>"]
    parts.append("<h1>Tokenizers compared</h1>")
    parts += map(html_table, comparisons.tables())
    parts += [f"<p class=failed>{escape(note)}</p>" for note in comparisons.notes()]
    parts.append(
        "<p>Bits per pixel are those of the tokens over frames x height x width; of codecs, of the packets without a "
        "container. Seconds are for encoding and decoding one file; peak memory is that of the whole process, or on a "
        "GPU what was allocated on it.</p>"
    )
    if any(comparison.per_channel for comparison in comparisons):
        parts.append(
            "<p>Images and videos are shown in colour: one channel as grey, four over a checkerboard, of others the "
            "first three; figures and maps of errors are over all channels.</p>"
        )
    parts.append(f'<img alt="quality over bits per pixel" src="{_data("image/png", plot.read_bytes())}">')
    for item in shown:
        parts.append(f"<h2>{escape(item.title)}</h2>")
        if item.modality == "image":
            parts.append(f'<img loading=lazy alt="side by side" src="{_data("image/jpeg", _shrink(item.path))}">')
        else:
            video = _data("video/mp4", item.path.read_bytes())
            parts.append(f'<video controls loop muted autoplay src="{video}"></video>')
    parts.append(f"<p>omnitok {VERSION}</p></html>")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _shrink(path: Path) -> bytes:
    with Image.open(path) as image:
        image.thumbnail((_WIDEST, 10 * _WIDEST))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
