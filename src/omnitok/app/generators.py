"""What the tabs of generators do: samples, continuations, and filled holes; and which options a generator has."""

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic.fields import FieldInfo
from torch import Tensor

from omnitok.app.uploads import check_video
from omnitok.data import to_pixels
from omnitok.generation.asked import parse_labels
from omnitok.generation.diffusion import DiffusionGenerator
from omnitok.generation.loading import AnyGenerator
from omnitok.generation.masked import MaskedGenerator
from omnitok.generation.request import Progress
from omnitok.generation.work import continuation, square
from omnitok.hub.generator_settings import GeneratorSettings

OPTIONS = ("guidance_scale", "steps", "temperature", "top_k", "top_p")
"""Of sampling, where a generator has them; left empty they are the model's own."""

MAX_COUNT = 8
"""Samples at a time."""


def option_help(generator: AnyGenerator) -> dict[str, str]:
    """Those of `OPTIONS` that the generator has -> what they do."""
    declared = get_type_hints(generator.sampling_type, include_extras=True)
    return {
        name: next(str(part.description) for part in get_args(declared[name]) if isinstance(part, FieldInfo))
        for name in OPTIONS
        if name in declared
    }


def own_options(generator: AnyGenerator, given: dict[str, str | None]) -> dict[str, str]:
    """Those that are not empty and that the generator has; it reads the numbers."""
    names = {field.name for field in dataclasses.fields(generator.sampling_type)}
    return {name: text.strip() for name, text in given.items() if text and text.strip() and name in names}


def generate(
    generator: AnyGenerator, label: str, frames: int, count: int, run: dict[str, Any], progress: Progress
) -> Tensor:
    """Samples of one class, by name or number ("" is any): images (b, 3, H, W), or videos where frames > 1."""
    frames = min(frames, generator.settings.num_frames)
    labels = _labels(generator, label) * min(count, MAX_COUNT)
    return generator.sample(labels, frames, progress=progress, **run).float().cpu()


def predict(
    generator: AnyGenerator, path: str | None, given: int, label: str, run: dict[str, Any], progress: Progress
) -> tuple[Tensor, float]:
    """A video (3, T, H, W) that begins with the first `given` frames of another, in a red border; and its rate."""
    work = continuation(generator, Path(check_video(path)), given, None, mark=True)
    pieces = work.draw(_labels(generator, label), progress=progress, **run)
    return torch.cat(list(pieces), dim=2)[0].float().cpu(), work.fps


def can_inpaint(generator: AnyGenerator) -> bool:
    """Whether it fills holes."""
    return isinstance(generator, DiffusionGenerator | MaskedGenerator)


def inpaint(
    generator: AnyGenerator,
    image: Image.Image | None,
    painted: Tensor,
    label: str,
    run: dict[str, Any],
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """An image in the generator's size with grey where paint, bool (H', W'), lay over it, and with that filled, both
    (3, H, W).

    Raises:
        ValueError: no image, or nothing painted.
    """
    if image is None or not painted.any():
        raise ValueError("upload an image and paint over what is to be filled first")
    pixels = _fit(to_pixels(image)[0], generator.settings)
    mask = F.interpolate(painted[None, None].float(), image.size[::-1])[0].expand(3, -1, -1)
    holes = _fit(mask * 2 - 1, generator.settings)[:1] > -1
    filled = generator.inpaint(pixels[None], holes[None], _labels(generator, label), progress=progress, **run)
    return pixels.masked_fill(holes, 0.0), filled[0].float().cpu()


def _fit(pixels: Tensor, settings: GeneratorSettings) -> Tensor:
    """An image (3, H, W) in the generator's size."""
    return square(settings, pixels.shape[1], pixels.shape[2])(pixels[:, None], nearest=False)[:, 0]


def _labels(generator: AnyGenerator, text: str) -> list[int | None]:
    """
    Raises:
        ValueError: no class of that name or number.
    """
    return parse_labels([text] if text else [], generator.settings, generator.model.config.num_classes)
