"""The page: components, and which function of this room each button calls. Everything else is done elsewhere."""

import html
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omnitok.app import CACHE, comparing, generators, tokens, uploads
from omnitok.app.generators import OPTIONS
from omnitok.app.models import Models
from omnitok.app.tokens import Grid
from omnitok.atomic import scratch_folder
from omnitok.data import to_pil, write_video
from omnitok.errors import MissingExtraError
from omnitok.generation.request import Progress
from omnitok.generation.sample_folder import write_sample
from omnitok.limits import Limit
from omnitok.metrics.drawing import GAIN, side_by_side
from omnitok.metrics.samples import to_uint8

try:
    import gradio as gr
except ImportError as error:
    raise MissingExtraError.of("gradio") from error

QUEUE = 16
"""Requests that may wait; whoever comes then is told that the page is busy."""

KEPT_SECONDS = Limit("OMNITOK_APP_KEPT_SECONDS", 3600)
"""For which uploads and results are kept, so that a page that is left open goes on working for so long."""

_SESSIONS = 100  # whose tokens are kept, the latest ones
_IMAGE_SIDE, _VIDEO_SIDE, _VIDEO_FRAMES = 1024, 512, 65  # at most
_BUTTONS = ["download", "fullscreen"]  # all that images have otherwise but "share", which sends them to a web site
_HEADERS = ["model", "tokens", "bits per pixel", "PSNR (dB)", "SSIM"]
_FIGURES = ("number", "number", "number", "number")
_CHANGES: list[tuple[str, tokens.Change]] = [
    ("replace by the number", "replace"),
    ("shuffle among themselves", "shuffle"),
    ("swap with the second image", "swap"),
]

Work = Callable[..., Any]
"""Takes a folder for its files, which goes when they were sent, a progress callback, and the values of the inputs."""

On = Callable[[Any, str, Work, Sequence[Any], Sequence[Any]], None]
"""Let a button, named for scripts, do some work on inputs and show it in outputs."""


def build(models: Models, explain: Callable[[BaseException], str]) -> gr.Blocks:
    """The page, not yet served.

    Args:
        explain: one sentence for anything that is raised.
    """

    def on(button: Any, name: str, work: Work, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        def handler(progress: Any = gr.Progress(), *values: Any) -> Iterator[Any]:  # noqa: B008 (gradio looks for it)
            def report(done: int, total: int) -> None:
                progress((done, total if total > 0 else None))

            with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
                try:
                    shown = work(Path(folder), report, *values)
                except Exception as error:
                    sentence = re.sub(re.escape(f"{CACHE}/") + "[^/ ]+/", "", explain(error))
                    show_all = os.environ.get("OMNITOK_DEBUG") == "1"
                    raise gr.Error(html.escape(sentence, quote=False), print_exception=show_all) from error
                yield shown  # gradio copies the files before it goes on

        # One at a time, whatever it is: models are as quick for one as the machine allows.
        button.click(handler, inputs, outputs, api_name=name, concurrency_limit=1, concurrency_id="models")

    kept = KEPT_SECONDS.value
    page = gr.Blocks(title="omnitok", analytics_enabled=False, delete_cache=(min(60, kept), kept))
    with page:
        gr.Markdown("# omnitok\nImages and videos to tokens and back. Nothing leaves this machine.")
        if models.tokenizers:
            with gr.Tab("Reconstruct", elem_id="reconstruct"):
                _reconstruct(models, on)
            with gr.Tab("Edit tokens", elem_id="edit"):
                _edit(models, on)
        if models.generators:
            with gr.Tab("Generate", elem_id="generate"):
                _generate(models, on)
            with gr.Tab("Predict", elem_id="predict"):
                _predict(models, on)
        if any(map(generators.can_inpaint, models.generators.values())):
            with gr.Tab("Inpaint", elem_id="inpaint"):
                _inpaint(models, on)
        if models.tokenizers:
            with gr.Tab("Compare", elem_id="compare"):
                _compare(models, on)
    return page.queue(max_size=QUEUE)


@contextmanager
def served(page: gr.Blocks, port: int) -> Iterator[str]:
    """Serve the page to this machine alone until the context ends; gives its address.

    Raises:
        OSError: the port is taken.
    """
    # Above this Pillow warns, and above twice as much it refuses: gradio opens what the editors send.
    Image.MAX_IMAGE_PIXELS = 4 * uploads.MAX_PIXELS.value
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        state_session_capacity=_SESSIONS,
        max_file_size=uploads.MAX_BYTES.value,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no fonts are fetched
    )
    try:
        yield address
    finally:
        page.close(verbose=False)


