"""The models that ship, each as the chain of runs that it was trained by; data and scores are in the models' cards.

Every run starts from the one before, in runs/NAME-N; `omnitok recipes omnitok-tiny` prints the commands. The weights
that ship were trained while the recipes grew, so a chain gives a model of the same kind, not the same bits. What was
done between runs: the encoder of `omnitok-tiny-vae` is three quarters of the run with seed 83 and one of that before
(`mean.py` in its card) and then one step at a rate of 1e-12, which measures the statistics of its latents; its decoder
is the mean of the two runs over drawn images after that; so is that of `omnitok-tiny-vq`, whose last six runs were
averaged with what they began with (weights in its card); the decoder of
`omnitok-tiny-vq-perceptual` is three tenths of the run with seed 21 and seven of that with seed 98; run 4 of
`omnitok-tiny-text` begins with run 3 after `benchmarks/pretrain_captions.py` gave that a new text encoder, in
pretrained-text, and its first run with run 2 of `omnitok-tiny-mask`; run 3 of that begins with run 2 without the fourth
of its six blocks, in five-blocks. Views of shards are made by the `omnitok tokenize` commands of the cards, into
folders of these names.
"""

from omnitok.recipes.recipe import Recipe, changed
from omnitok.recipes.tiny import (
    TINY_DIT,
    TINY_IMAGE,
    TINY_JOINT,
    TINY_LM,
    TINY_MASK,
    TINY_TEXT,
    TINY_VAE,
    TINY_VAE_PERCEPTUAL,
    TINY_VQ_PERCEPTUAL,
)
from omnitok.training.config import AnyConfig, TrainConfig

Run = tuple[AnyConfig, str]
"""A recipe, and what is changed in it as `--set` takes it; "| --max-steps N" where the run was stopped early."""

_OLD_WEIGHTS = "weights={l1: 1.0, l2: 4.0, commitment: 0.5}"
_OLD_MODEL = "model.width=256 model.heads=8 model.normalize_stacks=true data.image_batch=16"
_OLD_JOINT = f"{_OLD_MODEL} data.video_batch=4 data.ken_burns=0"
_LATER = "init.inflate=false"
_WIDE = "data.resolutions=128,160 data.video_resolutions=128 weights={l1: 0.5, l2: 8.0, commitment: 0.5}"
_WIDE_ON = f"{_OLD_JOINT} {_LATER} {_WIDE} optimizer={{lr: 3e-4, warmup_steps: 20}}"
_BEFORE = (
    "data.resolutions=64,64,128 data.video_batch=3 data.video_share=0.3 data.image_policy=random_resized_crop seed=4"
)
_DRAWN = "init.freeze_encoder=true data.drawn=0.3 data.video_share=0.12"
_LETTERS = "data.resolutions=128 model.bottleneck.decay=0.999"
_KEPT = (
    "init.keep_codes=runs/omnitok-tiny-vq-perceptual-4/model model.bottleneck.decay=1 "
    "model.bottleneck.restart_threshold=0 data.resolutions=64 data.image_policy=center_crop optimizer.warmup_steps=60"
)
_KEPT_AND_MANY = (
    f"{_KEPT} weights={{log_l2: 0.5, l2: 10.0, perceptual: 16.0, commitment: 15.0}} data.image_batch=32 "
    "data.video_batch=8"
)
_MASKED = (
    "shards=shards/near8,shards/near-small8,shards/near-videos4,shards/images4 data.video_share=0.2 data.image_batch=32"
)
_PATCHED = (
    "model.depth=5 model.patch=2 model.dropout=0.08 data.image_batch=32 data.video_share=0.12 "
    "engine.precision=bfloat16 "
    "tasks={generation: 4.0, inpainting: 2.0, outpainting: 1.0, free: 1.0, prediction: 2.0, interpolation: 2.0}"
)
_TEXT = "data.image_batch=32"
_TEXT_TASKS = (
    "tasks={generation: 8.0, inpainting: 0.7, outpainting: 0.7, free: 0.7, prediction: 1.0, interpolation: 1.0}"
)
_TEXT_BFLOAT16 = f"{_TEXT} {_TEXT_TASKS} engine.precision=bfloat16"
_RECOLORED = (
    f"shards=shards/captions8,shards/recolored6,shards/caption-videos4 {_TEXT_BFLOAT16} data.video_share=0.06 "
    "optimizer.lr=1.2e-3 optimizer.warmup_steps=50"
)
_PATCHES = f"model.patch=2 {_TEXT_BFLOAT16}"
_CHECKED = (
    f"shards=shards/real12,shards/recolored10,shards/caption-videos4 {_PATCHES} data.video_share=0.06 "
    "optimizer.warmup_steps=50"
)
_BALANCED = f"shards=shards/real6,shards/many6,shards/few12,shards/fewest20,shards/caption-videos4 {_PATCHES}"
_NEAR = "optimizer.warmup_steps=20 optimizer.lr=6e-4 data.video_share=0.1"

