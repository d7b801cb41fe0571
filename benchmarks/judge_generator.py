"""Are samples of their class? A classifier trained on real images, and Fréchet distances class by class.

Real images (and videos) are cut to their largest centred square and brought to the samples' size first. The classifier
is logistic regression on standardised features of MobileNetV2 (of videos: mean and motion features), trained on four
fifths of the real ones; told is its accuracy on the last fifth and on the samples. `fd_mobilenet_v2` is given for every
pair of a real and a sampled class, over fewer samples than dimensions: the numbers order classes and mean nothing else.
Tokenizers may have been trained with a loss over MobileNetV2, so a second classifier of images ("plain") judges that
knows no network: logistic regression on histograms of oriented gradients and mean colours of 8 x 8 cells.
For videos, the motion (mean absolute difference of neighbouring frames' features) is compared with that of real ones.

    omnitok generate MODEL --labels apple carton ... --count 64 -o SAMPLES
    python benchmarks/judge_generator.py --samples SAMPLES --real IMAGES --weights-dir WEIGHTS [--json result.json]

SAMPLES is a folder that `omnitok generate` wrote, of images or of videos; IMAGES (or videos) holds a folder a class.
With --tokenizer NAME ... real held-out images are judged after encoding and decoding too: the most that a generator
over its tokens can reach.
"""

import argparse
import json
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitok import OmniTokenizer
from omnitok.data import VideoReader, list_media, read_image
from omnitok.data.transforms import fit_square
from omnitok.files import sample_slug
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics import (
    ConfusionAccumulator,
    LinearClassifier,
    MobileNetImageFeatures,
    MobileNetVideoFeatures,
    frechet_distance,
    gaussian_statistics,
    gradient_features,
)
from omnitok.metrics.classifier import HELD_OUT


def load(path: Path, frames: int | None, size: int | None) -> Tensor:
    """(3, H, W), or (3, T, H, W) with `frames`; square of `size`."""
    if frames is None:
        pixels = read_image(path)[:, None]
    else:
        with VideoReader(path) as reader:
            pixels = torch.stack(list(islice(reader, frames)), dim=1)
    if size is not None:
        pixels = fit_square(pixels, size, "center_crop")
    return pixels[:, 0] if frames is None else pixels


def features_of(samples: Sequence[Tensor], network: torch.nn.Module) -> Tensor:
    return torch.cat([network(torch.stack(list(samples[i : i + 16]))) for i in range(0, len(samples), 16)]).double()


