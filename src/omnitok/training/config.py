"""Configuration of a tokenizer's training, as nested frozen dataclasses validated by pydantic."""

from dataclasses import field
from typing import Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from omnitok.data.transforms import CropPolicy
from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.losses.objective import KLNormalization, check_weights
from omnitok.models.autoencoder import TokenizerConfig
from omnitok.training.precision import Precision

_STRICT = ConfigDict(extra="forbid")

PIXEL_LOSSES = ("l1", "l2", "log_l2", "temporal", "perceptual", "temporal_perceptual")
BOTTLENECK_LOSSES = ("commitment", "entropy", "kl")
ADVERSARIAL_LOSSES = ("image_gan", "video_gan", "feature_matching", "lecam", "r1")
OCCASIONAL_LOSSES = ("temporal", "temporal_perceptual", *ADVERSARIAL_LOSSES)
"""Losses that a step may be without, whatever their weights: of one medium, or of a game that has not begun."""
LOSS_NAMES = (*PIXEL_LOSSES, *BOTTLENECK_LOSSES, *ADVERSARIAL_LOSSES)
"""Every loss that a weight can be given for. "lecam" and "r1" are the discriminators'."""


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """What is trained on.

    Attributes:
        images, videos: folders, files, lists, manifests or tar shards (see `omnitok.data.index`); set by `--images`
            and `--videos`.
        frames: length of a clip.
        fps: frames a second that clips are sampled at first; None takes their frames as they are.
        stride: keep every stride-th of these.
        resolutions: one is drawn for each step.
        video_resolutions: those of steps of clips, where they are others.
        image_batch, video_batch: global batch sizes.
        video_share: probability that a step is of clips; None alternates.
        image_policy, video_policy: how frames become squares.
        flip: mirror half of the samples.
        balance_domains: draw clips so that a domain of n clips comes up in proportion to sqrt(n), not n. Domains are
            the column `domain` of a manifest (also of a `manifest.csv` in the folder), or else file names up to the
            number at their end.
        pan_zoom: share of the clips of a batch that are made from pictures, by a window that moves over one.
        drawn: share of the samples that are drawn by `omnitok.data.drawn` in place of a file: letters, lines, stripes,
            codes, screens, plain colours and other things that photographs do not have.
        workers: loading processes; 0 loads in the training process.
    """

    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    frames: int = 17
    fps: float | None = None
    stride: int = 1
    resolutions: tuple[int, ...] = (256,)
    video_resolutions: tuple[int, ...] = ()
    image_batch: int = 8
    video_batch: int = 4
    video_share: float | None = None
    image_policy: CropPolicy = "random_resized_crop"
    video_policy: CropPolicy = "random_resized_crop"
    flip: bool = True
    balance_domains: bool = False
    pan_zoom: float = 0.0
    drawn: float = 0.0
    workers: int = 1

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if not self.resolutions or min(self.resolutions) < 1:
            raise ValueError(f"resolutions must be at least one positive number of pixels, found {self.resolutions}")
        for name in ("frames", "image_batch", "video_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, found {self.workers}")
        for name in ("pan_zoom", "drawn"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], found {getattr(self, name)}")
        if self.video_share is not None and not 0 <= self.video_share <= 1:
            raise ValueError(f"video_share must lie in [0, 1] or be null, found {self.video_share}")
        return self