# ---------------------------------------------------------------------------------------------------------------- tabs


def _reconstruct(models: Models, on: On) -> None:
    names = list(models.tokenizers)
    chosen = gr.CheckboxGroup(names, value=names[:2], label="Tokenizers")
    with gr.Tab("An image"):
        image = _upload("Image", sources=["upload", "webcam", "clipboard"])
        side = _slider(64, _IMAGE_SIDE, 512, step=8, label="Longest side", info="Larger images are made smaller.")
        image_button = gr.Button("Reconstruct the image", variant="primary")
    with gr.Tab("A video"):
        video = gr.Video(label="Video", sources=["upload", "webcam"])
        with gr.Row():
            frames = _slider(1, _VIDEO_FRAMES, 17, step=1, label="Frames", info="So many of its first are taken.")
            look = _slider(0, _VIDEO_FRAMES - 1, 0, step=1, label="Frame to look at")
            video_side = _slider(64, _VIDEO_SIDE, 256, step=8, label="Longest side")
        video_button = gr.Button("Reconstruct the video", variant="primary")
    table = gr.Dataframe(headers=_HEADERS, datatype=["str", *_FIGURES], label="Figures", interactive=False)
    film = gr.Video(label=f"Original and reconstructions, above their errors x {GAIN}", visible=False)
    columns, panels = [], []
    with gr.Row():
        for name in names:
            with gr.Column(visible=False, min_width=320) as column:
                slider = gr.ImageSlider(label=f"Original | {name}", format="png", interactive=False)
                panels += [slider, _image(f"Error x {GAIN}"), _image("Tokens")]
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
            shown += [_pil(original, result), *_pil(tokens.error_of(original, result), drawn)]
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

    on(image_button, "reconstruct_image", on_image, [image, chosen, side], outputs)
    on(video_button, "reconstruct_video", on_video, [video, chosen, frames, look, video_side], outputs)


def _edit(models: Models, on: On) -> None:
    names = list(models.tokenizers)
    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Tokenizer")
        side = _slider(64, 512, 256, step=8, label="Longest side")
    with gr.Row():
        image, second = _upload("Image"), _upload("Second image, for swapping")
    start = gr.Button("Show the tokens", variant="primary")
    session = gr.State(None, time_to_live=KEPT_SECONDS.value)  # the tokenizer's name, and both grids
    with gr.Row():
        editor = gr.ImageEditor(
            label="Tokens: click or paint on those that are to change",
            type="pil",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=12, colors=["#ffffff"], color_mode="fixed"),
        )
        with gr.Column():
            decoded = gr.ImageSlider(label="Decoded before | after", format="png", interactive=False)
            other = _image("Second image, decoded", visible=False)
    with gr.Row():
        how = gr.Radio(_CHANGES, value="replace", label="Change")
        number = gr.Number(0, label="Number", info="The code (of a VAE: the latents' value), or the shuffle's seed.")
    button = gr.Button("Change the painted tokens", variant="primary")
    said = gr.Markdown()

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
        chosen = tokens.chosen_tokens(_painted(drawing), grid)
        changed, partner = tokens.change(tokenizer, grid, chosen, how, number or 0, partner)
        before = tokens.to_image(tokenizer, grid)
        return show(name, changed, partner, before, f"{int(chosen.sum())} of {chosen.numel()} tokens were chosen.")

    def show(name: str, grid: Grid, partner: Grid | None, before: Tensor, sentence: str) -> list[Any]:
        tokenizer = models.tokenizers[name]
        after = tokens.to_image(tokenizer, grid)
        theirs = gr.update(value=None, visible=False)
        if partner is not None:
            theirs = gr.update(value=_pil(tokens.to_image(tokenizer, partner))[0], visible=True)
        drawn = _pil(tokens.draw(tokenizer, grid.tokens))[0]
        return [(name, grid, partner), drawn, _pil(before, after), theirs, sentence]

    outputs = [session, editor, decoded, other, said]
    on(start, "show_tokens", begin, [model, image, second, side], outputs)
    on(button, "change_tokens", edit, [session, editor, how, number], outputs)


