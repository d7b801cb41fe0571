"""Dataclasses whose fields say what they accept: the bound of a field is declared once, with its type."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import ArgsKwargs

from omnitok.errors import reason

T = TypeVar("T")

Natural = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def checked(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks its fields, such as `steps: Annotated[int, Field(ge=1)] = 50`.

    Unknown names, values of another type and numbers that are not finite are refused; what JSON cannot say (tuples) is
    converted. A value that is refused raises ValueError in one sentence, for one class as for one inside another.
    """
    made = pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
    validate = made.__init__
    names = [field.name for field in dataclasses.fields(made)]

    @functools.wraps(validate)
    def init(self: T, *args: Any, **fields: Any) -> None:
        try:
            # by name, because problems are told by the names that fields are given under
            validate(self, *args[len(names) :], **dict(zip(names, args, strict=False)), **fields)
        except ValidationError as error:
            raise ValueError(reason(error)) from error

    made.__init__ = init  # type: ignore[assignment, method-assign]
    return made  # type: ignore[return-value]


def renamed(given: Any, names: Mapping[str, str]) -> Any:
    """The fields with older names (the keys of `names`) under their new ones, for `model_validator(mode="before")`."""
    if isinstance(given, ArgsKwargs):
        return ArgsKwargs(given.args, renamed(given.kwargs or {}, names))
    return {names.get(k, k): value for k, value in given.items()} if isinstance(given, Mapping) else given
