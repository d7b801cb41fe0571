"""The tokenizer ablations of arXiv 2406.09399, Tables 7 to 10: each differs from `released` in one thing.

Table 7, what is trained on and at which resolutions; rFID on ImageNet, rFVD at 128 / 256:

| run | regime | ImageNet | K600 | UCF | MiT | SSv2 |
|---|---|---|---|---|---|---|
| imagenet-image | image, fixed | 1.28 | | | | |
| regime-image-multi | image, multi | 1.44 | | | | |
| regime-video-fixed | video, fixed | | 211.51 / 48.89 | 214.83 / 118.52 | 211.07 / 64.47 | 162.53 / 22.82 |
| regime-video-multi | video, multi | | 194.51 / 54.89 | 211.83 / 114.52 | 238.07 / 26.47 | 193.35 / 38.82 |
| regime-joint-fixed | joint, fixed | 1.35 | 113.51 / 26.89 | 186.83 / 62.52 | 140.07 / 21.47 | 108.35 / 20.82 |
| imagenet-*-joint | joint, multi | 1.11 | 84.38 / 25.97 | 107.80 / 42.35 | 59.47 / 19.87 | 84.78 / 20.30 |

The paper does not say what these start from; here `regime-image-multi` and the video regimes start from random weights,
`regime-joint-fixed` from `imagenet-image`, like the last row.

Table 8, spatial attention of the encoder: plain instead of two plain blocks and then two of windows ("ttww").
Table 9, temporal attention: plain attention sees the future (and then has no window); convolutions over time stay
causal, as the paper changes the attention alone. Its stage 1 has images of one frame, but stage 2 inherits its
architecture.
Table 10, the order of the bottlenecks: stages 1 and 2 with Gaussian latents, stage 3 puts a quantizer in their place.
With images alone the discriminator of videos has nothing to see.
"""

from dataclasses import replace

from omnitok.recipes.recipe import Recipe, changed
from omnitok.recipes.released import GPUS, IMAGE, IMAGE_SETS, JOINT, VAE, VIDEO_SETS
from omnitok.training.config import TrainConfig


def _run(config: TrainConfig, table: int, expected: str, data: str = "iv", start: str = "") -> Recipe:
    """`data`: "i" for ImageNet, "v" for Kinetics-600."""
    sets = {"i": IMAGE_SETS["imagenet"], "v": VIDEO_SETS["k600"]}
    arguments = " ".join(f"--{'images' if key == 'i' else 'videos'} {sets[key][1]}" for key in data)
    arguments += f" --init runs/{start}" if start else ""
    text = "; ".join(sets[key][0] for key in data)
    return Recipe(config, f"ablation, Table {table}", text, "8 A100 80 GB, 4 to 5 days", expected, arguments, GPUS)


_PLAIN_TIME = "model.causal=false model.temporal_window=null"
_VIDEO_MULTI = changed(JOINT, "regime-video-multi", "init.inflate=false")
_FIXED = "data.resolutions=256"

# fmt: off
RECIPES = [
    _run(replace(IMAGE, name="regime-image-multi", data=JOINT.data), 7, "rFID 1.44 on ImageNet", "i"),
    _run(changed(_VIDEO_MULTI, "regime-video-fixed", _FIXED), 7,
         "rFVD 211.51 at 128, 48.89 at 256 on Kinetics-600", "v"),
    _run(_VIDEO_MULTI, 7, "rFVD 194.51 at 128, 54.89 at 256 on Kinetics-600", "v"),
    _run(changed(JOINT, "regime-joint-fixed", _FIXED), 7,
         "rFID 1.35 on ImageNet; rFVD 113.51 at 128, 26.89 at 256 on Kinetics-600", start="imagenet-image"),
    _run(changed(IMAGE, "attention-plain", "model.encoder_blocks=tttt"), 8,
         "rFID 1.55 on ImageNet, where windows give 1.28", "i"),
    _run(changed(IMAGE, "attention-not-causal-image", _PLAIN_TIME), 9, "no score of this stage", "i"),
    _run(changed(JOINT, "attention-not-causal", _PLAIN_TIME), 9,
         "rFVD 26.43 on Kinetics-600, where causal attention gives 25.97", start="attention-not-causal-image"),
    _run(replace(VAE, name="kl-first-image", data=IMAGE.data), 10, "no score of this stage", "i"),
    _run(replace(VAE, name="kl-first-joint", init=JOINT.init), 10,
         "rFID 0.89, rFVD 12.43, where VQ first gives 0.69 and 13.02", start="kl-first-image"),
    _run(replace(JOINT, name="kl-first-vq", init=VAE.init), 10,
         "rFID 2.05, rFVD 33.79, where VQ first gives 1.11 and 25.97", start="kl-first-joint"),
]
# fmt: on
