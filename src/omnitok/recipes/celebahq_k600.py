"""CelebA-HQ and Kinetics-600: the joint tokenizer and its VAE.

Data: CelebA-HQ, 28 000 of 30 000 pictures, a folder of PNG or JPEG; Kinetics-600, about 390 000 training clips of 10
s, a folder of MP4. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train celebahq-k600-joint --images CELEBAHQ/train --videos K600/train \\
        --init runs/celebahq/model --out runs/celebahq-k600
    torchrun --nproc-per-node 8 -m omnitok train celebahq-k600-vae --images CELEBAHQ/train --videos K600/train \\
        --init runs/celebahq-k600/model --out runs/celebahq-k600-vae

Expected: weights of this pair were released, but no score was published for it.
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="celebahq-k600-joint"), replace(VAE, name="celebahq-k600-vae"))
