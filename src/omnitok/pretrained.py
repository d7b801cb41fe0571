"""Trained models by name: load, save, list. A model is a folder of `config.json`, `model.safetensors`, `README.md`.

Files may come from anywhere, so a configuration is checked field by field and compared with the header of the weights
before anything of its size is allocated.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from omnitok.atomic import atomic_path
from omnitok.convert import check_weights, convert_checkpoint, meta_tokenizer
from omnitok.errors import CheckpointError
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
ARCHITECTURE = "OmniTokenizer"
BUNDLED_FOLDER = Path(__file__).parent / "pretrained_models"

MAX_CONFIG_BYTES = 2**20
MAX_INTEGER = 2**31 - 1
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelInfo:
    """A row of the table of models; None where only the weights could tell and they are not on this machine."""

    name: str
    kind: str
    parameters: int | None  # trained weights and codebook
    bottleneck: str | None  # "vq" or "kl"
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
    config = read_config(folder / CONFIG_NAME)
    shapes = _read_shapes(folder / WEIGHTS_NAME)
    _check_weights(folder, config, shapes)
    # The moving averages and the flag of a codebook serve its training only.
    not_counted = ("bottleneck.cluster_size", "bottleneck.cluster_sum", "bottleneck.initialised")
    parameters = sum(math.prod(shape) for weight, shape in shapes.items() if weight not in not_counted)
    source = "bundled" if name in bundled else str(folder)
    return ModelInfo(name, "tokenizer", parameters, config.bottleneck, _first_sentence(folder / CARD_NAME), source)


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
    name, path = os.fspath(name_or_path), Path(name_or_path)
    bundled = bundled_models()
    if name in bundled:
        tokenizer = _load_folder(bundled[name])
    elif path.is_dir():
        tokenizer = _load_folder(path)
    elif path.is_file():
        tokenizer = _load_file(path)
    elif name in RELEASED_FILES:
        released = RELEASED_FILES[name]
        tokenizer = _convert_tokenizer(_from_hub(released.repository, released.filename))
    elif path.suffix in (".ckpt", ".safetensors", ".pt", ".pth"):
        raise CheckpointError(f"{name}: no such file")
    elif len(path.parts) > 1 and path.parent.is_dir():  # a mistyped path, not a hub id: no need to ask the network
        raise CheckpointError(f"{name}: no such folder or file")
    elif _HUB_ID.fullmatch(name):
        tokenizer = _load_hub(name)
    else:
        raise CheckpointError(_unknown_name(name))
    return tokenizer.to(device, dtype).eval()


def _load_file(path: Path) -> OmniTokenizer:
    if path.name == WEIGHTS_NAME and (path.parent / CONFIG_NAME).is_file():
        return _load_folder(path.parent)
    return _convert_tokenizer(path)


def _convert_tokenizer(path: Path) -> OmniTokenizer:
    model = convert_checkpoint(path)
    if not isinstance(model, OmniTokenizer):
        raise CheckpointError(f"{path}: holds a {type(model).__name__}, where a tokenizer is wanted")
    return model


def _load_folder(folder: Path) -> OmniTokenizer:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: holds no {name}; a model is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}"
            )
    return _load_files(folder / CONFIG_NAME, folder / WEIGHTS_NAME)


def _load_hub(hub_id: str) -> OmniTokenizer:
    config, weights = (_from_hub(hub_id, name) for name in (CONFIG_NAME, WEIGHTS_NAME))
    return _load_files(config, weights)


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
            f"{repository}: {filename} cannot be downloaded from the Hugging Face hub ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _load_files(config_path: Path, weights_path: Path) -> OmniTokenizer:
    config = read_config(config_path)
    _check_weights(weights_path, config, _read_shapes(weights_path))
    tokenizer = meta_tokenizer(config)
    expected = tokenizer.state_dict()
    weights = {}
    try:
        with safe_open(weights_path, framework="pt") as file:
            for name, like in expected.items():
                # A copy: the file may be replaced while the model lives.
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() != like.is_floating_point():
                    raise CheckpointError(
                        f"{weights_path}: weight {name} has dtype {tensor.dtype} instead of {like.dtype}"
                    )
                weights[name] = tensor.to(like.dtype, copy=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights_path}: corrupt or truncated safetensors ({_first_line(error)})") from error
    tokenizer.load_state_dict(weights, assign=True)
    return tokenizer


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header of a safetensors file, whose sizes are checked against the file's."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: corrupt or truncated safetensors ({_first_line(error)})") from error


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
    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, which no configuration is")
        fields = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({_first_line(error)})") from error
    try:
        return _config_from_json(fields)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _config_from_json(fields: object) -> TokenizerConfig:
    if not isinstance(fields, dict):
        raise ValueError(f"must hold a JSON object, found {type(fields).__name__}")
    architecture = fields.get("architecture")
    if architecture != ARCHITECTURE:
        raise ValueError(f"field architecture is {architecture!r}; this version loads {ARCHITECTURE!r}")
    values: dict[str, Any] = {
        name: value for name, value in fields.items() if name not in ("architecture", "omnitok_version")
    }
    types = get_type_hints(TokenizerConfig)
    accepted = [field.name for field in dataclasses.fields(TokenizerConfig)]
    if unknown := [name for name in values if name not in accepted]:
        raise ValueError(f"unknown fields {', '.join(unknown[:5])}; accepted are {', '.join(accepted)}")
    return TokenizerConfig(**{name: _typed(name, value, types[name]) for name, value in values.items()})


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """`value` as JSON gave it, if it is of the annotated type."""
    options = get_args(annotation) if get_origin(annotation) not in (None, tuple, Literal) else (annotation,)
    for option in options:
        if option is type(None) and value is None:
            return value
        if option is bool and isinstance(value, bool):
            return value
        if option is int and _is_integer(value):
            return value
        if option is float and _is_number(value):
            return float(value)
        if (option is str or get_origin(option) is Literal) and isinstance(value, str):
            return value  # the choices of a Literal are checked by TokenizerConfig
        if get_origin(option) is tuple and isinstance(value, list) and all(_is_number(item) for item in value):
            return tuple(float(item) for item in value)
    named = " or ".join(_type_name(option) for option in options)
    raise ValueError(f"field {name} must be {named}, found {_short(value)}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER


def _is_number(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _type_name(option: Any) -> str:
    names = {bool: "true or false", int: f"a whole number up to {MAX_INTEGER}", float: "a finite number", str: "text"}
    if option is type(None):
        return "null"
    if get_origin(option) is tuple:
        return "a list of finite numbers"
    if get_origin(option) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(option))
    return names[option]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ------------------------------------------------------------------------------------------------------------- save


def save_tokenizer(tokenizer: OmniTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    from omnitok import __version__

    folder = Path(folder)
    config = {"architecture": ARCHITECTURE, "omnitok_version": __version__, **dataclasses.asdict(tokenizer.config)}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tokenizer.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS_NAME) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        with atomic_path(folder / CONFIG_NAME) as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if not (folder / CARD_NAME).exists():
            with atomic_path(folder / CARD_NAME) as temporary:
                temporary.write_text(_model_card(tokenizer, folder.resolve().name), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
        raise CheckpointError(f"{folder}: the model cannot be written here ({reason})") from error
    return folder


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
