"""Tiny generators on one CPU core: a language model and a diffusion transformer, each of pictures and clips together.

Data: labelled pictures and clips of at least 17 frames, a folder a class, as tokens of 64 x 64 pixels (a grid of 8 x 8,
5 latent frames for clips) of `omnitok-tiny-vq-perceptual` and `omnitok-tiny-vae-perceptual`.

    TOKENIZE="omnitok tokenize --labels folders --resolution 64 --views 8 --crop-range 1.15"
    $TOKENIZE PICTURES --model omnitok-tiny-vq-perceptual -o runs/codes-images
    $TOKENIZE CLIPS --model omnitok-tiny-vq-perceptual --frames 17 -o runs/codes-videos
    $TOKENIZE PICTURES --model omnitok-tiny-vae-perceptual -o runs/latents-images
    $TOKENIZE CLIPS --model omnitok-tiny-vae-perceptual --frames 17 -o runs/latents-videos
    omnitok train tiny-lm --shards runs/codes-images --shards runs/codes-videos --out runs/tiny-lm
    omnitok train tiny-dit --shards runs/latents-images --shards runs/latents-videos --out runs/tiny-dit

Hardware: one CPU core in float32; hours: about 0.8 (`tiny-lm`) and 1.1 (`tiny-dit`). The range keeps crops nearly
whole, so that samples are framed as pictures are. The shipped ones were trained in several pieces (in their cards).
For models of this size no score was published; ours are in their cards, as classifier accuracy of the samples and
`fd_mobilenet_v2` by class (`benchmarks/judge_generator.py`).
"""

from dataclasses import replace

from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformerConfig
from omnitok.models.sampling import DiffusionSampling, TokenSampling
from omnitok.training.config import (
    DataConfig,
    DiffusionTrainConfig,
    EngineConfig,
    LanguageModelTrainConfig,
    LogConfig,
    OptimizerConfig,
)

TINY_LM = LanguageModelTrainConfig(
    name="tiny-lm",
    model=LanguageModelConfig(width=256, depth=6, heads=8, dropout=0.12),
    start_from_codebook=True,
    data=DataConfig(
        resolutions=(64,),
        image_batch=24,
        video_batch=5,
        video_share=0.3,
        image_policy="center_crop",
        video_policy="center_crop",
        workers=0,
    ),
    optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=100, ema_decay=0.99),
    engine=EngineConfig(precision="float32"),
    log=LogConfig(every=20, images_every=0, validate_every=250),
    steps=2600,
    checkpoint_every=250,
    sampling=TokenSampling(guidance_scale=3.0, top_k=100),
)
"""5 M parameters over 1024 codes; codes of pictures and clips in one vocabulary."""

TINY_DIT = DiffusionTrainConfig(
    name="tiny-dit",
    model=DiffusionTransformerConfig(
        patch_size=1, width=192, depth=8, heads=6, temporal=True, objective="flow", learn_sigma=False
    ),
    data=replace(TINY_LM.data, image_batch=32, video_batch=6, video_share=0.35),
    optimizer=OptimizerConfig(
        name="muon", lr=1.5e-3, matrix_lr_factor=2.5, weight_decay=0.0, warmup_steps=50, ema_decay=0.998
    ),
    engine=EngineConfig(precision="float32"),
    log=LogConfig(every=20, images_every=0, validate_every=250),
    steps=3000,
    checkpoint_every=250,
    sampling=DiffusionSampling(guidance_scale=4.0, video_guidance_scale=1.5, steps=25, sampler="euler"),
)
"""Flow matching on 8 channels; the odd blocks attend over time."""

RUNS = (TINY_LM, TINY_DIT)
