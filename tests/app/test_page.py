"""The page as scripts see it: errors are sentences, and what was uploaded or made is removed."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.pages import RefusedError, ServedPage, open_page
from omnitok import OmniTokenizer
from omnitok.app import tokens, uploads
from omnitok.data import write_image
from omnitok.data.drawn import drawn_image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'omnitok[app]'")

MODEL = "omnitok-tiny-vq"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    with open_page([MODEL], tmp_path_factory.mktemp("page"), kept_seconds=5, max_bytes=100_000) as page:
        yield page


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_image(tmp_path / "drawn <b>.png", drawn_image(64, 1))
    return tmp_path / "drawn <b>.png"


def test_figures_are_those_of_the_library_and_files_go(page: ServedPage, image: Path) -> None:
    table, *_ = page.call("reconstruct_image", page.upload(image), [MODEL], 512)
    folders = {path.parents[1].name for path in page.files()}
    assert folders <= {"page"}  # those of the request went with it
    made = tokens.reconstruct(OmniTokenizer.from_pretrained(MODEL), uploads.read_image(str(image), 512))
    figures = [made.count, *(round(value, 4) for value in (made.bits_per_pixel, made.psnr, made.ssim))]
    assert table["data"] == [[MODEL, *figures]]
    deadline = time.monotonic() + 60
    while page.files():
        assert time.monotonic() < deadline, page.files()
        time.sleep(0.2)


def test_errors_are_sentences_without_folders_and_markup(page: ServedPage, image: Path) -> None:
    image.write_bytes(b"no image")
    with pytest.raises(RefusedError) as caught:
        page.call("reconstruct_image", page.upload(image), [MODEL], 512)
    said = str(caught.value)
    assert said.endswith(".png: not an image in a format that Pillow reads")
    assert "/" not in said
    assert "<" not in said
    write_image(image, drawn_image(64, 1))
    with pytest.raises(RefusedError, match="choose at least one tokenizer"):
        page.call("reconstruct_image", page.upload(image), [], 512)
    with pytest.raises(RefusedError, match="show its tokens first"):
        page.call("change_tokens", None, "shuffle", 0)


def test_uploads_are_bounded_while_they_arrive(page: ServedPage, image: Path) -> None:
    image.write_bytes(bytes(200_000))
    with pytest.raises(RefusedError, match="413"):
        page.upload(image)


def test_nothing_but_uploads_and_results_can_be_read(page: ServedPage, image: Path) -> None:
    with pytest.raises(RefusedError):
        page.call("reconstruct_image", {"path": str(image), "meta": {"_type": "gradio.FileData"}}, [MODEL], 512)
    for place in (str(image), str(page.temporary), "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            page.fetch({"url": f"{page.address}gradio_api/file={urllib.request.quote(place)}"})


def test_without_generators_there_are_no_tabs_for_them(page: ServedPage) -> None:
    with urllib.request.urlopen(f"{page.address}gradio_api/info") as response:
        names = set(json.load(response)["named_endpoints"])
    assert names == {"/reconstruct_image", "/reconstruct_video", "/show_tokens", "/change_tokens", "/compare"}


def test_only_this_machine_reaches_it(page: ServedPage) -> None:
    port = f"{int(page.address.rstrip('/').rpartition(':')[2]):04X}"
    listening = "0A"  # include/net/tcp_states.h
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/{page.process}/net/{table}").read_text().splitlines()[1:]
    ]
    assert [row[1] for row in rows if row[3] == listening and row[1].endswith(port)] == [f"0100007F:{port}"]


def test_a_slider_begins_within_its_bounds() -> None:
    from omnitok.app.parts import slider

    assert (slider(1, 4, 5, label="Frames given").value, slider(1, 8, 5, label="Frames given").value) == (4, 5)


def test_a_port_that_is_taken_is_one_sentence(page: ServedPage) -> None:
    port = page.address.rstrip("/").rpartition(":")[2]
    line = [sys.executable, "-m", "omnitok", "app", "--port", port, "--model", MODEL]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"omnitok: error: --port {port}: is taken on this machine; name another\n"
