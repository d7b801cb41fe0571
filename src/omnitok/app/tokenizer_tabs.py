"""Tabs of tokenizers: reconstruct, edit tokens, compare."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from omnitok.app import comparing, tokens, uploads
from omnitok.app.models import Models
from omnitok.app.parts import (
    BUTTONS,
    WIDE,
    On,
    brush_editor,
    gr,
    painted,
    show_image,
    slider,
    to_images,
    upload_image,
    upload_video,
)
from omnitok.app.tokens import Grid
from omnitok.data import write_video
from omnitok.generation.request import Progress
from omnitok.metrics.drawing import GAIN, side_by_side
from omnitok.metrics.samples import to_uint8

_IMAGE_SIDE, _VIDEO_SIDE, _VIDEO_FRAMES = 1024, 512, 65  # at most
_HEADERS = ["model", "tokens", "bits per pixel", "PSNR (dB)", "SSIM"]
_FIGURES = ("number", "number", "number", "number")
_CHANGES: list[tuple[str, tokens.Change]] = [
    ("replace by the number", "replace"),
    ("shuffle among themselves", "shuffle"),
    ("swap with the second image", "swap"),
]


def reconstruct_tab(models: Models, on: On) -> None:
    names = list(models.tokenizers)
    chosen = gr.CheckboxGroup(names, value=models.unlike_tokenizers(), label="Tokenizers")
    with gr.Tab("An image"):
        image = upload_image("Image", sources=["upload", "webcam", "clipboard"])
        side = slider(64, _IMAGE_SIDE, 512, step=8, label="Longest side", info="Larger images are made smaller.")
        image_button = gr.Button("Reconstruct the image", variant="primary")
    with gr.Tab("A video"):
        video = upload_video()
        with gr.Row():
            frames = slider(1, _VIDEO_FRAMES, 17, step=1, label="Frames", info="So many of its first are taken.")
            look = slider(0, _VIDEO_FRAMES - 1, 0, step=1, label="Frame to look at")
            video_side = slider(64, _VIDEO_SIDE, 256, step=8, label="Longest side")
        video_button = gr.Button("Reconstruct the video", variant="primary")
    table = gr.Dataframe(headers=_HEADERS, datatype=["str", *_FIGURES], label="Figures", interactive=False)
    label = f"Original and reconstructions, above their errors x {GAIN}"
    film = gr.Video(label=label, show_label=False, visible=False)  # it would hide the first caption
    columns, panels = [], []
    with gr.Row():
        for name in names:
            with gr.Column(visible=False, min_width=WIDE) as column:
                sides = gr.ImageSlider(label=f"Original | {name}", format="png", interactive=False)
                panels += [sides, show_image(f"Error x {GAIN}"), show_image("Tokens")]
            columns.append(column)
    outputs = [table, film, *columns, *panels]

    def show(pixels: Tensor, chosen_names: Sequence[str], frame: int, progress: Progress) -> list[Any]:
        """Rows, reconstructions by name, and then which columns are seen and what their panels show."""
        if not chosen_names:
            raise ValueError("choose at least one tokenizer")
        rows: list[list[Any]] = []
        shown: list[Any] = []
        results: list[tuple[str, tokens.Reconstruction]] = []
        original = pixels if pixels.ndim == 3 else pixels[:, frame]
        for name in names:
            if name not in chosen_names:
                shown += [None, None, None]
                continue
            progress(len(results), len(chosen_names))
            tokenizer = models.tokenizers[name]
            made = tokens.reconstruct(tokenizer, pixels)
            result = made.pixels if pixels.ndim == 3 else made.pixels[:, frame]
            drawn = tokens.draw(tokenizer, made.tokens, frame)
            shown += [to_images(original, result), *to_images(tokens.error_of(original, result), drawn)]
            rows.append([name, made.count, *map(_rounded, (made.bits_per_pixel, made.psnr, made.ssim))])
            results.append((name, made))
        visible = [gr.update(visible=name in chosen_names) for name in names]
        return [rows, results, *visible, *shown]

    def on_image(folder: Path, progress: Progress, path: str | None, chosen: list[str], side: int) -> list[Any]:
        rows, _, *rest = show(uploads.read_image(path, side), chosen, 0, progress)
        return [rows, gr.update(value=None, visible=False), *rest]

    def on_video(
        folder: Path, progress: Progress, path: str | None, chosen: list[str], frames: int, look: int, side: int
    ) -> list[Any]:
        pixels, fps = uploads.read_video(path, frames, side)
        rows, results, *rest = show(pixels, chosen, min(look, pixels.shape[1] - 1), progress)
        captions = ["original", *(f"{name}\n{made.psnr:.2f} dB" for name, made in results)]
        sides = side_by_side(to_uint8(pixels), [to_uint8(made.pixels) for _, made in results], captions)
        write_video(folder / "reconstruction.mp4", sides, fps)
        return [rows, gr.update(value=str(folder / "reconstruction.mp4"), visible=True), *rest]

    on(image_button.click, "reconstruct_image", on_image, [image, chosen, side], outputs)
    on(video_button.click, "reconstruct_video", on_video, [video, chosen, frames, look, video_side], outputs)


def edit_tab(models: Models, on: On) -> None:
    names = sorted(models.tokenizers, key=lambda name: not models.tokenizers[name].is_discrete)
    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Tokenizer", min_width=WIDE)
        side = slider(64, 512, 256, step=8, label="Longest side")
    with gr.Row():
        image, second = upload_image("Image"), upload_image("Second image, for swapping")
    start = gr.Button("Show the tokens", variant="primary")
    session = gr.State(None, time_to_live=uploads.KEPT_SECONDS.value)  # the tokenizer's name, and both grids
    with gr.Row():
        with gr.Column(min_width=WIDE):
            told = "Click or paint on the tokens that are to change."
            editor = brush_editor("Tokens", told, (), 12, "#ffffff")
            how = gr.Radio(_CHANGES, value="replace", label="Change")
            info = "The code (of a VAE: the latents' value), or the shuffle's seed."
            number = gr.Number(0, label="Number", info=info)
            button = gr.Button("Change the painted tokens", variant="primary")
            said = gr.Markdown()
        with gr.Column(min_width=WIDE):
            decoded = gr.ImageSlider(label="Decoded before | after", format="png", interactive=False)
            other = show_image("Second image, decoded", visible=False)

    def begin(
        folder: Path, progress: Progress, name: str, path: str | None, second: str | None, side: int
    ) -> list[Any]:
        tokenizer, pixels = models.tokenizers[name], uploads.read_image(path, side)
        grid, partner = tokens.tokenize(tokenizer, pixels), None
        if second is not None:
            height, width = grid.size
            partner = tokens.tokenize(tokenizer, uploads.read_image(second, side, (height, width)))
        return show(name, grid, partner, tokens.to_image(tokenizer, grid), "")

    def edit(
        folder: Path, progress: Progress, state: Any, drawing: Any, how: tokens.Change, number: float | None
    ) -> list[Any]:
        if state is None:
            raise ValueError("upload an image and show its tokens first")
        name, grid, partner = state
        tokenizer = models.tokenizers[name]
        chosen = tokens.chosen_tokens(painted(drawing), grid)
        changed, partner = tokens.change(tokenizer, grid, chosen, how, number or 0, partner)
        before = tokens.to_image(tokenizer, grid)
        return show(name, changed, partner, before, f"{int(chosen.sum())} of {chosen.numel()} tokens were chosen.")

    def show(name: str, grid: Grid, partner: Grid | None, before: Tensor, sentence: str) -> list[Any]:
        tokenizer = models.tokenizers[name]
        after = tokens.to_image(tokenizer, grid)
        theirs = gr.update(value=None, visible=False)
        if partner is not None:
            theirs = gr.update(value=to_images(tokens.to_image(tokenizer, partner))[0], visible=True)
        drawn = to_images(tokens.draw(tokenizer, grid.tokens))[0]
        return [(name, grid, partner), drawn, to_images(before, after), theirs, sentence]

    outputs = [session, editor, decoded, other, said]
    on(start.click, "show_tokens", begin, [model, image, second, side], outputs)
    on(button.click, "change_tokens", edit, [session, editor, how, number], outputs)


def compare_tab(models: Models, on: On) -> None:
    names = list(models.tokenizers)
    files = gr.File(label=f"Up to {uploads.MAX_FILES} images and videos", file_count="multiple")
    chosen = gr.CheckboxGroup(names, value=names, label="Tokenizers")
    references = gr.Checkbox(True, label="JPEG, H.264 and AV1 as references", info="Takes longer.")
    button = gr.Button("Compare", variant="primary")
    tables = [gr.Dataframe(visible=False, interactive=False) for _ in range(2)]
    plot = show_image("Quality over bits per pixel")
    gallery = gr.Gallery(label="Side by side, above maps of the errors", columns=1, interactive=False, buttons=BUTTONS)
    page = gr.File(label="All of it as one page", interactive=False, visible=False)

    def work(
        folder: Path, progress: Progress, paths: list[str] | None, chosen: list[str], references: bool
    ) -> list[Any]:
        made = comparing.compare_files(models, paths, chosen, references, folder, progress)
        shown = [gr.update(value=rows, headers=titles, visible=True) for titles, rows in made.tables]
        shown += [gr.update(visible=False)] * (2 - len(shown))
        sides = [(str(path), title) for path, title in made.shown]
        return [*shown, str(made.plot), sides, gr.update(value=str(made.page), visible=True)]

    on(button.click, "compare", work, [files, chosen, references], [*tables, plot, gallery, page])


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
