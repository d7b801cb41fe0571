"""ImageNet and UCF-101: the joint tokenizer and its VAE.

Data: ImageNet-1k, 1 281 167 training pictures, as a folder of classes; UCF-101, 9 537 training clips (split 1), a
list `path<TAB>label`. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train imagenet-ucf-joint --images IMAGENET/train --videos UCF101/train.txt \\
        --init runs/imagenet/model --out runs/imagenet-ucf
    torchrun --nproc-per-node 8 -m omnitok train imagenet-ucf-vae --images IMAGENET/train --videos UCF101/train.txt \\
        --init runs/imagenet-ucf/model --out runs/imagenet-ucf-vae

Expected: rFVD 42 (VQVAE), 23 (VAE) on UCF-101 (Table 2); 107.80 at 128 and 42.35 at 256 (Table 7).
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="imagenet-ucf-joint"), replace(VAE, name="imagenet-ucf-vae"))
