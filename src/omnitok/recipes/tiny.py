"""The three progressive stages for the `tiny` tokenizer, on two CPU cores.

Data: a folder of pictures and a folder of clips of at least 17 frames, short sides of 128 pixels or more;
`balance_domains` evens out clips whose file names share their beginning.

Hardware: 2 cores with bfloat16 instructions; hours: about 0.6 (image) and 1.0 (joint) with both cores at work, as with
`torchrun --nproc-per-node 2` and OMP_NUM_THREADS=1. Without such instructions they compute in float32 and take two to
three times as long; vae takes 0.7 on one such core. The commands behind the shipped model are in its card.

    omnitok train tiny-image --images PICTURES --out runs/image
    omnitok train tiny-joint --images PICTURES --videos CLIPS --init runs/image/model --out runs/joint
    omnitok train tiny-vae --images PICTURES --videos CLIPS --init runs/joint/model --out runs/vae

Measured on the shipped models, as PSNR on held-out pictures at 256 and clips at 128 pixels: 25.5 dB and 24.1 dB
(joint), 27.3 dB and 25.2 dB (vae). The joint stage was run in the pieces that its card lists; `tiny-joint` in one piece
was not run to its end yet. The aims are 26.0 dB and 24.8 dB (joint), 29.0 dB and 26.0 dB (vae).
"""

from dataclasses import replace

from omnitok.presets import preset
from omnitok.training.config import DataConfig, InitConfig, OptimizerConfig, TrainConfig

TINY_IMAGE = TrainConfig(
    name="tiny-image",
    model=preset("tiny"),
    data=DataConfig(resolutions=(128,), image_batch=16),
    optimizer=OptimizerConfig(lr=1e-3, warmup_steps=200),
    weights={"l1": 1.0, "l2": 4.0, "commitment": 0.5},
    steps=3500,
    quantize_after=300,
)
"""Stage 1: pictures, 128 x 128."""

TINY_JOINT = replace(
    TINY_IMAGE,
    name="tiny-joint",
    data=replace(
        TINY_IMAGE.data,
        resolutions=(96, 128, 160),
        video_resolutions=(96, 128),
        video_batch=4,
        video_share=0.7,  # with strict alternation clips lag behind pictures, see docs/log.md
        frames=17,
        balance_domains=True,
    ),
    optimizer=OptimizerConfig(lr=6e-4, warmup_steps=100),
    steps=5000,
    quantize_after=0,
    init=InitConfig(inflate=True),
)
"""Stage 2, from stage 1: pictures and clips of 17 frames, several resolutions, seven steps in ten of clips."""

TINY_VAE = replace(
    TINY_JOINT,
    name="tiny-vae",
    model=replace(TINY_JOINT.model, bottleneck="kl"),
    data=replace(
        TINY_JOINT.data,
        resolutions=(96, 128),
        image_batch=8,
        video_batch=2,
        video_share=0.4,
        pan_zoom=0.4,
    ),
    optimizer=OptimizerConfig(lr=1e-3, warmup_steps=50, ema_decay=0.998),
    weights={"log_l2": 0.25, "kl": 0.02},
    kl_normalization="pixel",
    steps=2600,
    init=InitConfig(),
)
"""Stage 3, from stage 2: Gaussian latents in place of codes.

Near the end `log_l2` pulls as `l2` with a weight of 50 would. The KL divergence is per pixel value; its share of the
squared error that the noise may cause is a few thousandths, so it keeps latents in order at almost no cost in PSNR.
"""

STAGES = (TINY_IMAGE, TINY_JOINT, TINY_VAE)
