"""Table 9: temporal attention, rFVD on Kinetics-600: plain 26.43, causal 25.97.

`imagenet-k600-joint` is the causal row. Plain attention sees the future (and then has no window): convolutions over
time stay causal, as the paper changes the attention alone. Data, hardware and hours as there.

    torchrun --nproc-per-node 8 -m omnitok train attention-not-causal-image --images IMAGENET/train --out
    runs/not-causal-1 torchrun --nproc-per-node 8 -m omnitok train attention-not-causal --images IMAGENET/train
    --videos K600/train \\
        --init runs/not-causal-1/model --out runs/not-causal
"""

from dataclasses import replace

from omnitok.recipes.base import IMAGE, JOINT

_MODEL = replace(IMAGE.model, causal=False, temporal_window=None)

NOT_CAUSAL_IMAGE = replace(IMAGE, name="attention-not-causal-image", model=_MODEL)
"""Stage 1 of the row: a picture has one frame, but the architecture is inherited by stage 2."""

NOT_CAUSAL = replace(JOINT, name="attention-not-causal", model=_MODEL)
"""Expected: rFVD 26.43."""

RUNS = (NOT_CAUSAL_IMAGE, NOT_CAUSAL)
