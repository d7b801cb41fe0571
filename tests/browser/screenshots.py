"""Screenshots of the page for its guide: `PYTHONPATH=tests python tests/browser/screenshots.py [FOLDER]`.

Only with models that ship, and with images that are drawn here or come from them.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from helpers.pages import open_page
from omnitok import load_generator
from omnitok.data import write_image
from omnitok.data.drawn import drawn_image

WIDTH, PATIENCE = 1280, 300_000  # pixels, milliseconds
DOCS = Path(__file__).resolve().parents[2] / "docs/images"


def open_tab(page: Page, address: str, name: str) -> None:
    page.goto(address)
    page.get_by_role("tab", name=name, exact=True).click(timeout=PATIENCE)


def save(page: Page, path: Path) -> None:
    """What is seen, without what points at it and what says that it is done."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=True, type="jpeg", quality=85)
    print(path)


def reconstruct(page: Page, address: str, image: Path, folder: Path) -> None:
    open_tab(page, address, "Reconstruct")
    panel = page.locator("#reconstruct")
    panel.locator("input[type=file]").first.set_input_files(image)
    page.wait_for_timeout(2000)
    panel.get_by_role("button", name="Reconstruct the image").click()
    expect(panel.locator(".block", has_text="Original |").locator("visible=true").locator("img")).to_have_count(
        4, timeout=PATIENCE
    )
    save(page, folder / "app-reconstruct.jpg")


def interpolate(page: Page, address: str, images: list[Path], folder: Path) -> None:
    open_tab(page, address, "Predict and Interpolate")
    page.get_by_role("tab", name="Interpolate", exact=True).click()
    panel = page.locator("#predict")
    for label, image in zip(("First image", "Last image"), images, strict=True):
        block = panel.locator(".block").filter(has=page.get_by_text(label, exact=True)).last
        block.locator("input[type=file]").set_input_files(image)
        page.wait_for_timeout(2000)
    panel.get_by_role("button", name="Interpolate", exact=True).locator("visible=true").click()
    expect(panel.locator("video[src]").locator("visible=true")).to_have_count(1, timeout=PATIENCE)
    save(page, folder / "app-interpolate.jpg")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        place = Path(scratch)
        write_image(place / "drawn.png", drawn_image(384, 26))
        ends = [place / f"{name}.png" for name in ("first", "last")]
        for path, sample in zip(ends, load_generator("omnitok-tiny-mask").sample(["apple"] * 2, seed=3), strict=True):
            write_image(path, sample)
        (place / "page").mkdir()
        models = ("omnitok-tiny-vq", "omnitok-tiny-vae-perceptual", "omnitok-tiny-mask")
        with open_page(models, place / "page") as served:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": 700})
            reconstruct(page, served.address, place / "drawn.png", folder)
            interpolate(page, served.address, ends, folder)
            browser.close()
