"""What the published generators have in common, by the paper or where it is silent by choice.

| model | layers, heads, width | parameters with ImageNet's vocabulary |
|---|---|---|
| "650 M" | 24, 16, 1536 (the released code) | 708 M |
| "227 M" | 16, 16, 1024 (ours: the paper gives no sizes, these come nearest) | 221 M |

Language models are the released GPT: learned positions, LayerNorm, GELU, biases; `--set model.positions=rotary` and its
like give the modern blocks. Data: token shards of the row's tokenizer (`omnitok tokenize`), 256 x 256 pixels, clips of
17 frames. Batch sizes, steps and learning rates of the language models are not in the paper; those here are usual ones.
Hardware: 8 GPUs of 80 GB; the paper states no hours for generators. None of these runs was run to its end by us.

    torchrun --nproc-per-node 8 -m omnitok train imagenet-lm-650m --shards IMAGENET-CODES --out runs/imagenet-lm

Expected: the FID (ImageNet) and FVD (UCF-101, Kinetics-600) in each recipe's module; rFVD of the
tokenizers is in theirs.
"""

from dataclasses import replace

from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.training.config import DataConfig, EngineConfig, LanguageModelTrainConfig, LogConfig, OptimizerConfig

MEDIUM = LanguageModelConfig(
    width=1024, depth=16, heads=16, positions="learned", norm="layer", activation="gelu", bias=True, dropout=0.1
)
LARGE = replace(MEDIUM, width=1536, depth=24)

PICTURES = LanguageModelTrainConfig(
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

CLIPS = replace(PICTURES, steps=300_000)
"""Sequences of 5120 tokens."""