CHAINS: dict[str, tuple[str, tuple[Run, ...]]] = {
    "omnitok-tiny-vae": (
        "29.09 dB on images at 256, 26.53 dB on videos at 128 pixels",
        (
            (TINY_IMAGE, "limit_room=null"),
            (TINY_JOINT, "limit_room=null | --max-steps 700"),
            (TINY_VAE, "limit_room=null"),
            (TINY_VAE, "limit_room=null seed=41 steps=8200"),
            (
                TINY_VAE,
                "limit_room=null seed=43 steps=4250 init.expand_depth=true model.encoder_blocks=www "
                "model.decoder_blocks=wwww data.video_share=0.25 | --max-steps 2449",
            ),
            (TINY_VAE, "limit_room=null seed=45 steps=1780 optimizer.lr=6e-4 optimizer.warmup_steps=20"),
            (TINY_VAE, "limit_room=null seed=59 steps=5400 data.video_share=0.22 optimizer.warmup_steps=20"),
            (
                TINY_VAE,
                "limit_room=null seed=73 steps=12000 init.expand_depth=true model.encoder_blocks=wwww "
                "model.decoder_blocks=wwwww data.video_share=0.12 optimizer.lr=1.4e-3",
            ),
            (TINY_VAE, "seed=83 steps=8600 data.video_share=0.12 optimizer.lr=1.1e-3"),
            (
                TINY_VAE,
                f"{_DRAWN} data.resolutions=128 seed=97 steps=3000 optimizer.lr=6e-4 optimizer.warmup_steps=100",
            ),
            (
                TINY_VAE,
                f"{_DRAWN} data.resolutions=128 seed=103 steps=600 optimizer.lr=3e-4 optimizer.warmup_steps=30",
            ),
        ),
    ),
    "omnitok-tiny-vq": (
        "26.05 dB on images at 256, 24.87 dB on videos at 128 pixels",
        (
            (TINY_IMAGE, f"{_OLD_MODEL} {_OLD_WEIGHTS} optimizer={{lr: 1e-3, warmup_steps: 200}} steps=3500"),
            (
                TINY_JOINT,
                f"{_OLD_JOINT} {_OLD_WEIGHTS} optimizer={{lr: 6e-4, warmup_steps: 100}} data.video_share=null "
                "data.resolutions=96,128,160 steps=2800 | --max-steps 1200",
            ),
            (
                TINY_JOINT,
                f"{_OLD_JOINT} {_OLD_WEIGHTS} {_LATER} optimizer={{lr: 5e-4, warmup_steps: 50}} data.video_share=0.7 "
                "data.resolutions=96,128,160 data.video_resolutions=96,128 seed=1 steps=3400",
            ),
            (TINY_JOINT, f"{_WIDE_ON} data.video_share=0.8 seed=2 steps=1000 optimizer.warmup_steps=30"),
            (TINY_JOINT, f"{_WIDE_ON} data.video_share=0.45 seed=3 steps=700"),
            (TINY_JOINT, f"{_WIDE_ON} data.video_share=0.25 seed=4 steps=330"),
            (
                TINY_JOINT,
                f"{_LATER} init.expand_depth=true model.encoder_blocks=ww model.decoder_blocks=www seed=44 steps=2750 "
                "model.bottleneck.decay=0.996 optimizer.lr=1e-3",
            ),
            (
                TINY_JOINT,
                f"{_LATER} model.bottleneck.decay=0.996 data.video_share=0.45 seed=46 steps=7600 "
                "optimizer.lr=1.4e-3 | --max-steps 4525",
            ),
            (
                TINY_JOINT,
                f"{_LATER} model.bottleneck.decay=0.998 data.video_share=0.33 seed=47 steps=3750 "
                "optimizer.lr=6e-4 optimizer.warmup_steps=20",
            ),
            (
                TINY_JOINT,
                f"{_LATER} model.bottleneck.decay=0.998 data.video_share=0.28 seed=53 steps=3600 "
                "optimizer.lr=1e-3 optimizer.warmup_steps=20",
            ),
            (
                TINY_JOINT,
                f"{_LATER} model.bottleneck.decay=0.999 data.video_share=0.12 seed=67 steps=1000 "
                "optimizer.lr=5e-4 optimizer.warmup_steps=20",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_DRAWN} data.resolutions=128 seed=97 steps=3000 "
                "optimizer.lr=6e-4 optimizer.warmup_steps=60",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_DRAWN} data.resolutions=128 seed=103 steps=700 "
                "optimizer.lr=3e-4 optimizer.warmup_steps=60",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_LETTERS} weights.l2=5 model.bottleneck.decay=0.998 data.drawn=0.35 data.video_share=0.15 "
                "seed=111 steps=6000 optimizer.lr=1e-3 optimizer.warmup_steps=60",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_LETTERS} weights.l2=10 data.drawn=0.45 data.video_share=0.15 "
                "seed=121 steps=2200 optimizer.lr=7e-4 optimizer.warmup_steps=60",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_LETTERS} weights.l2=6 data.drawn=0.35 data.video_share=0.4 "
                "seed=131 steps=1200 optimizer.lr=6e-4 optimizer.warmup_steps=40",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_LETTERS} weights.l2=4 data.drawn=0.3 data.video_share=0.6 "
                "seed=137 steps=900 optimizer.lr=5e-4 optimizer.warmup_steps=40",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_LETTERS} weights.l2=4 data.drawn=0.3 data.video_share=0.65 "
                "seed=141 steps=800 optimizer.lr=5e-4 optimizer.warmup_steps=40",
            ),
            (
                TINY_JOINT,
                f"{_LATER} {_LETTERS} weights.l2=4 data.drawn=0.3 data.video_share=0.7 "
                "seed=149 steps=500 optimizer.lr=5e-4 optimizer.warmup_steps=30",
            ),
        ),
    ),
    "omnitok-tiny-vae-perceptual": (
        "27.66 dB and 25.16 dB; classifier accuracies in its card",
        (
            (
                TINY_VAE_PERCEPTUAL,
                f"{_BEFORE} weights={{log_l2: 0.25, perceptual: 1.0}} optimizer.lr=5e-4 steps=1200 | --max-steps 400",
            ),
            (TINY_VAE_PERCEPTUAL, f"{_BEFORE} weights={{log_l2: 0.25, perceptual: 5.0}} steps=1100"),
            (
                TINY_VAE_PERCEPTUAL,
                "weights={log_l2: 0.25, perceptual: 5.0, temporal: 0.25} data.video_batch=3 seed=31 steps=900 "
                "optimizer.warmup_steps=30",
            ),
            (
                TINY_VAE_PERCEPTUAL,
                "weights={log_l2: 0.25, perceptual: 5.0, temporal: 1.0} data.video_batch=3 seed=32 steps=900 "
                "optimizer.warmup_steps=30",
            ),
            (TINY_VAE_PERCEPTUAL, "optimizer.warmup_steps=30 seed=35 steps=900"),
            (
                TINY_VAE_PERCEPTUAL,
                f"{_DRAWN} data.video_share=0.3 seed=99 steps=2200 optimizer.lr=6e-4 optimizer.warmup_steps=60",
            ),
            (
                TINY_VAE_PERCEPTUAL,
                f"{_DRAWN} data.drawn=0.35 data.video_share=0.25 weights.l2=6 seed=112 steps=3600 optimizer.lr=8e-4 "
                "optimizer.warmup_steps=60",
            ),
            (
                TINY_VAE_PERCEPTUAL,
                f"{_DRAWN} data.drawn=0.5 data.video_share=0.2 weights.l2=12 seed=114 steps=2400 optimizer.lr=8e-4 "
                "optimizer.warmup_steps=60",
            ),
            (
                TINY_VAE_PERCEPTUAL,
                f"{_DRAWN} data.drawn=0.6 data.video_share=0.15 weights.l2=25 seed=115 steps=1500 optimizer.lr=6e-4 "
                "optimizer.warmup_steps=60",
            ),
        ),
    ),
    "omnitok-tiny-vq-perceptual": (
        "23.66 dB and 22.22 dB; classifier accuracies in its card",
        (
            (TINY_VQ_PERCEPTUAL, "weights.perceptual=1 seed=3 steps=2000 | --max-steps 1000"),
            (TINY_VQ_PERCEPTUAL, "seed=5 steps=1300"),
            (
                TINY_VQ_PERCEPTUAL,
                "init.freeze_encoder=true weights={log_l2: 0.25, perceptual: 8.0} data.resolutions=64 "
                "data.image_policy=center_crop data.video_share=0.15 seed=21 steps=1300 optimizer.warmup_steps=30",
            ),
            (
                TINY_VQ_PERCEPTUAL,
                f"{_DRAWN} weights={{log_l2: 0.25, perceptual: 8.0}} data.resolutions=64 data.image_policy=center_crop "
                "seed=98 steps=2500 optimizer.lr=6e-4 optimizer.warmup_steps=60",
            ),
            (
                TINY_VQ_PERCEPTUAL,
                f"{_KEPT} weights={{log_l2: 0.25, l2: 8.0, perceptual: 8.0, commitment: 15.0}} data.drawn=0.5 "
                "data.video_share=0.12 seed=113 steps=6000 optimizer.lr=1e-3 | --max-steps 2689",
            ),
            (
                TINY_VQ_PERCEPTUAL,
                f"{_KEPT} weights={{log_l2: 0.25, l2: 10.0, perceptual: 8.0, commitment: 10.0}} data.drawn=0.6 "
                "data.video_share=0.1 init.expand_depth=true model.encoder_blocks=www model.decoder_blocks=www "
                "seed=123 steps=4800 optimizer.lr=1.2e-3",
            ),
            (
                TINY_VQ_PERCEPTUAL,
                f"{_KEPT_AND_MANY} data.drawn=0.87 data.video_share=0.06 init.expand_depth=true "
                "model.encoder_blocks=wwww model.decoder_blocks=wwwww seed=131 steps=10400 optimizer.lr=1.5e-3 "
                "optimizer.warmup_steps=150 | --max-steps 8576",
            ),
            (
                TINY_VQ_PERCEPTUAL,
                f"{_KEPT_AND_MANY} data.drawn=0.9 data.video_share=0.04 seed=133 steps=3300 optimizer.lr=6e-4 "
                "optimizer.warmup_steps=40",
            ),
        ),
    ),
    "omnitok-tiny-lm": (
        "classifier accuracies in its card",
        (
            (TINY_LM, "shards=shards/images8,shards/videos8 seed=1"),
            (
                TINY_LM,
                "shards=shards/images1,shards/videos8 seed=2 steps=1000 data.video_share=0.15 model.dropout=0.15 "
                "optimizer.lr=7e-4",
            ),
            (
                TINY_LM,
                f"shards=shards/images1,shards/small1,shards/videos8 {_NEAR} model.dropout=0.15 seed=4 steps=620",
            ),
            (
                TINY_LM,
                f"shards=shards/images1,shards/small1,shards/videos8 {_NEAR} model.dropout=0.15 seed=5 steps=330",
            ),
            (
                TINY_LM,
                f"shards=shards/near8,shards/near-small8,shards/near-videos4 {_NEAR} model.dropout=0.2 seed=51 "
                "steps=900",
            ),
        ),
    ),
    "omnitok-tiny-dit": (
        "classifier accuracies in its card",
        (
            (TINY_DIT, "shards=shards/images4,shards/videos4"),
            (TINY_DIT, "shards=shards/images8,shards/videos8 data.video_share=0.25 optimizer.lr=1.3e-3 seed=7"),
            (TINY_DIT, "shards=shards/images1,shards/videos8 data.video_share=0.1 optimizer.lr=1e-3 steps=1300 seed=8"),
            (
                TINY_DIT,
                "shards=shards/near4,shards/near-videos4 data.video_share=0.55 optimizer.lr=1.2e-3 steps=1000 seed=10",
            ),
            (
                TINY_DIT,
                "shards=shards/images1,shards/near-videos4 data.video_share=0.2 optimizer.lr=1e-3 steps=680 seed=11 "
                "optimizer.warmup_steps=30",
            ),
        ),
    ),
    "omnitok-tiny-text": (
        "accuracies of class and colour in its card",
        (
            (
                TINY_TEXT,
                f"shards=shards/text8,shards/text-small8,shards/text-videos4,shards/text-images4 {_TEXT} "
                "data.video_share=0.15 seed=1 steps=2000 optimizer.lr=1e-3 "
                "tasks={generation: 6.0, inpainting: 1.0, outpainting: 1.0, free: 1.0, prediction: 1.0, "
                "interpolation: 1.0} "
                "optimizer.warmup_steps=60 model.condition={type: text, kernel: 1} init=runs/omnitok-tiny-mask-2 "
                "| --max-steps 1919",
            ),
            (
                TINY_TEXT,
                f"shards=shards/many8,shards/many-small8,shards/text-videos4 {_TEXT} data.video_share=0.08 "
                f"{_TEXT_TASKS} seed=2 steps=1500 optimizer.lr=1e-3 optimizer.warmup_steps=30",
            ),
            (TINY_TEXT, f"{_RECOLORED} seed=11 steps=5000 | --max-steps 2453"),
            (TINY_TEXT, f"{_RECOLORED} seed=12 steps=2900 init=pretrained-text | --max-steps 2646"),
            (TINY_TEXT, f"{_CHECKED} optimizer.lr=1.2e-3 seed=21 steps=12000 | --max-steps 1303"),
            (TINY_TEXT, f"{_CHECKED} optimizer.lr=1.1e-3 seed=22 steps=6500"),
            (
                TINY_TEXT,
                f"shards=shards/real12,shards/kept8 {_PATCHES} data.video_share=0 optimizer.lr=7e-4 "
                "optimizer.warmup_steps=30 seed=23 steps=1200",
            ),
            (
                TINY_TEXT,
                f"{_BALANCED} data.video_share=0.04 optimizer.lr=9e-4 optimizer.warmup_steps=50 seed=61 steps=7000",
            ),
            (
                TINY_TEXT,
                f"{_BALANCED} data.video_share=0.03 optimizer.lr=6e-4 optimizer.warmup_steps=30 seed=62 steps=2400",
            ),
        ),
    ),
    "omnitok-tiny-mask": (
        "classifier accuracies in its card",
        (
            (
                TINY_MASK,
                f"{_MASKED} seed=1 steps=3000 optimizer.lr=1e-3 init=omnitok-tiny-lm",
            ),
            (TINY_MASK, f"{_MASKED} seed=2 steps=2500 optimizer.lr=9e-4 optimizer.warmup_steps=50"),
            (
                TINY_MASK,
                f"{_PATCHED} shards=shards/near14,shards/near-small16,shards/watches24,shards/motorbikes12,"
                "shards/cartons12,shards/near-videos4 optimizer.lr=1.3e-3 seed=71 steps=44000 init=five-blocks",
            ),
            (
                TINY_MASK,
                f"{_PATCHED} shards=shards/near14,shards/near-small16,shards/watches24,shards/motorbikes12,"
                "shards/leopards32,shards/near-videos4 optimizer.lr=1.1e-3 seed=82 steps=44000",
            ),
        ),
    ),
}
"""Model -> the score of its card, and its runs."""


def _chain(model: str, expected: str, runs: tuple[Run, ...]) -> list[Recipe]:
    recipes = []
    for number, (config, text) in enumerate(runs, 1):
        text, _, arguments = text.partition(" | ")
        is_tokenizer = isinstance(config, TrainConfig)
        if number > 1 and " init=" not in text:
            text += f" {'init.model' if is_tokenizer else 'init'}=runs/{model}-{number - 1}"
        if not is_tokenizer:
            text += " held_out=0"  # what ships learnt from all items
        config = changed(config, f"{model}-{number}", text)
        given = "--images IMAGES" if config.name.endswith(("-vae-1", "-vq-1")) else "--images IMAGES --videos VIDEOS"
        arguments = " ".join(filter(None, (given if is_tokenizer else "", arguments)))
        data = "listed in the model's card"
        score = expected if number == len(runs) else "not measured between the runs of a chain"
        purpose = f"run {number} of {len(runs)} of the model that ships"
        recipes.append(Recipe(config, purpose, data, "one or two CPU cores, up to 3 h per run", score, arguments))
    return recipes


RECIPES = [recipe for model, (expected, runs) in CHAINS.items() for recipe in _chain(model, expected, runs)]
