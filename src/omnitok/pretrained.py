"""Trained models by name: load, save, list. A model is a folder of `config.json`, `model.safetensors`, `README.md`.

Files may come from anywhere, so a configuration is checked field by field and compared with the header of the weights
before anything of its size is allocated.
"""

import dataclasses
import difflib
import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from omnitok.convert import check_shapes, check_weights, convert_checkpoint, meta_tokenizer
from omnitok.errors import CheckpointError
from omnitok.generator_settings import GeneratorSettings
from omnitok.model_files import (
    CARD_NAME,
    CONFIG_NAME,
    WEIGHTS_NAME,
    check_architecture,
    first_line,
    read_json,
    read_shapes,
    read_weights,
    typed_fields,
    write_model,
)
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel, LanguageModelConfig
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

ARCHITECTURE = "OmniTokenizer"
BUNDLED_FOLDER = Path(__file__).parent / "pretrained_models"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelInfo:
    """A row of the table of models; None where only the weights could tell and they are not on this machine."""

    name: str
    kind: str  # "tokenizer", "language model" or "diffusion"
    parameters: int | None  # trained weights and codebook
    bottleneck: str | None  # "vq" or "kl"; None of a generator
    description: str
    source: str  # "bundled", a folder, or the address the file is loaded from


@dataclass(frozen=True)
class ReleasedFile:
    """A checkpoint that the authors published on the Hugging Face hub (MIT licence)."""

    filename: str
    bottleneck: Literal["vq", "kl"]
    training_data: str
    repository: str = "Daniel0724/OmniTokenizer"


# As listed in the authors' README (github.com/FoundationVision/OmniTokenizer).
RELEASED_FILES: dict[str, ReleasedFile] = {
    "omnitokenizer-imagenet": ReleasedFile("imagenet_only.ckpt", "vq", "ImageNet (images only)"),
    "omnitokenizer-celebahq": ReleasedFile("celebahq.ckpt", "vq", "CelebA-HQ"),
    "omnitokenizer-ffhq": ReleasedFile("ffhq.ckpt", "vq", "FFHQ"),
    "omnitokenizer-imagenet-ucf": ReleasedFile("imagenet_ucf.ckpt", "vq", "ImageNet and UCF-101"),
    "omnitokenizer-imagenet-k600": ReleasedFile("imagenet_k600.ckpt", "vq", "ImageNet and Kinetics-600"),
    "omnitokenizer-imagenet-mit": ReleasedFile("imagenet_mit.ckpt", "vq", "ImageNet and Moments in Time"),
    "omnitokenizer-imagenet-sthv2": ReleasedFile("imagenet_sthv2.ckpt", "vq", "ImageNet and Something-Something v2"),
    "omnitokenizer-celebahq-ucf": ReleasedFile("celebahq_ucf.ckpt", "vq", "CelebA-HQ and UCF-101"),
    "omnitokenizer-celebahq-k600": ReleasedFile("celebahq_k600.ckpt", "vq", "CelebA-HQ and Kinetics-600"),
    "omnitokenizer-ffhq-ucf": ReleasedFile("ffhq_ucf.ckpt", "vq", "FFHQ and UCF-101"),
    "omnitokenizer-ffhq-k600": ReleasedFile("ffhq_k600.ckpt", "vq", "FFHQ and Kinetics-600"),
    "omnitokenizer-imagenet-ucf-vae": ReleasedFile("imagenet_ucf_vae.ckpt", "kl", "ImageNet and UCF-101"),
    "omnitokenizer-imagenet-k600-vae": ReleasedFile("imagenet_k600_vae.ckpt", "kl", "ImageNet and Kinetics-600"),
}


# ------------------------------------------------------------------------------------------------------------ names


def bundled_models() -> dict[str, Path]:
    """Names and folders of the models that ship with the package."""
    if not BUNDLED_FOLDER.is_dir():
        return {}
    return {path.name: path for path in sorted(BUNDLED_FOLDER.iterdir()) if (path / CONFIG_NAME).is_file()}


def list_models() -> list[str]:
    """Names that `from_pretrained` takes: bundled models, then the authors' (downloaded when first used)."""
    return [*bundled_models(), *RELEASED_FILES]


