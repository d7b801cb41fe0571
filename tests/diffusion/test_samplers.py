"""Samplers on a denoiser that is known exactly: data that are Gaussian."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omnitok.diffusion import (
    Denoiser,
    NoiseSchedule,
    ddim,
    ddpm,
    dpm_solver_2m,
    flow_euler,
    flow_heun,
    flow_times,
    linear_schedule,
    respace,
    with_known,
)

SCHEDULE = linear_schedule()
MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)


def epsilon_denoiser(mean: Tensor = MEAN, covariance: Tensor = COVARIANCE) -> Denoiser:
    """E[ε | x_t] for x_0 ~ N(mean, covariance): sqrt(1-ᾱ) (ᾱ Σ + (1-ᾱ) I)⁻¹ (x - sqrt(ᾱ) μ)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        a = float(SCHEDULE.alphas_cumprod[int(t[0])])
        marginal = a * covariance + (1 - a) * torch.eye(2, dtype=torch.float64)
        return math.sqrt(1 - a) * torch.linalg.solve(marginal, (x - math.sqrt(a) * mean).t()).t()

    return denoise


def velocity_denoiser(mean: Tensor = MEAN, covariance: Tensor = COVARIANCE) -> Denoiser:
    """E[ε - x_0 | x_t] for the same data: -μ + (t I - (1-t) Σ) ((1-t)² Σ + t² I)⁻¹ (x - (1-t) μ)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        time = float(t[0])
        eye = torch.eye(2, dtype=torch.float64)
        marginal = (1 - time) ** 2 * covariance + time**2 * eye
        slope = (time * eye - (1 - time) * covariance) @ torch.linalg.inv(marginal)
        return -mean + (x - (1 - time) * mean) @ slope.t()

    return denoise


def affine_map(sample: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a deterministic linear sampler makes of standard normal noise, without sampling."""
    zero_and_axes = torch.cat([torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)])
    images = sample(zero_and_axes)
    columns = (images[1:] - images[0]).t()
    return images[0], columns @ columns.t()


