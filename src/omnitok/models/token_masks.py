"""Which codes a masked model learns to make: by tasks drawn at random."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Task = Literal["generation", "inpainting", "outpainting", "free", "prediction", "interpolation"]
"""What is to be made: everything; a box; everything but a box; a blob of any form; the latent frames after the first
ones; those between the first and the last (MAGVIT, section 3.2)."""

IMAGE_TASKS: tuple[Task, ...] = ("generation", "inpainting", "outpainting", "free")

DEFAULT_TASKS: Mapping[Task, float] = {
    "generation": 4.0,
    "inpainting": 1.0,
    "outpainting": 1.0,
    "free": 1.0,
    "prediction": 2.0,
    "interpolation": 2.0,
}


def draw_hidden(shape: tuple[int, ...], tasks: Mapping[Task, float], generator: torch.Generator) -> Tensor:
    """Which codes are hidden in a training step: bool, `shape` = (b, h, w) or (b, t, h, w), at least one of each item.

    Each item gets a task, and within what that is to make a share cos(pi / 2 u) of the codes is hidden, u uniform
    (MaskGIT, section 3.3); the others are as if they had been made already.
    """
    count, grid = shape[0], (1, *shape[1:]) if len(shape) == 3 else shape[1:]
    t = grid[0]
    possible = [task for task, weight in tasks.items() if weight and (task in IMAGE_TASKS or t >= _FEWEST[task])]
    weights = torch.tensor([tasks[task] for task in possible])
    hidden = torch.zeros(count, *grid, dtype=torch.bool)
    for item, choice in zip(hidden, torch.multinomial(weights, count, True, generator=generator), strict=True):
        wanted = draw_region(possible[choice], grid, generator).flatten().nonzero().squeeze(1)
        ratio = math.cos(math.pi / 2 * _uniform(generator))
        number = max(1, math.ceil(ratio * len(wanted)))
        order = torch.randperm(len(wanted), generator=generator)
        item.view(-1)[wanted[order[:number]]] = True
    return hidden.reshape(shape)


_FEWEST: Mapping[str, int] = {"prediction": 2, "interpolation": 3}  # latent frames that a task needs


def draw_region(task: Task, grid: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """What a task is to make on a grid (t, h, w): bool, at least one code."""
    t, h, w = grid
    region = torch.ones(t, h, w, dtype=torch.bool)
    if task == "prediction":
        region[: 1 + int((t - 1) * _uniform(generator))] = False
    elif task == "interpolation":
        region[0] = region[-1] = False
    elif task in ("inpainting", "outpainting"):
        box = torch.zeros_like(region)
        rows, columns = _interval(h, generator), _interval(w, generator)
        box[:, rows, columns] = True
        region = box if task == "inpainting" else ~box
    elif task == "free":
        noise = torch.rand(1, 1, 3, 3, generator=generator)
        smooth = F.interpolate(noise, (h, w), mode="bicubic", align_corners=True)[0, 0]
        number = max(1, round((0.2 + 0.6 * _uniform(generator)) * h * w))
        region = (smooth >= smooth.flatten().topk(number).values[-1]).expand(t, h, w)
    return region if region.any() else torch.ones_like(region)


def _interval(length: int, generator: torch.Generator) -> slice:
    """A quarter to three quarters of `length`, anywhere."""
    size = max(1, round(length * (0.25 + 0.5 * _uniform(generator))))
    start = int((length - size + 1) * _uniform(generator))
    return slice(start, start + size)


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator).item()
