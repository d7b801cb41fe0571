"""Configurations as text: `--set a.b=c`, and YAML files that can be read back. Neither is trusted."""

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
from omnitok.errors import OmnitokError, describe, reading, reason
from omnitok.models.autoencoder import FLAT_FIELDS, nested_bottleneck
from omnitok.models.bottlenecks import BOTTLENECKS, bottleneck_fields
from omnitok.models.diffusion_transformer import DIFFUSION_TRANSFORMERS
from omnitok.models.presets import PRESETS
from omnitok.training.config import CONFIG_KINDS, LOSS_NAMES, RENAMED, AnyConfig, DiffusionTrainConfig, TrainConfig

Plain = dict[str, Any]
Config = TypeVar("Config", bound=AnyConfig)

LARGEST_FILE = 2**20
"""Bytes of a configuration; ours have about 3000."""
DEEPEST = 20
"""Mappings and lists inside one another; ours have 4."""

_ARCHITECTURES: dict[type[Any], Mapping[str, Any]] = {
    TrainConfig: PRESETS,
    DiffusionTrainConfig: DIFFUSION_TRANSFORMERS,
}
"""What `--set model=NAME` takes."""


# ---------------------------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """YAML without references, which make gigabytes of a few lines, and without bottomless nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses references (*name), which configurations do not need")
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _parse(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader that knows even less


def to_plain(config: Any) -> Plain:
    """A configuration as nested dicts, lists, strings and numbers."""
    plain: Plain = TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def from_plain(plain: Mapping[str, Any], kind: type[Config], source: str) -> Config:
    """The configuration that `to_plain` gave, checked; keys may have their earlier names.

    Raises:
        OmnitokError: an unknown key or a value of the wrong type, in one sentence that starts with `source`.
    """
    plain = _renamed(plain)
    try:
        if kind is TrainConfig and isinstance(plain.get("model"), Mapping):
            plain["model"] = nested_bottleneck(plain["model"])
    except ValueError as error:
        raise OmnitokError(f"{source}: model.{error}") from error
    try:
        return TypeAdapter(kind).validate_python(plain)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            if problem["type"] == "unexpected_keyword_argument":
                # pydantic names the type of the bottleneck too
                key = ".".join(str(part) for part in problem["loc"] if part not in BOTTLENECKS)
                raise OmnitokError(f"{source}: unknown key {describe(key)!r}{_nearest(key, kind)}") from error
        raise OmnitokError(f"{source}: {reason(error)}") from error


def _renamed(plain: Mapping[str, Any]) -> Plain:
    """With the keys of `RENAMED` under their new names."""
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in plain.items()}
    for old, new in RENAMED.items():
        *parents, last = old.split(".")
        target = plain
        for parent in parents:
            target = target.get(parent, {})
        if isinstance(target, dict) and last in target:
            target[new.rsplit(".", 1)[-1]] = target.pop(last)
    return plain


def to_yaml(document: Mapping[str, Any]) -> str:
    """Plain values as YAML, in their own order; `read_config` reads it."""
    return yaml.safe_dump(document, sort_keys=False)


def write_config(config: AnyConfig, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_yaml(to_plain(config)), encoding="utf-8")


def read_config(path: str | os.PathLike[str], absent: Mapping[str, Any] | None = None) -> AnyConfig:
    """Read what `write_config` wrote, of whichever kind it is, or the whole of what `omnitok train --dry-run` prints.

    Args:
        absent: values of keys that the file does not have, in place of their defaults: runs of older versions must go
            on as they began.

    Raises:
        OmnitokError: the file is missing, no YAML, or no training configuration.
    """
    with reading(path, what="YAML file"):
        if not Path(path).is_file():
            raise FileNotFoundError(path)
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise OmnitokError(f"{path}: has more than {LARGEST_FILE} bytes, which no configuration has")
        plain = _parse(content.decode("utf-8"))
    if isinstance(plain, dict) and isinstance(plain.get("config"), dict):
        plain = plain["config"]
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise OmnitokError(f"{path}: holds {describe(plain)}, a mapping of settings is needed")
    kind = plain.get("kind")
    if not isinstance(kind, str | None) or kind not in CONFIG_KINDS:
        known = ", ".join(map(repr, filter(None, CONFIG_KINDS)))
        raise OmnitokError(f"{path}: kind is {describe(kind)}; known are {known}, or none for a tokenizer")
    return from_plain({**(absent or {}), **plain}, CONFIG_KINDS[kind], str(path))


