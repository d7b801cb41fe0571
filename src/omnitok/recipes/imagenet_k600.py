"""ImageNet and Kinetics-600: the joint tokenizer and its VAE.

Data: ImageNet-1k, 1 281 167 training pictures, as a folder of classes; Kinetics-600, about 390 000 training clips of
10 s, a folder of MP4. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train imagenet-k600-joint --images IMAGENET/train --videos K600/train \\
        --init runs/imagenet/model --out runs/imagenet-k600
    torchrun --nproc-per-node 8 -m omnitok train imagenet-k600-vae --images IMAGENET/train --videos K600/train \\
        --init runs/imagenet-k600/model --out runs/imagenet-k600-vae

Expected: rFID 1.11 (VQVAE), 0.69 (VAE) on ImageNet (Table 1); rFVD 25.97, 13.02 on Kinetics-600 (Table 10), 84.38 at
128 (Table 7).
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="imagenet-k600-joint"), replace(VAE, name="imagenet-k600-vae"))
