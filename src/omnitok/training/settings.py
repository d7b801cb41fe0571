"""Configurations as text: `--set a.b=c`, and YAML files that can be read back."""

import dataclasses
import difflib
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from omnitok.atomic import atomic_path
from omnitok.errors import OmnitokError, reason
from omnitok.models.autoencoder import FLAT_FIELDS, nested_bottleneck
from omnitok.models.bottlenecks import bottleneck_fields
from omnitok.models.diffusion_transformer import DIFFUSION_TRANSFORMERS
from omnitok.models.presets import PRESETS
from omnitok.models.sampling import ALIASES
from omnitok.training.config import LOSS_NAMES, TrainConfig
from omnitok.training.generator_config import AnyGeneratorConfig, DiffusionTrainConfig, LanguageModelTrainConfig

Plain = dict[str, Any]
AnyConfig = TrainConfig | AnyGeneratorConfig
Config = TypeVar("Config", bound=AnyConfig)

_KINDS: dict[Any, type[AnyConfig]] = {
    None: TrainConfig,  # of a tokenizer; its files say no kind
    "language_model": LanguageModelTrainConfig,
    "diffusion": DiffusionTrainConfig,
}
_ARCHITECTURES: dict[type[AnyConfig], Mapping[str, Any]] = {
    TrainConfig: PRESETS,
    LanguageModelTrainConfig: {},
    DiffusionTrainConfig: DIFFUSION_TRANSFORMERS,
}
"""What `--set model=NAME` takes."""


def to_plain(config: Any) -> Plain:
    """A configuration as nested dicts, lists, strings and numbers."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def from_plain(plain: Mapping[str, Any], kind: type[Config], source: str) -> Config:
    """The configuration that `to_plain` gave, checked.

    Raises:
        OmnitokError: an unknown key or a value of the wrong type, in one sentence that starts with `source`.
    """
    plain = dict(plain)
    try:
        if kind is TrainConfig and isinstance(plain.get("model"), Mapping):
            plain["model"] = nested_bottleneck(plain["model"])
    except ValueError as error:
        raise OmnitokError(f"{source}: model.{error}") from error
    _check_keys(plain, kind, "", source, kind)
    try:
        return TypeAdapter(kind).validate_python(plain)
    except ValidationError as error:
        raise OmnitokError(f"{source}: {reason(error)}") from error


def write_config(config: AnyConfig, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_plain(config), sort_keys=False), encoding="utf-8")


def read_config(path: str | os.PathLike[str]) -> AnyConfig:
    """Read what `write_config` wrote, of whichever kind it is.

    Raises:
        OmnitokError: the file is missing, no YAML, or no training configuration.
    """
    try:
        plain = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OmnitokError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(plain, dict):
        raise OmnitokError(f"{path}: holds {type(plain).__name__}, a mapping of settings is needed")
    kind = plain.get("kind")
    if not isinstance(kind, str | None) or kind not in _KINDS:
        known = ", ".join(map(repr, filter(None, _KINDS)))
        raise OmnitokError(f"{path}: kind is {kind!r}; known are {known}, or none for a tokenizer")
    return from_plain(plain, _KINDS[kind], str(path))


def apply_settings(config: Config, settings: Sequence[str], changes: Mapping[str, Any] | None = None) -> Config:
    """`config` with each "a.b=c" of `settings` replaced, in order, and then the values of `changes`.

    What belongs together may come in pieces, so only the result is checked. Settings are read as YAML (numbers, true,
    null, [96, 128]; a list may also be written 96,128) and converted to the type of the key. `model=NAME` takes a
    preset. A nested dictionary may be given whole: `weights={l1: 1, l2: 4}`.

    Args:
        changes: values by their dotted names.

    Raises:
        OmnitokError: not "key=value", an unknown key (with the nearest known one) or a value of the wrong type.
    """
    plain = to_plain(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        source = f"--set {setting}"
        if not equals or not key:
            raise OmnitokError(f"{source}: expected KEY=VALUE, such as optimizer.lr=1e-4")
        _assign(plain, key.strip(), text, source, type(config))
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        target = plain
        for parent in parents:
            target = target[parent]
        target[last] = value
    return from_plain(plain, type(config), "--set" if settings else "configuration")


def setting_names(kind: Any = TrainConfig, prefix: str = "") -> list[str]:
    """Every key that `--set` takes."""
    names: list[str] = []
    for name, annotation in get_type_hints(kind).items():
        if parts := _parts(annotation):
            inside = [key for part in parts for key in setting_names(part, f"{prefix}{name}.")]
            names += dict.fromkeys([f"{prefix}{name}", *inside])
        elif get_origin(annotation) is dict:
            names += [f"{prefix}{name}", *(f"{prefix}{name}.{loss}" for loss in LOSS_NAMES)]
        else:
            names.append(f"{prefix}{name}")
    return names


def _assign(plain: Plain, key: str, text: str, source: str, kind: type[Any]) -> None:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OmnitokError(f"{source}: {text!r} cannot be read as a value") from error
    if kind is TrainConfig and key.removeprefix("model.") in FLAT_FIELDS:  # as before bottlenecks had their own part
        key = f"model.bottleneck.{FLAT_FIELDS[key.removeprefix('model.')]}"
    if key in ("model.bottleneck", "model.bottleneck.type") and isinstance(value, str):
        key, value = "model.bottleneck", bottleneck_fields(value, plain["model"]["bottleneck"])
    if key == "model" and isinstance(value, str):
        known = _ARCHITECTURES[kind]
        if value not in known:
            raise OmnitokError(f"{source}: no such architecture; known are {', '.join(known) or 'none by name'}")
        value = to_plain(known[value])
    annotation = _annotation(key, source, kind)
    if _takes(annotation, tuple) and isinstance(value, str | int | float):
        value = [yaml.safe_load(item) for item in text.split(",")]
    *parents, last = key.split(".")
    target = plain
    for parent in parents:
        if target[parent] is None:
            target[parent] = {}
        target = target[parent]
    target[last] = value


def _parts(annotation: Any) -> list[Any]:
    """The classes of settings that a key may hold: one, or the kinds of a bottleneck."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return [option for option in options if dataclasses.is_dataclass(option)]