@dataclass(frozen=True, config=_STRICT)
class OptimizerConfig:
    """AdamW, or Muon, with linear warm-up to `lr`, then a constant or a cosine to 0.

    Attributes:
        name: "adamw", or "muon" for the matrices inside the blocks and AdamW for all else.
        matrix_lr_factor: rate of the matrices that Muon updates, as a multiple of `lr`.
        accumulation: each process's share of a batch is computed in this many equal parts, whose gradients are
            averaged. A vector quantizer updates its codebook once a part.
        ema_decay: of the averaged weights that are published; None publishes the live ones.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    warmup_steps: int = 200
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = 1.0
    matrix_lr_factor: float = 1.0
    accumulation: int = 1
    ema_decay: float | None = None

    @model_validator(mode="after")
    def _check(self) -> "OptimizerConfig":
        for name in ("lr", "clip_norm", "matrix_lr_factor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        if self.accumulation < 1:
            raise ValueError(f"accumulation must be at least 1, found {self.accumulation}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1) or be null, found {self.ema_decay}")
        return self


@dataclass(frozen=True, config=_STRICT)
class PerceptualConfig:
    """The network behind the weights `perceptual` and `temporal_perceptual`.

    Attributes:
        network: "lpips" (VGG16 and its heads) or "mobilenet" (MobileNetV2 features), from files that are never
            downloaded.
        weights_dir: the folder with the files; None takes that of OMNITOK_WEIGHTS.
        all_frames: compare every frame of a clip, and every two neighbours; False compares one at random, as released.
        resolution: the shorter side that frames are brought to before they are compared; None compares them as they
            are. The networks were trained at 224 pixels and see little in pictures of 64.
    """

    network: Literal["lpips", "mobilenet"] = "lpips"
    weights_dir: str | None = None
    all_frames: bool = False
    resolution: int | None = None

    @model_validator(mode="after")
    def _check(self) -> "PerceptualConfig":
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"resolution must be at least 1 or null, found {self.resolution}")
        return self


@dataclass(frozen=True, config=_STRICT)
class AdversarialConfig:
    """The discriminators; they exist where the weights `image_gan` and `video_gan` are not 0.

    Attributes:
        loss: "hinge" or "vanilla".
        image, video: the discriminator of pictures (and of one random frame of each clip) and that of clips.
        lr_factor: their learning rate as a share of the generator's.
        betas: of their Adam.
        start_step, ramp_steps: when the game begins, and over how many steps its weights grow.
        adaptive: scale each adversarial weight so that its gradient is as long as the pixel losses' (VQGAN).
        r1_every: steps between gradient penalties, whose weight is multiplied by it.
    """

    loss: Literal["hinge", "vanilla"] = "hinge"
    image: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    video: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    lr_factor: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    start_step: int = 0
    ramp_steps: int = 0
    adaptive: bool = False
    r1_every: int = 16


@dataclass(frozen=True, config=_STRICT)
class InitConfig:
    """What the weights start from.

    Attributes:
        model: a tokenizer's name or folder (`--init`); None starts from random weights. Its architecture is kept (but
            for `grow`); its bottleneck is swapped where `model.bottleneck` of the recipe is of the other kind. How its
            codebook learns (`model.codebook_decay`, `model.restart_threshold`) is the recipe's.
        inflate: copy the image patch embedding into the video one (stage 2 after stage 1).
        grow: add blocks to the stacks of `model`, silent at first, until they are as deep as the recipe's.
        keep_encoder: train the decoder alone. Codes and latents stay those of `model`, so that tokens of it and
            generators trained on them stay good; a step costs about half.
    """

    model: str | None = None
    inflate: bool = False
    grow: bool = False
    keep_encoder: bool = False

    @model_validator(mode="after")
    def _check(self) -> "InitConfig":
        if self.grow and self.model is None:
            raise ValueError("init.grow needs init.model")
        if self.keep_encoder and (self.model is None or self.inflate):
            raise ValueError("init.keep_encoder needs init.model, and init.inflate to be false")
        return self


@dataclass(frozen=True, config=_STRICT)
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
    threads: int | None = None
    peak_tflops: float | None = None


@dataclass(frozen=True, config=_STRICT)
class LogConfig:
    """What is told on the way.

    Attributes:
        every: steps between rows of log.jsonl.
        pictures_every: steps between reconstruction grids; 0 makes none.
        pictures: samples in a grid.
        validate_every: steps between validations; 0 validates at the end only, where there is a validation.
        usage_threshold: share of the codebook below which the collapse alarm is raised.
        usage_window: steps over which use is counted.
        tensorboard: write event files too (the extra `logging`).
    """

    every: int = 20
    pictures_every: int = 500
    pictures: int = 4
    validate_every: int = 0
    usage_threshold: float = 0.1
    usage_window: int = 200
    tensorboard: bool = False


@dataclass(frozen=True, config=_STRICT)
class ValidationConfig:
    """What is measured at `log.validate_every` and at the end: PSNR, SSIM, codebook usage, and what is named here.

    Attributes:
        images, videos: folders or files; none leaves that medium out.
        samples: at most this many of each, the first by path.
        metrics: more, by their names in `omnitok evaluate reconstruction`: "rfid", "rfvd", "lpips", "fd_mobilenet_v2"
            and so on, with networks from the files of `perceptual.weights_dir`.
        perceptual: the distance that is trained with, "lpips" or "mobilenet", from the same files; None leaves it out.
        image_resolution, video_resolution: side of the largest centred square after resizing; clips have `data.frames`.
    """

    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    samples: int = 64
    metrics: tuple[str, ...] = ()
    perceptual: Literal["lpips", "mobilenet"] | None = None
    image_resolution: int = 256
    video_resolution: int = 128


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """One training run of a tokenizer.

    Attributes:
        name: of the recipe.
        model: the architecture; where `init` gives one, only its bottleneck is taken from here.
        weights: of the losses, by their names.
        kl_normalization: what the KL divergence is divided by before its weight; see `normalize_kl`. Batches of several
            sizes and lengths want "pixel": pixel losses are means, so the sum would pull harder on larger samples.
        entropy_temperature: of the softmax over codes in the loss "entropy".
        steps: optimizer steps.
        quantize_after: steps at the start during which latents pass unquantized.
        seed: of weights, order of the data, crops, noise.
        limit_room: at the end tokens are bounded to so many times the longest one after each block over the first
            batches of the training (`TokenizerConfig.block_limits`), which keeps a decoder from breaking up over what
            it was never shown; None leaves the limits of the start, if there are any.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the latest stay.
        max_failures: share of samples that may be unreadable (and are replaced by others) before the run stops.
    """

    name: str
    model: TokenizerConfig
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    weights: dict[str, float] = field(default_factory=lambda: {"l1": 1.0, "commitment": 0.25})
    kl_normalization: KLNormalization = "sample"
    entropy_temperature: float = 0.01
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    steps: int = 1000
    quantize_after: int = 0
    seed: int = 0
    init: InitConfig = field(default_factory=InitConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    limit_room: float | None = None
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    max_failures: float = 0.05

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        for name in ("steps", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.limit_room is not None and self.limit_room < 1:
            raise ValueError(f"limit_room must be at least 1 or null, found {self.limit_room}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")
        if not any(self.weights.values()):
            raise ValueError("weights gives no loss a weight other than 0")
        check_weights(self.weights, LOSS_NAMES)
        if not any(self.weights.get(name) for name in ("image_gan", "video_gan")):
            for name in ("feature_matching", "lecam", "r1"):
                if self.weights.get(name):
                    raise ValueError(
                        f"weights.{name} is of a discriminator, but weights.image_gan and weights.video_gan are 0"
                    )
        if self.entropy_temperature <= 0:
            raise ValueError(f"entropy_temperature must be positive, found {self.entropy_temperature}")
        bottleneck = self.model.bottleneck
        for name in BOTTLENECK_LOSSES:
            if self.weights.get(name) and name not in bottleneck.losses:
                raise ValueError(
                    f"weights.{name} is {self.weights[name]}, but model.bottleneck={bottleneck.type} has no such loss"
                )
        return self
