"""Copies of labelled images whose object has another colour, so that every class is seen in every colour.

    python benchmarks/recolor_images.py IMAGES -o RECOLORED --copies 8 --through TOKENIZER --weights-dir WEIGHTS
    python benchmarks/caption_images.py RECOLORED -o recolored.jsonl --wordings composed

IMAGES holds a folder a class, and so will RECOLORED. Photographs know few pairs of class and colour: most shoes are
black, no motorbike is pink. In OKLab, the colour of what differs from the background is moved by the difference between
its mean and a focal colour of the name that is wanted, and its lightness is scaled towards black or white, so that
texture stays and highlights are not clipped. Copies of `SIZE` pixels are kept if `measure_colors` then names that
colour. Targets go round the colours, beginning with another one at each image. The pairs of `HELD_OUT_PAIRS` are not
made, and their images are not used.

A generator of codes learns what the tokenizer gives back, and painted motorbikes often come back as lumps. With
`--through TOKENIZER` a copy is kept only if its colour is named and its class told after the tokenizer too, the class
by a classifier of the originals over MobileNetV2 features.
"""

import argparse
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from caption_images import COLORED, HELD_OUT_PAIRS, SAID, measure, read_square, sure_color, through
from omnitok import OmniTokenizer
from omnitok.data import list_media, write_image
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics import MobileNetImageFeatures
from omnitok.metrics.classifier import LinearClassifier
from omnitok.metrics.colors import COLORS, FOCAL, from_oklab, measure_colors, object_mask, oklab
from omnitok.metrics.samples import to_uint8

SIZE = 128
SURE = 0.3  # margin of the measurement that a copy needs


def recolor(image: Tensor, focal: str) -> Tensor:
    """An image (3, H, W) in [-1, 1] whose object has about a mean colour, sRGB in hexadecimal."""
    mask = object_mask(image)
    lab = oklab(image)
    mean = (lab * mask).sum((1, 2)) / mask.sum().clamp(min=1e-6)
    target = oklab((torch.tensor(list(bytes.fromhex(focal))) / 127.5 - 1)[:, None, None])[:, 0, 0]
    lightness, old, new = lab[0], mean[0].clamp(0.01, 0.99), target[0]
    darker, lighter = lightness * new / old, 1 - (1 - lightness) * (1 - new) / (1 - old)
    moved = lab + (target - mean)[:, None, None]
    moved[0] = darker if new < old else lighter
    return from_oklab(torch.lerp(lab, moved, mask))


class Judge:
    """Tells what a tokenizer gives back of a copy, at 64 pixels; learns the classes from the originals."""

    def __init__(self, source: Path, tokenizer: str, weights: Path | None) -> None:
        self._tokenizer = OmniTokenizer.from_pretrained(tokenizer)
        self._network = MobileNetImageFeatures(load_mobilenet_v2(weights))
        folders = sorted(path for path in source.iterdir() if path.is_dir())
        self._classes = [path.name for path in folders]
        files = [list_media([path]) for path in folders]
        images = to_uint8(torch.stack([read_square(path) for each in files for path in each]))
        features = [self._network(part) for part in images.split(32)]
        labels = torch.tensor([i for i, each in enumerate(files) for _ in each])
        self._classifier = LinearClassifier(torch.cat(features), labels, len(folders))

    @torch.inference_mode()
    def knows(self, copy: Tensor, label: str, color: str) -> bool:
        """Whether a copy (3, SIZE, SIZE) comes back as one of its class and of its colour."""
        small = F.interpolate(copy[None], size=(64, 64), mode="bilinear", antialias=True).clamp(-1, 1)[0]
        back = through(small, self._tokenizer).clamp(-1, 1)
        if sure_color(measure_colors(back)[0], label) != color:
            return False
        return self._classes[int(self._classifier.predict(self._network(to_uint8(back))))] == label


def main() -> None:
    """Write the copies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=4, help="tried of an image")
    parser.add_argument("--through", default=None, metavar="TOKENIZER", help="that colour and class have to survive")
    parser.add_argument("--weights-dir", type=Path, default=None, help="default: that of OMNITOK_WEIGHTS")
    parser.add_argument("--classes", nargs="+", choices=COLORED, default=COLORED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(arguments.source, arguments.through, arguments.weights_dir) if arguments.through else None
    for label in (name for name in arguments.classes if (arguments.source / name).is_dir()):
        tried, kept = 0, set()
        wanted = [name for name in SAID.get(label, COLORS) if (label, name) not in HELD_OUT_PAIRS]
        targets = cycle(wanted)
        for path in list_media([arguments.source / label]):
            color, _ = measure(path, label)
            if (label, color) in HELD_OUT_PAIRS:
                continue
            image = read_square(path, SIZE)
            for number, target in enumerate(islice(targets, arguments.copies)):
                if target == color:
                    continue
                focal = FOCAL[target][(tried + number) % len(FOCAL[target])]
                copy = recolor(image, focal)
                tried += 1
                found = measure_colors(copy[None])[0].object
                if found.name != target or found.margin < SURE:
                    continue
                if judge is None or judge.knows(copy, label, target):
                    out = arguments.out / label / f"{path.stem}-{target}.png"
                    kept.add(out)  # a later copy of the same colour replaces an earlier one
                    out.parent.mkdir(parents=True, exist_ok=True)
                    write_image(out, copy)
            next(targets)  # a class of as many colours as copies would begin with the same one at each image
        print(f"{label}: {len(kept)} files of {tried} copies tried -> {arguments.out}", flush=True)


if __name__ == "__main__":
    main()