def model_info(name: str) -> ModelInfo:
    """What is known of a bundled, local or released model without loading its weights: headers alone are read.

    Args:
        name: of `list_models`, or a folder.

    Raises:
        CheckpointError: an unknown name, or a folder without a valid configuration or weights.
    """
    if name in RELEASED_FILES:
        released = RELEASED_FILES[name]
        description = f"the authors' release, trained on {released.training_data}"
        source = f"https://huggingface.co/{released.repository}/resolve/main/{released.filename}"
        return ModelInfo(name, "tokenizer", None, released.bottleneck, description, source)
    bundled = bundled_models()
    folder = bundled.get(name, Path(name))
    if not folder.is_dir():
        raise CheckpointError(_unknown_name(name))
    shapes = read_shapes(folder / WEIGHTS_NAME)
    if is_generator(folder):
        generator, _ = read_generator_config(folder / CONFIG_NAME)
        _check_generator_weights(folder, generator, shapes)
        kind = "language model" if isinstance(generator, LanguageModelConfig) else "diffusion"
        bottleneck = None
    else:
        config = read_config(folder / CONFIG_NAME)
        _check_weights(folder, config, shapes)
        kind, bottleneck = "tokenizer", config.bottleneck
    # The moving averages and the flag of a codebook serve its training only.
    not_counted = ("bottleneck.cluster_size", "bottleneck.cluster_sum", "bottleneck.initialised")
    parameters = sum(math.prod(shape) for weight, shape in shapes.items() if weight not in not_counted)
    source = "bundled" if name in bundled else str(folder)
    return ModelInfo(name, kind, parameters, bottleneck, _first_sentence(folder / CARD_NAME), source)


def is_generator(folder: Path) -> bool:
    """Whether a folder holds a generator, as its configuration says.

    Raises:
        CheckpointError: no readable configuration.
    """
    return read_json(folder / CONFIG_NAME).get("architecture") in _GENERATOR_CONFIGS


def _first_sentence(card: Path) -> str:
    """The first line of prose of a model card; "" without one."""
    if not card.is_file():
        return ""
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines and lines[0].strip() == "---" and "---" in (line.strip() for line in lines[1:]):  # YAML metadata
        end = next(i for i, line in enumerate(lines[1:], start=1) if line.strip() == "---")
        lines = lines[end + 1 :]
    prose = (line.strip() for line in lines if line.strip() and not line.startswith(("#", "|", "!", "<", "```", "---")))
    return next(prose, "")


def _unknown_name(name: str) -> str:
    known = list_models()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"{name}: no such model, folder or file; {hint}known names are {', '.join(known)}; also accepted are a folder "
        f"with {CONFIG_NAME} and {WEIGHTS_NAME}, a hub id (owner/name), and a released .ckpt or reference .safetensors"
    )


# ------------------------------------------------------------------------------------------------------------- load


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OmniTokenizer:
    """A trained tokenizer in `eval` mode; what `OmniTokenizer.from_pretrained` calls.

    Args:
        name_or_path: a name of `list_models`; a folder with `config.json` and `model.safetensors`; a released `.ckpt`
            or reference `.safetensors`; a hub id `owner/name`. They are tried in this order.
        device, dtype: where and how the weights are kept; the bottleneck stays in float32.

    Raises:
        CheckpointError: an unknown name, or missing, corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, found {dtype}")
    files = _find_files(name_or_path)
    tokenizer = _convert_tokenizer(files.weights) if files.config is None else _load_files(files.config, files.weights)
    return tokenizer.to(device, dtype).eval()


@dataclass(frozen=True)
class _Files:
    """Of a model; a released checkpoint has no configuration of ours."""

    config: Path | None
    weights: Path


def _find_files(name_or_path: str | os.PathLike[str]) -> _Files:
    """The files behind a name, folder, file or hub id, downloaded where needed.

    Raises:
        CheckpointError: there are none.
    """
    name, path = os.fspath(name_or_path), Path(name_or_path)
    bundled = bundled_models()
    if name in bundled:
        return _files_of(bundled[name])
    if path.is_dir():
        return _files_of(path)
    if path.is_file():
        own = path.name == WEIGHTS_NAME and (path.parent / CONFIG_NAME).is_file()
        return _files_of(path.parent) if own else _Files(None, path)
    if name in RELEASED_FILES:
        released = RELEASED_FILES[name]
        return _Files(None, _from_hub(released.repository, released.filename))
    if path.suffix in (".ckpt", ".safetensors", ".pt", ".pth"):
        raise CheckpointError(f"{name}: no such file")
    if len(path.parts) > 1 and path.parent.is_dir():  # a mistyped path, not a hub id: no need to ask the network
        raise CheckpointError(f"{name}: no such folder or file")
    if _HUB_ID.fullmatch(name):
        return _Files(*(_from_hub(name, filename) for filename in (CONFIG_NAME, WEIGHTS_NAME)))
    raise CheckpointError(_unknown_name(name))


def _files_of(folder: Path) -> _Files:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: holds no {name}; a model is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}"
            )
    return _Files(folder / CONFIG_NAME, folder / WEIGHTS_NAME)


def _convert_tokenizer(path: Path) -> OmniTokenizer:
    model = convert_checkpoint(path)
    if not isinstance(model, OmniTokenizer):
        raise CheckpointError(f"{path}: holds a {type(model).__name__}, where a tokenizer is wanted")
    return model


def _from_hub(repository: str, filename: str) -> Path:
    """The file in the hub's local cache, downloaded where needed."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    # What stops a download (no network, a proxy, a rate limit, a full disk) has its own classes in several packages.
    try:
        return Path(hf_hub_download(repository, filename))
    except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, so first
        raise CheckpointError(
            f"{repository}: not a folder here, and the Hugging Face hub cannot be reached for {filename}, which its "
            "cache does not hold; download the files elsewhere and give their folder or file"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{repository}: this hub repository holds no {filename}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: neither a folder here nor a public repository on the Hugging Face hub; "
            f"bundled and known names are {', '.join(list_models())}"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{repository}: {filename} cannot be downloaded from the Hugging Face hub ({first_line(error)})"
        ) from error


