"""Pictures of FFHQ alone (Table 1). It is also stage 1 of the joint runs with these pictures.

Data: FFHQ, 60 000 of 70 000 pictures, a folder of PNG.
Hardware and hours: 8 A100 80 GB, about 4 days; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train ffhq-image --images FFHQ/train --out runs/ffhq

Expected: rFID 1.91 on FFHQ at 256 x 256 (Table 1).
"""

from dataclasses import replace

from omnitok.recipes.base import IMAGE

RUNS = (replace(IMAGE, name="ffhq-image"),)
