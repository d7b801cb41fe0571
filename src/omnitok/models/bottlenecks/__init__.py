"""Bottlenecks, one file each with its configuration: features -> latents (and codes) -> features.

A configuration's `type` says which: `BOTTLENECKS` maps it to the class.
"""

import dataclasses
from typing import Annotated, Any

from pydantic import Field

from omnitok.models.bottlenecks.base import Bottleneck, BottleneckOutput, GaussianPosterior
from omnitok.models.bottlenecks.fsq import FiniteScalarQuantizer, FSQConfig
from omnitok.models.bottlenecks.kl import DiagonalGaussian, KLConfig
from omnitok.models.bottlenecks.vq import VectorQuantizer, VQConfig

__all__ = [
    "BOTTLENECKS",
    "Bottleneck",
    "BottleneckConfig",
    "BottleneckOutput",
    "DiagonalGaussian",
    "FSQConfig",
    "FiniteScalarQuantizer",
    "GaussianPosterior",
    "KLConfig",
    "VQConfig",
    "VectorQuantizer",
    "bottleneck_fields",
    "build_bottleneck",
]

BottleneckConfig = Annotated[VQConfig | KLConfig | FSQConfig, Field(discriminator="type")]

BOTTLENECKS: dict[str, tuple[Any, type[Bottleneck]]] = {
    "vq": (VQConfig, VectorQuantizer),
    "kl": (KLConfig, DiagonalGaussian),
    "fsq": (FSQConfig, FiniteScalarQuantizer),
}


def build_bottleneck(width: int, config: Any) -> Bottleneck:
    """The bottleneck that a configuration describes, for features of `width` channels, with fresh weights."""
    build: Any = BOTTLENECKS[config.type][1]
    return build(width, config)


def bottleneck_fields(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the `given` fields that a bottleneck of type `kind` has, for changing a configuration's type."""
    known = [field.name for field in dataclasses.fields(BOTTLENECKS[kind][0])] if kind in BOTTLENECKS else given
    return {name: value for name, value in given.items() if name in known} | {"type": kind}