class Judge:
    """A classifier over features, trained on the real samples that are not held out."""

    def __init__(self, x: Tensor, y: Tensor, names: Sequence[str]) -> None:
        self.names, self.classifier = names, LinearClassifier(x, y, len(names))

    def accuracy(self, x: Tensor, y: Tensor) -> tuple[float, dict[str, float]]:
        """Over all of x, and by class."""
        confusions = ConfusionAccumulator(self.names)
        confusions.update(y, self.classifier.predict(x))
        found = confusions.compute()
        return found.accuracy, {name: row["value"] for name, row in found.by_name.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--weights-dir", type=Path, default=None, help="default: that of OMNITOK_WEIGHTS")
    parser.add_argument("--tokenizer", nargs="+", default=[])
    parser.add_argument("--limit", type=int, default=1000, help="real samples of a class")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()

    pattern = re.compile(r"\d{6}-(.+)\.(png|mp4)")
    found = [(path, match) for path in sorted(arguments.samples.iterdir()) if (match := pattern.fullmatch(path.name))]
    if not found:
        raise SystemExit(f"{arguments.samples}: holds no samples with a class in their names")
    is_clip = found[0][1][2] == "mp4"
    names = sorted(path.name for path in arguments.real.iterdir() if path.is_dir())
    number = {sample_slug(name): i for i, name in enumerate(names)}
    found = [(path, match) for path, match in found if match[1] in number]
    if not found:
        raise SystemExit(f"{arguments.samples}: no sample is of a class of {arguments.real}")
    frames = None
    if is_clip:
        with VideoReader(found[0][0]) as reader:
            frames = sum(1 for _ in reader)
    fakes = [load(path, frames, None) for path, _ in found]
    size = fakes[0].shape[-1]
    mobilenet = load_mobilenet_v2(arguments.weights_dir)
    network = MobileNetVideoFeatures(mobilenet) if is_clip else MobileNetImageFeatures(mobilenet)

    # What the judges see, by the prefix of their keys in the result.
    sights: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"": lambda samples: features_of(samples, network)}
    if not is_clip:
        sights["plain_"] = lambda samples: gradient_features(torch.stack(list(samples)))

    seen: dict[str, list[Tensor]] = {prefix: [] for prefix in sights}
    real_y: list[int] = []
    held: list[bool] = []
    held_pixels: list[Tensor] = []
    for label, name in enumerate(names):
        pixels = [load(path, frames, size) for path in list_media([arguments.real / name])[: arguments.limit]]
        pixels = [video for video in pixels if frames is None or video.shape[1] == frames]
        for prefix, sight in sights.items():
            seen[prefix].append(sight(pixels))
        real_y += [label] * len(pixels)
        held += [i % HELD_OUT == 0 for i in range(len(pixels))]
        held_pixels += pixels[::HELD_OUT]
    real = {prefix: torch.cat(parts) for prefix, parts in seen.items()}
    y, is_held = torch.tensor(real_y), torch.tensor(held)
    fake = {prefix: sight(fakes) for prefix, sight in sights.items()}
    fake_y = torch.tensor([number[match[1]] for _, match in found])
    decoded = {}
    for tokenizer_name in arguments.tokenizer:
        tokenizer = OmniTokenizer.from_pretrained(tokenizer_name)
        with torch.inference_mode():
            decoded[tokenizer_name] = [tokenizer(sample[None])[0].clamp(-1, 1) for sample in held_pixels]
    result: dict[str, Any] = {
        "chance": 1 / len(names),
        "real": {"samples": len(y), "held_out": int(is_held.sum())},
        "samples": len(fakes),
    }
    for prefix, sight in sights.items():
        judge = Judge(real[prefix][~is_held], y[~is_held], names)
        result[f"{prefix}accuracy_held_out"] = judge.accuracy(real[prefix][is_held], y[is_held])
        for tokenizer_name, samples in decoded.items():
            result[f"{prefix}accuracy_{tokenizer_name}"] = judge.accuracy(sight(samples), y[is_held])
        result[f"{prefix}accuracy_samples"] = judge.accuracy(fake[prefix], fake_y)
    x, fake_x = real[""], fake[""]
    present = sorted(set(fake_y.tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer samples than dimensions: said above
        real_statistics = {i: gaussian_statistics(x[y == i].float()) for i in range(len(names))}
        matrix = {
            names[j]: {
                names[i]: frechet_distance(real_statistics[i], gaussian_statistics(fake_x[fake_y == j].float()))
                for i in range(len(names))
            }
            for j in present
        }
    result["fd"] = matrix
    result["nearest_is_own"] = {sampled: min(row, key=row.__getitem__) == sampled for sampled, row in matrix.items()}
    if is_clip:
        half = x.shape[1] // 2
        motion = {"real": float(x[:, half:].mean()), "samples": float(fake_x[:, half:].mean())}
        result["motion"] = motion | {"ratio": motion["samples"] / motion["real"]}

    print(f"chance {result['chance']:.3f}")
    for prefix, kind in product(sights, ("held_out", *arguments.tokenizer, "samples")):
        total, of_class = result[f"{prefix}accuracy_{kind}"]
        values = ", ".join(f"{name} {value:.2f}" for name, value in of_class.items())
        print(f"{prefix}accuracy_{kind} {total:.3f}  {values}")
    print("\n| sampled \\ real | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for sampled, row in matrix.items():
        least = min(row.values())
        cells = (f"**{value:.1f}**" if value == least else f"{value:.1f}" for value in row.values())
        print(f"| {sampled} | " + " | ".join(cells) + " |")
    own = result["nearest_is_own"]
    print(f"\nnearest real class is the own one: {sum(own.values())} of {len(own)}")
    if is_clip:
        print(f"motion of features: real {motion['real']:.4f}, samples {motion['samples']:.4f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
