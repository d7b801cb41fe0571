"""Runs for one CPU core: tokenizers in the paper's three stages, tokenizers that keep what a network sees, generators.

Data: a folder of images and a folder of videos of at least 17 frames, short sides of 128 pixels or more;
`balance_sources` evens out videos whose file names share their beginning. Generators take labelled images and videos, a
folder per class, as tokens of 64 x 64 pixels (a grid of 8 x 8, 5 latent frames for videos); `--crop-range` keeps crops
nearly whole, so that samples are framed as images are:

    TOKENIZE="omnitok tokenize --labels folders --resolution 64 --views 8 --crop-range 1.15"
    $TOKENIZE IMAGES --model omnitok-tiny-vq-perceptual -o runs/codes-images
    $TOKENIZE VIDEOS --model omnitok-tiny-vq-perceptual --frames 17 -o runs/codes-videos
    $TOKENIZE IMAGES --model omnitok-tiny-vae-perceptual -o runs/latents-images
    $TOKENIZE VIDEOS --model omnitok-tiny-vae-perceptual --frames 17 -o runs/latents-videos

The models that ship were trained by chains of these runs: see `shipped`.
"""

from dataclasses import replace

from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
from omnitok.models.conditions import TextCondition
from omnitok.models.diffusion_transformer import DiffusionTransformerConfig
from omnitok.models.presets import preset
from omnitok.models.sampling import DiffusionSampling, MaskedSampling, TokenSampling
from omnitok.recipes.recipe import Recipe, changed
from omnitok.training.config import (
    AnyConfig,
    DataConfig,
    DiffusionTrainConfig,
    EngineConfig,
    LanguageModelTrainConfig,
    LogConfig,
    MaskedModelTrainConfig,
    OptimizerConfig,
    TrainConfig,
)

TINY_IMAGE = TrainConfig(
    name="tiny-image",
    model=replace(preset("tiny"), width=192, heads=6),  # 2.6 M parameters: more steps in the same time
    data=DataConfig(resolutions=(128,), image_batch=8),
    optimizer=OptimizerConfig(name="muon", lr=1.5e-3, matrix_lr_factor=2.5, warmup_steps=50, ema_decay=0.995),
    weights={"log_l2": 0.25, "commitment": 2.0},
    steps=1100,
    quantizer_warmup_steps=300,
    limit_room=1.5,
)
"""Stage 1: images, 128 x 128."""

TINY_JOINT = changed(
    TINY_IMAGE,
    "tiny-joint",
    "data.resolutions=96,128 data.video_batch=2 data.video_share=0.5 data.frames=17 data.balance_sources=true "
    "data.ken_burns=0.4 optimizer.ema_decay=0.998 steps=3000 quantizer_warmup_steps=0 init.inflate=true",
)
"""Stage 2, from stage 1: images and videos of 17 frames, two resolutions, half of the steps of videos."""

TINY_VAE = changed(
    TINY_JOINT,
    "tiny-vae",
    "model.bottleneck=kl data.video_share=0.4 weights={log_l2: 0.25, kl: 0.02} kl_normalization=pixel steps=2300 "
    "init.inflate=false",
)
"""Stage 3, from stage 2: Gaussian latents in place of codes.

Near the end `log_l2` pulls as `l2` with a weight of 50 would. The KL divergence is per pixel value; its share of the
squared error that the noise may cause is a few thousandths, so it keeps latents in order at almost no cost in PSNR.
"""

TINY_QUANTIZED = {
    kind: changed(
        TINY_JOINT,
        f"tiny-{kind}",
        f"model.bottleneck={kind} model.bottleneck.{shape} weights={{log_l2: 0.25, {weights}}} init.inflate=false",
    )
    for kind, shape, weights in (
        ("fsq", "levels=8,8,8,6,5", ""),  # 13.9 bits
        ("lfq", "bits=13 entropy_temperature=1", "entropy: 0.1, commitment: 0.25"),
        ("bsq", "bits=13 entropy_temperature=0.1", "entropy: 0.02"),
        ("rvq", "codebook_sizes=128,64", "commitment: 2.0"),
        ("pvq", "codebook_sizes=128,64", "commitment: 2.0"),
        ("simvq", "codebook_size=8192", "commitment: 1.0"),
    )
}
"""Other bottlenecks in place of the codebook, of 13 bits per token, by their types. From random weights."""

