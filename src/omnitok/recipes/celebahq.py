"""Pictures of CelebA-HQ alone (Table 1). It is also stage 1 of the joint runs with these pictures.

Data: CelebA-HQ, 28 000 of 30 000 pictures, a folder of PNG or JPEG.
Hardware and hours: 8 A100 80 GB, about 4 days; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train celebahq-image --images CELEBAHQ/train --out runs/celebahq

Expected: rFID 1.93 on CelebA-HQ at 256 x 256 (Table 1).
"""

from dataclasses import replace

from omnitok.recipes.base import IMAGE

RUNS = (replace(IMAGE, name="celebahq-image"),)
