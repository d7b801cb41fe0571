"""Metrics of reconstructions and samples: plain functions on tensors and streaming accumulators.

Pixels are float in [-1, 1] (feature networks also take uint8). Accumulators have `update`, `merge`, `all_reduce` over
`torch.distributed`, and `compute`. Nothing here is random or downloaded: networks come from `load_*` with a folder of
weights, and a missing file is a `MissingWeightsError`.
"""

from omnitok.losses.lpips import LPIPS, load_lpips
from omnitok.losses.perceptual import MobileNetV2, load_mobilenet_v2
from omnitok.metrics.alignment import evaluate_alignment
from omnitok.metrics.average import Average, AverageAccumulator
from omnitok.metrics.classifier import Confusion, ConfusionAccumulator, LinearClassifier, gradient_features
from omnitok.metrics.clip_score import ClipScore, load_clip_score
from omnitok.metrics.codebook import CodebookAccumulator, CodebookStatistics, codebook_statistics
from omnitok.metrics.colors import COLORS, ImageColors, NamedColor, measure_colors
from omnitok.metrics.comparison import compare
from omnitok.metrics.evaluate import EvaluationConfig
from omnitok.metrics.features import FeatureSet
from omnitok.metrics.fidelity import compute_statistics, evaluate_fidelity
from omnitok.metrics.frechet import (
    FrechetAccumulator,
    GaussianStatistics,
    frechet_distance,
    gaussian_statistics,
    load_statistics,
    save_statistics,
)
from omnitok.metrics.i3d import I3D, TorchScriptI3D, load_i3d, load_i3d_torchscript
from omnitok.metrics.inception import FIDInception, InceptionOutput, load_inception
from omnitok.metrics.inception_score import InceptionScore, InceptionScoreAccumulator, inception_score
from omnitok.metrics.kid import KernelDistance, kid
from omnitok.metrics.mobilenet import MobileNetImageFeatures, MobileNetVideoFeatures
from omnitok.metrics.networks import load_networks
from omnitok.metrics.precision_recall import PrecisionRecall, precision_recall
from omnitok.metrics.protocols import CLEAN, OFFICIAL, PROTOCOLS, Protocol
from omnitok.metrics.psnr import psnr, psnr_per_frame
from omnitok.metrics.reconstruction import EvaluatedModel, evaluate_reconstruction
from omnitok.metrics.registry import METRICS, check_metrics, is_metric, networks_for
from omnitok.metrics.results import Result
from omnitok.metrics.samples import files_by_modality
from omnitok.metrics.ssim import ssim, ssim_per_frame

# fmt: off
__all__ = [
    "CLEAN", "COLORS", "I3D", "LPIPS", "METRICS", "OFFICIAL", "PROTOCOLS", "Average", "AverageAccumulator",
    "ClipScore", "CodebookAccumulator", "CodebookStatistics", "Confusion", "ConfusionAccumulator", "EvaluatedModel",
    "EvaluationConfig", "FIDInception", "FeatureSet", "FrechetAccumulator", "GaussianStatistics", "ImageColors",
    "InceptionOutput", "InceptionScore", "InceptionScoreAccumulator", "KernelDistance", "LinearClassifier",
    "MobileNetImageFeatures", "MobileNetV2", "MobileNetVideoFeatures", "NamedColor", "PrecisionRecall", "Protocol",
    "Result", "TorchScriptI3D", "check_metrics", "codebook_statistics", "compare", "compute_statistics",
    "evaluate_alignment", "evaluate_fidelity", "evaluate_reconstruction", "files_by_modality", "frechet_distance",
    "gaussian_statistics", "gradient_features", "inception_score", "is_metric", "kid", "load_clip_score",
    "load_i3d", "load_i3d_torchscript", "load_inception", "load_lpips", "load_mobilenet_v2", "load_networks",
    "load_statistics", "measure_colors", "networks_for", "precision_recall", "psnr", "psnr_per_frame",
    "save_statistics", "ssim", "ssim_per_frame",
]
# fmt: on
