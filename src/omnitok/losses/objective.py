"""The tokenizer's objective: a dictionary of unweighted losses, and the weighted sum over the same keys."""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from omnitok.distributed import mean_over_processes

KLNormalization = Literal["sample", "latent", "pixel"]

SMALLEST_SQUARED_ERROR = 1e-6
"""Of pixels in [-1, 1]: 66 dB. Below it the logarithm stops to pull, so that a perfect image has a finite loss."""


def reconstruction_losses(reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Distances of pixels in [-1, 1], in float32.

    Args:
        reconstruction, target: (b, 3, H, W) or (b, 3, T, H, W).

    Returns:
        "l1", "l2": mean absolute and mean squared error; "log_l2": the mean over frames of the natural logarithm of the
        frame's mean squared error, which is PSNR but for scale and offset (-10 / ln 10 dB a unit) and so gives easy and
        hard frames the same say (used for restoration by Chen et al., arXiv 2105.06086, section 3). Of videos of two
        frames or more also "temporal": the mean over videos of the logarithm of the mean squared error of the
        differences of neighbouring frames, which is large where a still scene flickers. A causal tokenizer jumps where
        the frames of one token end, and squares before the mean make these jumps count most.
    """
    difference = reconstruction.float() - target.float()
    squared = difference.square()
    of_frames = squared.mean(dim=(1, -2, -1))  # b, or b t
    losses = {
        "l1": difference.abs().mean(),
        "l2": of_frames.mean(),
        "log_l2": of_frames.clamp_min(SMALLEST_SQUARED_ERROR).log().mean(),
    }
    if difference.ndim == 5 and difference.shape[2] > 1:
        of_videos = difference.diff(dim=2).square().mean(dim=(1, 2, 3, 4))  # b
        losses["temporal"] = of_videos.clamp_min(SMALLEST_SQUARED_ERROR).log().mean()
    return losses


def normalize_kl(kl: Tensor, by: KLNormalization, latents: int, pixels: int) -> Tensor:
    """KL divergence in nats, summed over a sample's latents, put on the scale that its weight was tuned for.

    Args:
        kl: nats, of any shape.
        by: "sample" leaves the sum (released; with a reconstruction error that is a mean over pixels, its pull grows
            with resolution and length); "latent" is per latent number; "pixel" per pixel value, the scale at which
            a weight of 1 with a summed log-likelihood is the evidence lower bound.
        latents: numbers in a sample's latents, c * t * h * w.
        pixels: numbers in a sample's pixels, 3 * T * H * W.
    """
    return kl.float() / {"sample": 1, "latent": latents, "pixel": pixels}[by]


def entropy_loss(affinity: Tensor, temperature: float = 0.01, diversity: float = 1.0) -> Tensor:
    """Mean entropy of each sample's code distribution minus `diversity` times the entropy of their mean, in nats.

    Low where every sample is sure of its code and all codes are used alike: between -diversity * log K and log K.
    Yu et al., arXiv 2310.05737, eq. 5 (after Jansen et al., 2019).

    Args:
        affinity: (n, K), such as negative squared distances to the codes.
        temperature: of the softmax over codes.
        diversity: weight of the second entropy. Over several processes the mean is that of all of them; the gradient
            is then right once averaged over processes, as DDP and FSDP do.
    """
    log_probability = (affinity.float() / temperature).log_softmax(dim=-1)
    probability = log_probability.exp()  # n k
    of_samples = -(probability * log_probability).sum(-1).mean()
    mean = mean_over_processes(probability.mean(0))
    of_mean = -torch.special.xlogy(mean, mean.clamp_min(torch.finfo(mean.dtype).tiny)).sum()
    return of_samples - diversity * of_mean


def weighted_sum(
    losses: Mapping[str, Tensor], weights: Mapping[str, float | Tensor], optional: Collection[str] = ()
) -> Tensor:
    """Sum of weight * loss over the keys of `weights` that are not 0. Losses without a weight are only watched.

    Args:
        losses: unweighted scalars.
        weights: by the same names; a tensor where the weight is computed (the adaptive one).
        optional: names that may have a weight but no loss in this step, such as the other modality's discriminator.

    Raises:
        ValueError: a weight without a loss of that name, or nothing to sum.
    """
    wanted = [name for name, weight in weights.items() if isinstance(weight, Tensor) or weight]
    missing = [name for name in wanted if name not in losses and name not in optional]
    if missing:
        raise ValueError(f"weights are given for {', '.join(missing)}, but the losses are {', '.join(losses)}")
    terms = [weights[name] * losses[name] for name in wanted if name in losses]
    if not terms:
        raise ValueError(f"no loss has a weight other than 0; the losses are {', '.join(losses)}")
    return sum(terms[1:], terms[0])