def _load_files(config_path: Path, weights_path: Path) -> OmniTokenizer:
    config = read_config(config_path)
    _check_weights(weights_path, config, read_shapes(weights_path))
    tokenizer = meta_tokenizer(config)
    weights = read_weights(weights_path, tokenizer.state_dict())
    tokenizer.load_state_dict(weights, assign=True)
    return tokenizer


def _check_weights(path: Path, config: TokenizerConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    blocks = len(config.encoder_blocks) + len(config.decoder_blocks)
    blocks += config.encoder_temporal_blocks + config.decoder_temporal_blocks
    if blocks > len(shapes):  # before any of them is built
        raise CheckpointError(
            f"{path}: {CONFIG_NAME} asks for {blocks} blocks, the weights file holds {len(shapes)} weights"
        )
    try:
        check_weights(config, shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: does not fit its {CONFIG_NAME}: {error}") from error


# ----------------------------------------------------------------------------------------------------------- config


def read_config(path: str | os.PathLike[str]) -> TokenizerConfig:
    """The configuration in a `config.json`, every field checked for its type and value.

    Raises:
        CheckpointError: one sentence that begins with the path.
    """
    fields = read_json(path)
    try:
        check_architecture(fields, (ARCHITECTURE,))
        return TokenizerConfig(**typed_fields(fields, TokenizerConfig))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


# ------------------------------------------------------------------------------------------------------- generators


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator's model and what its folder says beside the weights."""

    model: LanguageModel | DiffusionTransformer
    settings: GeneratorSettings


def load_generator_model(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainedGenerator:
    """A trained language model or diffusion transformer in `eval` mode, without its tokenizer.

    Args:
        name_or_path: a bundled name, a folder, or a hub id, in this order.
        device, dtype: where and how the weights are kept.

    Raises:
        CheckpointError: an unknown name, a tokenizer, a released checkpoint (which says no tokenizer), or missing,
            corrupt, foreign or unreachable files, in one sentence.
        ValueError: a dtype that is not floating point.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, found {dtype}")
    files = _find_files(name_or_path)
    if files.config is None:
        raise CheckpointError(
            f"{name_or_path}: a released checkpoint does not say which tokenizer it belongs to; "
            "use omnitok.convert_checkpoint and give the model and a tokenizer to LanguageModelGenerator or "
            "DiffusionGenerator"
        )
    config, settings = read_generator_config(files.config)
    shapes = read_shapes(files.weights)
    _check_generator_weights(files.weights, config, shapes)
    with torch.device("meta"):
        model = _build_generator(config)
    model.load_state_dict(read_weights(files.weights, model.state_dict()), assign=True)
    return TrainedGenerator(model.to(device, dtype).eval(), settings)


def read_generator_config(
    path: str | os.PathLike[str],
) -> tuple[LanguageModelConfig | DiffusionTransformerConfig, GeneratorSettings]:
    """The configuration and settings in a generator's `config.json`, every field checked for its type and value.

    Raises:
        CheckpointError: one sentence that begins with the path.
    """
    fields = read_json(path)
    try:
        kind = _GENERATOR_CONFIGS[check_architecture(fields, tuple(_GENERATOR_CONFIGS))]
        settings = fields.get("settings")
        if not isinstance(settings, dict):
            raise ValueError(f"field settings must be an object, found {type(settings).__name__}")
        config = kind(**typed_fields(fields, kind, also=("settings",)))
        return config, GeneratorSettings(**typed_fields(settings, GeneratorSettings))
    except (ValueError, TypeError) as error:  # TypeError: a field that has no default is missing
        raise CheckpointError(f"{path}: {error}") from error


_GENERATOR_CONFIGS: dict[str, type[LanguageModelConfig] | type[DiffusionTransformerConfig]] = {
    "LanguageModel": LanguageModelConfig,
    "DiffusionTransformer": DiffusionTransformerConfig,
}


def _build_generator(
    config: LanguageModelConfig | DiffusionTransformerConfig,
) -> LanguageModel | DiffusionTransformer:
    return LanguageModel(config) if isinstance(config, LanguageModelConfig) else DiffusionTransformer(config)


def _check_generator_weights(
    path: Path, config: LanguageModelConfig | DiffusionTransformerConfig, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    if config.depth > len(shapes):  # before any block is built
        raise CheckpointError(
            f"{path}: {CONFIG_NAME} asks for {config.depth} blocks, the weights file holds {len(shapes)} weights"
        )
    try:
        with torch.device("meta"):
            model = _build_generator(config)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # sizes beyond what a tensor can have
        raise CheckpointError(f"{path}: {CONFIG_NAME} asks for impossible sizes: {first_line(error)}") from error
    try:
        check_shapes({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: does not fit its {CONFIG_NAME}: {error}") from error


def save_generator(
    model: LanguageModel | DiffusionTransformer, settings: GeneratorSettings, folder: str | os.PathLike[str]
) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    beside = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    config = {
        "architecture": type(model).__name__,
        **dataclasses.asdict(model.config),
        "settings": beside | {"sampling": dict(settings.sampling)},
    }
    return write_model(folder, config, model.state_dict(), lambda name: _generator_card(model, settings, name))


def _generator_card(model: LanguageModel | DiffusionTransformer, settings: GeneratorSettings, name: str) -> str:
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    kind = "language model" if isinstance(model, LanguageModel) else "diffusion transformer"
    media = "pictures" if settings.num_frames == 1 else f"pictures and clips of up to {settings.num_frames} frames"
    classes = ", ".join(settings.classes[:20]) + (" …" if len(settings.classes) > 20 else "")
    sampling = ", ".join(f"{key} {value}" for key, value in settings.sampling.items())
    return f"""---
library_name: omnitok
---
# {name}

A {kind} ({parameters:.1f} M parameters) that generates {media} of {settings.height} x {settings.width} pixels.

| | |
|---|---|
| width | {config.width} ({config.depth} blocks, {config.heads} heads) |
| tokenizer | {settings.tokenizer} (weights {settings.tokenizer_sha256 or "unknown"}) |
| classes | {config.num_classes or "none"}{f": {classes}" if classes else ""} |
| sampling | {sampling or "as the defaults"} |

```python
import omnitok

generator = omnitok.load_generator("path/to/this/folder")
```

Training data, recipe, licence and figures are not written down yet: whoever publishes this model adds them here.
"""


# ------------------------------------------------------------------------------------------------------------- save


def save_tokenizer(tokenizer: OmniTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    return write_model(
        folder,
        {"architecture": ARCHITECTURE, **dataclasses.asdict(tokenizer.config)},
        tokenizer.state_dict(),
        lambda name: _model_card(tokenizer, name),
    )


def _model_card(tokenizer: OmniTokenizer, name: str) -> str:
    config = tokenizer.config
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    if config.bottleneck == "vq":
        bottleneck = f"vector quantizer, {config.codebook_size} codes of {config.latent_channels} channels"
    else:
        bottleneck = f"diagonal Gaussian (KL), {config.latent_channels} latent channels"
    return f"""---
library_name: omnitok
---
# {name}

A joint image-video tokenizer ({parameters / 1e6:.1f} M parameters, {bottleneck}).

| | |
|---|---|
| patch | {config.patch_size} x {config.patch_size} pixels, {config.temporal_patch_size} frames |
| width | {config.width} ({config.heads} heads of {config.head_dim}) |
| encoder | spatial {config.encoder_blocks!r}, {config.encoder_temporal_blocks} temporal blocks |
| decoder | {config.decoder_temporal_blocks} temporal blocks, spatial {config.decoder_blocks!r} |
| bottleneck | {bottleneck} |

```python
from omnitok import OmniTokenizer

tokenizer = OmniTokenizer.from_pretrained("path/to/this/folder")
```

Training data, recipe, licence and figures are not written down yet: whoever publishes this model adds them here.
"""


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of all weights and buffers: written beside tokens, to tell models."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        contiguous = tensor.detach().cpu().contiguous()
        digest.update(contiguous.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
