"""Table 8: spatial attention of the encoder, rFID on ImageNet: plain 1.55, window 1.28.

`imagenet-image` is the row with windows ("ttww": two plain blocks, then two of windows). Data, hardware and hours as
there.

    torchrun --nproc-per-node 8 -m omnitok train attention-plain --images IMAGENET/train --out runs/plain
"""

from dataclasses import replace

from omnitok.recipes.base import IMAGE

PLAIN = replace(IMAGE, name="attention-plain", model=replace(IMAGE.model, encoder_blocks="tttt"))
"""Expected: rFID 1.55."""

RUNS = (PLAIN,)
