"""ImageNet and Moments in Time: the joint tokenizer and its VAE.

Data: ImageNet-1k, 1 281 167 training pictures, as a folder of classes; Moments in Time, about 800 000 training clips
of 3 s, a folder of MP4. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train imagenet-mit-joint --images IMAGENET/train --videos MIT/train \\
        --init runs/imagenet/model --out runs/imagenet-mit
    torchrun --nproc-per-node 8 -m omnitok train imagenet-mit-vae --images IMAGENET/train --videos MIT/train \\
        --init runs/imagenet-mit/model --out runs/imagenet-mit-vae

Expected: rFVD 20 (VQVAE), 13 (VAE) on Moments in Time (Table 2); 59.47 at 128 and 19.87 at 256 (Table 7).
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="imagenet-mit-joint"), replace(VAE, name="imagenet-mit-vae"))
