"""A `tiny` tokenizer with finite scalar quantization (Mentzer et al., 2023) in place of a learnt codebook, on a CPU.

Data: as of `tiny-joint`. Hardware: one CPU core in float32; hours: as of `tiny-joint`, about 0.9; expected:
no score was published for it, and it was not run to its end yet. 15 360 codes, so 13.9 bits per token beside the 13
of `tiny-joint`.

    omnitok train tiny-fsq --images PICTURES --videos CLIPS --out runs/fsq
"""

from dataclasses import replace

from omnitok.models.bottlenecks import FSQConfig
from omnitok.recipes.tiny import TINY_JOINT
from omnitok.training.config import InitConfig

TINY_FSQ = replace(
    TINY_JOINT,
    name="tiny-fsq",
    model=replace(TINY_JOINT.model, bottleneck=FSQConfig(levels=(8, 8, 8, 6, 5))),
    weights={"log_l2": 0.25},
    init=InitConfig(),
)
"""From random weights: there is no codebook that has to wait for features."""

RUNS = (TINY_FSQ,)
