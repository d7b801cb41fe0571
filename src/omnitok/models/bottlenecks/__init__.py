"""Bottlenecks, one file each: features -> latents (and codes) -> features."""

from omnitok.models.bottlenecks.base import BottleneckOutput, GaussianPosterior
from omnitok.models.bottlenecks.kl import DiagonalGaussian
from omnitok.models.bottlenecks.vq import VectorQuantizer

__all__ = ["BottleneckOutput", "DiagonalGaussian", "GaussianPosterior", "VectorQuantizer"]
