"""What tyro refuses, in one sentence: the option, what is accepted, and what was found."""

import contextlib
import difflib
import types
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from itertools import takewhile
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from omnitok.cli.failures import UsageError
from omnitok.errors import describe

try:
    from tyro._errors import on_parse_error
except ImportError:  # the hook is private; a version of tyro without it shows its own boxes, and exits with 2 as well
    on_parse_error = None  # type: ignore[assignment]

_NUMBERS = {int: "a whole number", float: "a number"}


@contextlib.contextmanager
def as_usage_errors(options: type[Any], arguments: Sequence[str]) -> Iterator[None]:
    """Within the context, UsageError is raised for what tyro refuses.

    Args:
        options: the dataclass that is parsed.
        arguments: what is parsed.
    """

    def refuse(event: Any) -> None:
        try:
            sentence = _sentence(event, options, arguments)
        except AttributeError:  # of an event that another version of tyro has otherwise
            return
        if sentence:
            raise UsageError(sentence)

    with contextlib.nullcontext() if on_parse_error is None else on_parse_error(refuse):
        yield


def _sentence(event: Any, options: type[Any], arguments: Sequence[str]) -> str:
    """What is wrong; empty for an event that tyro explains better."""
    kind, progs = type(event).__name__, event._help_progs()
    help_line = f"`{progs if isinstance(progs, str) else progs[0]} --help`"
    unknown = getattr(event, "tokens", getattr(event, "unrecognized_tokens", ()))
    if unknown:
        return _unknown(unknown[0], options, arguments[0], help_line)
    if kind == "MissingArgs":
        names = [missing.arg.get_invocation_text()[1].as_str_no_ansi() for missing in event.missing_arguments]
        longest = " and ".join(name.rpartition(", ")[2] for name in names)  # not -o beside --out
        return f"give {longest}; {help_line} shows what is accepted"
    if kind == "MissingSubcommand":
        return f"give one of {', '.join(event.subcommand_spec.parser_from_name)}; {help_line} shows what they do"
    if getattr(event, "argument", None) is None:
        return ""
    argument = event.argument
    names = argument.lowered.name_or_flags
    if argument.is_positional():  # it was cut short by an option
        known = [f"--{name}" for name in _options(options, arguments[0])]
        flags = (text for text in arguments if text.startswith("-"))
        unknown = [flag for flag in flags if flag.partition("=")[0].replace("_", "-") not in known]
        return _unknown(unknown[0], options, arguments[0], help_line) if unknown else ""
    found = describe(" ".join(_found(names, argument.lowered.nargs, arguments)))
    return f"{names[-1]} {_accepted(argument)}, found {repr(found) if found else 'nothing'}"


def _accepted(argument: Any) -> str:
    kind = argument.field.type_stripped
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        return f"must be {' or '.join(get_args(kind))}"
    if kind in _NUMBERS:
        return f"must be {_NUMBERS[kind]}"
    if get_origin(kind) is tuple and (items := get_args(kind))[0] in _NUMBERS:
        return f"must be {'one or several' if items[-1] is ... else f'{len(items)} values'}, each {_NUMBERS[items[0]]}"
    return f"must be followed by {argument.lowered.metavar}"


def _found(names: Sequence[str], count: object, arguments: Sequence[str]) -> list[str]:
    """What follows an option where it was given last."""
    found: list[str] = []
    for place, text in enumerate(arguments):
        name, equals, value = text.partition("=")
        if name in names or name.replace("_", "-") in names:
            following = list(takewhile(lambda word: not word.startswith("--"), arguments[place + 1 :]))
            found = [value] if equals else following[: count if isinstance(count, int) else None]
    return found


def _unknown(token: str, options: type[Any], first: str, help_line: str) -> str:
    flag, verbs = token.partition("=")[0], [verb.__name__.lower() for verb in _verbs(options)]
    if not flag.startswith("-") and verbs and token == first:
        return f"there is no verb {describe(token)!r}; {_hint(token, verbs)}the verbs are {', '.join(verbs)}"
    if not flag.startswith("-"):
        return f"{describe(token)!r} is one argument too many; {help_line} shows what is accepted"
    hint = _hint(flag[2:], sorted(_options(options, first)), "--")
    return f"there is no option {describe(flag)}; {hint}{help_line} shows them all"


def _options(options: type[Any], verb: str) -> Iterator[str]:
    """The names of the options of a dataclass, or of the one among its verbs."""
    kind = next((kind for kind in _verbs(options) if kind.__name__.lower() == verb), options)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        how = getattr(hint, "__metadata__", ())
        if tyro.conf.Positional not in how:
            own = (each.name for each in how if getattr(each, "name", None) is not None)
            yield next(own, name.replace("_", "-"))


def _hint(name: str, known: Sequence[str], dashes: str = "") -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {dashes}{near[0]}? " if near else ""


def _verbs(kind: Any) -> Iterator[type[Any]]:
    """The dataclasses that a field of a dataclass stands for, if it is one of verbs of its own."""
    inside = get_args(kind)
    if is_dataclass(kind):
        try:
            inside = tuple(get_type_hints(kind, include_extras=True).values())
        except NameError:  # of a type that is there for type checkers only; a class of verbs has none
            return
    for inner in inside:
        if isinstance(inner, type) and is_dataclass(inner):
            yield inner
        elif get_origin(inner) in (Annotated, Union, types.UnionType):
            yield from _verbs(inner)
