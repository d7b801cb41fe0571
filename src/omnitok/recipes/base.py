"""The paper's three stages for the `base` tokenizer (51 M parameters): what the published runs have in common.

| stage | data | resolution | steps | starts from |
|---|---|---|---|---|
| `image` | pictures | 256 | 500 000 | random weights |
| `joint` | pictures and clips of 17 frames alternate | 128, 192, 256, 320 or 384, drawn per step | 500 000 | `image` |
| `vae` | as `joint` | as `joint` | 500 000 | `joint`, its quantizer replaced by Gaussian latents |

Data: `--images` and `--videos` take a folder, a list in the released format (`path<TAB>label`), a CSV or JSONL
manifest, or WebDataset tars. Horizontal flip is the only augmentation; frames are squashed to squares, as released.

Hardware: 8 A100 80 GB, about two weeks for all stages (the paper); hours of single stages are shares of that,
estimated. The batch sizes are global, so any number of GPUs gives the same run: 32 processes of 8 pictures and 4
clips in the released code. Not yet run to the end by us.

    torchrun --nproc-per-node 8 -m omnitok train image --images IMAGENET/train --out runs/image
    torchrun --nproc-per-node 8 -m omnitok train joint --images IMAGENET/train --videos K600/train \\
        --init runs/image/model --out runs/joint
    torchrun --nproc-per-node 8 -m omnitok train vae --images IMAGENET/train --videos K600/train \\
        --init runs/joint/model --out runs/vae

LPIPS needs `vgg16-397923af.pth` and `lpips_heads/vgg.pth` in the folder of OMNITOK_WEIGHTS, or in
`--set perceptual.weights_dir=DIR`.

The paper and its released code differ; taken here are, from the code: loss weights (L1 4, LPIPS 4, feature matching
4, GAN 0.01, commitment 0.25), the Adam of the discriminators (0.5, 0.9) and their learning rate of a tenth; from the
paper: warm-up to 1e-3 and cosine to 0, Adam (0.9, 0.99), 500 000 steps a stage, KL weight 1e-6.
"""

from dataclasses import replace

from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.presets import preset
from omnitok.training.config import (
    AdversarialConfig,
    DataConfig,
    EngineConfig,
    InitConfig,
    LogConfig,
    OptimizerConfig,
    TrainConfig,
)

RESOLUTIONS = (128, 192, 256, 320, 384)

IMAGE = TrainConfig(
    name="image",
    model=preset("base"),
    data=DataConfig(
        frames=17,
        resolutions=(256,),
        image_batch=256,
        video_batch=128,
        image_policy="squash",
        video_policy="squash",
        workers=8,
    ),
    optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, warmup_steps=10_000),
    weights={"l1": 4.0, "perceptual": 4.0, "image_gan": 0.01, "feature_matching": 4.0, "commitment": 0.25},
    adversarial=AdversarialConfig(video=DiscriminatorConfig(normalize_logits=True)),
    engine=EngineConfig(activation_checkpointing=True),
    log=LogConfig(every=100, images_every=5000, validate_every=25_000),
    steps=500_000,
    checkpoint_every=5000,
)
"""Stage 1: pictures at one resolution."""

JOINT = replace(
    IMAGE,
    name="joint",
    data=replace(IMAGE.data, resolutions=RESOLUTIONS),
    weights=IMAGE.weights | {"video_gan": 0.01},
    init=InitConfig(inflate=True),
)
"""Stage 2: pictures and clips at many resolutions."""

VAE = replace(
    JOINT,
    name="vae",
    model=replace(JOINT.model, bottleneck=KLConfig()),
    weights={name: weight for name, weight in JOINT.weights.items() if name != "commitment"} | {"kl": 1e-6},
    init=InitConfig(),
)
"""Stage 3: KL fine-tuning. The divergence is summed over a sample, as released (`kl_normalization=sample`)."""

STAGES = (IMAGE, JOINT, VAE)
