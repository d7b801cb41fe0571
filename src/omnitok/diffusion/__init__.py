"""Diffusion and flow matching as mathematics: schedules, training objectives, guidance and samplers over any denoiser.

A denoiser is a function ``denoise(x, t) -> output`` of noisy latents x (b, c, …) and times t (b,): the predicted noise,
maybe with c more channels for its variance (epsilon), or the predicted velocity (flow). Nothing here knows a network.
"""

from omnitok.diffusion.guidance import Denoiser, guided, with_known
from omnitok.diffusion.objectives import (
    diffusion_losses,
    draw_times,
    epsilon_losses,
    flow_losses,
    variational_bound,
)
from omnitok.diffusion.samplers import SAMPLERS, ddim, ddpm, dpm_solver_2m, flow_euler, flow_heun
from omnitok.diffusion.schedules import NoiseSchedule, add_noise, flow_interpolate, flow_times, linear_schedule, respace

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "NoiseSchedule",
    "add_noise",
    "ddim",
    "ddpm",
    "diffusion_losses",
    "dpm_solver_2m",
    "draw_times",
    "epsilon_losses",
    "flow_euler",
    "flow_heun",
    "flow_interpolate",
    "flow_losses",
    "flow_times",
    "guided",
    "linear_schedule",
    "respace",
    "variational_bound",
    "with_known",
]