TINY_RGBA = changed(
    TINY_JOINT,
    "tiny-rgba",
    "model.channels=4 data.alpha_masks=0.8 steps=1500 init.model=omnitok-tiny-vq init.inflate=false",
)
"""Colour and alpha. Four opaque samples in five get a mask as alpha: drawn discs and polygons, moving over videos."""

TINY_BANDS = changed(TINY_IMAGE, "tiny-bands", "model.channels=5 quantizer_warmup_steps=0 init.model=omnitok-tiny-vq")
"""Images of five bands; the first three begin as the red, green and blue of a model of colour, so order them so."""

TINY_VAE_PERCEPTUAL = changed(
    TINY_VAE,
    "tiny-vae-perceptual",
    "data.resolutions=64 data.image_batch=10 data.video_batch=4 data.video_share=0.7 data.image_policy=center_crop "
    "data.ken_burns=0.2 data.workers=0 optimizer.lr=1e-3 steps=2500 "
    "weights={log_l2: 0.25, perceptual: 5.0, temporal: 1.0, temporal_perceptual: 2.0} "
    "perceptual.network=mobilenet perceptual.resolution=160 init.model=omnitok-tiny-vae init.freeze_encoder=true",
)
"""MobileNetV2 features of frames enlarged to 160 pixels are compared beside the logarithm of the squared error, and
neighbouring frames are held together. The decoder alone, so latents stay those of `init.model`; seven steps in ten are
of videos, which jump where the frames of a token end."""

TINY_VQ_PERCEPTUAL = changed(
    TINY_JOINT,
    "tiny-vq-perceptual",
    "model.bottleneck.codebook_size=1024 data.resolutions=64,96 data.image_batch=10 data.video_batch=3 "
    "data.video_share=0.35 data.ken_burns=0.2 data.workers=0 optimizer.lr=1e-3 steps=2300 "
    "weights={log_l2: 0.25, commitment: 1.0, perceptual: 4.0} "
    "perceptual.network=mobilenet perceptual.resolution=160 init.model=omnitok-tiny-vae init.inflate=false",
)
"""1024 codes, which a language model learns from few images more easily than 8192. The quantizer takes the place of the
Gaussian (the paper's order is the other way round; Table 10 has both)."""

TINY_LM = LanguageModelTrainConfig(
    name="tiny-lm",
    model=LanguageModelConfig(width=256, depth=6, heads=8, dropout=0.12),
    start_from_codebook=True,
    data=DataConfig(
        resolutions=(64,),
        image_batch=24,
        video_batch=5,
        video_share=0.3,
        image_policy="center_crop",
        video_policy="center_crop",
        workers=0,
    ),
    optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=100, ema_decay=0.99),
    engine=EngineConfig(precision="float32"),
    log=LogConfig(every=20, images_every=0, validate_every=250),
    steps=2600,
    checkpoint_every=250,
    sampling=TokenSampling(guidance_scale=3.0, top_k=100),
)
"""5 M parameters over 1024 codes; codes of images and videos in one vocabulary."""

TINY_MASK = MaskedModelTrainConfig(
    name="tiny-mask",
    model=MaskedModelConfig(width=256, depth=6, heads=8, dropout=0.1),
    start_from_codebook=True,
    data=TINY_LM.data,
    optimizer=TINY_LM.optimizer,
    engine=TINY_LM.engine,
    log=TINY_LM.log,
    steps=2600,
    checkpoint_every=250,
    sampling=MaskedSampling(guidance_scale=3.0, steps=12),
)
"""The language model's size, data and steps; all tasks."""

TINY_TEXT = replace(TINY_MASK, name="tiny-text", model=replace(TINY_MASK.model, condition=TextCondition()))
"""The masked model with a text, read byte by byte, in place of a class; begins with the masked model."""

