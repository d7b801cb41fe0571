"""What was measured shows itself as tables in a notebook, and texts of users stay texts there."""

import re
from dataclasses import replace
from html import unescape

from omnitok.metrics import Result
from omnitok.metrics.compared import Comparison, Comparisons, FileFigures
from omnitok.metrics.results import Results

EVIL = '<script>alert("x")</script> & <b>'
ROW = Result("psnr", 28.1234567, "clean", 4, "image", 256, 1, model=EVIL, spread=0.5)


def shown(html: str) -> tuple[list[list[str]], str]:
    """The cells of all tables, row by row, and the sentences below them."""
    assert set(re.findall("<([a-z]+)", html)) <= {"table", "tr", "th", "td", "p"}
    rows = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", html)]
    return [[unescape(cell) for cell in row] for row in rows], unescape("".join(re.findall("<p>(.*?)</p>", html)))


def test_results_are_a_table() -> None:
    video = replace(ROW, metric="rfvd", value=float("inf"), modality="video", frames=17, network="i3d", warning=EVIL)
    (titles, first, second), notes = shown(Results([ROW, video])._repr_html_())
    assert titles == ["metric", "of", "model", "value", "±", "n", "size", "protocol", "network"]
    assert first == ["psnr", "image", EVIL, "28.123", "0.5", "4", "256", "clean", "-"]
    assert second[3:7] == ["inf or -", "0.5", "4", "17x256"]
    assert notes == f"video {EVIL}"
    assert shown(ROW._repr_html_()) == ([titles, first], "")


def test_accuracies_have_columns_of_their_own() -> None:
    (titles, first, second), _ = shown(Results([replace(ROW, chance=0.125, real_value=0.9), ROW])._repr_html_())
    assert [row[titles.index("real") :][:2] for row in (first, second)] == [["0.900", "0.125"], ["-", "-"]]


def test_comparisons_are_a_table_for_images_and_one_for_videos() -> None:
    file = FileFigures("a.png", 16, 16, 1, 4, 52.0, 30.0, 0.25)
    image = Comparison("m", EVIL, "image", files=[file], values={"psnr": 30.0}, parameters=2_000_000)
    codec = Comparison("JPEG", "JPEG", "image", codec="JPEG", files=[file])
    failed = Comparison("m", "m", "video", error=f"no {EVIL}")
    rows, notes = shown(Comparisons([image, codec, failed])._repr_html_())
    assert rows[0] == ["model (images)", "bits/pixel", "tokens", "psnr", "seconds", "peak MB", "parameters"]
    assert rows[1] == [EVIL, "0.2031", "4", "30", "0.25", "-", "2.0 M"]
    assert [row[0] for row in rows[2:]] == ["model (videos)", "m"]
    assert notes == f"m (videos): no {EVIL}"
