"""The images of `docs/generation.md` that show what generators that ship make of a part of an image, and of texts.

What is filled, widened and joined was sampled by the same model, so that no image of anybody else is shown. Nothing is
chosen: seeds and classes are those below.

    python benchmarks/generator_examples.py -o docs/images [--only edits|texts]
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

import omnitok
from omnitok.data import to_pil, write_image

CLASSES = ["apple", "dress", "leopard", "motorbike", "pants", "shoes", "watch"]
TEXTS = [
    "a red apple",
    "a green apple",
    "a black dress on a light background",
    "a red dress",
    "a pair of blue pants",
    "a red motorbike",
    "a pair of black shoes on a white background",
    "a leopard",
    "look at a brown pair of shoes",
    "a blue dress",
]
GAP, ROW, LABEL = 4, 64, 300  # pixels


def row(images: list[Tensor]) -> Tensor:
    """Images (3, h, w) side by side on white, each in the middle of its place."""
    height, width = (max(ROW, *(image.shape[side] for image in images)) for side in (1, 2))
    tiles = []
    for image in images:
        above, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
        sides = (left, width - image.shape[2] - left + GAP, above, height - image.shape[1] - above)
        tiles.append(F.pad(image, sides, value=1.0))
    return torch.cat(tiles, dim=2)


def stack(rows: list[Tensor]) -> Tensor:
    """Rows under one another on white."""
    width = max(each.shape[2] for each in rows)
    return torch.cat([F.pad(each, (0, width - each.shape[2], 0, GAP), value=1.0) for each in rows], dim=1)


def edits(model: str) -> Tensor:
    """Samples; the same with holes; filled; cut to their middle and widened; and frames from one to another."""
    generator = omnitok.load_generator(model)
    images = generator.sample(CLASSES, seed=3)
    hole = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    hole[..., 16:48, 16:48] = True
    middle = images[..., 8:56, 8:56]
    wide = generator.outpaint(middle, 8, CLASSES, seed=4)
    video = generator.interpolate(images[1:2], images[4:5], 17, seed=4)[0]
    shown = [images, images.masked_fill(hole, 0.0), generator.inpaint(images, hole, CLASSES, seed=4), middle, wide]
    return stack([row(list(each)) for each in shown] + [row(list(video[:, ::3].unbind(1)))])


def texts(model: str, columns: int = 8) -> Image.Image:
    """A row of samples for each text."""
    generator = omnitok.load_generator(model)
    asked = [text for text in TEXTS for _ in range(columns)]
    samples = generator.sample(asked, seed=0, batch_size=24).split(columns)
    (grid,) = to_pil(stack([row(list(each)) for each in samples]))
    page = Image.new("RGB", (grid.width + LABEL, grid.height), "white")
    page.paste(grid, (LABEL, 0))
    draw = ImageDraw.Draw(page)
    for number, text in enumerate(TEXTS):
        draw.text((LABEL - 8, number * (ROW + GAP) + ROW // 2), text, fill="black", anchor="rm", font_size=13)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--only", choices=("edits", "texts"), default=None)
    parser.add_argument("--masked-model", default="omnitok-tiny-mask")
    parser.add_argument("--text-model", default="omnitok-tiny-text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only != "texts":
        write_image(arguments.out / "omnitok-tiny-mask-edits.png", edits(arguments.masked_model))
    if arguments.only != "edits":
        texts(arguments.text_model).save(arguments.out / "omnitok-tiny-text-images.png")


if __name__ == "__main__":
    main()