def _generate(models: Models, on: On) -> None:
    model, label, seed, *options = _sampling(models, list(models.generators))
    with gr.Row():
        longest = max(generator.settings.num_frames for generator in models.generators.values())
        frames = _slider(1, longest, 1, step=1, label="Frames", info="1 is an image; at most the trained length.")
        count = _slider(1, generators.MAX_COUNT, 4, step=1, label="Samples")
    button = gr.Button("Generate", variant="primary")
    gallery = gr.Gallery(
        label="Samples", format="png", columns=4, object_fit="contain", interactive=False, buttons=_BUTTONS
    )

    def work(folder: Path, progress: Progress, name: str, label: str, seed: int, *rest: Any) -> list[tuple[Any, str]]:
        *values, frames, count = rest
        generator = models.generators[name]
        run = _run(generator, seed, values)
        samples = generators.generate(generator, label or "", frames, count, run, progress)
        suffix = ".png" if samples.ndim == 4 else ".mp4"
        paths = [folder / f"{number}{suffix}" for number in range(len(samples))]
        for path, sample in zip(paths, samples, strict=True):
            write_sample(path, sample, generator.settings.frame_rate)
        return [(str(path), f"sample {number}") for number, path in enumerate(paths)]

    on(button, "generate", work, [model, label, seed, *options, frames, count], [gallery])


def _predict(models: Models, on: On) -> None:
    names = [name for name, generator in models.generators.items() if generator.settings.num_frames > 1]
    if not names:
        gr.Markdown("None of the generators makes videos.")
        return
    model, label, seed, *options = _sampling(models, names)
    with gr.Row():
        video = gr.Video(label="Video", sources=["upload", "webcam"])
        result = gr.Video(label="Prediction: the given frames have a red border", interactive=False)
    longest = max(models.generators[name].settings.num_frames for name in names)
    given = _slider(1, longest - 1, 5, step=1, label="Frames given", info="The first ones; the rest is predicted.")
    button = gr.Button("Predict", variant="primary")

    def work(folder: Path, progress: Progress, name: str, label: str, seed: int, *rest: Any) -> str:
        *values, path, given = rest
        generator = models.generators[name]
        made, fps = generators.predict(generator, path, given, label or "", _run(generator, seed, values), progress)
        write_video(folder / "prediction.mp4", made, fps)
        return str(folder / "prediction.mp4")

    on(button, "predict", work, [model, label, seed, *options, video, given], [result])


def _inpaint(models: Models, on: On) -> None:
    names = [name for name, generator in models.generators.items() if generators.can_inpaint(generator)]
    model, label, seed, *options = _sampling(models, names)
    with gr.Row():
        editor = gr.ImageEditor(
            label="Image: paint over what is to be filled",
            type="pil",
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=40, colors=["#ff0000"], color_mode="fixed"),
        )
        result = gr.ImageSlider(label="Holes | filled", format="png", interactive=False)
    button = gr.Button("Fill", variant="primary")

    def work(folder: Path, progress: Progress, name: str, label: str, seed: int, *rest: Any) -> Any:
        *values, drawing = rest
        generator = models.generators[name]
        image = None if drawing is None else drawing["background"]
        run = _run(generator, seed, values)
        return _pil(*generators.inpaint(generator, image, _painted(drawing), label or "", run, progress))

    on(button, "inpaint", work, [model, label, seed, *options, editor], [result])


