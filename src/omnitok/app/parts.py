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

WIDE = 300
"""Pixels that what shows or takes images and videos has at least: in a narrow window the whole width."""

Work = Callable[..., Any]
"""Takes a folder for its files, which goes when they were sent, a progress callback, and the values of the inputs."""

On = Callable[[Any, str, Work, Sequence[Any], Sequence[Any]], None]
"""Let an event, such as a button's click, named for scripts, do some work on inputs and show it in outputs."""

Make = Callable[..., Any]
"""Takes a folder for its files, a generator, what is asked for, a run (see `generators`), and further inputs."""


def sampling_inputs(models: Models, names: Sequence[str]) -> list[Any]:
    """Generator, class, text, negative, seed, `OPTIONS`; what a generator lacks is hidden while it is chosen."""

    def fitting(name: str) -> list[dict[str, Any]]:
        generator = models.generators[name]
        helps, has_classes = generators.option_help(generator), generators.has_classes(generator)
        takes_text = generators.takes_text(generator)
        return [
            {"choices": ["", *generator.settings.classes], "value": "", "visible": has_classes},
            {"visible": takes_text},
            {"visible": takes_text or has_classes},
            *({"visible": option in helps, "info": helps.get(option)} for option in OPTIONS),
        ]

    label_of, text_of, negative_of, *options_of = fitting(names[0])
    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Generator", min_width=WIDE)
        label = gr.Dropdown(label="Class", info="By name or number; empty is any.", allow_custom_value=True, **label_of)
        text = gr.Textbox(label="Text", info="What it is to show; empty is anything.", **text_of)
        negative = gr.Textbox(label="Negative", info="What guidance leads away from.", **negative_of)
        seed = gr.Number(0, precision=0, minimum=0, maximum=2**53, label="Seed")
    with gr.Row():
        options = [
            gr.Textbox(label=name.replace("_", " ").capitalize(), placeholder="the model's own", **of)
            for name, of in zip(OPTIONS, options_of, strict=True)
        ]
    model.change(
        lambda name: [gr.update(**of) for of in fitting(name)],
        [model],
        [label, text, negative, *options],
        api_visibility="private",
        queue=False,
        show_progress="hidden",
    )
    return [model, label, text, negative, seed, *options]


def drawing_by(models: Models, make: Make) -> Work:
    """What makes something by the generator, of what is asked for and with the options that `sampling_inputs` say."""

    def work(folder: Path, progress: Progress, name: str, *inputs: Any) -> Any:
        generator, (label, text, negative, seed, *rest) = models.generators[name], inputs
        asked = text if generators.takes_text(generator) else label
        run = {"seed": seed or 0, "progress": progress, **generators.away_from(generator, negative)}
        run |= generators.own_options(generator, dict(zip(OPTIONS, rest, strict=False)))
        return make(folder, generator, asked or "", run, *rest[len(OPTIONS) :])

    return work


def upload_image(label: str, sources: Sequence[str] = ("upload", "clipboard")) -> gr.Image:
    """An image whose file is left to our reader: gradio would open it before its bounds are checked."""
    component = gr.Image(label=label, sources=list(sources), type="filepath")
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


def upload_video() -> gr.Video:
    """A video, from a file or the camera."""
    return gr.Video(label="Video", sources=["upload", "webcam"], elem_classes="upload")


def brush_editor(label: str, told: str, sources: Sequence[str], width: int, colour: str) -> gr.ImageEditor:
    """An image to paint on, see `painted`, below what its user is told."""
    gr.Markdown(told)  # a long label would lie below the tools
    brush = gr.Brush(default_size=width, colors=[colour], color_mode="fixed")
    return gr.ImageEditor(
        label=label, placeholder=told, type="pil", sources=sources, transforms=(), layers=False, brush=brush
    )


def slider(low: int, high: int, value: int, label: str, step: int = 1, info: str | None = None) -> gr.Slider:
    return gr.Slider(low, high, min(value, high), step=step, precision=0, label=label, info=info)


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
