"""Tiny tokenizers for generators of 64 x 64 pixels, trained to keep what a network sees: latents, or 1024 codes.

Data: a folder of pictures and a folder of clips of at least 17 frames, those that the generator will learn included.
Both compare MobileNetV2 features of frames enlarged to 160 pixels, beside the logarithm of the squared error; the first
also holds neighbouring frames together.

Hardware: one CPU core in float32; hours: about 0.8 (`tiny-vae-perceptual`) and 0.7 (`tiny-vq-perceptual`).

    omnitok train tiny-vae-perceptual --images PICTURES --videos CLIPS --init omnitok-tiny-vae --out runs/vae-perceptual
    omnitok train tiny-vq-perceptual --images PICTURES --videos CLIPS --init omnitok-tiny-vae --out runs/vq-perceptual

The first trains the decoder alone, so latents stay those of `--init`. The second puts a quantizer in the place of the
Gaussian (the paper's order is the other way round; Table 10 has both).
Scores, as accuracy of a classifier on reconstructions of 64 x 64 pixels beside dB, are in the models' cards.
"""

from dataclasses import replace

from omnitok.models.bottlenecks import VQConfig
from omnitok.recipes.tiny import TINY_JOINT, TINY_VAE
from omnitok.training.config import InitConfig, PerceptualConfig

_PERCEPTUAL = PerceptualConfig(network="mobilenet", resolution=160)

TINY_VAE_PERCEPTUAL = replace(
    TINY_VAE,
    name="tiny-vae-perceptual",
    data=replace(
        TINY_VAE.data,
        resolutions=(64,),
        image_batch=10,
        video_batch=4,
        video_share=0.7,
        image_policy="center_crop",
        ken_burns=0.2,
        workers=0,
    ),
    optimizer=replace(TINY_VAE.optimizer, lr=1e-3),
    weights={"log_l2": 0.25, "perceptual": 5.0, "temporal": 1.0, "temporal_perceptual": 2.0},
    perceptual=_PERCEPTUAL,
    steps=2500,
    init=InitConfig(model="omnitok-tiny-vae", freeze_encoder=True),
)
"""The decoder alone; seven steps in ten are of clips, which jump where the frames of a token end."""

TINY_VQ_PERCEPTUAL = replace(
    TINY_JOINT,
    name="tiny-vq-perceptual",
    model=replace(TINY_JOINT.model, bottleneck=VQConfig(codebook_size=1024)),
    data=replace(
        TINY_JOINT.data, resolutions=(64, 96), image_batch=10, video_batch=3, video_share=0.35, ken_burns=0.2, workers=0
    ),
    optimizer=replace(TINY_JOINT.optimizer, lr=1e-3),
    weights={"log_l2": 0.25, "commitment": 1.0, "perceptual": 4.0},
    perceptual=_PERCEPTUAL,
    steps=2300,
    init=InitConfig(model="omnitok-tiny-vae"),
)
"""1024 codes, which a language model learns from few pictures more easily than 8192."""

RUNS = (TINY_VAE_PERCEPTUAL, TINY_VQ_PERCEPTUAL)
