"""What tabs are made of: inputs that are read by our own readers, outputs, and the options of generators."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omnitok.app import generators
from omnitok.app.generators import OPTIONS
from omnitok.app.models import Models
from omnitok.data import to_pil
from omnitok.errors import MissingExtraError
from omnitok.generation.request import Progress

try:
    import gradio as gr
except ImportError as error:
    raise MissingExtraError.of("gradio") from error

BUTTONS = ["download", "fullscreen"]
"""All that images have otherwise but "share", which sends them to a web site."""

Work = Callable[..., Any]
"""Takes a folder for its files, which goes when they were sent, a progress callback, and the values of the inputs."""

On = Callable[[Any, str, Work, Sequence[Any], Sequence[Any]], None]
"""Let an event, such as a button's click, named for scripts, do some work on inputs and show it in outputs."""

Make = Callable[..., Any]
"""Takes a folder for its files, a generator, a class, a run (see `generators`), and the values of further inputs."""


def sampling_inputs(models: Models, names: Sequence[str]) -> list[Any]:
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


def drawing_by(models: Models, make: Make) -> Work:
    """What makes something by the generator, and with the class and options, that `sampling_inputs` say."""

    def work(folder: Path, progress: Progress, name: str, label: str | None, seed: int | None, *rest: Any) -> Any:
        generator, values = models.generators[name], dict(zip(OPTIONS, rest, strict=False))
        run = {"seed": seed or 0, "progress": progress, **generators.own_options(generator, values)}
        return make(folder, generator, label or "", run, *rest[len(OPTIONS) :])

    return work


def upload_image(label: str, sources: Sequence[str] = ("upload", "clipboard")) -> gr.Image:
    """An image whose file is left to our reader: gradio would open it before its bounds are checked."""
    component = gr.Image(label=label, sources=list(sources), type="filepath")
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


def upload_video(label: str = "Video") -> gr.Video:
    """A video, from a file or the camera."""
    return gr.Video(label=label, sources=["upload", "webcam"])


def brush_editor(label: str, sources: Sequence[str], width: int, colour: str) -> gr.ImageEditor:
    """An image to paint on, see `painted`."""
    brush = gr.Brush(default_size=width, colors=[colour], color_mode="fixed")
    return gr.ImageEditor(label=label, type="pil", sources=sources, transforms=(), layers=False, brush=brush)


def slider(low: int, high: int, value: int, label: str, step: int = 1, info: str | None = None) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, precision=0, label=label, info=info)


def show_image(label: str, visible: bool = True) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, buttons=BUTTONS, visible=visible)


def to_images(*images: Tensor) -> tuple[Image.Image, ...]:
    return tuple(to_pil(image)[0] for image in images)


def painted(drawing: Any) -> Tensor:
    """Where there is paint, bool (H', W')."""
    layers = [] if drawing is None else drawing["layers"]
    if not layers:
        return torch.zeros(1, 1, dtype=torch.bool)
    return torch.stack([_alpha(layer) for layer in layers]).any(0)


def _alpha(layer: Image.Image) -> Tensor:
    alpha = layer.convert("RGBA").getchannel("A")
    return torch.frombuffer(bytearray(alpha.tobytes()), dtype=torch.uint8).reshape(alpha.height, alpha.width) > 0
