"""Table 4: class-conditional UCF-101 by a language model over 5120 tokens (17 frames of 256 x 256).

| run | FVD |
|---|---|
| ucf-lm-227m | 314 |
| ucf-lm-650m | 191 |

Data: UCF-101, 9 537 training clips (split 1), as codes of the tokenizer of `imagenet-ucf-joint`. Hardware and hours as
in `generators`. The tokens before the codes are start, class, as released.

    omnitok tokenize UCF101/train --labels folders --resolution 256 --frames 17 --views 4 \\
        --model runs/imagenet-ucf/model -o UCF-CODES
    torchrun --nproc-per-node 8 -m omnitok train ucf-lm-227m --shards UCF-CODES --out runs/ucf-lm-227m
    torchrun --nproc-per-node 8 -m omnitok train ucf-lm-650m --shards UCF-CODES --out runs/ucf-lm-650m
    torchrun --nproc-per-node 8 -m omnitok generate runs/ucf-lm-650m/model --labels all --count 21 --frames 17 \\
        -o SAMPLES

Expected: the FVD of the table, over 2048 samples with top-k 4096, top-p 0.9 and guidance 1.5; rFVD of the tokenizer
42.
"""

from dataclasses import replace

from omnitok.models.sampling import TokenSampling
from omnitok.recipes.generators import CLIPS, LARGE, MEDIUM

_SAMPLING = TokenSampling(guidance_scale=1.5, top_k=4096, top_p=0.9)

RUNS = tuple(
    replace(
        CLIPS, name=f"ucf-lm-{size}", model=replace(model, prefix="start class", num_classes=101), sampling=_SAMPLING
    )
    for size, model in (("227m", MEDIUM), ("650m", LARGE))
)