def of_draws(sample: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    x = sample(torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    return x.mean(0), x.t().cov()


def noise() -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def spaced(steps: int, spacing: str = "linspace") -> NoiseSchedule:
    return respace(SCHEDULE, steps, spacing)


DETERMINISTIC = {
    "ddim": (lambda x: ddim(epsilon_denoiser(), x, spaced(500)), 1e-2),
    "ddim, all steps": (lambda x: ddim(epsilon_denoiser(), x, SCHEDULE), 5e-3),
    "dpm++": (lambda x: dpm_solver_2m(epsilon_denoiser(), x, spaced(200)), 5e-3),
    "euler": (lambda x: flow_euler(velocity_denoiser(), x, flow_times(500)), 1e-2),
    "heun": (lambda x: flow_heun(velocity_denoiser(), x, flow_times(100)), 1e-3),
}
RANDOM = {
    "ddpm": lambda x: ddpm(epsilon_denoiser(), x, spaced(250), noise()),
    "ddpm, learned": lambda x: ddpm(learned(epsilon_denoiser()), x, spaced(250), noise()),
    "ddim, eta 1": lambda x: ddim(epsilon_denoiser(), x, spaced(250), 1.0, noise()),
    "ddim, eta 0.5": lambda x: ddim(epsilon_denoiser(), x, spaced(250), 0.5, noise()),
}


def learned(denoise: Denoiser) -> Denoiser:
    """With variance channels that say: half-way between the bounds (in the logarithm)."""
    return lambda x, t: torch.cat([denoise(x, t), torch.zeros_like(x)], dim=1)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_gaussian(name: str) -> None:
    sample, tolerance = DETERMINISTIC[name]
    mean, covariance = affine_map(sample)
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=tolerance)
    torch.testing.assert_close(covariance, COVARIANCE, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", RANDOM)
def test_gaussian_with_noise(name: str) -> None:
    mean, covariance = of_draws(RANDOM[name])
    torch.testing.assert_close(mean, MEAN, rtol=0, atol=0.03)
    torch.testing.assert_close(covariance, COVARIANCE, rtol=0, atol=0.03)


def error_of(sample: Callable[[Tensor], Tensor]) -> float:
    mean, covariance = affine_map(sample)
    return float((mean - MEAN).abs().max() + (covariance - COVARIANCE).abs().max())


def test_second_order_beats_first_order() -> None:
    def dpm(steps: int) -> float:
        return error_of(lambda x: dpm_solver_2m(epsilon_denoiser(), x, spaced(steps, "trailing")))

    def first(steps: int) -> float:
        return error_of(lambda x: ddim(epsilon_denoiser(), x, spaced(steps, "trailing")))

    assert dpm(20) < first(20) / 2

    def heun(steps: int) -> float:
        return error_of(lambda x: flow_heun(velocity_denoiser(), x, flow_times(steps)))

    def euler(steps: int) -> float:
        return error_of(lambda x: flow_euler(velocity_denoiser(), x, flow_times(steps)))

    assert heun(10) < euler(20) / 2
    assert heun(20) < heun(10) / 2


def test_ddim_without_eta_draws_nothing() -> None:
    def none(x: Tensor) -> Tensor:
        raise AssertionError

    x = torch.randn(3, 2, dtype=torch.float64)
    first, second = (ddim(epsilon_denoiser(), x, spaced(20), 0.0, none) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ("ddpm", "ddim", "ddim, eta 0.5", "dpm++", "euler", "heun"))
def test_known_latents(name: str) -> None:
    """The known channel comes out as given; the other follows, roughly, its distribution given the known one."""
    flow = name in ("euler", "heun")
    denoise = velocity_denoiser() if flow else epsilon_denoiser()
    known, mask = torch.tensor([2.0, float("nan")], dtype=torch.float64), torch.tensor([True, False])
    held = with_known(denoise, known.nan_to_num(), mask, None if flow else SCHEDULE)
    samplers = {
        "ddpm": lambda x: ddpm(held, x, spaced(250), noise()),
        "ddim": lambda x: ddim(held, x, spaced(100)),
        "ddim, eta 0.5": lambda x: ddim(held, x, spaced(100), 0.5, noise()),
        "dpm++": lambda x: dpm_solver_2m(held, x, spaced(100)),
        "euler": lambda x: flow_euler(held, x, flow_times(100)),
        "heun": lambda x: flow_heun(held, x, flow_times(50)),
    }
    x = samplers[name](torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    torch.testing.assert_close(x[:, 0], torch.full((4000,), 2.0, dtype=torch.float64), rtol=0, atol=1e-5)
    if name == "ddpm":  # 0.1 is exact, -0.5 unconditional; replacement is biased towards the latter
        assert -0.3 < float(x[:, 1].mean()) < 0.15


def test_known_latents_take_the_posterior_variance() -> None:
    held = with_known(learned(epsilon_denoiser()), torch.zeros(2).double(), torch.tensor([True, False]), SCHEDULE)
    output = held(torch.randn(3, 2).double(), torch.full((3,), 500.0))
    assert torch.equal(output[:, 2:], torch.tensor([[-1.0, 0.0]]).double().expand(3, 2))


@pytest.mark.parametrize("steps", (1, 4))
@pytest.mark.parametrize("name", ("ddpm", "ddim", "dpm++", "euler", "heun"))
def test_progress_and_the_fewest_steps(name: str, steps: int) -> None:
    seen = list[tuple[int, int]]()

    def report(done: int, total: int) -> None:
        seen.append((done, total))

    x = torch.randn(2, 2, dtype=torch.float64)
    result = {
        "ddpm": lambda: ddpm(epsilon_denoiser(), x, spaced(steps), noise(), report),
        "ddim": lambda: ddim(epsilon_denoiser(), x, spaced(steps), progress=report),
        "dpm++": lambda: dpm_solver_2m(epsilon_denoiser(), x, spaced(steps), report),
        "euler": lambda: flow_euler(velocity_denoiser(), x, flow_times(steps), report),
        "heun": lambda: flow_heun(velocity_denoiser(), x, flow_times(steps), report),
    }[name]()
    assert seen == [(i + 1, steps) for i in range(steps)]
    assert torch.isfinite(result).all()


def test_schedules() -> None:
    respaced = respace(SCHEDULE, 250)
    assert (respaced.timesteps[0], respaced.timesteps[-1], len(respaced)) == (0, 999, 250)
    assert torch.equal(respaced.alphas_cumprod, SCHEDULE.alphas_cumprod[respaced.timesteps])
    torch.testing.assert_close((1 - respaced.betas).cumprod(0), respaced.alphas_cumprod)
    assert respace(SCHEDULE, 1000).timesteps.tolist() == SCHEDULE.timesteps.tolist()
    assert respace(SCHEDULE, 1).timesteps.tolist() == [999]
    assert SCHEDULE.posterior_variance[0] == 0
    lower, upper = SCHEDULE.log_variance_bounds
    assert lower[0] == lower[1]
    assert (lower[1:] < upper[1:]).all()
    times = flow_times(4, shift=3.0)
    assert times.tolist() == [1.0, 0.9, 0.75, 0.5, 0.0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: linear_schedule(0), "at least one step, found 0"),
        (lambda: linear_schedule(10), "betas must lie in"),
        (lambda: respace(SCHEDULE, 0), r"steps must lie in \[1, 1000\], found 0"),
        (lambda: respace(SCHEDULE, 1001), "found 1001"),
        (lambda: respace(SCHEDULE, 5, "cosine"), "spacing must be one of linspace, leading, trailing, found 'cosine'"),
        (lambda: NoiseSchedule(torch.ones(2), torch.arange(3)), "of one shape"),
        (lambda: flow_times(0), "steps must be at least 1, found 0"),
        (lambda: flow_times(3, shift=0), "shift must be positive"),
        (
            lambda: ddim(epsilon_denoiser(), torch.zeros(1, 2), SCHEDULE, eta=1.5),
            r"eta must lie in \[0, 1\], found 1.5",
        ),
        (lambda: with_known(epsilon_denoiser(), MEAN, torch.ones(2), SCHEDULE), "mask must be boolean"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
