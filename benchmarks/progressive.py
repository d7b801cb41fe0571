"""The progressive claim of Table 7 at small scale: what is trained on, at equal numbers of steps.

Every regime trains the VQ tokenizer of the tiny recipes for the same number of steps from random weights; `progressive`
spends the first half on images and the second on images and videos, as the paper's stages do. Measured are PSNR and
the Fréchet distance over MobileNetV2 features between originals and reconstructions (lower is better; not FID), on
held-out images and videos, in one table of Markdown.

    python benchmarks/progressive.py --images IMAGES --videos VIDEOS --eval-images IMAGES --eval-videos VIDEOS \\
        --weights-dir WEIGHTS --out runs/progressive [--steps 600] [--regimes image-multi video-multi joint-multi]
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from omnitok import OmniTokenizer
from omnitok.data import list_media
from omnitok.data.loader import load_training_image, load_training_video
from omnitok.data.video_reader import WindowSampling
from omnitok.losses.perceptual import load_mobilenet_v2
from omnitok.metrics import (
    FrechetAccumulator,
    MobileNetImageFeatures,
    MobileNetVideoFeatures,
    frechet_distance,
    psnr_per_frame,
)
from omnitok.recipes.tiny import TINY_IMAGE
from omnitok.training.config import InitConfig, TrainConfig
from omnitok.training.tasks import TokenizerTask
from omnitok.training.trainer import Trainer

FIXED, MULTI = (64,), (48, 64, 96)
REGIMES = ("image-fixed", "image-multi", "video-fixed", "video-multi", "joint-fixed", "joint-multi", "progressive")


def config_of(regime: str, arguments: argparse.Namespace, steps: int, init: InitConfig) -> TrainConfig:
    """The tiny recipe at the resolutions and on the modalities of a regime."""
    modality, _, resolutions = regime.partition("-")
    data = replace(
        TINY_IMAGE.data,
        images=() if modality == "video" else (str(arguments.images),),
        videos=() if modality == "image" else (str(arguments.videos),),
        resolutions=FIXED if resolutions == "fixed" else MULTI,
        image_batch=8,
        video_batch=2,
        balance_sources=modality != "image",
    )
    return replace(
        TINY_IMAGE,
        name=regime,
        data=data,
        optimizer=replace(TINY_IMAGE.optimizer, warmup_steps=min(50, steps // 4)),
        steps=steps,
        quantizer_warmup_steps=0 if init.model else steps // 10,
        init=init,
        checkpoint_every=steps,
        seed=arguments.seed,
    )


def train_regime(regime: str, arguments: argparse.Namespace) -> Path:
    """Train it, unless that was done before; the model's folder."""
    out: Path = arguments.out / regime
    if (out / "model" / "config.json").exists():
        return out / "model"
    if regime != "progressive":
        return train(config_of(regime, arguments, arguments.steps, InitConfig()), out)
    half = arguments.steps // 2
    first = train(config_of("image-multi", arguments, half, InitConfig()), arguments.out / "progressive-image")
    init = InitConfig(model=str(first), inflate=True)
    return train(config_of("joint-multi", arguments, arguments.steps - half, init), out)


def train(config: TrainConfig, out: Path) -> Path:
    """The model folder of a training."""
    return Trainer(TokenizerTask(config), config, out).fit().model


@torch.inference_mode()
def measure(model: Path, arguments: argparse.Namespace) -> list[float]:
    """PSNR and Fréchet distance on images at 128 pixels, then on videos of 17 frames at 64."""
    tokenizer = OmniTokenizer.from_pretrained(model)
    network = load_mobilenet_v2(arguments.weights_dir)
    figures = []
    for modality in ("image", "video"):
        files = list_media([arguments.eval_images if modality == "image" else arguments.eval_videos])
        features = MobileNetImageFeatures(network) if modality == "image" else MobileNetVideoFeatures(network)
        real, fake = FrechetAccumulator(features.dimension), FrechetAccumulator(features.dimension)
        psnr = []
        for path in files[:: arguments.every]:
            if modality == "image":
                x = load_training_image(path, 128, "center_crop", flip=False, seed=0)
            else:
                x = load_training_video(path, WindowSampling(17, start="center"), 64, "center_crop", flip=False, seed=0)
            y = tokenizer(x[None]).clamp(-1, 1)
            psnr.append(psnr_per_frame(y, x[None]).mean())
            real.update(features(x[None]))
            fake.update(features(y))
        figures += [float(torch.stack(psnr).mean()), frechet_distance(real.compute(), fake.compute())]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--images", "--videos", "--eval-images", "--eval-videos", "--weights-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/progressive"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th file")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    arguments = parser.parse_args()
    print("| regime | images PSNR dB | images fd_mobilenet_v2 | videos PSNR dB | videos fd_mobilenet_v2_video |")
    print("|---|---|---|---|---|", flush=True)
    for regime in arguments.regimes:
        figures = measure(train_regime(regime, arguments), arguments)
        print(f"| {regime} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
