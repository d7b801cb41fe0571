"""Bottlenecks, one file each with its configuration: features -> latents (and codes) -> features.

A configuration's `type` says which: `BOTTLENECKS` maps it to the class.
"""

import dataclasses
from typing import Annotated, Any

from pydantic import Field

from omnitok.models.bottlenecks.base import Bottleneck, BottleneckOutput, GaussianPosterior
from omnitok.models.bottlenecks.bsq import BinarySphericalQuantizer, BSQConfig
from omnitok.models.bottlenecks.fsq import FiniteScalarQuantizer, FSQConfig
from omnitok.models.bottlenecks.kl import DiagonalGaussian, KLConfig
from omnitok.models.bottlenecks.lfq import LFQConfig, LookupFreeQuantizer
from omnitok.models.bottlenecks.pvq import ProductQuantizer, PVQConfig
from omnitok.models.bottlenecks.rvq import ResidualVectorQuantizer, RVQConfig
from omnitok.models.bottlenecks.simvq import SimpleVectorQuantizer, SimVQConfig
from omnitok.models.bottlenecks.vq import VectorQuantizer, VQConfig

__all__ = [
    "BOTTLENECKS",
    "BSQConfig",
    "BinarySphericalQuantizer",
    "Bottleneck",
    "BottleneckConfig",
    "BottleneckOutput",
    "DiagonalGaussian",
    "FSQConfig",
    "FiniteScalarQuantizer",
    "GaussianPosterior",
    "KLConfig",
    "LFQConfig",
    "LookupFreeQuantizer",
    "PVQConfig",
    "ProductQuantizer",
    "RVQConfig",
    "ResidualVectorQuantizer",
    "SimVQConfig",
    "SimpleVectorQuantizer",
    "VQConfig",
    "VectorQuantizer",
    "bottleneck_fields",
    "build_bottleneck",
]

BottleneckConfig = Annotated[
    VQConfig | KLConfig | FSQConfig | LFQConfig | BSQConfig | RVQConfig | PVQConfig | SimVQConfig,
    Field(discriminator="type"),
]

BOTTLENECKS: dict[str, tuple[Any, type[Bottleneck]]] = {
    "vq": (VQConfig, VectorQuantizer),
    "kl": (KLConfig, DiagonalGaussian),
    "fsq": (FSQConfig, FiniteScalarQuantizer),
    "lfq": (LFQConfig, LookupFreeQuantizer),
    "bsq": (BSQConfig, BinarySphericalQuantizer),
    "rvq": (RVQConfig, ResidualVectorQuantizer),
    "pvq": (PVQConfig, ProductQuantizer),
    "simvq": (SimVQConfig, SimpleVectorQuantizer),
}


def build_bottleneck(width: int, config: Any) -> Bottleneck:
    """The bottleneck that a configuration describes, for features of `width` channels, with fresh weights."""
    build: Any = BOTTLENECKS[config.type][1]
    return build(width, config)


def bottleneck_fields(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the `given` fields that a bottleneck of type `kind` has, for changing a configuration's type."""
    known = [field.name for field in dataclasses.fields(BOTTLENECKS[kind][0])] if kind in BOTTLENECKS else given
    return {name: value for name, value in given.items() if name in known} | {"type": kind}
