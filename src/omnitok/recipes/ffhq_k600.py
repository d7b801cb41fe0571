"""FFHQ and Kinetics-600: the joint tokenizer and its VAE.

Data: FFHQ, 60 000 of 70 000 pictures, a folder of PNG; Kinetics-600, about 390 000 training clips of 10 s, a folder
of MP4. Hardware and hours: 8 A100 80 GB, about 5 days a stage; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train ffhq-k600-joint --images FFHQ/train --videos K600/train \\
        --init runs/ffhq/model --out runs/ffhq-k600
    torchrun --nproc-per-node 8 -m omnitok train ffhq-k600-vae --images FFHQ/train --videos K600/train \\
        --init runs/ffhq-k600/model --out runs/ffhq-k600-vae

Expected: weights of this pair were released, but no score was published for it.
"""

from dataclasses import replace

from omnitok.recipes.base import JOINT, VAE

RUNS = (replace(JOINT, name="ffhq-k600-joint"), replace(VAE, name="ffhq-k600-vae"))
