"""The options of one draw from a generator, each declared once: for recipes, model folders, Python and the command
line.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import ArgsKwargs

from omnitok.checked import Share, checked

TRAINED_STEPS = 1000
"""Steps of the noise schedule that models of objective "epsilon" are trained with."""


ALIASES = {"clip_guidance_scale": "video_guidance_scale"}
"""Earlier names, which model folders and configurations may still have, and what they are now."""


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"must be two fractions in order, found {interval[0]} {interval[1]}")
    return interval


@checked
class Sampling:
    """What every kind of generator takes. None stands for the default, in all of them."""

    guidance_scale: Annotated[
        float, Field(ge=0, description="Scale of the classifier-free guidance; 1 is without.")
    ] = 1.0
    video_guidance_scale: Annotated[
        float | None, Field(ge=0, description="Scale of the guidance of videos, where it differs from that of images.")
    ] = None
    guidance_interval: Annotated[
        tuple[Share, Share],
        AfterValidator(_in_order),
        Field(
            description="Where to guide, as two fractions: of the codes of each latent frame (language models), of the "
            "steps (masked models), or of the way from data to noise (diffusion models)."
        ),
    ] = (0.0, 1.0)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, ArgsKwargs) and not given.args:
            given = given.kwargs or {}
        if not isinstance(given, Mapping):
            return given
        fields = {name: value for name, value in given.items() if value is not None}
        return {ALIASES.get(name, name): value for name, value in fields.items()}

    @property
    def is_guided(self) -> bool:
        """Whether outputs without the condition are needed at all."""
        return self.guidance_scale != 1 and self.guidance_interval[0] < self.guidance_interval[1]

    def chosen(self) -> dict[str, Any]:
        """The fields that differ from their defaults, which are all that a file has to keep."""
        return {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}


@checked
class TokenSampling(Sampling):
    """How a language model draws the next code."""

    temperature: Annotated[
        float, Field(ge=0, description="Below 1 makes likely codes likelier; 0 takes the likeliest.")
    ] = 1.0
    top_k: Annotated[int, Field(ge=0, description="Draw among the k likeliest codes; 0 among all.")] = 0
    top_p: Annotated[
        float,
        Field(gt=0, le=1, description="Draw among the likeliest codes that together have this probability; 1 for all."),
    ] = 1.0

    def guides(self, index: int, count: int) -> bool:
        """Whether code `index` of the `count` codes of a latent frame is guided."""
        return self.guidance_interval[0] * count <= index < self.guidance_interval[1] * count


@checked
class MaskedSampling(TokenSampling):
    """How a masked model draws codes, some at each step (MaskGIT, section 3.2)."""

    steps: Annotated[
        int | None,
        Field(ge=1, le=TRAINED_STEPS, description="Steps in which the codes are drawn (default 12)."),
    ] = None
    order: Annotated[
        Literal["confidence", "random"],
        Field(description="Which of the codes drawn in a step are kept: those the model is surest of, or any."),
    ] = "confidence"
    choice_temperature: Annotated[
        float,
        Field(ge=0, description="Of the noise on that confidence at the first step; it falls to 0 at the last."),
    ] = 4.5

    @property
    def step_count(self) -> int:
        """The steps, or their default."""
        return self.steps or 12


@checked
class DiffusionSampling(Sampling):
    """How a diffusion model draws latents."""

    sampler: Annotated[
        Literal["ddpm", "ddim", "dpm++", "euler", "heun"] | None,
        Field(
            description="ddpm, ddim or dpm++ for models that predict noise (default ddpm), euler or heun for flow "
            "matching (default euler)."
        ),
    ] = None
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=TRAINED_STEPS,
            description="Steps of the sampler (default 250 for ddpm, 50 for ddim and euler, 25 for dpm++ and heun); "
            "heun calls the network twice in each but the last.",
        ),
    ] = None
    guided_channels: Annotated[
        int | None, Field(ge=1, description="Guide only so many latent channels, the first ones; by default all.")
    ] = None
    eta: Annotated[float, Field(ge=0, le=1, description="With ddim, 0 is deterministic, 1 is as random as ddpm.")] = 0.0
    spacing: Annotated[
        Literal["linspace", "leading", "trailing"] | None,
        Field(description="Of the steps kept from the trained ones (default linspace for ddpm, else trailing)."),
    ] = None
    shift: Annotated[
        float, Field(gt=0, description="Shifts the times of euler and heun towards noise; 1 is without.")
    ] = 1.0


AnySampling = TypeVar("AnySampling", bound=Sampling)


def read_sampling(fields: Mapping[str, Any] | Sampling) -> Sampling:
    """The options that a model folder or a caller names, as the least class that has them all.

    Raises:
        ValueError: an unknown name, names of several kinds of generator, or a value out of bounds.
    """
    if isinstance(fields, Sampling):
        return fields
    if not isinstance(fields, Mapping):
        raise ValueError(f"sampling must be a mapping from names to values, found {fields!r}")
    for kind in (Sampling, TokenSampling, MaskedSampling, DiffusionSampling):
        names = {field.name for field in dataclasses.fields(kind)} | ALIASES.keys()
        if fields.keys() <= names:
            return kind(**fields)
    raise ValueError(f"sampling has names that no kind of generator has together: {', '.join(map(str, fields))}")


def narrow(sampling: Sampling, kind: type[AnySampling]) -> AnySampling:
    """The same options as those of one kind of generator.

    Raises:
        ValueError: options of another kind.
    """
    return sampling if isinstance(sampling, kind) else kind(**sampling.chosen())


def choose_sampling(default: AnySampling, given: Mapping[str, Any], is_video: bool) -> AnySampling:
    """`default` with what a caller gives instead, None being as if it were not given.

    Raises:
        TypeError: an unknown name, with the accepted ones.
        ValueError: a value out of bounds.
    """
    names = [field.name for field in dataclasses.fields(default)]
    if unknown := [name for name in given if name not in names]:
        raise TypeError(f"unknown sampling arguments {', '.join(unknown)}; accepted are {', '.join(names)}")
    fields = {name: getattr(default, name) for name in names}
    if is_video and default.video_guidance_scale is not None:
        fields["guidance_scale"] = default.video_guidance_scale
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("sampler", fields.get("sampler")) != fields.get("sampler"):
        fields |= {"steps": None, "spacing": None}  # those fit the default's sampler
    return type(default)(**(fields | given))
