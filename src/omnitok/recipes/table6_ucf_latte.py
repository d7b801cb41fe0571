"""Table 6: UCF-101 256 by Latte-XL/2 on latents of 5 x 8 x 32 x 32 (17 frames).

| run | FVD |
|---|---|
| ucf-latte-xl | 209.2 |

Data: UCF-101, 9 537 training clips (split 1), as latents of the VAE of `imagenet-ucf-vae`, on the tokenizer's own scale
of pixels (the authors' Latte fed it [-1, 1] where it wants [-0.5, 0.5]). Hardware: 8 GPUs of 80 GB; the paper states no
hours, batch or number of steps: 40 clips and 300 000 steps here. Otherwise as `table5_imagenet_dit`. Not run to its end
by us.

    omnitok tokenize UCF101/train --labels folders --resolution 256 --frames 17 --views 4 \\
        --model runs/imagenet-ucf-vae/model -o UCF-LATENTS
    torchrun --nproc-per-node 8 -m omnitok train ucf-latte-xl --shards UCF-LATENTS --out runs/ucf-latte
    torchrun --nproc-per-node 8 -m omnitok generate runs/ucf-latte/model --labels all --count 21 --frames 17 -o SAMPLES

Expected: FVD 209.2 over 2048 samples of 250 DDPM steps; rFVD of the VAE 23.
"""

from dataclasses import replace

from omnitok.models.diffusion_transformer import DIFFUSION_TRANSFORMERS
from omnitok.models.sampling import DiffusionSampling
from omnitok.recipes.table5_imagenet_dit import DIT_XL

RUNS = (
    replace(
        DIT_XL,
        name="ucf-latte-xl",
        model=DIFFUSION_TRANSFORMERS["latte-xl/2"],
        data=replace(DIT_XL.data, video_batch=40),
        steps=300_000,
        sampling=DiffusionSampling(guidance_scale=1.0, steps=250, sampler="ddpm"),
    ),
)
