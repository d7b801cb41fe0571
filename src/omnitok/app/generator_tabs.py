"""Tabs of generators: samples, and what they make of given images and videos."""

import math
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from PIL import ImageOps
from torch import Tensor

from omnitok.app import generators, uploads
from omnitok.app.generators import Run
from omnitok.app.models import Models
from omnitok.app.parts import (
    BUTTONS,
    WIDE,
    On,
    brush_editor,
    drawing_by,
    gr,
    painted,
    sampling_inputs,
    show_image,
    slider,
    to_images,
    upload_image,
    upload_video,
)
from omnitok.data import VideoReader, write_video
from omnitok.generation.loading import AnyGenerator
from omnitok.generation.request import Progress
from omnitok.generation.sample_folder import write_sample

_RED, _BRUSH = "#ff0000", 40  # of paint, and its width in pixels
_FRAME_SIDE = 512  # of a frame to paint on
_SHEET_WIDTH = 640  # of all frames side by side, at least half of it


def generate_tab(models: Models, on: On) -> None:
    """Samples of a class or a text."""
    sampling = sampling_inputs(models, list(models.generators))
    with gr.Row():
        longest = _longest(models, list(models.generators))
        frames = slider(1, longest, 1, label="Frames", info="1 is an image; at most the trained length.")
        count = slider(1, generators.MAX_COUNT, 4, label="Samples")
    button = gr.Button("Generate", variant="primary")
    gallery = gr.Gallery(
        label="Samples",
        elem_id="samples",
        format="png",
        columns=4,
        object_fit="contain",
        interactive=False,
        buttons=BUTTONS,
    )

    def make(folder: Path, generator: AnyGenerator, asked: str, run: Run, *inputs: int) -> list[str]:
        samples = generators.generate(generator, asked, run, *inputs)
        suffix = ".png" if samples.ndim == 4 else ".mp4"
        paths = [folder / f"{number}{suffix}" for number in range(len(samples))]
        for path, sample in zip(paths, samples, strict=True):
            write_sample(path, sample, generator.settings.frame_rate)
        return [*map(str, paths)]

    on(button.click, "generate", drawing_by(models, make), [*sampling, frames, count], [gallery])


def predict_tab(models: Models, on: On) -> None:
    """What comes after given frames, and what comes between them."""
    names = [name for name, generator in models.generators.items() if generators.makes_videos(generator)]
    with gr.Tab("Predict"):
        _predict(models, on, names)
    names = [name for name in names if generators.can_interpolate(models.generators[name])]
    if names:
        with gr.Tab("Interpolate"):
            _interpolate(models, on, names)


def _predict(models: Models, on: On, names: list[str]) -> None:
    sampling = sampling_inputs(models, names)
    most = _longest(models, names) - 1
    with gr.Row():
        with gr.Column(min_width=WIDE):
            video = upload_video()
            given = slider(1, most, 5, label="Frames given", info="The first ones; the rest is predicted.")
            button = gr.Button("Predict", variant="primary")
        with gr.Column(min_width=WIDE):
            result = gr.Video(label="Prediction: the given frames have a red border", interactive=False)

    def make(folder: Path, *inputs: Any) -> str:
        return _write(folder / "prediction.mp4", *generators.predict(*inputs))

    on(button.click, "predict", drawing_by(models, make), [*sampling, video, given], [result])


