"""What the tabs of generators do: samples, continuations, what lies between, filled holes, margins; and which options a
generator has.

Each takes what is asked for, a class by name or number or a text ("" is anything), and as a run keywords of
`Generator.sample`.
"""

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from PIL import Image
from pydantic.fields import FieldInfo
from torch import Tensor

from omnitok.app.uploads import check_image, check_video
from omnitok.data.image import ImageReader
from omnitok.generation import work
from omnitok.generation.asked import accepted, parse_asked, parse_negative
from omnitok.generation.diffusion import DiffusionGenerator
from omnitok.generation.loading import AnyGenerator
from omnitok.generation.masked import MaskedGenerator
from omnitok.generation.request import Items

OPTIONS = ("guidance_scale", "steps", "temperature", "top_k", "top_p")
"""Of sampling, where a generator has them; left empty they are the model's own."""

MAX_COUNT = 8
"""Samples at a time."""

Run = dict[str, Any]
Video = tuple[Tensor, float]
"""Frames (3, T, H, W), and how many of them a second shows."""


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


def takes_text(generator: AnyGenerator) -> bool:
    """Whether it is asked for by a text."""
    return "text" in accepted(generator)


def has_classes(generator: AnyGenerator) -> bool:
    """Whether it is asked for by a class."""
    return generator.model.config.num_classes > 0 and not takes_text(generator)


def away_from(generator: AnyGenerator, text: str | None) -> Run:
    """The keyword of what guidance is to lead away from, where something is given and the generator takes it."""
    if not text or not (takes_text(generator) or has_classes(generator)):
        return {}
    return {"negative": parse_negative(generator, text)}


def can_fill(generator: AnyGenerator) -> bool:
    """Whether it makes what lies anywhere among given pixels: a language model sees only what comes before."""
    return isinstance(generator, DiffusionGenerator | MaskedGenerator)


def makes_videos(generator: AnyGenerator) -> bool:
    """Whether it was trained on videos."""
    return generator.settings.num_frames > 1


def can_interpolate(generator: AnyGenerator) -> bool:
    """Whether it makes what lies between the first and the last frame of a video, of which there must be one."""
    return can_fill(generator) and generator.settings.num_frames > 2


def generate(generator: AnyGenerator, asked: str, run: Run, frames: int, count: int) -> Tensor:
    """Samples: images (b, 3, H, W), or videos (b, 3, T, H, W) where frames > 1."""
    frames = min(frames, generator.settings.num_frames)
    return generator.sample([*_asked(generator, asked)] * min(count, MAX_COUNT), frames, **run).float().cpu()


def predict(generator: AnyGenerator, asked: str, run: Run, path: str | None, given: int) -> Video:
    """A video that begins with the first `given` frames of another, in a red border."""
    continued = work.continuation(generator, Path(check_video(path)), given, None, mark=True)
    pieces = continued.draw(_asked(generator, asked), **run)
    return torch.cat(list(pieces), dim=2)[0].float().cpu(), continued.fps


def interpolate(
    generator: AnyGenerator, asked: str, run: Run, first: str | None, last: str | None, frames: int
) -> Video:
    """A video that begins with one image and ends with another."""
    files = Path(check_image(first)), Path(check_image(last))
    return _draw_video(work.interpolation(generator, *files, 1, frames), generator, asked, run)


def refill(generator: AnyGenerator, asked: str, run: Run, path: str | None, given: int, frames: int) -> Video:
    """A video that begins with the first `given` frames of another and ends with its last ones, in red borders."""
    middle = work.middle(generator, Path(check_video(path)), given, frames, mark=True)
    return _draw_video(middle, generator, asked, run)


def inpaint(generator: AnyGenerator, asked: str, run: Run, path: str, mask: str) -> tuple[Tensor, Tensor, float]:
    """An image (3, H, W) or a video (3, T, H, W) with grey where an image that serves as mask is white, the same with
    that filled, and its rate."""
    filling = work.inpainting(generator, Path(path), Path(mask), None)
    filled = filling.draw(_asked(generator, asked), **run)
    assert isinstance(filled, Tensor)
    assert filling.seen is not None
    return filling.seen[0].reshape(filled.shape[1:]), filled[0].float().cpu(), filling.fps


def outpaint(generator: AnyGenerator, asked: str, run: Run, path: str | None, *shares: int) -> Tensor:
    """An image (3, H, W) with margins made around it: left, right, top, bottom, in hundredths of its side."""
    with ImageReader(check_image(path)) as reader:
        width, height = reader.width, reader.height
    sides = (width, width, height, height)
    left, right, top, bottom = (round(side * share / 100) for side, share in zip(sides, shares, strict=True))
    wide = work.outpainting(generator, Path(str(path)), (left, right, top, bottom), None)
    made = wide.draw(_asked(generator, asked), **run)
    assert isinstance(made, Tensor)
    return made[0].float().cpu()


def save_mask(path: Path, painted: Tensor, size: tuple[int, int]) -> str:
    """Write an image of that (width, height), white where there is paint, bool (H', W'), and give its path.

    Raises:
        ValueError: nothing is painted.
    """
    if not painted.any():
        raise ValueError("paint over what is to be filled first")
    Image.fromarray(painted.numpy()).resize(size, Image.Resampling.NEAREST).save(path)
    return str(path)


def _draw_video(between: work.Work, generator: AnyGenerator, asked: str, run: Run) -> Video:
    made = between.draw(_asked(generator, asked), **run)
    assert isinstance(made, Tensor)
    return made[0].float().cpu(), between.fps


def _asked(generator: AnyGenerator, text: str) -> Items:
    """What the one item is asked to show.

    Raises:
        ValueError: no class of that name or number, or a text that is too long.
    """
    given = [text] if text else []
    asked = parse_asked(generator, texts=given) if takes_text(generator) else parse_asked(generator, labels=given)
    return [asked[0].value]