def _compare(models: Models, on: On) -> None:
    names = list(models.tokenizers)
    files = gr.File(label=f"Up to {uploads.MAX_FILES} images and videos", file_count="multiple")
    chosen = gr.CheckboxGroup(names, value=names, label="Tokenizers")
    references = gr.Checkbox(True, label="JPEG, H.264 and AV1 as references", info="Takes longer.")
    button = gr.Button("Compare", variant="primary")
    tables = [gr.Dataframe(visible=False, interactive=False) for _ in range(2)]
    plot = _image("Quality over bits per pixel")
    gallery = gr.Gallery(label="Side by side, above maps of the errors", columns=1, interactive=False, buttons=_BUTTONS)
    page = gr.File(label="All of it as one page", interactive=False)

    def work(
        folder: Path, progress: Progress, paths: list[str] | None, chosen: list[str], references: bool
    ) -> list[Any]:
        made = comparing.compare_files(models, paths, chosen, references, folder, progress)
        shown = [gr.update(value=rows, headers=titles, visible=True) for titles, rows in made.tables]
        shown += [gr.update(visible=False)] * (2 - len(shown))
        return [*shown, str(made.plot), [(str(path), title) for path, title in made.shown], str(made.page)]

    on(button, "compare", work, [files, chosen, references], [*tables, plot, gallery, page])


# --------------------------------------------------------------------------------------------------------------- parts


def _sampling(models: Models, names: list[str]) -> list[Any]:
    """Model, class, seed and `OPTIONS`; those that a model lacks are hidden while it is chosen."""

    def fitting(name: str) -> list[Any]:
        generator = models.generators[name]
        helps, has_classes = generators.option_help(generator), generator.model.config.num_classes > 0
        shown = [gr.update(visible=option in helps, info=helps.get(option)) for option in OPTIONS]
        return [gr.update(choices=["", *generator.settings.classes], value="", visible=has_classes), *shown]

    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Generator")
        first, helps = models.generators[names[0]], generators.option_help(models.generators[names[0]])
        classes = ["", *first.settings.classes]
        label = gr.Dropdown(
            classes,
            value="",
            label="Class",
            info="By name or number; empty is any.",
            allow_custom_value=True,
            visible=first.model.config.num_classes > 0,
        )
        seed = gr.Number(0, precision=0, minimum=0, maximum=2**53, label="Seed")
    with gr.Row():
        options = [
            gr.Textbox(
                label=name.replace("_", " ").capitalize(),
                info=helps.get(name),
                placeholder="the model's own",
                visible=name in helps,
            )
            for name in OPTIONS
        ]
    model.change(fitting, [model], [label, *options], api_visibility="private", queue=False, show_progress="hidden")
    return [model, label, seed, *options]


def _run(generator: Any, seed: int, values: Sequence[str | None]) -> dict[str, Any]:
    return {"seed": seed or 0, **generators.own_options(generator, dict(zip(OPTIONS, values, strict=True)))}


def _upload(label: str, sources: Sequence[str] = ("upload", "clipboard")) -> gr.Image:
    """An image whose file is left to our reader: gradio would open it before its bounds are checked."""
    component = gr.Image(label=label, sources=list(sources), type="filepath")
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


def _slider(low: int, high: int, value: int, label: str, step: int = 1, info: str | None = None) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, precision=0, label=label, info=info)


def _image(label: str, visible: bool = True) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, buttons=_BUTTONS, visible=visible)


def _pil(*images: Tensor) -> tuple[Image.Image, ...]:
    return tuple(to_pil(image)[0] for image in images)


def _painted(drawing: Any) -> Tensor:
    """Where there is paint, bool (H', W')."""
    layers = [] if drawing is None else drawing["layers"]
    if not layers:
        return torch.zeros(1, 1, dtype=torch.bool)
    return torch.stack([_alpha(layer) for layer in layers]).any(0)


def _alpha(layer: Image.Image) -> Tensor:
    alpha = layer.convert("RGBA").getchannel("A")
    return torch.frombuffer(bytearray(alpha.tobytes()), dtype=torch.uint8).reshape(alpha.height, alpha.width) > 0


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
