"""Samplers: noise -> latents, over any denoiser. Each takes x (b, c, …) standard normal and gives latents of its shape.

Samplers of noise predictions walk a `NoiseSchedule` from its last step down, so that fewer steps are a respaced
schedule. Where the denoiser answers with 2c channels, the second half is the variance, which only `ddpm` uses.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from omnitok.diffusion.guidance import Denoiser
from omnitok.diffusion.schedules import NoiseSchedule

NoiseSource = Callable[[Tensor], Tensor]  # standard normal noise in the shape of its argument
Progress = Callable[[int, int], None]  # steps done, steps in all


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    schedule: NoiseSchedule,
    noise: NoiseSource = torch.randn_like,
    progress: Progress | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al., 2020, algorithm 2), with the learned variance of Improved DDPM where there is one.

    The mean is that of q(x_{t-1} | x_t, x_0) at the predicted x_0; without a learned variance, its variance too. DiT
    and Latte take 250 steps: ``respace(linear_schedule(), 250)``.
    """
    alphas, previous = schedule.alphas_cumprod.tolist(), schedule.alphas_cumprod_prev.tolist()
    betas = schedule.betas.tolist()
    lower, upper = (bound.tolist() for bound in schedule.log_variance_bounds)
    for done, i in enumerate(reversed(range(len(schedule)))):
        output = denoise(x, _times(schedule.timesteps[i], x))
        eps = output[:, : x.shape[1]]
        x_0 = (x - math.sqrt(1 - alphas[i]) * eps) / math.sqrt(alphas[i])
        to_x_0 = math.sqrt(previous[i]) * betas[i] / (1 - alphas[i])
        to_x_t = math.sqrt(1 - betas[i]) * (1 - previous[i]) / (1 - alphas[i])
        mean = to_x_0 * x_0 + to_x_t * x
        if i == 0:
            x = mean
        elif output.shape[1] > x.shape[1]:
            fraction = (output[:, x.shape[1] :] + 1) / 2
            deviation = (0.5 * (lower[i] + fraction * (upper[i] - lower[i]))).exp()
            x = mean + deviation * noise(x)
        else:
            x = mean + math.exp(0.5 * lower[i]) * noise(x)
        _report(progress, done, len(schedule))
    return x


def ddim(
    denoise: Denoiser,
    x: Tensor,
    schedule: NoiseSchedule,
    eta: float = 0.0,
    noise: NoiseSource = torch.randn_like,
    progress: Progress | None = None,
) -> Tensor:
    """DDIM (Song et al., 2021, equation 12). eta 0 is deterministic and draws no noise; eta 1 is ancestral.

    Raises:
        ValueError: eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], found {eta}")
    alphas, previous = schedule.alphas_cumprod.tolist(), schedule.alphas_cumprod_prev.tolist()
    variances = schedule.posterior_variance.tolist()
    for done, i in enumerate(reversed(range(len(schedule)))):
        eps = denoise(x, _times(schedule.timesteps[i], x))[:, : x.shape[1]]
        x_0 = (x - math.sqrt(1 - alphas[i]) * eps) / math.sqrt(alphas[i])
        variance = eta**2 * variances[i]
        x_next = math.sqrt(previous[i]) * x_0 + math.sqrt(1 - previous[i] - variance) * eps
        x = x_next + math.sqrt(variance) * noise(x) if variance > 0 else x_next
        _report(progress, done, len(schedule))
    return x


def dpm_solver_2m(denoise: Denoiser, x: Tensor, schedule: NoiseSchedule, progress: Progress | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2): a multistep solver of second order in x_0 over log(α / σ).

    Deterministic, one evaluation a step. The first step and the last (to σ = 0) are of first order, which is DDIM.
    """
    alphas = [math.sqrt(a) for a in schedule.alphas_cumprod.tolist()]
    sigmas = [math.sqrt(1 - a) for a in schedule.alphas_cumprod.tolist()]
    x_0_before, step_before = None, 0.0
    for done, i in enumerate(reversed(range(len(schedule)))):
        eps = denoise(x, _times(schedule.timesteps[i], x))[:, : x.shape[1]]
        x_0 = (x - sigmas[i] * eps) / alphas[i]
        if i == 0:
            x = x_0
        else:
            step = math.log(alphas[i - 1] / sigmas[i - 1]) - math.log(alphas[i] / sigmas[i])  # h
            slope = x_0
            if x_0_before is not None:
                slope = x_0 + step / (2 * step_before) * (x_0 - x_0_before)  # D
            x = sigmas[i - 1] / sigmas[i] * x - alphas[i - 1] * math.expm1(-step) * slope
            x_0_before, step_before = x_0, step
        _report(progress, done, len(schedule))
    return x


def flow_euler(denoise: Denoiser, x: Tensor, times: Tensor, progress: Progress | None = None) -> Tensor:
    """Euler's method along the velocity: x <- x + (t_next - t) v(x, t), over `times` from 1 to 0 (see `flow_times`)."""
    points = times.tolist()
    for done, (t, t_next) in enumerate(pairwise(points)):
        x = x + (t_next - t) * denoise(x, _times(t, x))
        _report(progress, done, len(points) - 1)
    return x


def flow_heun(denoise: Denoiser, x: Tensor, times: Tensor, progress: Progress | None = None) -> Tensor:
    """Heun's method (Karras et al., 2022, algorithm 1, on velocities): the mean of the slopes at both ends of a step.

    Two evaluations a step, one in the last: the velocity at t = 0 was never trained.
    """
    points = times.tolist()
    for done, (t, t_next) in enumerate(pairwise(points)):
        velocity = denoise(x, _times(t, x))
        x_next = x + (t_next - t) * velocity
        if t_next > 0:
            velocity = (velocity + denoise(x_next, _times(t_next, x))) / 2
            x_next = x + (t_next - t) * velocity
        x = x_next
        _report(progress, done, len(points) - 1)
    return x


SAMPLERS = {
    "ddpm": "epsilon",
    "ddim": "epsilon",
    "dpm++": "epsilon",
    "euler": "flow",
    "heun": "flow",
}
"""The samplers' names in `sample(sampler=…)` and settings, with the objective of the models they are for."""


def _times(t: float | Tensor, x: Tensor) -> Tensor:
    return torch.full(x.shape[:1], float(t), device=x.device)


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done + 1, total)
