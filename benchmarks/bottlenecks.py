"""Bottlenecks at equal bits and equal steps, on your own images: one table of Markdown. Kinds of attention likewise.

Each row trains the recipe `tiny-image` from random weights for the same number of steps at the same resolution, with
another bottleneck and the losses that its own recipe gives it, and measures what it gives back of held-out images:
PSNR, SSIM, the distance of MobileNetV2 features (lower is better; where `--weights-dir` is given), the share of codes
in use and their perplexity over all of these images, and processor seconds per training step, optimizer and reading of
files included.

    python benchmarks/bottlenecks.py --images IMAGES --eval-images IMAGES [--weights-dir WEIGHTS] [--steps 300]

`--blocks ww ws tt jj` puts the spatial blocks of encoder and decoder in the rows instead, all with the first of
`--kinds`. Of images alone "j" is "t": give `--videos` and `--eval-videos` (9 frames each), which then are half of the
steps, and have a row of their own.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from omnitok import OmniTokenizer
from omnitok.losses.perceptual import load_perceptual
from omnitok.metrics import EvaluationConfig, evaluate_reconstruction
from omnitok.metrics.samples import files_by_modality
from omnitok.models.bottlenecks import FSQConfig
from omnitok.recipes.tiny import TINY_IMAGE, TINY_QUANTIZED, TINY_VAE
from omnitok.training.config import LogConfig, TrainConfig
from omnitok.training.tasks import TokenizerTask
from omnitok.training.trainer import Trainer

FRAMES = 9

RECIPES = {"vq": TINY_IMAGE} | TINY_QUANTIZED | {"kl": TINY_VAE}
"""Whose bottleneck and losses each row has: 13 bits per token, but for "kl", 8 channels, which are stored in 128."""


def config_of(kind: str, blocks: str, arguments: argparse.Namespace) -> TrainConfig:
    """The run of a row: all alike but for bottleneck and losses, or for the spatial blocks."""
    recipe, steps, width = RECIPES[kind], arguments.steps, arguments.width
    # 13 bits, where the recipe of FSQ has 13.9
    bottleneck = FSQConfig(levels=(8, 8, 8, 4, 4)) if kind == "fsq" else recipe.model.bottleneck
    return replace(
        TINY_IMAGE,
        name=kind,
        model=replace(
            TINY_IMAGE.model,
            width=width,
            heads=width // 32,
            bottleneck=bottleneck,
            encoder_blocks=blocks,
            decoder_blocks=blocks,
        ),
        data=replace(
            TINY_IMAGE.data,
            images=(str(arguments.images),),
            videos=(str(arguments.videos),) if arguments.videos else (),
            resolutions=(arguments.resolution,),
            video_batch=2,
            frames=FRAMES,
            workers=0,
        ),
        optimizer=replace(TINY_IMAGE.optimizer, warmup_steps=min(50, steps // 4), ema_decay=None),
        weights=recipe.weights,
        kl_normalization=recipe.kl_normalization,
        entropy_temperature=recipe.entropy_temperature,
        quantizer_warmup_steps=steps // 10,
        steps=steps,
        checkpoint_every=steps,
        limit_room=None,
        held_out=0.0,
        log=LogConfig(every=50, images_every=0, validate_every=0),
        seed=arguments.seed,
    )


def trained(config: TrainConfig, out: Path) -> tuple[OmniTokenizer, float]:
    """The tokenizer, and processor seconds for each step of the training."""
    start = time.process_time()
    result = Trainer(TokenizerTask(config), config, out).fit()
    return OmniTokenizer.from_pretrained(result.model), (time.process_time() - start) / config.steps


@torch.inference_mode()
def measured(tokenizer: OmniTokenizer, data: Path, arguments: argparse.Namespace) -> list[str]:
    """The cells of a row, over images or over videos."""
    distance = None
    if arguments.weights_dir is not None:
        distance = load_perceptual("mobilenet", arguments.weights_dir, resolution=160)
    distances: list[Tensor] = []

    def observe(original: Tensor, reconstruction: Tensor) -> None:
        if distance is not None:
            distances.append(distance(reconstruction, original).flatten())

    config = EvaluationConfig(resolution=arguments.resolution, frames=FRAMES)
    files = {modality: found[:: arguments.every] for modality, found in files_by_modality(data).items()}
    scores = evaluate_reconstruction(tokenizer, files, config=config, observe=observe)
    found = {result.metric: result.value for result in scores}
    cells = [f"{tokenizer.bits_per_token:.0f}", f"{found['psnr']:.2f}", f"{found['ssim']:.3f}"]
    cells.append(f"{torch.cat(distances).mean():.3f}" if distances else "")
    usage = (f"{100 * found['usage']:.0f} %", f"{found['perplexity']:.0f}") if tokenizer.is_discrete else ("", "")
    return [*cells, *usage]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images to train on")
    parser.add_argument("--eval-images", type=Path, required=True, help="folder of images to measure")
    parser.add_argument("--weights-dir", type=Path, help="folder with the weights of MobileNetV2")
    parser.add_argument("--out", type=Path, default=Path("runs/bottlenecks"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--width", type=int, default=192, help="of all blocks, a multiple of 32")
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--videos", type=Path, help="folder of videos to train on")
    parser.add_argument("--eval-videos", type=Path, help="folder of videos to measure")
    parser.add_argument("--blocks", nargs="+", default=[], help="spatial blocks to compare, such as ww ws tt jj")
    arguments = parser.parse_args()
    rows = [(kind, TINY_IMAGE.model.encoder_blocks) for kind in arguments.kinds]
    rows = [(arguments.kinds[0], blocks) for blocks in arguments.blocks] or rows
    print("| run | parameters | bits per token | PSNR dB | SSIM | features | usage | perplexity | s per step |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for kind, blocks in rows:
        name = blocks if arguments.blocks else kind
        tokenizer, seconds = trained(config_of(kind, blocks, arguments), arguments.out / name)
        million = f"{sum(weight.numel() for weight in tokenizer.parameters()) / 1e6:.2f} M"
        for data in filter(None, (arguments.eval_images, arguments.eval_videos)):
            label = f"`{name}`, {data.name}" if arguments.eval_videos else f"`{name}`"
            cells = [label, million, *measured(tokenizer, data, arguments), f"{seconds:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
