"""The files of a model: a folder of `config.json`, `model.safetensors` and `README.md`, read with suspicion.

Files may come from anywhere, so a configuration is checked field by field and compared with the header of the weights
before anything of its size is allocated.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnitok.atomic import atomic_path
from omnitok.errors import CheckpointError

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"

MAX_CONFIG_BYTES = 2**20
MAX_INTEGER = 2**31 - 1


def first_line(error: BaseException) -> str:
    """What an error says, without what follows the first line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ------------------------------------------------------------------------------------------------------------- config


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


def check_architecture(fields: Mapping[str, Any], accepted: tuple[str, ...]) -> str:
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
    values = {k: value for k, value in fields.items() if k not in ("architecture", "omnitok_version", *also)}
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
        if get_origin(option) is Mapping and isinstance(value, dict):
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
    from omnitok import __version__

    folder = Path(folder)
    architecture = config["architecture"]
    fields = {"architecture": architecture, "omnitok_version": __version__, **config}
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
