"""Table 7: what is trained on (pictures, clips, both), at which resolutions; rFID on ImageNet, rFVD at 128 / 256.

| run | regime | ImageNet | K600 | UCF | MiT | SSv2 |
|---|---|---|---|---|---|---|
| imagenet-image | image, fixed | 1.28 | | | | |
| regime-image-multi | image, multi | 1.44 | | | | |
| regime-video-fixed | video, fixed | | 211.51 / 48.89 | 214.83 / 118.52 | 211.07 / 64.47 | 162.53 / 22.82 |
| regime-video-multi | video, multi | | 194.51 / 54.89 | 211.83 / 114.52 | 238.07 / 26.47 | 193.35 / 38.82 |
| regime-joint-fixed | joint, fixed | 1.35 | 113.51 / 26.89 | 186.83 / 62.52 | 140.07 / 21.47 | 108.35 / 20.82 |
| imagenet-*-joint | joint, multi | 1.11 | 84.38 / 25.97 | 107.80 / 42.35 | 59.47 / 19.87 | 84.78 / 20.30 |

The paper does not say what the ablations start from; here `regime-image-multi` and the video regimes start from random
weights, `regime-joint-fixed` from `imagenet-image`, like the last row. Data as in `imagenet_k600` and its like,
hardware and hours as in `base`, a stage each.

    torchrun --nproc-per-node 8 -m omnitok train regime-image-multi --images IMAGENET/train --out runs/image-multi
    torchrun --nproc-per-node 8 -m omnitok train regime-video-fixed --videos K600/train --out runs/video-fixed
    torchrun --nproc-per-node 8 -m omnitok train regime-joint-fixed --images IMAGENET/train --videos K600/train \\
        --init runs/imagenet/model --out runs/joint-fixed
"""

from dataclasses import replace

from omnitok.recipes.base import IMAGE, JOINT, RESOLUTIONS
from omnitok.training.config import InitConfig

IMAGE_MULTI = replace(IMAGE, name="regime-image-multi", data=replace(IMAGE.data, resolutions=RESOLUTIONS))
VIDEO_MULTI = replace(JOINT, name="regime-video-multi", init=InitConfig())
VIDEO_FIXED = replace(VIDEO_MULTI, name="regime-video-fixed", data=replace(JOINT.data, resolutions=(256,)))
JOINT_FIXED = replace(JOINT, name="regime-joint-fixed", data=replace(JOINT.data, resolutions=(256,)))

RUNS = (IMAGE_MULTI, VIDEO_FIXED, VIDEO_MULTI, JOINT_FIXED)
