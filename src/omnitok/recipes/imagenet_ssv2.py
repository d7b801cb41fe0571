"""ImageNet and Something-Something v2: the joint tokenizer and its VAE.

Data: ImageNet-1k, 1 281 167 training pictures, as a folder of classes; Something-Something v2, 168 913 training
clips, a folder of WebM. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train imagenet-ssv2-joint --images IMAGENET/train --videos SSV2/train \\
        --init runs/imagenet/model --out runs/imagenet-ssv2
    torchrun --nproc-per-node 8 -m omnitok train imagenet-ssv2-vae --images IMAGENET/train --videos SSV2/train \\
        --init runs/imagenet-ssv2/model --out runs/imagenet-ssv2-vae

Expected: rFVD 84.78 at 128 and 20.30 at 256 on Something-Something v2 (Table 7; the VAE is not reported).
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="imagenet-ssv2-joint"), replace(VAE, name="imagenet-ssv2-vae"))
