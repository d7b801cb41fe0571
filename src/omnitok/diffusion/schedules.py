"""Which mixture of latents and noise belongs to which time.

Diffusion (Ho et al., 2020): x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε, t = 0 … n - 1, the last the noisiest.
Flow matching (Lipman et al., 2023; Liu et al., 2023): x_t = (1 - t) x_0 + t ε, t in [0, 1], t = 1 the noise.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["linspace", "leading", "trailing"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A discrete diffusion of n steps.

    Attributes:
        alphas_cumprod: ᾱ of each step, falling, in (0, 1): (n,) float64.
        timesteps: the time that the network is told at each step: (n,) int64, rising. For a respaced schedule these are
            times of the schedule it was trained with.
    """

    alphas_cumprod: Tensor
    timesteps: Tensor

    def __post_init__(self) -> None:
        if self.alphas_cumprod.ndim != 1 or self.alphas_cumprod.shape != self.timesteps.shape or not len(self):
            found = f"{tuple(self.alphas_cumprod.shape)} and {tuple(self.timesteps.shape)}"
            raise ValueError(f"alphas_cumprod and timesteps must be of one shape (n,), n >= 1, found {found}")

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def alphas_cumprod_prev(self) -> Tensor:
        """ᾱ of the step before; 1 before the first."""
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])

    @property
    def betas(self) -> Tensor:
        """β_t = 1 - ᾱ_t / ᾱ_{t-1}."""
        return 1 - self.alphas_cumprod / self.alphas_cumprod_prev

    @property
    def posterior_variance(self) -> Tensor:
        """β̃_t, the variance of q(x_{t-1} | x_t, x_0) (Ho et al., 2020, equation 7); 0 at the first step."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @property
    def log_variance_bounds(self) -> tuple[Tensor, Tensor]:
        """log β̃_t and log β_t, between which a learned variance lies (Nichol & Dhariwal, 2021, equation 15).

        The first step's β̃ is 0, so it takes the second's, as they do.
        """
        lower = self.posterior_variance.clone()
        lower[0] = lower[1] if len(self) > 1 else self.betas[0]
        return lower.log(), self.betas.log()


def linear_schedule(steps: int = 1000, first_beta: float = 1e-4, last_beta: float = 0.02) -> NoiseSchedule:
    """β rises linearly (Ho et al., 2020), the bounds scaled to `steps` as in Improved DDPM; DiT's schedule.

    Raises:
        ValueError: fewer than one step, or betas outside (0, 1).
    """
    if steps < 1:
        raise ValueError(f"a schedule has at least one step, found {steps}")
    scale = 1000 / steps
    betas = torch.linspace(scale * first_beta, scale * last_beta, steps, dtype=torch.float64)
    if not (betas[0] > 0 and betas[-1] > 0 and betas.max() < 1):
        raise ValueError(f"betas must lie in (0, 1), found {float(betas[0]):g} to {float(betas[-1]):g}")
    return NoiseSchedule((1 - betas).cumprod(0), torch.arange(steps))


def respace(schedule: NoiseSchedule, steps: int, spacing: Spacing = "linspace") -> NoiseSchedule:
    """A schedule of `steps` of the steps of `schedule`, with the same marginals at the times it keeps.

    Args:
        spacing: "linspace" keeps the first and the last (Nichol & Dhariwal, 2021; DiT). "leading" goes up from the
            first in equal steps (DDIM). "trailing" goes down from the last (Lin et al., 2024: best for few steps).

    Raises:
        ValueError: fewer than one step, more than there are, or an unknown spacing.
    """
    n = len(schedule)
    if not 1 <= steps <= n:
        raise ValueError(f"steps must lie in [1, {n}], found {steps}")
    if spacing == "linspace":
        stride = (n - 1) / (steps - 1) if steps > 1 else 0.0
        kept = [round(i * stride) for i in range(steps)] if steps > 1 else [n - 1]
    elif spacing == "leading":
        kept = [i * (n // steps) for i in range(steps)]
    elif spacing == "trailing":
        kept = [round(n - i * n / steps) - 1 for i in reversed(range(steps))]
    else:
        raise ValueError(f"spacing must be one of linspace, leading, trailing, found {spacing!r}")
    index = torch.tensor(kept)
    return NoiseSchedule(schedule.alphas_cumprod[index], schedule.timesteps[index])


def add_noise(latents: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_t = sqrt(ᾱ_t) latents + sqrt(1 - ᾱ_t) noise, for steps t (b,) of the schedule."""
    alpha = per_item(schedule.alphas_cumprod, t, latents)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def flow_interpolate(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) latents + t noise, for times t (b,) in [0, 1]."""
    t = t.to(latents.dtype).reshape(-1, *[1] * (latents.ndim - 1))
    return (1 - t) * latents + t * noise


def flow_times(steps: int, shift: float = 1.0) -> Tensor:
    """The times that a sampler of velocities visits, from 1 (noise) to 0: (steps + 1,) float64.

    Args:
        shift: s > 1 spends more steps near the noise, t -> s t / (1 + (s - 1) t) (Esser et al., 2024, equation 23).

    Raises:
        ValueError: fewer than one step, or a shift that is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift must be positive and finite, found {shift}")
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def per_item(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """values[t] (b, 1, …) in the rank, dtype (at least float32) and device of `like` (b, …).

    Rounding follows in float32: 1 - ᾱ of the first steps would be 0 in half precision.
    """
    picked = values.to(t.device)[t.long()]
    dtype = torch.promote_types(like.dtype, torch.float32)
    return picked.to(like.device, dtype).reshape(-1, *[1] * (like.ndim - 1))