def read_run(folder: Path) -> AnyConfig:
    """The configuration that the run in a folder was started with.

    Raises:
        OmnitokError: as `read_config`.
    """
    return read_config(folder / "config.yaml", {"held_out": 0.0})


# --------------------------------------------------------------------------------------------------------------- --set


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
        source = f"--set {describe(setting)}"
        if not equals or not key:
            raise OmnitokError(f"{source}: expected KEY=VALUE, such as optimizer.lr=1e-4")
        _assign(plain, RENAMED.get(key.strip(), key.strip()), text, source, type(config))
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        target = plain
        for parent in parents:
            target = target[parent]
        target[last] = value
    return from_plain(plain, type(config), "--set" if settings else "the options")


def setting_names(kind: Any = TrainConfig, prefix: str = "") -> list[str]:
    """Every key that `--set` takes."""
    names: list[str] = []
    hints = get_type_hints(kind)
    for name in (field.name for field in dataclasses.fields(kind)):
        annotation = hints[name]
        if parts := _parts(annotation):
            inside = [key for part in parts for key in setting_names(part, f"{prefix}{name}.")]
            names += dict.fromkeys([f"{prefix}{name}", *inside])
        elif get_origin(annotation) is dict:
            names += [f"{prefix}{name}", *(f"{prefix}{name}.{key}" for key in _keys(annotation))]
        else:
            names.append(f"{prefix}{name}")
    return names


def _assign(plain: Plain, key: str, text: str, source: str, kind: type[Any]) -> None:
    with reading(source, what="value"):
        value = _parse(text)
        if kind is TrainConfig and key.removeprefix("model.") in FLAT_FIELDS:  # before bottlenecks had their own part
            key = f"model.bottleneck.{FLAT_FIELDS[key.removeprefix('model.')]}"
        if key in ("model.bottleneck", "model.bottleneck.type") and isinstance(value, str):
            key, value = "model.bottleneck", bottleneck_fields(value, plain["model"]["bottleneck"])
        annotation = _annotation(key, source, kind)
        is_tuple = any(get_origin(option) is tuple for option in _options(annotation))
        if is_tuple and isinstance(value, str | int | float):
            value = [_parse(item) for item in text.split(",")]
    if key == "model" and isinstance(value, str):
        known = _ARCHITECTURES.get(kind, {})
        if value not in known:
            raise OmnitokError(f"{source}: no such architecture; known are {', '.join(known) or 'none by name'}")
        value = to_plain(known[value])
    *parents, last = key.split(".")
    target = plain
    for parent in parents:
        if target[parent] is None:
            target[parent] = {}
        target = target[parent]
    target[last] = value


def _parts(annotation: Any) -> list[Any]:
    """The classes of settings that a key may hold: one, or the kinds of a bottleneck."""
    return [option for option in _options(annotation) if dataclasses.is_dataclass(option)]


def _keys(annotation: Any) -> tuple[str, ...]:
    """The keys of a dictionary: those that its type names, else it is of losses."""
    return get_args(get_args(annotation)[0]) or LOSS_NAMES


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


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
        elif get_origin(annotation) is dict and name in _keys(annotation):
            annotation = get_args(annotation)[1]
        else:
            raise OmnitokError(f"{source}: unknown key {describe(key)!r}{_nearest(key, kind)}")
    return annotation


def _nearest(key: str, kind: type[Any]) -> str:
    names = setting_names(kind)
    key = key[:200]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if not close:  # the last part alone may be right: lr for optimizer.lr
        last = key.rsplit(".", 1)[-1]
        close = [name for name in names if name.rsplit(".", 1)[-1] == last][:1]
    return f", did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"
