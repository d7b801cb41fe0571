"""Table 5: class-conditional ImageNet 256 by DiT-XL/2 on latents of 8 x 32 x 32.

| run | guidance | FID | IS | precision | recall |
|---|---|---|---|---|---|
| imagenet-dit-xl | none | 12.25 | 109.94 | 0.73 | 0.64 |
| imagenet-dit-xl | 2.0 | 3.48 | 244.23 | 0.89 | 0.52 |

Data: ImageNet-1k, 1 281 167 training pictures, as latents of the VAE of `imagenet-k600-vae`, normalised by its
per-channel statistics (the authors scale by 0.18215). Hardware: 8 GPUs of 80 GB; the paper states no hours and no
number of steps, 1 000 000 here. Batch 256, lr 1e-4, EMA 0.9999, label dropout 0.1, learned sigma, as DiT. Not run to
its end by us.

    omnitok tokenize IMAGENET/train --labels folders --resolution 256 --model runs/imagenet-k600-vae/model \\
        -o IMAGENET-LATENTS
    torchrun --nproc-per-node 8 -m omnitok train imagenet-dit-xl --shards IMAGENET-LATENTS --out runs/imagenet-dit
    torchrun --nproc-per-node 8 -m omnitok generate runs/imagenet-dit/model --labels all --count 50 --guidance 2 \\
        --npz -o SAMPLES

Expected: the FID of the table, over 50 000 samples of 250 DDPM steps; rFID of the VAE 0.69.
"""

from omnitok.models.diffusion_transformer import DIFFUSION_TRANSFORMERS
from omnitok.models.sampling import DiffusionSampling
from omnitok.training.config import DataConfig, DiffusionTrainConfig, EngineConfig, LogConfig, OptimizerConfig

DIT_XL = DiffusionTrainConfig(
    name="imagenet-dit-xl",
    model=DIFFUSION_TRANSFORMERS["dit-xl/2"],
    data=DataConfig(resolutions=(256,), image_batch=256, workers=4),
    optimizer=OptimizerConfig(
        lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup_steps=1, schedule="constant", ema_decay=0.9999
    ),
    engine=EngineConfig(activation_checkpointing=True),
    log=LogConfig(every=100, images_every=10_000, validate_every=10_000),
    steps=1_000_000,
    checkpoint_every=5000,
    sampling=DiffusionSampling(guidance_scale=2.0, steps=250, sampler="ddpm"),
)

RUNS = (DIT_XL,)
