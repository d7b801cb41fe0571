"""Every schedule and sampler against its counterpart in diffusers, step by step."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omnitok.diffusion import ddim, ddpm, dpm_solver_2m, flow_euler, flow_heun, flow_times, linear_schedule, respace

diffusers = pytest.importorskip("diffusers")

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def network(x: Tensor, t: Tensor, sigma: bool = False) -> Tensor:
    """Some smooth function of both, of the size of noise."""
    angle = 3 * x.roll(1, dims=-1) + t.reshape(-1, 1, 1, 1) / 300
    output = (x + angle.sin()) / 1.5
    return torch.cat([output, angle.cos()], dim=1) if sigma else output


class Recorder:
    """A denoiser that remembers the x and t it was asked for: the states of the sampler."""

    def __init__(self, sigma: bool = False) -> None:
        self.sigma, self.states, self.times = sigma, list[Tensor](), list[float]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.states.append(x)
        self.times.append(float(t[0]))
        return network(x, t, self.sigma)


def noise_from(seed: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator)


def start() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))


def compare(ours: Recorder, result: Tensor, scheduler: object, scale: float = 1.0, **step: object) -> None:
    """Each of our steps against theirs from the same state; `scale` turns their times into ours."""
    states = [*ours.states, result]
    assert len(ours.states) == len(scheduler.timesteps)
    for i, t in enumerate(scheduler.timesteps):
        assert ours.times[i] == pytest.approx(float(t) * scale)
        output = network(states[i], torch.full((2,), ours.times[i]), ours.sigma)
        theirs = scheduler.step(output, t, states[i], **step).prev_sample
        torch.testing.assert_close(states[i + 1], theirs, **TOLERANCE)


def test_linear_schedule() -> None:
    ours, theirs = linear_schedule(), diffusers.DDPMScheduler(**BETAS)
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.betas.float(), theirs.betas, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("steps", (2, 7, 25, 250, 1000))
def test_respaced_times(steps: int) -> None:
    for spacing in ("linspace", "leading", "trailing"):
        theirs = diffusers.DDPMScheduler(**BETAS, timestep_spacing=spacing)
        theirs.set_timesteps(steps)
        assert respace(linear_schedule(), steps, spacing).timesteps.flip(0).tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("variance", ("fixed_small", "learned_range"))
@pytest.mark.parametrize("steps", (7, 250))
def test_ddpm(variance: str, steps: int) -> None:
    learned = variance == "learned_range"
    theirs = diffusers.DDPMScheduler(**BETAS, variance_type=variance, clip_sample=False, timestep_spacing="linspace")
    theirs.set_timesteps(steps)
    ours = Recorder(sigma=learned)
    result = ddpm(ours, start(), respace(linear_schedule(), steps), noise_from(3))
    compare(ours, result, theirs, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("eta", (0.0, 0.5, 1.0))
@pytest.mark.parametrize("spacing", ("leading", "trailing"))
def test_ddim(eta: float, spacing: str) -> None:
    theirs = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=spacing)
    theirs.set_timesteps(25)
    ours = Recorder()
    result = ddim(ours, start(), respace(linear_schedule(), 25, spacing), eta, noise_from(3))
    compare(ours, result, theirs, eta=eta, generator=torch.Generator().manual_seed(3))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, about numpy 2
@pytest.mark.parametrize("steps", (3, 10, 25))
def test_dpm_solver(steps: int) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(**BETAS, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    ours = Recorder()
    result = dpm_solver_2m(ours, start(), respace(linear_schedule(), steps, "trailing"))
    compare(ours, result, theirs)


@pytest.mark.parametrize("shift", (1.0, 3.0))
def test_flow_euler(shift: float) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
    ours = Recorder()
    result = flow_euler(ours, start(), flow_times(10, shift))
    compare(ours, result, theirs, scale=1e-3)


def test_flow_heun() -> None:
    theirs = diffusers.FlowMatchHeunDiscreteScheduler()
    theirs.set_timesteps(10)
    times = torch.cat([theirs.timesteps[:1], theirs.timesteps[1::2]]).double() / 1000
    ours = Recorder()
    result = flow_heun(ours, start(), torch.cat([times, torch.zeros(1)]))
    compare(ours, result, theirs, scale=1e-3)
