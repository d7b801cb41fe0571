"""Copies of labelled images whose object has another colour, so that every class is seen in every colour.

    python benchmarks/recolor_images.py IMAGES -o RECOLORED --copies 4
    python benchmarks/caption_images.py RECOLORED -o recolored.jsonl --wordings composed

IMAGES holds a folder a class, and so will RECOLORED. Photographs know few pairs of class and colour: most shoes are
black, no motorbike is pink. What differs from the background is moved, in OKLab, by the difference between its mean and
a focal colour of the name that is wanted, so that shading and texture stay. Copies are kept if `measure_colors` then
names that colour. Targets go round the colours, beginning with another one at each image. The pairs of `HELD_OUT_PAIRS`
are not made, and their images are not used.
"""

import argparse
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from caption_images import COLORED, HELD_OUT_PAIRS, SAID, measure
from omnitok.data import list_media, read_image, write_image
from omnitok.data.transforms import fit_square
from omnitok.metrics.colors import COLORS, FOCAL, from_oklab, measure_colors, object_mask, oklab

SURE = 0.3  # margin of the measurement that a copy needs


def recolor(image: Tensor, focal: str) -> Tensor:
    """An image (3, H, W) in [-1, 1] whose object has a mean colour, sRGB in hexadecimal."""
    small = F.interpolate(image[None], size=(64, 64), mode="bilinear", antialias=True)[0]
    mask = F.interpolate(object_mask(small)[None, None], size=image.shape[-2:], mode="bilinear")[0]
    lab = oklab(image)
    mean = (lab * mask).sum((1, 2)) / mask.sum().clamp(min=1e-6)
    target = oklab((torch.tensor(list(bytes.fromhex(focal))) / 127.5 - 1)[:, None, None])[:, 0, 0]
    return from_oklab(lab + mask * (target - mean)[:, None, None])


def main() -> None:
    """Write the copies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=4, help="tried of an image")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tried = kept = 0
    for label in (name for name in COLORED if (arguments.source / name).is_dir()):
        wanted = [name for name in SAID.get(label, COLORS) if (label, name) not in HELD_OUT_PAIRS]
        targets = cycle(wanted)
        for path in list_media([arguments.source / label]):
            color, _ = measure(path, label)
            if color is None or (label, color) in HELD_OUT_PAIRS:
                continue
            image = read_image(path)
            image = fit_square(image[:, None], min(image.shape[-2:]), "center_crop")[:, 0]
            for number, target in enumerate(islice(targets, arguments.copies)):
                if target == color:
                    continue
                focal = FOCAL[target][(tried + number) % len(FOCAL[target])]
                copy = recolor(image, focal)
                tried += 1
                found = measure_colors(copy[None])[0].object
                if found.name == target and found.margin >= SURE:
                    kept += 1
                    out = arguments.out / label / f"{path.stem}-{target}.png"
                    out.parent.mkdir(parents=True, exist_ok=True)
                    write_image(out, copy)
            next(targets)  # a class of as many colours as copies would begin with the same one at each image
    print(f"{kept} of {tried} copies -> {arguments.out}")


if __name__ == "__main__":
    main()
