"""A masked model beside a language model and a diffusion model: speed, interpolation, inpainting.

- `speed`: images a second relative to the language model, by batch size and steps, over 64 images of the eight classes
  in turn; rounds alternate, and the least time of each counts. A masked model computes the first step, where nothing
  is known, once for each class.
- `interpolation` (--videos): PSNR of the frames between the first and the last of a video, of the model, of the mean of
  both, of linear blending, and of the tokenizer with every frame given, which bounds the model.
- `inpainting` (--images, --weights-dir): one quarter of each image, a centred square of half its side, is filled by the
  masked model, the diffusion model, and the mean colour of the rest. Told are the mean distance of each image's
  MobileNetV2 features from those of the original and the Fréchet distance of the sets (over fewer images than
  dimensions it orders the ways of filling and means nothing else).

    python benchmarks/masked.py [--model omnitok-tiny-mask] [--videos DIR] [--images DIR --weights-dir DIR]

DIR of images holds a folder a class, whose name is given to the models.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor

import omnitok
from omnitok.data import VideoReader, list_media, read_image
from omnitok.data.transforms import fit_square
from omnitok.generation.loading import AnyGenerator
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics import MobileNetImageFeatures, frechet_distance, gaussian_statistics
from pretrain_captions import IMAGES


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over videos (b, 3, T, H, W) in [-1, 1], in dB."""
    return float((-10 * torch.log10(((a - b) / 2).square().flatten(1).mean(1))).mean())


def speed(masked: AnyGenerator, language: AnyGenerator, batches: list[int], steps: list[int], rounds: int) -> None:
    """Print images a second relative to the language model."""
    labels = list(islice(cycle(IMAGES), 64))
    print("| batch | " + " | ".join(f"{n} steps" for n in steps) + " |\n" + "|---" * (len(steps) + 1) + "|")
    for batch in batches:
        given = {"seed": 1, "batch_size": batch}
        works: dict[int, Callable[[], Tensor]] = {0: partial(language.sample_codes, labels, **given)}
        for n in steps:
            works[n] = partial(masked.sample_codes, labels, **given, steps=n)
        least = dict.fromkeys(works, math.inf)
        for _ in range(rounds):
            for name, work in works.items():
                start = time.process_time()
                work()
                least[name] = min(least[name], time.process_time() - start)
        print(f"| {batch} | " + " | ".join(f"{least[0] / least[n]:.2f}" for n in steps) + " |")


@torch.inference_mode()
def interpolation(masked: AnyGenerator, files: list[Path]) -> None:
    """Print the PSNR of the middle frames."""
    frames, size = masked.settings.num_frames, masked.settings.height
    videos = []
    for path in files:
        with VideoReader(path) as reader:
            read = list(islice(reader, frames))
        if len(read) == frames:
            videos.append(fit_square(torch.stack(read, dim=1), size, "center_crop"))
    video = torch.stack(videos)
    first, last, truth = video[:, :, :1], video[:, :, -1:], video[:, :, 1:-1]
    weights = torch.linspace(0, 1, frames)[1:-1][:, None, None]
    likeliest = {"guidance_scale": 1.0, "temperature": 0.0}
    print(f"\n{len(videos)} videos: PSNR of the {frames - 2} frames between, dB")
    for name, made in {
        "the model": masked.interpolate(first, last, frames, seed=0)[:, :, 1:-1],
        "the model, its likeliest codes": masked.interpolate(first, last, frames, seed=0, **likeliest)[:, :, 1:-1],
        "mean of the ends": ((first + last) / 2).expand_as(truth),
        "linear blending": torch.lerp(first, last, weights),
        "the tokenizer, all frames given": masked.tokenizer(video)[:, :, 1:-1].clamp(-1, 1),
    }.items():
        print(f"  {name:32} {psnr(made, truth):.2f}")


@torch.inference_mode()
def inpainting(generators: dict[str, AnyGenerator], folder: Path, weights: Path) -> None:
    """Print feature distances of filled images."""
    network = MobileNetImageFeatures(load_mobilenet_v2(weights))
    size = next(iter(generators.values())).settings.height
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [(path, name) for name in names for path in list_media([folder / name])]
    images = torch.stack([fit_square(read_image(path)[:, None], size, "center_crop")[:, 0] for path, _ in files])
    hole = torch.zeros(1, 1, size, size, dtype=torch.bool)
    hole[..., size // 4 : size - size // 4, size // 4 : size - size // 4] = True
    rest = images.flatten(2)[:, :, ~hole.flatten()].mean(2)[:, :, None, None]

    def features(x: Tensor) -> Tensor:
        return torch.cat([network(part) for part in x.split(16)])

    real = features(images)
    print(f"\n{len(images)} images, a quarter filled: mean distance of features, and of the sets")
    made = {"mean of the rest": torch.where(hole, rest, images)}
    for name, generator in generators.items():
        made[name] = generator.inpaint(images, hole, [label for _, label in files], seed=0, batch_size=32)
    for name, filled in made.items():
        found = features(filled)
        distance = frechet_distance(gaussian_statistics(real.float()), gaussian_statistics(found.float()))
        print(f"  {name:24} {float((found - real).norm(dim=1).mean()):7.3f} {float(distance):9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="omnitok-tiny-mask")
    parser.add_argument("--language-model", default="omnitok-tiny-lm")
    parser.add_argument("--diffusion-model", default="omnitok-tiny-dit")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--steps", type=int, nargs="+", default=[12, 8, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=Path, default=None)
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--weights-dir", type=Path, default=None, help="default: that of OMNITOK_WEIGHTS")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the models whose speed is measured"
    )
    parser.add_argument("--only", choices=("speed", "interpolation", "inpainting"), default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only in (None, "speed"):
        load = partial(omnitok.load_generator, dtype=getattr(torch, arguments.dtype))
        speed(
            load(arguments.model), load(arguments.language_model), arguments.batches, arguments.steps, arguments.rounds
        )
    if arguments.only == "speed":
        return
    masked = omnitok.load_generator(arguments.model)
    if arguments.videos and arguments.only in (None, "interpolation"):
        interpolation(masked, list_media([arguments.videos]))
    if arguments.images and arguments.only in (None, "inpainting"):
        diffusion = omnitok.load_generator(arguments.diffusion_model)
        generators = {arguments.model: masked, arguments.diffusion_model: diffusion}
        inpainting(generators, arguments.images, arguments.weights_dir)


if __name__ == "__main__":
    main()
