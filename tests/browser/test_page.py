"""Each tab does its job in a real browser: Debian's chromium, headless, with files drawn here or of scikit-image."""

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from helpers.conditioned import save_conditioned
from helpers.pages import ServedPage, open_page
from helpers.small import SMALL
from omnitok import OmniTokenizer, load_generator
from omnitok.app import tokens, uploads
from omnitok.data import read_image, read_video, to_pixels, write_image, write_video
from omnitok.data.ken_burns import ken_burns
from omnitok.models.conditions import TextCondition

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'omnitok[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")

MODELS = (
    "omnitok-tiny-vq",
    "omnitok-tiny-vae-perceptual",
    "omnitok-tiny-dit",
    "omnitok-tiny-lm",
    "omnitok-tiny-mask",
)
PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    OmniTokenizer.from_config(SMALL).save_pretrained(folder / "vq")
    return save_conditioned(TextCondition(max_length=20), folder / "vq", folder / "text")


@pytest.fixture(scope="module")
def served(text_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    with open_page([*MODELS, text_model], tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name in ("chelsea", "coffee"):
        image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1) / 127.5 - 1
        write_image(folder / f"{name}.png", image[:, :192, 100:292])
        write_video(folder / f"{name}.mp4", ken_burns(image, 17, 64, False, 0), 8)
    return folder


class Tab:
    """A tab of an open page, as somebody sees it."""

    def __init__(self, page: "playwright.Page", name: str) -> None:
        page.get_by_role("tab", name=name, exact=True).click()
        self.page, self.panel = page, page.locator(f"#{name.split()[0].lower()}")

    def upload(self, label: str, *files: Path) -> None:
        """Give files to the component of that label, and wait until they have arrived."""
        block = self.panel.locator(".block").filter(has=self.page.get_by_text(label, exact=True)).last
        with self.page.expect_response(lambda response: "/upload?" in response.url, timeout=PATIENCE):
            block.locator("input[type=file]").set_input_files(list(files))

    def within(self, name: str) -> "Tab":
        """The tab with one of the tabs in it in front."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        return self

    def block(self, label: str) -> "playwright.Locator":
        """The component of that label that is seen."""
        return self.panel.locator(".block").filter(has=self.page.get_by_text(label, exact=True)).locator("visible=true")

    def field(self, role: str, label: str) -> "playwright.Locator":
        """The field of that label that is seen."""
        return self.panel.get_by_role(role, name=label).locator("visible=true")

    def choose(self, label: str, option: str) -> None:
        """Take an option of the list of that label."""
        self.panel.get_by_label(label).locator("visible=true").first.click()
        self.page.get_by_role("option", name=option).click()

    def press(self, name: str) -> None:
        self.panel.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def paint(self, left: float, top: float, right: float, bottom: float) -> None:
        """Drag the brush over the canvas, in shares of its width and height."""
        box = self.panel.locator("canvas").locator("visible=true").first.bounding_box()
        self.page.mouse.move(box["x"] + left * box["width"], box["y"] + top * box["height"])
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + right * box["width"], box["y"] + bottom * box["height"], steps=6)
        self.page.mouse.up()

    def slider(self, label: str) -> tuple[Tensor, Tensor]:
        """Both images behind the slider of that label, (3, H, W)."""
        images = self.panel.locator(".block", has_text=label).locator("visible=true").locator("img")
        playwright.expect(images).to_have_count(2, timeout=PATIENCE)
        before, after = (self.pixels(images.nth(number)) for number in range(2))
        return before, after

    def pixels(self, image: "playwright.Locator") -> Tensor:
        return to_pixels(Image.open(io.BytesIO(self.fetch(image))))[0]

    def fetch(self, element: "playwright.Locator") -> bytes:
        """What an image, video or link shows."""
        element.wait_for(state="attached", timeout=PATIENCE)
        address = element.evaluate("element => element.currentSrc || element.src || element.href")
        return self.page.request.get(address).body()

    def video(self, path: Path, number: int) -> Tensor:
        """The frames (3, T, H, W) of the number-th video of the tab."""
        path.write_bytes(self.fetch(self.panel.locator("video[src]").nth(number)))
        return read_video(path)


def open_tab(browser: "playwright.Browser", served: ServedPage, name: str) -> Tab:
    """In a context of its own, which shares nothing with another."""
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.goto(served.address)
    page.get_by_role("tab", name=name, exact=True).wait_for(timeout=PATIENCE)
    return Tab(page, name)


def test_images_are_reconstructed_and_nothing_is_asked_of_others(
    browser: "playwright.Browser", served: ServedPage, media: Path
) -> None:
    tab = open_tab(browser, served, "Reconstruct")
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.reload()
    tab.upload("Image", media / "chelsea.png")
    tab.press("Reconstruct the image")
    original = read_image(media / "chelsea.png")
    for name in MODELS[:2]:
        made = tokens.reconstruct(OmniTokenizer.from_pretrained(name), original)
        row = tab.panel.get_by_role("row").filter(has_text=re.compile(f"{name}(?!-)"))
        playwright.expect(row.first).to_contain_text(f"{made.psnr:.4f}", timeout=PATIENCE)
        playwright.expect(row.first).to_contain_text(f"{round(made.bits_per_pixel, 4):g}")
        before, after = tab.slider(f"Original | {name}")
        assert torch.allclose(before, original, atol=1e-6)
        assert torch.allclose(after, made.pixels, atol=0.02)  # rounded to 8 bits
    tab.page.screenshot(path=media / "reconstruct.png", full_page=True)
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((served.address, "data:", "blob:"))] == []
    tab.page.close()


def test_videos_are_reconstructed(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Reconstruct")
    tab.page.get_by_role("tab", name="A video").click()
    tab.upload("Video", media / "coffee.mp4")
    tab.press("Reconstruct the video")
    before, after = tab.slider(f"Original | {MODELS[0]}")
    assert torch.allclose(before, read_video(media / "coffee.mp4")[:, 0], atol=1e-6)
    assert 0.01 < (before - after).abs().mean() < 0.2
    sides = tab.video(media / "sides.mp4", number=1)
    assert sides.shape[1] == 17
    assert sides.shape[3] > 3 * 64
    tab.page.close()


def test_painted_tokens_change(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Edit tokens")
    tab.upload("Image", media / "chelsea.png")
    tab.upload("Second image, for swapping", media / "coffee.png")
    tab.press("Show the tokens")
    before, after = tab.slider("Decoded before | after")
    assert torch.equal(before, after)
    tab.page.wait_for_timeout(500)  # until the editor shows what it got
    tab.paint(0.45, 0.4, 0.55, 0.5)
    tab.panel.get_by_label("swap with the second image").check()
    tab.press("Change the painted tokens")
    said = tab.panel.get_by_text(re.compile(r"^\d+ of 576 tokens were chosen\.$"))
    said.wait_for(timeout=PATIENCE)
    assert 2 < int(said.text_content().split()[0]) < 100
    before, after = tab.slider("Decoded before | after")
    changed = (before - after).abs().amax(0) > 0.05
    assert changed[64:128, 64:128].float().mean() > 0.1
    assert not changed[:32].any()
    playwright.expect(tab.panel.get_by_text("Second image, decoded")).to_be_visible()
    tab.page.screenshot(path=media / "edit.png", full_page=True)
    tab.page.close()


def test_samples_are_those_of_the_generator(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Generate")
    tab.panel.get_by_label("Generator").click()
    tab.page.get_by_role("option", name="omnitok-tiny-lm").click()
    playwright.expect(tab.panel.get_by_label("Temperature")).to_be_visible(timeout=PATIENCE)
    playwright.expect(tab.panel.get_by_label("Steps")).to_be_hidden()
    tab.panel.get_by_role("combobox", name="Class").fill("leopard")
    tab.panel.get_by_label("Seed").fill("3")
    tab.panel.get_by_role("spinbutton", name="Samples").fill("2")
    tab.panel.get_by_label("Temperature").fill("0.9")
    tab.press("Generate")
    images = tab.panel.locator(".grid-container img")
    playwright.expect(images).to_have_count(2, timeout=PATIENCE)
    made = load_generator("omnitok-tiny-lm").sample(["leopard"] * 2, seed=3, temperature=0.9)
    for number in range(2):
        assert torch.allclose(tab.pixels(images.nth(number)), made[number], atol=0.02)
    tab.page.close()


def test_a_text_says_what_is_made(browser: "playwright.Browser", served: ServedPage, text_model: str) -> None:
    tab = open_tab(browser, served, "Generate")
    playwright.expect(tab.field("textbox", "Text")).to_have_count(0)
    tab.choose("Generator", text_model)
    playwright.expect(tab.field("textbox", "Text")).to_be_visible(timeout=PATIENCE)
    playwright.expect(tab.panel.get_by_role("combobox", name="Class")).to_be_hidden()
    tab.field("textbox", "Text").fill("a red dress")
    tab.field("textbox", "Negative").fill("a blue one")
    tab.field("spinbutton", "Samples").fill("1")
    tab.press("Generate")
    images = tab.panel.locator(".grid-container img")
    playwright.expect(images).to_have_count(1, timeout=PATIENCE)
    made = load_generator(text_model).sample(["a red dress"], negative="a blue one")
    assert torch.allclose(tab.pixels(images.first), made[0], atol=0.02)
    tab.field("textbox", "Text").fill("a text that is longer than twenty bytes")
    tab.press("Generate")
    tab.page.get_by_text("a text may have 20 bytes for this model, found 39").wait_for(timeout=PATIENCE)
    tab.page.close()


def test_a_video_goes_on(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Predict and Interpolate")
    tab.upload("Video", media / "chelsea.mp4")
    tab.panel.get_by_label("Steps").fill("2")
    tab.press("Predict")
    playwright.expect(tab.panel.locator("video[src]")).to_have_count(2, timeout=PATIENCE)
    made = tab.video(media / "made.mp4", number=1)
    assert made.shape == (3, 17, 64, 64)
    red = made[0, :, :2] - made[1, :, :2]
    assert red[:5].mean() > 1  # the given frames have a red border
    assert red[5:].mean() < 0.7
    tab.page.close()


def test_frames_between_are_made(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Predict and Interpolate").within("Interpolate")
    tab.upload("First image", media / "chelsea.png")
    tab.upload("Last image", media / "coffee.png")
    tab.field("spinbutton", "Frames in all").fill("9")
    tab.choose("Generator", "omnitok-tiny-mask")
    tab.field("textbox", "Steps").fill("2")
    tab.press("Interpolate")
    sheet = tab.block("All frames").locator("img")

    def frames() -> Tensor:
        """Three rows of three frames, enlarged three times: (3, t, h, w)."""
        image = tab.pixels(sheet)[:, ::3, ::3].unflatten(2, (3, 64)).unflatten(1, (3, 64))
        return image.permute(0, 1, 3, 2, 4).flatten(1, 2)

    made = frames()
    for frame, name in ((0, "chelsea"), (8, "coffee")):
        assert (made[:, frame] - uploads.read_image(str(media / f"{name}.png"), 64)).abs().max() < 0.02
    assert not torch.equal(made[:, 4], made[:, 0])
    film = tab.block("Video: frames of the given video have a red border").locator("video[src]")
    first_address = film.get_attribute("src", timeout=PATIENCE)

    tab.page.get_by_role("tab", name="The ends of a video").click()
    tab.upload("Video", media / "chelsea.mp4")
    tab.field("spinbutton", "Frames given").fill("2")
    tab.press("Make what lies between")
    playwright.expect(film).not_to_have_attribute("src", first_address or "", timeout=PATIENCE)
    red = frames()[:, :, 0].mean(2)  # 3 t, of the first row of pixels
    assert ((red[0] > 0.99) & (red[1] < -0.99)).tolist() == [True, True, *[False] * 5, True, True]
    tab.page.close()


def test_holes_are_filled(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Inpaint")
    tab.field("textbox", "Steps").fill("3")
    told = tab.panel.get_by_text("Upload an image and paint over what is to be filled.")
    playwright.expect(told).to_have_count(2, timeout=PATIENCE)  # in the editor too, while it is empty
    tab.panel.locator("input[type=file]").first.set_input_files(media / "chelsea.png")
    playwright.expect(told).to_have_count(1, timeout=PATIENCE)
    tab.page.wait_for_timeout(1500)  # until the editor shows it
    tab.paint(0.48, 0.45, 0.52, 0.55)
    tab.press("Fill")
    holes, filled = tab.slider("Holes | filled")
    grey = (holes.abs() < 0.01).all(0)
    assert 0.01 < grey.float().mean() < 0.5
    assert torch.equal(holes[:, ~grey], filled[:, ~grey])
    assert not torch.equal(holes[:, grey], filled[:, grey])
    tab.page.close()


def test_holes_of_videos_and_margins_are_filled(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Inpaint")
    tab.choose("Generator", "omnitok-tiny-mask")
    tab.field("textbox", "Steps").fill("2")
    tab.page.get_by_role("tab", name="A video").click()
    tab.upload("Video", media / "chelsea.mp4")
    tab.panel.locator("canvas").locator("visible=true").first.wait_for(timeout=PATIENCE)
    tab.page.wait_for_timeout(1500)  # until the editor shows the first frame
    tab.paint(0.48, 0.45, 0.52, 0.55)
    tab.press("Fill the video")
    videos = tab.panel.locator("video[src]")
    playwright.expect(videos).to_have_count(3, timeout=PATIENCE)
    holes, filled = (tab.video(media / f"{number}.mp4", number) for number in (1, 2))
    assert holes.shape == filled.shape == (3, 17, 64, 64)
    grey = (holes.abs() < 0.05).all(0)
    assert 0.01 < grey.float().mean() < 0.9
    assert (holes - filled).abs().mean(0)[grey].mean() > 2 * (holes - filled).abs().mean(0)[~grey].mean()

    tab.page.get_by_role("tab", name="Margins").click()
    tab.upload("Image", media / "coffee.png")
    tab.press("Make the margins")
    wide = tab.pixels(tab.block("With margins").locator("img"))
    assert wide.shape == (3, 63, 63)  # a quarter on each side of 192 pixels, brought to at most 64
    assert (wide[:, 10:53, 10:53] - uploads.read_image(str(media / "coffee.png"), 43)).abs().max() < 0.02
    tab.page.close()


def test_tokenizers_are_compared(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    tab = open_tab(browser, served, "Compare")
    tab.upload("Up to 8 images and videos", media / "chelsea.png", media / "coffee.mp4")
    tab.panel.get_by_label("JPEG, H.264 and AV1 as references").uncheck()
    tab.press("Compare")
    link = tab.panel.locator("a[href$='comparison.html']")
    page = tab.fetch(link).decode()
    assert page.count("<h2>") == 2
    for name in MODELS[:2]:
        assert f"<td>{name}</td>" in page
        playwright.expect(tab.panel.get_by_role("row").filter(has_text=name)).not_to_have_count(0)
    tab.page.close()


def test_what_cannot_be_done_is_said(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    (media / "no image.png").write_bytes(b"<b>text</b>")
    tab = open_tab(browser, served, "Reconstruct")
    tab.upload("Image", media / "no image.png")
    tab.press("Reconstruct the image")
    tab.page.get_by_text("no image.png: not an image in a format that Pillow reads").wait_for(timeout=PATIENCE)
    tab.page.close()


def test_users_get_their_own(browser: "playwright.Browser", served: ServedPage, media: Path) -> None:
    """Both ask at once."""
    tabs = [open_tab(browser, served, "Reconstruct") for _ in range(2)]
    for tab, name in zip(tabs, ("chelsea", "coffee"), strict=True):
        tab.upload("Image", media / f"{name}.png")
    for tab in tabs:
        tab.press("Reconstruct the image")
    for tab, name in zip(tabs, ("chelsea", "coffee"), strict=True):
        before, _ = tab.slider(f"Original | {MODELS[0]}")
        assert torch.allclose(before, uploads.read_image(str(media / f"{name}.png"), 512), atol=1e-6)
        tab.page.close()


def test_nothing_is_cut_off_in_a_narrow_window(browser: "playwright.Browser", served: ServedPage) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(served.address)
    page.get_by_role("tab", name="Reconstruct", exact=True).wait_for(timeout=PATIENCE)
    for name, label in (("Edit tokens", "Tokenizer"), ("Generate", "Generator"), ("Inpaint", "Generator")):
        if not page.get_by_role("tab", name=name, exact=True).is_visible():
            page.locator(".overflow-menu button").first.click()
        page.get_by_role("button", name=name, exact=True).or_(page.get_by_role("tab", name=name, exact=True)).locator(
            "visible=true"
        ).click()
        panel = page.locator(f"#{name.split()[0].lower()}")
        chosen = panel.get_by_label(label).locator("visible=true").first
        chosen.wait_for(timeout=PATIENCE)
        assert chosen.evaluate("each => each.scrollWidth <= each.clientWidth"), name
        assert page.evaluate("document.documentElement.scrollWidth") == 400, name
        for canvas in panel.locator("canvas").locator("visible=true").all():
            assert canvas.bounding_box()["width"] > 250, name
    page.close()
