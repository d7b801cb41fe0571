"""Dataclasses whose fields say what they accept: the bound of a field is declared once, with its type."""

import dataclasses
import functools
from typing import Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError

from omnitok.errors import LONGEST_QUOTE, describe

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def checked(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks its fields, such as `steps: Annotated[int, Field(ge=1)] = 50`.

    Unknown names, values of another type and numbers that are not finite are refused; what JSON cannot say (tuples) is
    converted. A value that is refused raises ValueError in one sentence, for one class as for one inside another.
    """
    made = pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def init(self: T, *args: Any, **fields: Any) -> None:
        try:
            validate(self, *args, **fields)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error

    made.__init__ = init  # type: ignore[assignment, method-assign]
    return made  # type: ignore[return-value]


def first_problem(error: ValidationError) -> str:
    """What is wrong with the first bad field: its name, what it must be, and what was found."""
    problem = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name} {message}".strip()
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{name} is not a known field"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{name} is missing"
    message = message.replace("Input should", "must", 1)
    found = problem["input"]
    quoted = repr(found[:LONGEST_QUOTE]) if isinstance(found, str) else describe(found)
    return f"{name} {message[0].lower()}{message[1:]}, found {quoted}"
