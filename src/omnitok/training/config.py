"""Configurations of trainings: of a tokenizer, a language model, a diffusion transformer. Bounds are on the fields."""

from dataclasses import KW_ONLY, field
from typing import Annotated, Literal

from pydantic import Field, model_validator

from omnitok.checked import AtLeastOne, BelowOne, Natural, NotNegative, Positive, Seed, Share, checked
from omnitok.data.config import DataConfig
from omnitok.data.pixel_format import MODES, PixelFormat
from omnitok.errors import describe
from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.losses.objective import KLNormalization
from omnitok.models.autoencoder import TokenizerConfig
from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
from omnitok.models.conditions import TextCondition
from omnitok.models.diffusion_transformer import DiffusionTransformerConfig
from omnitok.models.sampling import DiffusionSampling, MaskedSampling, TokenSampling
from omnitok.models.token_masks import DEFAULT_TASKS, IMAGE_TASKS, Task

PIXEL_LOSSES = ("l1", "l2", "log_l2", "temporal", "perceptual", "temporal_perceptual")
BOTTLENECK_LOSSES = ("commitment", "entropy", "kl")
ADVERSARIAL_LOSSES = ("image_gan", "video_gan", "feature_matching", "lecam", "r1")
OCCASIONAL_LOSSES = ("temporal", "temporal_perceptual", *ADVERSARIAL_LOSSES)
"""Losses that a step may be without, whatever their weights: of one modality, or of a game that has not begun."""
LOSS_NAMES = (*PIXEL_LOSSES, *BOTTLENECK_LOSSES, *ADVERSARIAL_LOSSES)
"""Every loss that a weight can be given for. "lecam" and "r1" are the discriminators'."""

RENAMED = {
    "quantize_after": "quantizer_warmup_steps",
    "data.pan_zoom": "data.ken_burns",
    "data.balance_domains": "data.balance_sources",
    "init.grow": "init.expand_depth",
    "init.keep_encoder": "init.freeze_encoder",
    "log.pictures": "log.images",
    "log.pictures_every": "log.images_every",
}
"""Earlier names of keys, which files and `--set` may still use, and what they are called now."""

Precision = Literal["auto", "float32", "bfloat16"]


