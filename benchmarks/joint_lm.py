"""One language model for images and videos, against one for each, at equal steps on each modality.

The recipe `tiny-lm` is trained three times from the same seed: on images and videos mixed, and on either alone for as
many steps as the mixed training spent on it. Every eighth file of each class is kept back; told is the mean
cross-entropy of the kept codes, in nats a code (lower is better), as a table of Markdown. Resumable: finished trainings
and shards are not made again.

    python benchmarks/joint_lm.py --images IMAGES --videos VIDEOS --out runs/joint-lm [--steps 640] [--share 0.3]

IMAGES and VIDEOS hold a folder a class; videos have at least 17 frames.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from omnitok.cli import main as omnitok
from omnitok.data import list_media
from omnitok.recipes.tiny import TINY_LM
from omnitok.training.settings import apply_settings
from omnitok.training.tasks import GeneratorTask
from omnitok.training.trainer import Trainer

KEPT_BACK = 8  # every such file of a class


def split(source: Path, out: Path) -> dict[str, Path]:
    """Folders of links: "train" and "held"."""
    folders = {part: out / f"{source.name}-{part}" for part in ("train", "held")}
    for label in sorted(path for path in source.iterdir() if path.is_dir()):
        for number, file in enumerate(list_media([label])):
            part = "held" if number % KEPT_BACK == 0 else "train"
            link = folders[part] / label.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                os.symlink(file.resolve(), link)
    return folders


def tokenize(folder: Path, out: Path, resolution: int, views: int) -> str:
    shards = out / f"{folder.name}-codes"
    if not (shards / "index.json").exists():
        options = f"--labels folders --resolution {resolution} --frames 17 --views {views} --device cpu --resume"
        if omnitok(["tokenize", str(folder), "-o", str(shards), *options.split()]):
            raise SystemExit(f"{folder}: cannot be tokenized")
    return str(shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/joint-lm"))
    parser.add_argument("--steps", type=int, default=640, help="of the mixed training; a multiple of 64")
    parser.add_argument("--share", type=float, default=0.3, help="of the steps that are of videos")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--views", type=int, default=4)
    arguments = parser.parse_args()
    out: Path = arguments.out
    shards = {}
    for modality, source in (("image", arguments.images), ("video", arguments.videos)):
        for part, folder in split(source, out).items():
            shards[modality, part] = tokenize(
                folder, out, arguments.resolution, arguments.views if part == "train" else 1
            )
    classes = sum(1 for source in (arguments.images, arguments.videos) for path in source.iterdir() if path.is_dir())
    video_steps = round(arguments.share * arguments.steps)
    runs = {
        "images and videos": (("image", "video"), arguments.steps),
        "images only": (("image",), arguments.steps - video_steps),
        "videos only": (("video",), video_steps),
    }
    print("| trained on | steps on images | steps on videos | held-out images | held-out videos |")
    print("|---|---|---|---|---|")
    for name, (modalities, steps) in runs.items():
        config = apply_settings(
            replace(TINY_LM, name=f"joint-lm {name}"),
            [],
            {
                "shards": [shards[modality, "train"] for modality in modalities],
                "validation_shards": [shards[modality, "held"] for modality in modalities],
                "validation_batches": 1000,
                "model.num_classes": classes,  # as many weights in all three
                "data.video_share": arguments.share,
                "log.validate_every": 0,
                "steps": steps,
            },
        )
        result = Trainer(GeneratorTask(config), config, out / name.replace(" ", "-"), resume=True).fit()
        spent = [str(steps), "0"] if modalities == ("image",) else ["0", str(steps)]
        if len(modalities) == 2:
            spent = [str(steps - video_steps), str(video_steps)]
        losses = [
            f"{result.validation[f'{m}_loss']:.4f}" if f"{m}_loss" in result.validation else ""
            for m in ("image", "video")
        ]
        print(f"| {name} | {' | '.join([*spent, *losses])} |", flush=True)


if __name__ == "__main__":
    main()
