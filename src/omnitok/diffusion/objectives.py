"""Training objectives as pure functions: times and noise are drawn by the caller, losses come back per item.

"epsilon": the network predicts the noise, and maybe an interpolation of the reverse step's log-variance (DDPM; Improved
DDPM, which DiT and Latte follow). "flow": the network predicts the velocity noise - latents (flow matching).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from omnitok.diffusion.schedules import NoiseSchedule, add_noise, flow_interpolate, linear_schedule, per_item

# model(x, t, labels) -> output
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]

BIN_WIDTH = 2 / 255  # of the first step's likelihood: pixels of 8 bits in [-1, 1]


def diffusion_losses(
    model: Network,
    latents: Tensor,
    labels: Tensor | None,
    t: Tensor,
    noise: Tensor,
    objective: str = "epsilon",
    schedule: NoiseSchedule | None = None,
) -> dict[str, Tensor]:
    """The losses of one batch by name, each (b,); training minimises the mean of their sum.

    Args:
        latents: (b, c, …), normalised.
        labels: (b,), or None for an unconditional model.
        t: (b,), as `draw_times` gives.
        noise: standard normal, of the latents' shape.
        objective: "epsilon" ("mse", and "vb" where sigma is learned) or "flow" ("mse").
        schedule: of "epsilon"; None is the linear schedule of 1000 steps.

    Raises:
        ValueError: an unknown objective, or tensors whose shapes do not fit.
    """
    if latents.shape != noise.shape or t.shape != latents.shape[:1]:
        found = f"{tuple(latents.shape)}, {tuple(noise.shape)} and {tuple(t.shape)}"
        raise ValueError(f"latents (b, …), noise (b, …) and t (b,) do not fit together: found {found}")
    if objective == "epsilon":
        return epsilon_losses(model, latents, labels, t, noise, schedule or linear_schedule())
    if objective == "flow":
        return flow_losses(model, latents, labels, t, noise)
    raise ValueError(f"objective must be one of epsilon, flow, found {objective!r}")


def epsilon_losses(
    model: Network, latents: Tensor, labels: Tensor | None, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> dict[str, Tensor]:
    """`|ε - ε_θ|²` and, where the network has 2c outputs, the variational bound of its variance with the mean frozen.

    L_simple + L_vlb of Improved DDPM (Nichol & Dhariwal, 2021, section 3.1) with the weights of DiT: 1 and 1, the bound
    in bits per dimension of one step.

    Returns:
        "mse" (b,), and "vb" (b,) where sigma is learned.
    """
    x = add_noise(latents, noise, t, schedule).to(latents.dtype)
    output = model(x, schedule.timesteps.to(t.device)[t.long()].float(), labels)
    channels = latents.shape[1]
    prediction = output[:, :channels].float()
    losses = {"mse": _mean_per_item((prediction - noise.float()).square())}
    if output.shape[1] == 2 * channels:
        losses["vb"] = variational_bound(prediction.detach(), output[:, channels:].float(), noise.float(), t, schedule)
    return losses


def variational_bound(
    prediction: Tensor, interpolation: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) ‖ p_θ(x_{t-1} | x_t)), the first step's -log p_θ(x_0 | x_1), in bits per dimension.

    Both means are the same function of ε, so they are β_t (ε_θ - ε) / sqrt((1 - ᾱ_t) α_t) apart. At the first step the
    likelihood is that of a bin as wide as a step of an 8-bit pixel, as in DDPM; latents have no edges, so the outermost
    bins are like the others.

    Args:
        prediction: ε_θ.
        interpolation: v; the log-variance is log β̃ where v = -1 and log β where v = 1.
        noise: ε.

    Returns:
        (b,)
    """
    lower, upper = (per_item(bound, t, noise) for bound in schedule.log_variance_bounds)
    alpha_bar, beta = per_item(schedule.alphas_cumprod, t, noise), per_item(schedule.betas, t, noise)
    gap = beta / ((1 - alpha_bar) * (1 - beta)).sqrt() * (prediction - noise)
    log_variance = lower + (interpolation + 1) / 2 * (upper - lower)
    kl = 0.5 * (log_variance - lower - 1 + (lower - log_variance).exp() + gap.square() * (-log_variance).exp())
    inverse_deviation = (-0.5 * log_variance).exp()
    above = torch.special.ndtr(inverse_deviation * (gap + BIN_WIDTH / 2))
    below = torch.special.ndtr(inverse_deviation * (gap - BIN_WIDTH / 2))
    likelihood = -(above - below).clamp_min(1e-12).log()
    first = (t == 0).reshape(-1, *[1] * (noise.ndim - 1))
    return _mean_per_item(torch.where(first, likelihood, kl)) / math.log(2)


def flow_losses(model: Network, latents: Tensor, labels: Tensor | None, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """`|v - v_θ|²` with v = noise - latents, the velocity of x_t = (1 - t) latents + t noise (Lipman et al., 2023).

    Returns:
        "mse" (b,).
    """
    output = model(flow_interpolate(latents, noise, t), t, labels)
    return {"mse": _mean_per_item((output.float() - (noise - latents).float()).square())}


def draw_times(
    objective: str,
    count: int,
    generator: torch.Generator | None = None,
    device: str | torch.device = "cpu",
    steps: int = 1000,
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Times to train at: uniform steps 0 … steps - 1 ("epsilon"), or logit-normal times in (0, 1) ("flow").

    sigmoid(N(mean, std²)) puts most times in the middle, where the velocity is hardest to tell (Esser et al., 2024).

    Returns:
        (count,) int64 or float32.

    Raises:
        ValueError: an unknown objective.
    """
    if objective == "epsilon":
        return torch.randint(steps, (count,), generator=generator, device=device)
    if objective == "flow":
        return torch.sigmoid(mean + std * torch.randn(count, generator=generator, device=device))
    raise ValueError(f"objective must be one of epsilon, flow, found {objective!r}")


def _mean_per_item(x: Tensor) -> Tensor:
    return x.flatten(1).mean(dim=1)