TINY_DIT = DiffusionTrainConfig(
    name="tiny-dit",
    model=DiffusionTransformerConfig(
        patch_size=1, width=192, depth=8, heads=6, temporal=True, objective="flow", learn_sigma=False
    ),
    data=replace(TINY_LM.data, image_batch=32, video_batch=6, video_share=0.35),
    optimizer=OptimizerConfig(
        name="muon", lr=1.5e-3, matrix_lr_factor=2.5, weight_decay=0.0, warmup_steps=50, ema_decay=0.998
    ),
    engine=EngineConfig(precision="float32"),
    log=LogConfig(every=20, images_every=0, validate_every=250),
    steps=3000,
    checkpoint_every=250,
    sampling=DiffusionSampling(guidance_scale=4.0, video_guidance_scale=1.5, steps=25, sampler="euler"),
)
"""Flow matching on 8 channels; the odd blocks attend over time."""

_OWN, _BOTH = "images and videos of your own", "--images IMAGES --videos VIDEOS"
_LATER = f"{_OWN}, those that a generator will learn included"
_ACCURACY = "accuracies of a classifier are in the card of {}; no score was published for models of this size"


def _run(config: AnyConfig, hours: float, purpose: str, data: str, expected: str, arguments: str) -> Recipe:
    return Recipe(config, purpose, data, f"one CPU core in float32, about {hours} h", expected, arguments)


# fmt: off
RECIPES = [
    _run(TINY_IMAGE, 0.25, "stage 1: image tokenizer", "images of your own",
         "25 dB on images of 128 pixels", "--images IMAGES"),
    _run(TINY_JOINT, 0.9, "stage 2: joint tokenizer, vector-quantized", _OWN,
         "25.2 dB on images at 256, 24.0 dB on videos at 128 pixels, both held out", f"{_BOTH} --init runs/tiny-image"),
    _run(TINY_VAE, 0.65, "stage 3: joint VAE", _OWN,
         "27.6 dB and 25.4 dB, after 700 steps of stage 2", f"{_BOTH} --init runs/tiny-joint"),
    *(_run(config, 0.9, f"joint tokenizer with {kind.upper()}", _OWN,
           "no score yet: it has not been run to its end", _BOTH) for kind, config in TINY_QUANTIZED.items()),
    _run(TINY_RGBA, 0.5, "joint tokenizer of colour with alpha", _OWN,
         "no score yet: it has not been run to its end", _BOTH),
    _run(TINY_BANDS, 0.25, "image tokenizer of five bands", ".npy (h, w, 5) or TIFF of your own",
         "no score yet: it has not been run to its end", "--images IMAGES --ranges 0:10000"),
    _run(TINY_VAE_PERCEPTUAL, 0.8, "VAE for generators of 64 pixels", _LATER,
         f"27.2 dB, 25.0 dB; {_ACCURACY.format('omnitok-tiny-vae-perceptual')}", _BOTH),
    _run(TINY_VQ_PERCEPTUAL, 0.7, "1024 codes for generators of 64 pixels", _LATER,
         _ACCURACY.format("omnitok-tiny-vq-perceptual"), _BOTH),
    _run(TINY_LM, 0.8, "language model of images and videos", "token shards of omnitok-tiny-vq-perceptual",
         _ACCURACY.format("omnitok-tiny-lm"), "--shards runs/codes-images --shards runs/codes-videos"),
    _run(TINY_MASK, 0.8, "masked model of images and videos", "token shards of omnitok-tiny-vq-perceptual",
         _ACCURACY.format("omnitok-tiny-mask"), "--shards runs/codes-images --shards runs/codes-videos"),
    _run(TINY_TEXT, 1.0, "masked model of images and videos from texts",
         "token shards of omnitok-tiny-vq-perceptual, made with --captions", _ACCURACY.format("omnitok-tiny-text"),
         "--shards runs/codes-images --shards runs/codes-videos --init omnitok-tiny-mask"),
    _run(TINY_DIT, 1.1, "diffusion transformer of images and videos", "token shards of omnitok-tiny-vae-perceptual",
         _ACCURACY.format("omnitok-tiny-dit"), "--shards runs/latents-images --shards runs/latents-videos"),
]
# fmt: on
