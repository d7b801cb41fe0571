"""FFHQ and UCF-101: the joint tokenizer and its VAE.

Data: FFHQ, 60 000 of 70 000 pictures, a folder of PNG; UCF-101, 9 537 training clips (split 1), a list
`path<TAB>label`. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train ffhq-ucf-joint --images FFHQ/train --videos UCF101/train.txt \\
        --init runs/ffhq/model --out runs/ffhq-ucf
    torchrun --nproc-per-node 8 -m omnitok train ffhq-ucf-vae --images FFHQ/train --videos UCF101/train.txt \\
        --init runs/ffhq-ucf/model --out runs/ffhq-ucf-vae

Expected: weights of this pair were released, but no score was published for it.
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="ffhq-ucf-joint"), replace(VAE, name="ffhq-ucf-vae"))