@checked
class OptimizerConfig:
    """AdamW, or Muon, with linear warm-up to `lr`, then a constant or a cosine to 0.

    Attributes:
        name: "adamw", or "muon" for the matrices inside the blocks and AdamW for all else.
        matrix_lr_factor: rate of the matrices that Muon updates, as a multiple of `lr`.
        accumulation: each process's share of a batch is computed in this many equal parts, whose gradients are
            averaged. A vector quantizer updates its codebook once per part.
        ema_decay: of the averaged weights that are published; None publishes the live ones.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: Positive = 1e-3
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.99)
    weight_decay: NotNegative = 1e-4
    warmup_steps: Natural = 200
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: Positive = 1.0
    matrix_lr_factor: Positive = 1.0
    accumulation: AtLeastOne = 1
    ema_decay: BelowOne | None = None


@checked
class PerceptualConfig:
    """The network behind the weights `perceptual` and `temporal_perceptual`.

    Attributes:
        network: "lpips" (VGG16 and its heads) or "mobilenet" (MobileNetV2 features), from files that are never
            downloaded.
        weights_dir: the folder with the files; None takes that of OMNITOK_WEIGHTS.
        all_frames: compare every frame of a video, and every two neighbours; False compares one at random, as released.
        resolution: the shorter side that frames are brought to before they are compared; None compares them as they
            are. The networks were trained at 224 pixels and see little in images of 64.
        channels: which three the network takes for red, green and blue, counted from 0, where pixels have other than 3;
            none takes grey three times (1 channel), or the colour without alpha (4).
    """

    network: Literal["lpips", "mobilenet"] = "lpips"
    weights_dir: str | None = None
    all_frames: bool = False
    resolution: AtLeastOne | None = None
    channels: tuple[Natural, Natural, Natural] | None = None

    def seen(self, channels: int) -> tuple[int, int, int] | None:
        """`channels` for pixels of so many; None where they are in colour.

        Raises:
            ValueError: pixels have no such channels, or nothing says which to take.
        """
        chosen = self.channels or {1: (0, 0, 0), 3: (0, 1, 2), 4: (0, 1, 2)}.get(channels)
        if chosen is None:
            raise ValueError(
                f"perceptual losses see colour, and model.channels is {channels}: say which three they take, such as "
                "perceptual.channels=2,1,0, or give them no weight"
            )
        if max(chosen) >= channels:
            raise ValueError(f"perceptual.channels must be below model.channels={channels}, found {max(chosen)}")
        return None if channels == 3 and chosen == (0, 1, 2) else chosen


@checked
class AdversarialConfig:
    """The discriminators; they exist where the weights `image_gan` and `video_gan` are not 0.

    Attributes:
        loss: "hinge" or "vanilla".
        image, video: the discriminator of images (and of one random frame of each video) and that of videos.
        lr_factor: their learning rate as a share of the generator's.
        betas: of their Adam.
        start_step, ramp_steps: when the game begins, and over how many steps its weights grow.
        adaptive: scale each adversarial weight so that its gradient is as long as the pixel losses' (VQGAN).
        r1_every: steps between gradient penalties, whose weight is multiplied by it.
    """

    loss: Literal["hinge", "vanilla"] = "hinge"
    image: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    video: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    lr_factor: Positive = 0.1
    betas: tuple[BelowOne, BelowOne] = (0.5, 0.9)
    start_step: Natural = 0
    ramp_steps: Natural = 0
    adaptive: bool = False
    r1_every: AtLeastOne = 16


@checked
class InitConfig:
    """The trained tokenizer that the weights start from.

    Attributes:
        model: its name or folder (`--init`); None starts from random weights. Its architecture is kept (but for
            `expand_depth`); its channels become `model.channels` of the recipe, and its bottleneck is swapped where
            `model.bottleneck` is of another kind. How its codebook learns (`model.bottleneck.decay` and its like) is
            the recipe's.
        inflate: copy the image patch embedding into the video one (stage 2 after stage 1).
        expand_depth: add blocks to the stacks of `model`, silent at first, until they are as deep as the recipe's.
        freeze_encoder: train the decoder alone. Codes and latents stay those of `model`, so that tokens of it and
            generators trained on them stay good; a step costs about half.
        keep_codes: the name or folder of a tokenizer with the same codes, such as `model` itself. The encoder of a
            quantizer learns drawn images (`data.drawn`) while the loss "commitment" draws the latents of files to the
            codes that this one gives them in place of the nearest ones, and the decoder is given those (learning
            without forgetting: Li and Hoiem, 2016, arXiv 1606.09282). Most codes of photographs stay, the others
            become neighbors, so that generators made for that tokenizer stay good.
    """

    model: str | None = None
    inflate: bool = False
    expand_depth: bool = False
    freeze_encoder: bool = False
    keep_codes: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "InitConfig":
        if self.expand_depth and self.model is None:
            raise ValueError("init.expand_depth needs init.model")
        if self.freeze_encoder and (self.model is None or self.inflate):
            raise ValueError("init.freeze_encoder needs init.model, and init.inflate to be false")
        if self.keep_codes and (self.model is None or self.freeze_encoder):
            raise ValueError("init.keep_codes needs init.model, and init.freeze_encoder to be false")
        return self


@checked
class EngineConfig:
    """How it is computed; none of it changes what is learnt, but for rounding.

    Attributes:
        precision: of autocast; "auto" is bfloat16 where the device has instructions for it, else float32.
        parallel: of several processes: "ddp" keeps a copy of everything on each, "fsdp" (FSDP2) shards weights,
            gradients and optimizer.
        activation_checkpointing: recompute the blocks in the backward pass instead of keeping their activations.
        compile: compile each block with `torch.compile`.
        threads: of the CPU; None leaves torch's choice (OMP_NUM_THREADS).
        peak_tflops: of the device at this precision, for the model-FLOPs utilisation; None takes it from a table.
    """

    precision: Precision = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    activation_checkpointing: bool = False
    compile: bool = False
    threads: AtLeastOne | None = None
    peak_tflops: Positive | None = None


@checked
class LogConfig:
    """What is told on the way.

    Attributes:
        every: steps between rows of log.jsonl.
        images_every: steps between grids of reconstructions or samples; 0 makes none.
        images: samples in a grid.
        validate_every: steps between validations; 0 validates at the end only, where there is a validation.
        usage_threshold: share of the codebook below which the collapse alarm is raised.
        usage_window: steps over which use is counted.
        tensorboard: write event files too (the package `tensorboard`).
    """

    every: AtLeastOne = 20
    images_every: Natural = 500
    images: AtLeastOne = 4
    validate_every: Natural = 500
    usage_threshold: Share = 0.1
    usage_window: AtLeastOne = 200
    tensorboard: bool = False


@checked
class ValidationConfig:
    """What is measured at `log.validate_every` and at the end: PSNR, SSIM, codebook usage, and what is named here.

    Attributes:
        images, videos: folders or files; without any, what `held_out` keeps from training.
        samples: at most this many of each, the first by path.
        metrics: more, by their names in `omnitok evaluate reconstruction`: "rfid", "rfvd", "lpips", "fd_mobilenet_v2"
            and so on, with networks from the files of `perceptual.weights_dir`.
        perceptual: the distance that is trained with, "lpips" or "mobilenet", from the same files; None leaves it out.
        image_resolution, video_resolution: side of the largest centred square after resizing; videos have
            `data.frames`.
    """

    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    samples: AtLeastOne = 64
    metrics: tuple[str, ...] = ()
    perceptual: Literal["lpips", "mobilenet"] | None = None
    image_resolution: AtLeastOne = 256
    video_resolution: AtLeastOne = 128


@checked
class RunConfig:
    """What the trainings of all models have in common.

    Attributes:
        name: of the recipe.
        steps: optimizer steps.
        seed: of weights, order of the data, crops, dropped labels, noise.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the latest stay.
        max_failures: share of samples that may be unreadable (and are replaced by others) before the run stops.
        held_out: share of the source files of each modality that is kept from training, with everything made from them,
            and validated on, where no others are named for that (`validation`, `validation_shards`); 0 holds nothing
            out. At most `validation.samples` files for a tokenizer, 256 for a generator; of pixels none of tars.
        max_skipped: the run ends when this many steps in a row were skipped because a loss or a gradient was not
            finite; the last checkpoint and model from before stay.
    """

    name: str
    _: KW_ONLY
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    steps: AtLeastOne = 1000
    seed: Seed = 0
    checkpoint_every: AtLeastOne = 500
    keep_checkpoints: AtLeastOne = 2
    max_failures: Share = 0.05
    held_out: BelowOne = 0.02
    max_skipped: AtLeastOne = 10


@checked
class TrainConfig(RunConfig):
    """One training run of a tokenizer.

    Attributes:
        model: the architecture; where `init` gives one, only its bottleneck and channels are taken from here.
        weights: of the losses, by their names.
        kl_normalization: what the KL divergence is divided by before its weight; see `normalize_kl`. Batches of several
            sizes and lengths want "pixel": pixel losses are means, so the sum would pull harder on larger samples.
        entropy_temperature: of the softmax over codes in the loss "entropy".
        quantizer_warmup_steps: steps at the start during which latents pass unquantized.
        limit_room: at the end tokens are bounded to so many times the longest one after each block over the first
            batches of the training (`TokenizerConfig.block_limits`), which keeps a decoder from breaking up over what
            it was never shown; None leaves the limits of the start, if there are any.
    """

    model: TokenizerConfig
    _: KW_ONLY
    weights: dict[str, float] = field(default_factory=lambda: {"l1": 1.0, "commitment": 0.25})
    kl_normalization: KLNormalization = "sample"
    entropy_temperature: Positive = 0.01
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    quantizer_warmup_steps: Natural = 0
    limit_room: Annotated[float | None, Field(ge=1)] = None
    init: InitConfig = field(default_factory=InitConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if not any(weight for name, weight in self.weights.items() if name not in OCCASIONAL_LOSSES):
            raise ValueError(
                f"weights gives no loss of every step a weight other than 0; of some are {', '.join(OCCASIONAL_LOSSES)}"
            )
        if unknown := [name for name in self.weights if name not in LOSS_NAMES]:
            raise ValueError(f"weights has no loss {describe(unknown[0])!r}; known are {', '.join(LOSS_NAMES)}")
        channels = self.model.channels
        PixelFormat(channels, self.data.ranges)
        if self.data.alpha_masks and channels != 4:
            raise ValueError(f"data.alpha_masks is of 4 channels, and model.channels is {channels}")
        if self.data.drawn and channels not in MODES:
            raise ValueError(f"data.drawn draws in colour, and model.channels is {channels}")
        if self.weights.get("perceptual") or self.weights.get("temporal_perceptual") or self.validation.perceptual:
            self.perceptual.seen(channels)
        bottleneck = self.model.bottleneck
        if self.init.keep_codes and not self.weights.get("commitment"):
            raise ValueError('init.keep_codes needs a weight for the loss "commitment", which does it')
        for name, weight in self.weights.items():
            if weight and name in ADVERSARIAL_LOSSES and not self.is_adversarial:
                raise ValueError(
                    f"weights.{name} is of a discriminator, but weights.image_gan and weights.video_gan are 0"
                )
            if weight and name in BOTTLENECK_LOSSES and name not in bottleneck.losses:
                raise ValueError(f"weights.{name} is {weight}, but model.bottleneck={bottleneck.type} has no such loss")
        return self

    @property
    def is_adversarial(self) -> bool:
        """Whether there are discriminators."""
        return bool(self.weights.get("image_gan") or self.weights.get("video_gan"))


@checked
class GeneratorTrainConfig(RunConfig):
    """What the trainings of all generators have in common.

    Attributes:
        shards: folders that `omnitok tokenize` wrote (`--shards`); none trains on the pixels of `data.images` and
            `data.videos`, encoded by the tokenizer at each step.
        tokenizer: name or folder of the tokenizer; None takes the one that the shards name. The model's settings keep
            it, so a folder should be where the model's users find it.
        init: name or folder of a trained generator to start from (`--init`); None starts from random weights. Its
            architecture is kept. Classes are found by their names; those that it does not know begin anew.
        class_conditional: whether labels are learnt: of the shards, of lists, or the folders directly below those of
            `data`. Where `model.num_classes` is 0, it becomes the number of classes found. A model with a condition
            (`model.condition`) learns that instead: captions, or embeddings of the shards.
        label_dropout: share of the labels replaced by the null class, or of the conditions by none, each drawn for
            itself; guidance needs some.
        data: batch sizes and the share of videos; for pixels also how they are read.
        validation_shards: of other samples, whose loss is logged at `log.validate_every` and at the end in place of
            that of what is held out; a run that begins with them holds nothing out.
        validation_batches: at most this many batches of each grid.
    """

    _: KW_ONLY
    shards: tuple[str, ...] = ()
    tokenizer: str | None = None
    init: str | None = None
    class_conditional: bool = True
    label_dropout: Share = 0.1
    validation_shards: tuple[str, ...] = ()
    validation_batches: AtLeastOne = 4


@checked
class LanguageModelTrainConfig(GeneratorTrainConfig):
    """One training run of a language model over a tokenizer's codes.

    Attributes:
        kind: which of the configurations this is, for files.
        model: the architecture; its codebook, classes and largest grid are taken from the data.
        start_from_codebook: let the embeddings of codes begin as features of their vectors in the tokenizer's codebook,
            where the model does not start from a trained one.
        sampling: the model's defaults of sampling.
    """

    model: LanguageModelConfig
    _: KW_ONLY
    kind: Literal["language_model"] = "language_model"
    start_from_codebook: bool = False
    sampling: TokenSampling = field(default_factory=TokenSampling)


@checked
class MaskedModelTrainConfig(GeneratorTrainConfig):
    """One training run of a masked model over a tokenizer's codes.

    Attributes:
        kind: which of the configurations this is, for files.
        model: the architecture; its codebook, classes and largest grid are taken from the data. With `init` it may be a
            language model of the same width, whose blocks and embeddings it begins with.
        start_from_codebook: as of a language model.
        tasks: how often each task is learnt, relative to the others; see `omnitok.models.token_masks`. Images leave out
            those of videos.
        label_smoothing: share of the target that is spread over all codes.
        sampling: the model's defaults of sampling.
    """

    model: MaskedModelConfig
    _: KW_ONLY
    kind: Literal["masked_model"] = "masked_model"
    start_from_codebook: bool = False
    tasks: dict[Task, NotNegative] = field(default_factory=lambda: dict(DEFAULT_TASKS))
    label_smoothing: BelowOne = 0.1
    sampling: MaskedSampling = field(default_factory=MaskedSampling)

    @model_validator(mode="after")
    def _check(self) -> "MaskedModelTrainConfig":
        if not any(self.tasks.get(task) for task in IMAGE_TASKS):
            raise ValueError(f"tasks must give one of {', '.join(IMAGE_TASKS)} a weight other than 0")
        return self


@checked
class DiffusionTrainConfig(GeneratorTrainConfig):
    """One training run of a diffusion transformer over a tokenizer's latents.

    Attributes:
        kind: which of the configurations this is, for files.
        model: the architecture, and what it predicts; its channels and classes are taken from the data.
        sampling: the model's defaults of sampling.
    """

    model: DiffusionTransformerConfig
    _: KW_ONLY
    kind: Literal["diffusion"] = "diffusion"
    sampling: DiffusionSampling = field(default_factory=DiffusionSampling)


AnyGeneratorConfig = LanguageModelTrainConfig | MaskedModelTrainConfig | DiffusionTrainConfig
AnyConfig = TrainConfig | AnyGeneratorConfig


def learns_classes(config: AnyGeneratorConfig) -> bool:
    """Whether labels are learnt: they are asked for, and the model has no other condition."""
    return config.class_conditional and config.model.condition is None


def learns_captions(config: AnyGeneratorConfig) -> bool:
    """Whether captions are learnt."""
    return isinstance(config.model.condition, TextCondition)


CONFIG_KINDS: dict[str | None, type[AnyConfig]] = {
    None: TrainConfig,  # files of a tokenizer's training say no kind
    "language_model": LanguageModelTrainConfig,
    "masked_model": MaskedModelTrainConfig,
    "diffusion": DiffusionTrainConfig,
}
