"""Table 3: class-conditional ImageNet 256 by a language model over 1024 tokens.

| run | FID | IS |
|---|---|---|
| imagenet-lm-227m | 10.13 | 94.5 |
| imagenet-lm-650m | 7.45 | 146.7 |

Data: ImageNet-1k, 1 281 167 training pictures, as codes of the tokenizer of `imagenet-k600-joint` or
`imagenet-ucf-joint`. Hardware and hours as in `generators`. The tokens before the codes are class, start, as released.

    omnitok tokenize IMAGENET/train --labels folders --resolution 256 --model runs/imagenet-k600/model -o IMAGENET-CODES
    torchrun --nproc-per-node 8 -m omnitok train imagenet-lm-227m --shards IMAGENET-CODES --out runs/imagenet-lm-227m
    torchrun --nproc-per-node 8 -m omnitok train imagenet-lm-650m --shards IMAGENET-CODES --out runs/imagenet-lm-650m
    torchrun --nproc-per-node 8 -m omnitok generate runs/imagenet-lm-650m/model --labels all --count 50 --npz -o SAMPLES

Expected: the FID of the table, over 50 000 samples with top-k 2048, top-p 1 and guidance 2.5; rFID of the tokenizer
1.11.
"""

from dataclasses import replace

from omnitok.models.sampling import TokenSampling
from omnitok.recipes.generators import LARGE, MEDIUM, PICTURES

_SAMPLING = TokenSampling(guidance_scale=2.5, top_k=2048, top_p=1.0)

RUNS = tuple(
    replace(
        PICTURES,
        name=f"imagenet-lm-{size}",
        model=replace(model, prefix="class start", num_classes=1000),
        sampling=_SAMPLING,
    )
    for size, model in (("227m", MEDIUM), ("650m", LARGE))
)
