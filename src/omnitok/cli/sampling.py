"""The flags of sampling options, made of the fields that declare them."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_type_hints

import tyro
from pydantic.fields import FieldInfo

from omnitok.cli.failures import UsageError
from omnitok.models.sampling import DiffusionSampling, MaskedSampling, TokenSampling

KINDS = {"language model": TokenSampling, "masked model": MaskedSampling, "diffusion model": DiffusionSampling}
_FLAGS = {"guidance_scale": "guidance"}
_NO_FLAGS = {"video_guidance_scale"}  # one command makes images or videos, so --guidance is enough
_METAVARS = {int: "N", int | None: "N", float: "X", tuple[float, float]: "LOW HIGH"}


def _flag(name: str) -> str:
    return _FLAGS.get(name, name).replace("_", "-")


def _fields() -> dict[str, Any]:
    """Field -> its annotation as a flag, None where it is not given."""
    kinds: dict[str, dict[str, str]] = {}  # field -> what it is for -> the kinds that take it so
    types: dict[str, Any] = {}
    for kind, options in KINDS.items():
        plain, declared = get_type_hints(options), get_type_hints(options, include_extras=True)
        for field in dataclasses.fields(options):
            if field.name in _NO_FLAGS:
                continue
            help_ = next(part.description for part in get_args(declared[field.name])[1:] if isinstance(part, FieldInfo))
            texts = kinds.setdefault(field.name, {})
            texts[help_ or ""] = f"{texts[help_ or '']} and {kind}s" if help_ in texts else f"{kind}s"
            types.setdefault(field.name, plain[field.name])
    found: dict[str, Any] = {}
    for name, texts in kinds.items():
        everywhere = all(name in get_type_hints(options) for options in KINDS.values()) and len(texts) == 1
        help_ = " ".join(text if everywhere else f"{of.capitalize()}: {text}" for text, of in texts.items())
        argument = tyro.conf.arg(name=_flag(name), help=help_, metavar=_METAVARS.get(types[name]))
        found[name] = Annotated[types[name] | None, argument]
    return found


SamplingFlags: Any = dataclasses.make_dataclass(
    "SamplingFlags",
    [(name, annotation, None) for name, annotation in _fields().items()],
    frozen=True,
    kw_only=True,
)
"""A flag per option; what is not given is None, and then as the model's settings say."""


def given_options(flags: Any) -> dict[str, Any]:
    """The options that were given, by the names of their fields.

    Raises:
        UsageError: a value out of bounds.
    """
    given = {name: value for name in _fields() if (value := getattr(flags, name)) is not None}
    for options in KINDS.values():
        own = {field.name for field in dataclasses.fields(options)}
        try:
            options(**{name: value for name, value in given.items() if name in own})
        except ValueError as error:
            name, _, rest = str(error).partition(" ")
            raise UsageError(f"--{_flag(name.partition('.')[0])} {rest}") from error
    return given


def check_kind(given: Mapping[str, Any], options: type, model: str) -> None:
    """Raise UsageError for options of another kind of generator."""
    own = {field.name for field in dataclasses.fields(options)}
    kind = next(name for name, kind_options in KINDS.items() if kind_options is options)
    for name in given:
        if name not in own:
            raise UsageError(f"--{_flag(name)} is not for {model}, which is a {kind}")
