"""Table 10: the order of the bottlenecks; rFID on ImageNet and rFVD on Kinetics-600, VQVAE / VAE each.

| order | rFID | rFVD |
|---|---|---|
| VQ, then KL (`imagenet-k600-joint`, `imagenet-k600-vae`) | 1.11 / 0.69 | 25.97 / 13.02 |
| KL, then VQ (here) | 2.05 / 0.89 | 33.79 / 12.43 |

Stages 1 and 2 are trained with Gaussian latents, stage 3 puts a quantizer in their place. Data, hardware and hours as
in `base`.

    torchrun --nproc-per-node 8 -m omnitok train kl-first-image --images IMAGENET/train --out runs/kl-1
    torchrun --nproc-per-node 8 -m omnitok train kl-first-joint --images IMAGENET/train --videos K600/train \\
        --init runs/kl-1/model --out runs/kl-2
    torchrun --nproc-per-node 8 -m omnitok train kl-first-vq --images IMAGENET/train --videos K600/train \\
        --init runs/kl-2/model --out runs/kl-3
"""

from dataclasses import replace

from omnitok.recipes.base import IMAGE, JOINT, VAE

KL_IMAGE = replace(VAE, name="kl-first-image", data=IMAGE.data)
"""Stage 1 with Gaussian latents. With pictures alone the discriminator of clips has nothing to see."""

KL_JOINT = replace(VAE, name="kl-first-joint", init=JOINT.init)
"""Expected: rFID 0.89, rFVD 12.43."""

VQ_LAST = replace(JOINT, name="kl-first-vq", init=VAE.init)
"""Expected: rFID 2.05, rFVD 33.79."""

RUNS = (KL_IMAGE, KL_JOINT, VQ_LAST)