def _interpolate(models: Models, on: On, names: list[str]) -> None:
    sampling, longest = sampling_inputs(models, names), _longest(models, names)
    frames = slider(3, longest, longest, label="Frames in all", info="Given ones included.")
    with gr.Tab("Two images"):
        with gr.Row():
            first, last = upload_image("First image"), upload_image("Last image")
        images_button = gr.Button("Interpolate", variant="primary")
    with gr.Tab("The ends of a video"):
        video = upload_video()
        given = slider(1, longest // 2, 5, label="Frames given", info="Of its beginning and of its end.")
        video_button = gr.Button("Make what lies between", variant="primary")
    with gr.Row():
        with gr.Column(min_width=WIDE):
            film = gr.Video(label="Video: frames of the given video have a red border", interactive=False)
        with gr.Column(min_width=WIDE):
            sheet = show_image("All frames")

    def show(folder: Path, made: Tensor, fps: float) -> list[Any]:
        return [_write(folder / "between.mp4", made, fps), *to_images(_sheet(made))]

    def of_images(folder: Path, *inputs: Any) -> list[Any]:
        return show(folder, *generators.interpolate(*inputs))

    def of_video(folder: Path, *inputs: Any) -> list[Any]:
        return show(folder, *generators.refill(*inputs))

    on(
        images_button.click,
        "interpolate",
        drawing_by(models, of_images),
        [*sampling, first, last, frames],
        [film, sheet],
    )
    on(video_button.click, "refill", drawing_by(models, of_video), [*sampling, video, given, frames], [film, sheet])


def inpaint_tab(models: Models, on: On) -> None:
    """What is painted over, and margins."""
    names = [name for name, generator in models.generators.items() if generators.can_fill(generator)]
    sampling = sampling_inputs(models, names)
    with gr.Tab("An image"):
        _inpaint_image(models, on, sampling)
    if any(generators.makes_videos(models.generators[name]) for name in names):
        with gr.Tab("A video"):
            _inpaint_video(models, on, sampling)
    with gr.Tab("Margins"):
        _outpaint(models, on, sampling)


def _inpaint_image(models: Models, on: On, sampling: list[Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=WIDE):
            told = "Upload an image and paint over what is to be filled."
            editor = brush_editor("Image", told, ("upload", "webcam", "clipboard"), _BRUSH, _RED)
            button = gr.Button("Fill", variant="primary")
        with gr.Column(min_width=WIDE):
            result = gr.ImageSlider(label="Holes | filled", format="png", interactive=False)

    def make(folder: Path, generator: AnyGenerator, asked: str, run: Run, drawing: Any) -> Any:
        image = None if drawing is None else drawing["background"]
        if image is None:
            raise ValueError("upload an image first")
        mask = generators.save_mask(folder / "mask.png", painted(drawing), image.size)
        image.save(folder / "image.png")
        holes, filled, _ = generators.inpaint(generator, asked, run, str(folder / "image.png"), mask)
        return to_images(holes, filled)

    on(button.click, "inpaint", drawing_by(models, make), [*sampling, editor], [result])


def _inpaint_video(models: Models, on: On, sampling: list[Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=WIDE):
            video = upload_video()
        with gr.Column(min_width=WIDE):
            told = "Paint over what is to be filled in all frames."
            editor = brush_editor("First frame", told, (), _BRUSH, _RED)
    button = gr.Button("Fill the video", variant="primary")
    with gr.Row():
        holes, result = (gr.Video(label=label, min_width=WIDE, interactive=False) for label in ("Holes", "Filled"))

    def first_frame(folder: Path, progress: Progress, path: str | None) -> Any:
        if path is None:
            return None
        (image,) = to_images(uploads.read_video(path, 1, _FRAME_SIDE)[0][:, 0])
        return ImageOps.contain(image, (_FRAME_SIDE, _FRAME_SIDE))  # small ones are enlarged, to be painted on

    def make(
        folder: Path, generator: AnyGenerator, asked: str, run: Run, path: str | None, drawing: Any
    ) -> tuple[str, str]:
        with VideoReader(uploads.check_video(path)) as reader:
            size = (reader.width, reader.height)
        mask = generators.save_mask(folder / "mask.png", painted(drawing), size)
        before, after, fps = generators.inpaint(generator, asked, run, str(path), mask)
        return _write(folder / "holes.mp4", before, fps), _write(folder / "filled.mp4", after, fps)

    on(video.change, "first_frame", first_frame, [video], [editor])
    on(button.click, "inpaint_video", drawing_by(models, make), [*sampling, video, editor], [holes, result])


def _outpaint(models: Models, on: On, sampling: list[Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=WIDE):
            image = upload_image("Image", sources=("upload", "webcam", "clipboard"))
            with gr.Row():
                sides = [slider(0, 100, 25, label=f"{side} (%)") for side in ("Left", "Right", "Top", "Bottom")]
            button = gr.Button("Make the margins", variant="primary")
        with gr.Column(min_width=WIDE):
            result = show_image("With margins")

    def make(folder: Path, generator: AnyGenerator, asked: str, run: Run, path: str | None, *shares: int) -> Any:
        return to_images(generators.outpaint(generator, asked, run, path, *shares))[0]

    on(button.click, "outpaint", drawing_by(models, make), [*sampling, image, *sides], [result])


def _longest(models: Models, names: list[str]) -> int:
    """Frames that the models of these names were trained on, at most."""
    return max(models.generators[name].settings.num_frames for name in names)


def _sheet(video: Tensor) -> Tensor:
    """All frames of a video (3, T, H, W) as one image (3, H', W'): row by row, enlarged where they are small."""
    columns = math.ceil(math.sqrt(video.shape[1]))
    rows = math.ceil(video.shape[1] / columns)
    missing = rows * columns - video.shape[1]
    frames = F.pad(video.transpose(1, 3), (0, missing), value=1.0).transpose(1, 3)
    sheet = rearrange(frames, "c (rows columns) h w -> c (rows h) (columns w)", rows=rows)
    zoom = max(1, _SHEET_WIDTH // sheet.shape[2])
    return sheet.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)


def _write(path: Path, video: Tensor, fps: float) -> str:
    write_video(path, video, fps)
    return str(path)
