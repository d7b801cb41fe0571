"""The paper's three stages for the `base` tokenizer (51 M parameters), one set per published pair of data sets.

| stage | data | resolution | steps | starts from |
|---|---|---|---|---|
| `image` | images | 256 | 500 000 | random weights |
| `joint` | images and videos of 17 frames alternate | 128, 192, 256, 320 or 384, drawn per step | 500 000 | `image` |
| `vae` | as `joint` | as `joint` | 500 000 | `joint`, its quantizer replaced by Gaussian latents |

Horizontal flip is the only augmentation; frames are squashed to squares, as released. Hardware: 8 A100 80 GB, about two
weeks for all stages (arXiv 2406.09399); hours of single stages are shares of that, estimated. Batch sizes are global,
so any number of GPUs gives the same run: 32 processes of 8 images and 4 videos in the released code. None of these runs
was run to its end by us.

LPIPS needs `vgg16-397923af.pth` and `lpips_heads/vgg.pth` in the folder of OMNITOK_WEIGHTS, or in
`--set perceptual.weights_dir=DIR`.

The paper and its released code differ; taken here are, from the code: loss weights (L1 4, LPIPS 4, feature matching
4, GAN 0.01, commitment 0.25), the Adam of the discriminators (0.5, 0.9) and their learning rate of a tenth; from the
paper: warm-up to 1e-3 and cosine to 0, Adam (0.9, 0.99), 500 000 steps per stage, KL weight 1e-6.
"""

from dataclasses import replace

from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.presets import preset
from omnitok.recipes.recipe import Recipe
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
GPUS = 8

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
"""Stage 1: images at one resolution."""

JOINT = replace(
    IMAGE,
    name="joint",
    data=replace(IMAGE.data, resolutions=RESOLUTIONS),
    weights=IMAGE.weights | {"video_gan": 0.01},
    init=InitConfig(inflate=True),
)
"""Stage 2: images and videos at many resolutions."""

VAE = replace(
    JOINT,
    name="vae",
    model=replace(JOINT.model, bottleneck=KLConfig()),
    weights={name: weight for name, weight in JOINT.weights.items() if name != "commitment"} | {"kl": 1e-6},
    init=InitConfig(),
)
"""Stage 3: KL fine-tuning. The divergence is summed over a sample, as released (`kl_normalization=sample`)."""

IMAGE_SETS = {
    "imagenet": ("ImageNet-1k, 1 281 167 training images, a folder of classes", "IMAGENET/train"),
    "celebahq": ("CelebA-HQ, 28 000 of 30 000 images, a folder of PNG or JPEG", "CELEBAHQ/train"),
    "ffhq": ("FFHQ, 60 000 of 70 000 images, a folder of PNG", "FFHQ/train"),
}
"""Prefix of recipes -> what it is, and the folder in their commands."""

VIDEO_SETS = {
    "ucf": ("UCF-101, 9 537 training videos (split 1), a list `path<TAB>label`", "UCF101/train.txt"),
    "k600": ("Kinetics-600, about 390 000 training videos of 10 s, a folder of MP4", "K600/train"),
    "mit": ("Moments in Time, about 800 000 training videos of 3 s, a folder of MP4", "MIT/train"),
    "ssv2": ("Something-Something v2, 168 913 training videos, a folder of WebM", "SSV2/train"),
}

_NO_SCORE = "no score was published for this pair, only weights"
_SCORES = {
    "imagenet": ("rFID 1.28 on ImageNet validation at 256 x 256 (Table 7)",),
    "celebahq": ("rFID 1.93 on CelebA-HQ at 256 x 256 (Table 1)",),
    "ffhq": ("rFID 1.91 on FFHQ at 256 x 256 (Table 1)",),
    "imagenet-ucf": (
        "rFVD 42 on UCF-101 (Table 2); 107.80 at 128, 42.35 at 256 (Table 7)",
        "rFVD 23 on UCF-101 (Table 2)",
    ),
    "imagenet-k600": (
        "rFID 1.11 on ImageNet (Table 1); rFVD 25.97 on Kinetics-600 (Table 10), 84.38 at 128 (Table 7)",
        "rFID 0.69 on ImageNet (Table 1); rFVD 13.02 on Kinetics-600 (Table 10)",
    ),
    "imagenet-mit": (
        "rFVD 20 on Moments in Time (Table 2); 59.47 at 128, 19.87 at 256 (Table 7)",
        "rFVD 13 on Moments in Time (Table 2)",
    ),
    "imagenet-ssv2": (
        "rFVD 84.78 at 128, 20.30 at 256 on Something-Something v2 (Table 7)",
        "not reported for the VAE",
    ),
    **{f"{images}-{videos}": (_NO_SCORE, _NO_SCORE) for images in ("celebahq", "ffhq") for videos in ("ucf", "k600")},
}
"""Published pair -> scores of its joint tokenizer and of its VAE; for images alone, of stage 1."""


def _stage(config: TrainConfig, stage: int, images: str, videos: str | None, start: str, expected: str) -> Recipe:
    data, image_folder = IMAGE_SETS[images]
    arguments = f"--images {image_folder}"
    if videos is not None:
        data = f"{data}; {VIDEO_SETS[videos][0]}"
        arguments += f" --videos {VIDEO_SETS[videos][1]} --init runs/{start}"
    purpose = ("stage 1: image tokenizer", "stage 2: joint tokenizer, vector-quantized", "stage 3: joint VAE")[stage]
    days = (4, 5, 5)[stage]
    return Recipe(config, purpose, data, f"8 A100 80 GB, about {days} days", expected, arguments, GPUS)


RECIPES = [
    _stage(IMAGE, 0, "imagenet", None, "", "rFID 1.28 on ImageNet (Table 7), as imagenet-image"),
    _stage(JOINT, 1, "imagenet", "k600", "image", "rFID 1.11 on ImageNet (Table 1), as imagenet-k600-joint"),
    _stage(VAE, 2, "imagenet", "k600", "joint", "rFID 0.69 on ImageNet (Table 1), as imagenet-k600-vae"),
]
for _pair, _expected in _SCORES.items():
    _images, _, _videos = _pair.partition("-")
    if not _videos:
        RECIPES.append(_stage(replace(IMAGE, name=f"{_pair}-image"), 0, _images, None, "", *_expected))
        continue
    _joint, _vae = (replace(config, name=f"{_pair}-{config.name}") for config in (JOINT, VAE))
    RECIPES.append(_stage(_joint, 1, _images, _videos, f"{_images}-image", _expected[0]))
    RECIPES.append(_stage(_vae, 2, _images, _videos, f"{_pair}-joint", _expected[1]))
