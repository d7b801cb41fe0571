"""The folder of a model: `config.json`, `model.safetensors` and `README.md`, read with suspicion.

Files may come from anywhere, so a configuration is checked field by field and compared with the header of the weights
before anything of its size is allocated.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from omnitok.atomic import atomic_path
from omnitok.errors import CheckpointError
from omnitok.hub.card import generator_card, tokenizer_card
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.version import VERSION

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"

MAX_CONFIG_BYTES = 2**20
MAX_INTEGER = 2**31 - 1

_RENAMED = {"own_start": "has_bos"}  # fields of older files

_NAMED = 5  # how many names an error spells out

Config = TokenizerConfig | LanguageModelConfig | DiffusionTransformerConfig
Model = OmniTokenizer | LanguageModel | DiffusionTransformer
Generator = LanguageModel | DiffusionTransformer


@dataclass(frozen=True)
class Architecture:
    """What the field `architecture` of a configuration stands for."""

    config: type
    build: Callable[[Any], Any]  # config -> model with fresh weights
    title: str


ARCHITECTURES: dict[str, Architecture] = {
    "OmniTokenizer": Architecture(TokenizerConfig, OmniTokenizer.from_config, "tokenizer"),
    "LanguageModel": Architecture(LanguageModelConfig, LanguageModel, "language model"),
    "DiffusionTransformer": Architecture(DiffusionTransformerConfig, DiffusionTransformer, "diffusion"),
}
GENERATORS = tuple(name for name in ARCHITECTURES if name != "OmniTokenizer")


def first_line(error: BaseException) -> str:
    """What an error says, without what follows the first line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ------------------------------------------------------------------------------------------------------------- config


@dataclass(frozen=True)
class ModelDescription:
    """What a `config.json` says: the architecture, and of a generator its settings."""

    architecture: str
    config: Any  # of the architecture's class
    settings: GeneratorSettings | None


def read_description(
    path: str | os.PathLike[str], accepted: tuple[str, ...] = tuple(ARCHITECTURES)
) -> ModelDescription:
    """The configuration in a `config.json`, every field checked for its type and value.

    Raises:
        CheckpointError: one sentence that begins with the path.
    """
    fields = read_json(path)
    try:
        name = _check_architecture(fields, accepted)
        config_class = ARCHITECTURES[name].config
        if name not in GENERATORS:
            return ModelDescription(name, config_class(**typed_fields(fields, config_class)), None)
        settings = fields.get("settings")
        if not isinstance(settings, dict):
            raise ValueError(f"field settings must be an object, found {type(settings).__name__}")
        config = config_class(**typed_fields(fields, config_class, also=("settings",)))
        return ModelDescription(name, config, GeneratorSettings(**typed_fields(settings, GeneratorSettings)))
    except (ValueError, TypeError) as error:  # TypeError: a field that has no default is missing
        raise CheckpointError(f"{path}: {error}") from error


def read_config(path: str | os.PathLike[str]) -> TokenizerConfig:
    """The configuration in a tokenizer's `config.json`; see `read_description`."""
    config = read_description(path, ("OmniTokenizer",)).config
    assert isinstance(config, TokenizerConfig)
    return config


def is_generator(folder: Path) -> bool:
    """Whether a folder holds a generator, as its configuration says.

    Raises:
        CheckpointError: no readable configuration.
    """
    return read_json(folder / CONFIG_NAME).get("architecture") in GENERATORS


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

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
        raise CheckpointError(f"{path}: not JSON ({first_line(error)})") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, found {type(fields).__name__}")
    return fields


def _check_architecture(fields: Mapping[str, Any], accepted: tuple[str, ...]) -> str:
    """The architecture that a `config.json` names.

    Raises:
        ValueError: another one, or none.
    """
    architecture = fields.get("architecture")
    if architecture not in accepted:
        raise ValueError(
            f"field architecture is {architecture!r}; this version loads {' or '.join(map(repr, accepted))}"
        )
    return str(architecture)


