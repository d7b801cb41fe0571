"""Twenty users at once: in turn or told that the page is busy, each with their own, at a cost that does not grow.

For a few seconds, and until each has been answered; OMNITOK_USERS_SECONDS=60 is a minute.
"""

import os
import random
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.pages import ServedPage, open_page
from omnitok import load_generator, load_tokenizer
from omnitok.app import tokens
from omnitok.data import read_image, write_image
from omnitok.data.drawn import drawn_image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'omnitok[app]'")
client = pytest.importorskip("gradio_client", reason="gradio is not installed: pip install 'omnitok[app]'")

SECONDS = float(os.environ.get("OMNITOK_USERS_SECONDS", "6"))
USERS, SIDE = 20, 64
TOKENIZER, GENERATOR = "omnitok-tiny-vq", "omnitok-tiny-mask"
KEPT = 60  # seconds that files are kept: longer than anybody waits
GROWTH = 150e6  # bytes that the allocator may take in addition
ROUNDED = 0.02  # what 8 bits, and threads that add in another order, change


class User:
    """Somebody with a session, an image and a seed of their own, who knows what the page must answer."""

    def __init__(self, number: int, page: ServedPage, folder: Path) -> None:
        self.number, self.done, self.folder = number, Counter[str](), folder
        folder.mkdir()
        self.image, self.paint = folder / f"{number}.png", folder / "paint.png"
        write_image(self.image, drawn_image(SIDE, number))
        Image.new("RGBA", (8 * 64, 8 * 64), "white").save(self.paint)  # over all tokens
        self.client = client.Client(page.address, verbose=False, download_files=folder / "got", analytics_enabled=False)

    def expect(self, tokenizer: Any, generator: Any) -> None:
        """Work out what is right."""
        self.pixels = read_image(self.image)
        self.made = tokens.reconstruct(tokenizer, self.pixels)
        codes = torch.full_like(self.made.tokens, self.number)
        with torch.inference_mode():
            self.changed = tokenizer.decode_codes(codes).clamp(-1, 1)[0]
        self.sample = generator.sample([self.number % 8], seed=self.number, steps=2)[0]

    def ask(self, what: str) -> None:
        """Have the page do something, and compare it; what it says of being busy is counted."""
        try:
            getattr(self, what)()
            self.done[what] += 1
        except client.utils.QueueError:
            self.done["busy"] += 1
            time.sleep(random.uniform(0.1, 1))

    def reconstruct(self) -> None:
        table, *shown = self._call("reconstruct_image", client.handle_file(self.image), [TOKENIZER], 512)
        (row,), sides = table["data"], next(each for each in shown if isinstance(each, list | tuple))
        assert row[:3] == [TOKENIZER, self.made.count, round(self.made.bits_per_pixel, 4)]
        assert row[3] == pytest.approx(self.made.psnr, abs=0.001)
        self._same(sides, self.pixels, self.made.pixels)

    def edit(self) -> None:
        _, before, *_ = self._call("show_tokens", TOKENIZER, client.handle_file(self.image), None, 256)
        self._same(before, self.made.pixels, self.made.pixels)
        paint = client.handle_file(self.paint)
        drawing = {"background": paint, "layers": [paint], "composite": paint}
        _, sides, _, said = self._call("change_tokens", drawing, "replace", self.number)
        assert said == "64 of 64 tokens were chosen."
        self._same(sides, self.made.pixels, self.changed)

    def generate(self) -> None:
        (sample,) = self._call(
            "generate", GENERATOR, str(self.number % 8), "", "", self.number, "", "2", "", "", "", 1, 1
        )
        self._same([sample["image"]], self.sample)

    def _call(self, name: str, *values: Any) -> Any:
        return self.client.predict(*values, api_name=f"/{name}")

    def _same(self, found: Any, *wanted: Tensor) -> None:
        for path, pixels in zip(found, wanted, strict=True):
            assert (read_image(path) - pixels).abs().mean() < ROUNDED, (self.number, path)
        shutil.rmtree(self.folder / "got", ignore_errors=True)


KINDS = ("reconstruct", "edit", "generate")


def resident(page: ServedPage) -> int:
    """Bytes of memory that the page's process holds."""
    lines = Path(f"/proc/{page.process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def test_many_users_at_once(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    tokenizer, generator = load_tokenizer(TOKENIZER), load_generator(GENERATOR)
    with open_page([TOKENIZER, GENERATOR], tmp_path / "page", kept_seconds=KEPT) as page:
        users = [User(number, page, tmp_path / str(number)) for number in range(USERS)]
        for user in users:
            user.expect(tokenizer, generator)
        for what in KINDS:  # what is loaded once
            users[0].ask(what)
        before, start = resident(page), threading.Barrier(USERS)
        began = time.monotonic()

        def use(user: User) -> None:
            start.wait()
            turn = user.number
            while time.monotonic() < began + SECONDS or not user.done.keys() & set(KINDS):
                user.ask(KINDS[turn % len(KINDS)])
                turn += 1

        with ThreadPoolExecutor(USERS) as pool:
            list(pool.map(use, users))
        seconds, after, files = time.monotonic() - began, resident(page), len(page.files())
        total = sum((user.done for user in users), Counter[str]())
        figures = {**total, "seconds": round(seconds, 1), "before": before, "after": after, "files": files}
        print(figures)
        assert total["busy"] > 0  # or there were not too many
        assert after - before < GROWTH, figures
        assert {path.parents[1].name for path in page.files()} == {"page"}  # those of the requests went with them
        deadline = time.monotonic() + 4 * KEPT
        while SECONDS >= KEPT and page.files():
            assert time.monotonic() < deadline, page.files()
            time.sleep(0.2)
        for user in users:
            user.client.close()
