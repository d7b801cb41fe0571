"""Pictures of ImageNet alone (Table 7). It is also stage 1 of the joint runs with these pictures.

Data: ImageNet-1k, 1 281 167 training pictures, as a folder of classes.
Hardware and hours: 8 A100 80 GB, about 4 days; see `base`.

    torchrun --nproc-per-node 8 -m omnitok train imagenet-image --images IMAGENET/train --out runs/imagenet

Expected: rFID 1.28 on ImageNet validation at 256 x 256 (Table 7: image, fixed resolution).
"""

from dataclasses import replace

from omnitok.recipes.base import IMAGE

RUNS = (replace(IMAGE, name="imagenet-image"),)
