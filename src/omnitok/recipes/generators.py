"""The published generators (Tables 3 to 6), by the paper or where it is silent by choice.

| model | layers, heads, width | parameters with ImageNet's vocabulary |
|---|---|---|
| "650 M" | 24, 16, 1536 (the released code) | 708 M |
| "227 M" | 16, 16, 1024 (ours: the paper gives no sizes, these come nearest) | 221 M |

Language models are the released GPT: learned positions, LayerNorm, GELU, biases; `--set model.positions=rotary` and its
like give the modern blocks. The tokens before the codes are as released: class, start for ImageNet; start, class for
UCF-101; start alone for Kinetics-600, whose labels are not used (training predicts all frames, so any number can be
given). Diffusion is DiT-XL/2 and Latte-XL/2 as published: batch 256 or 40, lr 1e-4, EMA 0.9999, label dropout 0.1,
learned sigma; latents are normalised by the VAE's per-channel statistics (the authors scale by 0.18215).

Data: token shards of the row's tokenizer, images of 256 x 256 pixels, videos of 17 frames:

    omnitok tokenize IMAGENET/train --labels folders --resolution 256 --model runs/imagenet-k600-joint -o IMAGENET-CODES
    omnitok tokenize IMAGENET/train --labels folders --resolution 256 --model runs/imagenet-k600-vae -o IMAGENET-LATENTS
    omnitok tokenize UCF101/train --labels folders --resolution 256 --frames 17 --views 4 \\
        --model runs/imagenet-ucf-joint -o UCF-CODES
    omnitok tokenize UCF101/train --labels folders --resolution 256 --frames 17 --views 4 \\
        --model runs/imagenet-ucf-vae -o UCF-LATENTS
    omnitok tokenize K600/train --labels none --resolution 256 --frames 17 \\
        --model runs/imagenet-k600-joint -o K600-CODES

Hardware: 8 GPUs of 80 GB; the paper states no hours for generators, and no batch sizes, steps and learning rates of the
language models: those here are usual ones. None of these runs was run to its end by us. The scores are over 50 000
samples (ImageNet) or 2 048 (UCF-101); diffusion takes 250 DDPM steps. The authors' frame prediction on Kinetics-600 has
seen the future (see docs/reproduction.md), ours has not.
"""

from dataclasses import replace

from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DIFFUSION_TRANSFORMERS
from omnitok.models.sampling import DiffusionSampling, TokenSampling
from omnitok.recipes.recipe import Recipe
from omnitok.recipes.released import GPUS
from omnitok.training.config import (
    AnyGeneratorConfig,
    DataConfig,
    DiffusionTrainConfig,
    EngineConfig,
    LanguageModelTrainConfig,
    LogConfig,
    OptimizerConfig,
)

MEDIUM = LanguageModelConfig(
    width=1024, depth=16, heads=16, positions="learned", norm="layer", activation="gelu", bias=True, dropout=0.1
)
SIZES = {"227m": MEDIUM, "650m": replace(MEDIUM, width=1536, depth=24)}

_IMAGES = LanguageModelTrainConfig(
    name="language-model",
    model=MEDIUM,
    data=DataConfig(resolutions=(256,), image_batch=256, video_batch=64, workers=4),
    optimizer=OptimizerConfig(lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=5000, ema_decay=0.9999),
    engine=EngineConfig(activation_checkpointing=True),
    log=LogConfig(every=100, images_every=10_000, validate_every=10_000),
    steps=500_000,
    checkpoint_every=5000,
)
"""Sequences of 1024 tokens."""

_VIDEOS = replace(_IMAGES, steps=300_000)
"""Sequences of 5120 tokens."""

DIT_XL = DiffusionTrainConfig(
    name="imagenet-dit-xl",
    model=DIFFUSION_TRANSFORMERS["dit-xl/2"],
    data=DataConfig(resolutions=(256,), image_batch=256, workers=4),
    optimizer=OptimizerConfig(
        lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup_steps=1, schedule="constant", ema_decay=0.9999
    ),
    engine=_IMAGES.engine,
    log=_IMAGES.log,
    steps=1_000_000,
    checkpoint_every=5000,
    sampling=DiffusionSampling(guidance_scale=2.0, steps=250, sampler="ddpm"),
)
LATTE_XL = replace(
    DIT_XL,
    name="ucf-latte-xl",
    model=DIFFUSION_TRANSFORMERS["latte-xl/2"],
    data=replace(DIT_XL.data, video_batch=40),
    steps=300_000,
    sampling=DiffusionSampling(guidance_scale=1.0, steps=250, sampler="ddpm"),
)


def _run(config: AnyGeneratorConfig, table: int, data: str, shards: str, expected: str) -> Recipe:
    kind = "language model" if isinstance(config, LanguageModelTrainConfig) else "diffusion transformer"
    cost = "8 GPUs of 80 GB; hours are not published"
    return Recipe(config, f"{kind}, Table {table}", data, cost, expected, f"--shards {shards}", GPUS)


RECIPES = []
for _size, _fid, _fvd, _prediction in (
    ("227m", "FID 10.13, IS 94.5", "FVD 314", "FVD 34.2"),
    ("650m", "FID 7.45, IS 146.7", "FVD 191", "FVD 32.9"),
):
    _model = SIZES[_size]
    _imagenet = replace(
        _IMAGES,
        name=f"imagenet-lm-{_size}",
        model=replace(_model, prefix="class start", num_classes=1000),
        sampling=TokenSampling(guidance_scale=2.5, top_k=2048, top_p=1.0),
    )
    _ucf = replace(
        _VIDEOS,
        name=f"ucf-lm-{_size}",
        model=replace(_model, prefix="start class", num_classes=101),
        sampling=TokenSampling(guidance_scale=1.5, top_k=4096, top_p=0.9),
    )
    _k600 = replace(
        _VIDEOS,
        name=f"k600-lm-{_size}",
        class_conditional=False,
        label_dropout=0.0,
        model=replace(_model, prefix="start", null_class=False),
        sampling=TokenSampling(top_k=2048, top_p=0.9),
    )
    RECIPES += [
        _run(_imagenet, 3, "ImageNet-1k as codes of imagenet-k600-joint", "IMAGENET-CODES", _fid),
        _run(_ucf, 4, "UCF-101 as codes of imagenet-ucf-joint", "UCF-CODES", _fvd),
        _run(_k600, 4, "Kinetics-600 as codes of imagenet-k600-joint", "K600-CODES", f"{_prediction}, 5 frames given"),
    ]
RECIPES += [
    _run(
        DIT_XL,
        5,
        "ImageNet-1k as latents of imagenet-k600-vae",
        "IMAGENET-LATENTS",
        "FID 12.25 without guidance, 3.48 at 2.0 (IS 244.23, precision 0.89, recall 0.52)",
    ),
    _run(LATTE_XL, 6, "UCF-101 as latents of imagenet-ucf-vae", "UCF-LATENTS", "FVD 209.2"),
]
