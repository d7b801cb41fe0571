"""CelebA-HQ and UCF-101: the joint tokenizer and its VAE.

Data: CelebA-HQ, 28 000 of 30 000 pictures, a folder of PNG or JPEG; UCF-101, 9 537 training clips (split 1), a list
`path<TAB>label`. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train celebahq-ucf-joint --images CELEBAHQ/train --videos UCF101/train.txt \\
        --init runs/celebahq/model --out runs/celebahq-ucf
    torchrun --nproc-per-node 8 -m omnitok train celebahq-ucf-vae --images CELEBAHQ/train --videos UCF101/train.txt \\
        --init runs/celebahq-ucf/model --out runs/celebahq-ucf-vae

Expected: weights of this pair were released, but no score was published for it.
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="celebahq-ucf-joint"), replace(VAE, name="celebahq-ucf-vae"))