def _takes(annotation: Any, kind: type) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes(option, kind) for option in get_args(annotation))
    return get_origin(annotation) is kind


def _annotation(key: str, source: str, kind: type[Any]) -> Any:
    """The type of a key.

    Raises:
        OmnitokError: there is no such key.
    """
    annotation: Any = kind
    for name in key.split("."):
        known = [hints[name] for part in _parts(annotation) if name in (hints := get_type_hints(part))]
        if known:
            annotation = known[0]
        elif get_origin(annotation) is dict and name in LOSS_NAMES:
            annotation = get_args(annotation)[1]
        else:
            raise OmnitokError(f"{source}: unknown key {key!r}{_nearest(key, kind)}")
    return annotation


def _nearest(key: str, kind: type[Any]) -> str:
    names = setting_names(kind)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if not close:  # the last part alone may be right: lr for optimizer.lr
        last = key.rsplit(".", 1)[-1]
        close = [name for name in names if name.rsplit(".", 1)[-1] == last][:1]
    return f", did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"


def _check_keys(plain: Mapping[str, Any], part: Any, prefix: str, source: str, kind: type[Any]) -> None:
    hints = {name: hint for each in _parts(part) for name, hint in get_type_hints(each).items()}
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if name not in hints and name not in ALIASES:
            raise OmnitokError(f"{source}: unknown key {key!r}{_nearest(key, kind)}")
        if isinstance(value, Mapping):
            if _parts(hints.get(name)):
                _check_keys(value, hints[name], f"{key}.", source, kind)
            elif get_origin(hints.get(name)) is dict:
                for entry in value:
                    _annotation(f"{key}.{entry}", source, kind)
