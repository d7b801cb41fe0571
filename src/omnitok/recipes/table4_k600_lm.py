"""Table 4: Kinetics-600 frame prediction by a language model over 5120 tokens: 5 frames given, 12 predicted.

| run | FVD |
|---|---|
| k600-lm-227m | 34.2 |
| k600-lm-650m | 32.9 |

Data: Kinetics-600 training clips, as codes of the tokenizer of `imagenet-k600-joint`. Hardware and hours as in
`generators`. Labels are not used; before the codes is the start token alone, as released. Training predicts all frames,
so any number of them can be given.

    omnitok tokenize K600/train --labels none --resolution 256 --frames 17 \\
        --model runs/imagenet-k600/model -o K600-CODES
    torchrun --nproc-per-node 8 -m omnitok train k600-lm-227m --shards K600-CODES --out runs/k600-lm-227m
    torchrun --nproc-per-node 8 -m omnitok train k600-lm-650m --shards K600-CODES --out runs/k600-lm-650m
    omnitok generate runs/k600-lm-650m/model --video CLIP --given 5 --frames 17 -o SAMPLES

Expected: the FVD of the table with top-k 2048, top-p 0.9; rFVD of the tokenizer 25.97. The authors' condition has seen
the future (see docs/reproduction.md), ours has not.
"""

from dataclasses import replace

from omnitok.models.sampling import TokenSampling
from omnitok.recipes.generators import CLIPS, LARGE, MEDIUM

_SAMPLING = TokenSampling(top_k=2048, top_p=0.9)

RUNS = tuple(
    replace(
        CLIPS,
        name=f"k600-lm-{size}",
        class_conditional=False,
        label_dropout=0.0,
        model=replace(model, prefix="start", null_class=False),
        sampling=_SAMPLING,
    )
    for size, model in (("227m", MEDIUM), ("650m", LARGE))
)
