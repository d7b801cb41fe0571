import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from omnitok.diffusion import (
    add_noise,
    diffusion_losses,
    draw_times,
    flow_interpolate,
    guided,
    linear_schedule,
)
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig

SCHEDULE = linear_schedule()


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, 4, 4, generator=g), torch.randn(n, 4, 4, 4, generator=g)


def output_of(prediction: Tensor, v: Tensor | None = None):
    return lambda x, t, labels: prediction if v is None else torch.cat([prediction, v], dim=1)


@pytest.mark.parametrize("t", (1, 2, 40, 500, 999))
def test_learned_sigma_is_the_closed_form(t: int) -> None:
    """KL between the true posterior and the model's reverse step, as Gaussians with means in x_0."""
    latents, noise = batch(2)
    prediction, v = noise + 0.3 * torch.randn_like(noise), torch.rand_like(noise) * 2 - 1
    times = torch.full((2,), t)
    losses = diffusion_losses(output_of(prediction, v), latents, None, times, noise)
    a, a_before = SCHEDULE.alphas_cumprod[t], SCHEDULE.alphas_cumprod[t - 1]
    beta, x = 1 - a / a_before, add_noise(latents.double(), noise.double(), times, SCHEDULE)
    predicted = (x - (1 - a).sqrt() * prediction.double()) / a.sqrt()

    def posterior_mean(x_0: Tensor) -> Tensor:
        return a_before.sqrt() * beta / (1 - a) * x_0 + (1 - beta).sqrt() * (1 - a_before) / (1 - a) * x

    variance = beta * (1 - a_before) / (1 - a)
    log_variance = (v.double() + 1) / 2 * beta.log() + (1 - v.double()) / 2 * variance.log()
    expected = kl_divergence(
        Normal(posterior_mean(latents.double()), variance.sqrt()),
        Normal(posterior_mean(predicted), (0.5 * log_variance).exp()),
    )
    torch.testing.assert_close(losses["vb"].double(), expected.mean((1, 2, 3)) / math.log(2), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(losses["mse"], (prediction - noise).square().mean((1, 2, 3)))


def test_first_step_is_a_likelihood() -> None:
    latents, noise = batch(2)
    prediction, v = noise + 0.3 * torch.randn_like(noise), torch.rand_like(noise) * 2 - 1
    losses = diffusion_losses(output_of(prediction, v), latents, None, torch.zeros(2), noise)
    a = SCHEDULE.alphas_cumprod[0]
    x = a.sqrt() * latents.double() + (1 - a).sqrt() * noise.double()
    predicted = (x - (1 - a).sqrt() * prediction.double()) / a.sqrt()
    lower, upper = SCHEDULE.log_variance_bounds
    reverse = Normal(predicted, (0.5 * (lower[0] + (v.double() + 1) / 2 * (upper[0] - lower[0]))).exp())
    mass = reverse.cdf(latents.double() + 1 / 255) - reverse.cdf(latents.double() - 1 / 255)
    expected = -mass.clamp_min(1e-12).log().mean((1, 2, 3)) / math.log(2)
    torch.testing.assert_close(losses["vb"].double(), expected, rtol=1e-3, atol=1e-6)


def test_the_bound_leaves_the_mean_alone() -> None:
    latents, noise = batch()
    prediction = (noise + 1).requires_grad_()
    v = torch.zeros_like(noise, requires_grad=True)
    t = torch.tensor([0, 1, 50, 300, 700, 999])
    losses = diffusion_losses(output_of(prediction, v), latents, None, t, noise)
    losses["vb"].sum().backward(retain_graph=True)
    assert prediction.grad is None or not prediction.grad.any()
    assert v.grad is not None
    assert v.grad[1:].flatten(1).any(1).all()
    losses["mse"].sum().backward()
    assert prediction.grad is not None


def test_a_perfect_prediction_costs_nothing() -> None:
    latents, noise = batch()
    t = torch.tensor([1, 2, 50, 300, 700, 999])
    losses = diffusion_losses(output_of(noise, -torch.ones_like(noise)), latents, None, t, noise)
    assert losses["mse"].abs().max() == 0
    assert losses["vb"].abs().max() < 1e-6
    assert set(diffusion_losses(output_of(noise), latents, None, t, noise)) == {"mse"}
    flow = diffusion_losses(output_of(noise - latents), latents, None, torch.rand(6), noise, "flow")
    assert set(flow) == {"mse"}
    assert flow["mse"].abs().max() == 0


def test_what_the_network_is_shown() -> None:
    latents, noise = batch()
    labels = torch.arange(6)
    seen = {}

    def network(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        seen.update(x=x, t=t, y=y)
        return torch.zeros_like(x)

    t = torch.tensor([0, 1, 50, 300, 700, 999])
    diffusion_losses(network, latents, labels, t, noise)
    assert torch.equal(seen["t"], t.float())
    assert torch.equal(seen["y"], labels)
    a = SCHEDULE.alphas_cumprod[t].float().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(seen["x"], a.sqrt() * latents + (1 - a).sqrt() * noise)
    torch.testing.assert_close(seen["x"][-1], noise[-1], rtol=0, atol=0.05)
    t = torch.tensor([0, 0.25, 0.5, 0.75, 0.9, 1])
    diffusion_losses(network, latents, labels, t, noise, "flow")
    assert torch.equal(seen["x"], flow_interpolate(latents, noise, t))
    assert torch.equal(seen["x"][0], latents[0])
    assert torch.equal(seen["x"][-1], noise[-1])


def test_half_precision_latents() -> None:
    latents, noise = batch()
    losses = diffusion_losses(
        output_of(noise.bfloat16(), -torch.ones_like(noise).bfloat16()),
        latents.bfloat16(),
        None,
        torch.arange(6),
        noise.bfloat16(),
    )
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(torch.isfinite(loss).all() for loss in losses.values())


def test_times() -> None:
    g = torch.Generator().manual_seed(0)
    t = draw_times("epsilon", 10_000, g)
    assert (t.dtype, int(t.min()), int(t.max())) == (torch.int64, 0, 999)
    t = draw_times("flow", 20_000, g, mean=0.5, std=0.8)
    logits = t.double().logit()
    assert abs(float(logits.mean()) - 0.5) < 0.02
    assert abs(float(logits.std()) - 0.8) < 0.02
    first, second = (draw_times("flow", 5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("objective", ("epsilon", "flow"))
def test_loss_on_a_fixed_batch_goes_to_zero(objective: str) -> None:
    """One batch, fixed noise and times: a small model learns it by heart."""
    torch.manual_seed(0)
    config = DiffusionTransformerConfig(
        latent_channels=4,
        patch_size=1,
        width=64,
        depth=2,
        heads=2,
        num_classes=4,
        temporal=True,
        objective=objective,
        learn_sigma=objective == "epsilon",
    )
    model = DiffusionTransformer(config)
    latents, noise = (torch.randn(4, 4, 2, 3, 3) for _ in range(2))
    labels, t = torch.arange(4), draw_times(objective, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(150):
        losses = diffusion_losses(model, latents, labels, t, noise, objective, SCHEDULE)
        history.append({name: float(loss.detach().mean()) for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(loss.mean() for loss in losses.values()).backward()
        optimizer.step()
    assert history[0]["mse"] > 0.8
    assert history[-1]["mse"] < 0.01
    if objective == "epsilon":
        assert history[-1]["vb"] < history[0]["vb"] / 10


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x: diffusion_losses(output_of(x), x, None, torch.zeros(6), x, "score"),
            "one of epsilon, flow, found 'score'",
        ),
        (lambda x: diffusion_losses(output_of(x), x, None, torch.zeros(5), x), "do not fit together"),
        (lambda x: diffusion_losses(output_of(x), x, None, torch.zeros(6), x[:3]), "do not fit together"),
        (lambda x: draw_times("score", 3), "one of epsilon, flow"),
    ],
)
def test_wrong_arguments(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(batch()[0])


# ----------------------------------------------------------------------------------------------------------- guidance


def linear_network(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Two channels of prediction, two of variance, different for every label."""
    y = labels.reshape(-1, 1, 1, 1).float()
    return torch.cat([x + y, 10 + y + 0 * x], dim=1)


def test_guidance() -> None:
    x, t = torch.randn(3, 2, 2, 2), torch.full((3,), 400.0)
    labels = torch.tensor([0, 1, 2])
    conditional, unconditional = linear_network(x, t, labels), linear_network(x, t, torch.full((3,), 9))
    output = guided(linear_network, labels, 9, 2.5)(x, t)
    torch.testing.assert_close(output[:, :2], unconditional[:, :2] + 2.5 * (conditional - unconditional)[:, :2])
    assert torch.equal(output[:, 2:], conditional[:, 2:])
    part = guided(linear_network, labels, 9, 2.5, channels=1)(x, t)
    torch.testing.assert_close(part[:, :1], output[:, :1])
    assert torch.equal(part[:, 1:], conditional[:, 1:])
    torch.testing.assert_close(guided(linear_network, labels, 9, 0.0)(x, t)[:, :2], unconditional[:, :2])


def test_guidance_of_one_is_the_conditional_model_at_its_cost() -> None:
    sizes = []

    def network(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        sizes.append(len(x))
        return linear_network(x, t, labels)

    x, labels = torch.randn(3, 2, 2, 2), torch.tensor([0, 1, 2])
    expected = linear_network(x, torch.zeros(3), labels)
    assert torch.equal(guided(network, labels, 9, 1.0)(x, torch.zeros(3)), expected)
    narrow = guided(network, labels, 9, 4.0, interval=(100, 500))
    assert torch.equal(narrow(x, torch.full((3,), 99.0)), expected)
    assert torch.equal(narrow(x, torch.full((3,), 501.0)), expected)
    assert sizes == [3, 3, 3]
    assert not torch.equal(narrow(x, torch.full((3,), 100.0)), expected)
    assert not torch.equal(narrow(x, torch.full((3,), 500.0)), expected)
    assert sizes == [3, 3, 3, 6, 6]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scale": -1.0}, "finite and not negative, found -1.0"),
        ({"scale": float("nan")}, "found nan"),
        ({"scale": 2.0, "channels": 0}, "guided channels must be at least 1, found 0"),
        ({"scale": 2.0, "interval": (5, 3)}, r"\(low, high\), found \(5, 3\)"),
        ({"scale": 2.0, "labels": None}, "needs labels and a conditional model"),
        ({"scale": 2.0, "null_label": None}, "needs labels and a conditional model"),
    ],
)
def test_wrong_guidance(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guided(linear_network, **{"labels": torch.zeros(2).long(), "null_label": 9, **arguments})
