"""The three progressive stages for a `tiny` tokenizer of width 192, on a CPU.

Data: a folder of pictures and a folder of clips of at least 17 frames, short sides of 128 pixels or more;
`balance_domains` evens out clips whose file names share their beginning.

Hardware: one CPU core in float32; hours: about 0.25 (image), 0.9 (joint) and 0.65 (vae).

    omnitok train tiny-image --images PICTURES --out runs/image
    omnitok train tiny-joint --images PICTURES --videos CLIPS --init runs/image/model --out runs/joint
    omnitok train tiny-vae --images PICTURES --videos CLIPS --init runs/joint/model --out runs/vae

Measured, as PSNR on held-out pictures at 256 and clips at 128 pixels: 25.2 dB and 24.0 dB (joint, run to its end),
27.6 dB and 25.4 dB (vae, from the joint stage's model after 700 steps), 28.1 dB and 26.1 dB after 8 200 steps more of
`tiny-vae`. The shipped models are deeper: `omnitok-tiny-vae` (29.08 dB and 26.54 dB) was grown from that one by
`init.grow`, `omnitok-tiny-vq` (26.0 dB and 24.9 dB) from a wider one of an earlier recipe; their cards have the
settings. The aims are 26.0 dB and 24.8 dB (joint), 29.0 dB and 26.0 dB (vae).
"""

from dataclasses import replace

from omnitok.models.bottlenecks import KLConfig
from omnitok.models.presets import preset
from omnitok.training.config import DataConfig, InitConfig, OptimizerConfig, TrainConfig

TINY_IMAGE = TrainConfig(
    name="tiny-image",
    model=replace(preset("tiny"), width=192, heads=6),  # 2.6 M parameters: more steps in the same time
    data=DataConfig(resolutions=(128,), image_batch=8),
    optimizer=OptimizerConfig(name="muon", lr=1.5e-3, matrix_lr_factor=2.5, warmup_steps=50, ema_decay=0.995),
    weights={"log_l2": 0.25, "commitment": 2.0},
    steps=1100,
    quantizer_warmup_steps=300,
    limit_room=1.5,
)
"""Stage 1: pictures, 128 x 128."""

TINY_JOINT = replace(
    TINY_IMAGE,
    name="tiny-joint",
    data=replace(
        TINY_IMAGE.data,
        resolutions=(96, 128),
        video_batch=2,
        video_share=0.5,
        frames=17,
        balance_sources=True,
        ken_burns=0.4,
    ),
    optimizer=replace(TINY_IMAGE.optimizer, ema_decay=0.998),
    steps=3000,
    quantizer_warmup_steps=0,
    init=InitConfig(inflate=True),
)
"""Stage 2, from stage 1: pictures and clips of 17 frames, two resolutions, half of the steps of clips."""

TINY_VAE = replace(
    TINY_JOINT,
    name="tiny-vae",
    model=replace(TINY_JOINT.model, bottleneck=KLConfig()),
    data=replace(TINY_JOINT.data, video_share=0.4),
    weights={"log_l2": 0.25, "kl": 0.02},
    kl_normalization="pixel",
    steps=2300,
    init=InitConfig(),
)
"""Stage 3, from stage 2: Gaussian latents in place of codes.

Near the end `log_l2` pulls as `l2` with a weight of 50 would. The KL divergence is per pixel value; its share of the
squared error that the noise may cause is a few thousandths, so it keeps latents in order at almost no cost in PSNR.
"""

STAGES = (TINY_IMAGE, TINY_JOINT, TINY_VAE)