def typed_fields(fields: Mapping[str, Any], config: type, also: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of the dataclass `config`, each of the annotated type.

    Args:
        also: fields beside `architecture` and `omnitok_version` that are not of `config`, and left out.

    Raises:
        ValueError: an unknown field or one of the wrong type.
    """
    beside = ("architecture", "omnitok_version", *also)
    values = {_RENAMED.get(name, name): value for name, value in fields.items() if name not in beside}
    types = get_type_hints(config)
    accepted = [field.name for field in dataclasses.fields(config)]
    if unknown := [name for name in values if name not in accepted]:
        raise ValueError(f"unknown fields {', '.join(unknown[:5])}; accepted are {', '.join(accepted)}")
    return {name: _typed(name, value, types[name]) for name, value in values.items()}


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """`value` as JSON gave it, if it is of the annotated type."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
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
            return value  # the choices of a Literal are checked by the class
        if get_origin(option) is tuple and isinstance(value, list):
            of_text = get_args(option)[0] is str
            if of_text and all(isinstance(item, str) for item in value):
                return tuple(value)
            if not of_text and all(_is_number(item) for item in value):
                return tuple(float(item) for item in value)
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return value  # its entries are checked by the class
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
        return "a list of text" if get_args(option)[0] is str else "a list of finite numbers"
    if get_origin(option) is Mapping:
        return "an object"
    if get_origin(option) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(option))
    return names[option]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ------------------------------------------------------------------------------------------------------------ weights


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the weights that a file holds (name -> shape) with those that a model needs.

    Raises:
        CheckpointError: unknown, missing or misshapen weights, a few of them named.
    """
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"{len(missing)} weights are missing: {listed(missing)}")
    if unknown := [name for name in found if name not in expected]:
        problems.append(f"{len(unknown)} weights are unknown: {listed(unknown)}")
    differ = [name for name in expected if name in found and expected[name] != found[name]]
    if differ:
        described = [f"{name} is {found[name]} instead of {expected[name]}" for name in differ]
        problems.append(f"{len(differ)} weights have another shape: {listed(described)}")
    if problems:
        raise CheckpointError("; ".join(problems))


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def build_on_meta(config: Config) -> Any:
    """A model without memory behind its weights, for `load_state_dict(..., assign=True)`.

    Raises:
        CheckpointError: sizes beyond what a tensor can have.
    """
    build = next(each.build for each in ARCHITECTURES.values() if isinstance(config, each.config))
    try:
        with torch.device("meta"):
            return build(config)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # torch: sizes, and sizes beyond 64 bits
        raise CheckpointError(f"the configuration asks for impossible sizes: {first_line(error)}") from error


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight and buffer of a model."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_weights(path: Path, config: Config, found: Mapping[str, tuple[int, ...]]) -> Any:
    """A model on the meta device, after the weights a file holds (name -> shape) were compared with its own.

    Raises:
        CheckpointError: unknown, missing or misshapen weights, a few of them named.
    """
    blocks = _blocks(config)
    if blocks > len(found):  # before any of them is built
        raise CheckpointError(
            f"{path}: {CONFIG_NAME} asks for {blocks} blocks, the weights file holds {len(found)} weights"
        )
    try:
        model = build_on_meta(config)
        check_shapes(shapes_of(model), found)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: does not fit its {CONFIG_NAME}: {error}") from error
    return model


def _blocks(config: Config) -> int:
    if isinstance(config, TokenizerConfig):
        spatial = len(config.encoder_blocks) + len(config.decoder_blocks)
        return spatial + config.encoder_temporal_blocks + config.decoder_temporal_blocks
    return config.depth


def load_model(description: ModelDescription, weights_path: Path) -> Any:
    """The model of a description with the weights of a file.

    Raises:
        CheckpointError: weights that are damaged or not those of the description.
    """
    model = check_weights(weights_path, description.config, read_shapes(weights_path))
    model.load_state_dict(read_weights(weights_path, model.state_dict()), assign=True)
    return model


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header of a safetensors file, whose sizes are checked against the file's."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: corrupt or truncated safetensors ({first_line(error)})") from error


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights named in `expected`, in its dtypes; shapes are those of the file.

    Raises:
        CheckpointError: a missing weight, whole numbers for floating point ones, a damaged file.
    """
    weights = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name, like in expected.items():
                # A copy: the file may be replaced while the model lives.
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() != like.is_floating_point():
                    raise CheckpointError(f"{path}: weight {name} has dtype {tensor.dtype} instead of {like.dtype}")
                weights[name] = tensor.to(like.dtype, copy=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: corrupt or truncated safetensors ({first_line(error)})") from error
    return weights


# --------------------------------------------------------------------------------------------------------------- save


def save_tokenizer(tokenizer: OmniTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    return write_model(
        folder,
        {"architecture": "OmniTokenizer", **dataclasses.asdict(tokenizer.config)},
        tokenizer.state_dict(),
        lambda name: tokenizer_card(tokenizer, name),
    )


def save_generator(model: Generator, settings: GeneratorSettings, folder: str | os.PathLike[str]) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    beside = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    config = {
        "architecture": type(model).__name__,
        **dataclasses.asdict(model.config),
        "settings": beside | {"sampling": settings.sampling.chosen()},
    }
    return write_model(folder, config, model.state_dict(), lambda name: generator_card(model, settings, name))


def write_model(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    card: Callable[[str], str],
) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md` (kept where it exists) into `folder`.

    Each appears under its name only when complete, so an interruption leaves no half-written file.

    Args:
        config: begins with the architecture; the package's version is added.
        card: the text of README.md for a model of that name.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, no permission, a file of that name).
    """
    folder = Path(folder)
    architecture = config["architecture"]
    fields = {"architecture": architecture, "omnitok_version": VERSION, **config}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS_NAME) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        with atomic_path(folder / CONFIG_NAME) as temporary:
            temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        if not (folder / CARD_NAME).exists():
            with atomic_path(folder / CARD_NAME) as temporary:
                temporary.write_text(card(folder.resolve().name), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise CheckpointError(f"{folder}: the model cannot be written here ({reason})") from error
    return folder


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of all weights and buffers: written beside tokens, to tell models."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        contiguous = tensor.detach().cpu().contiguous()
        digest.update(contiguous.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
