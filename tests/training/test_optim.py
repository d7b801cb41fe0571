"""Schedules, averaged weights, collapse alarm, latent statistics, throughput."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.training.config import OptimizerConfig
from omnitok.training.optim import (
    EMA,
    NamedOptimizer,
    learning_rate,
    matrices_of_blocks,
    muon_step,
    orthogonalize,
)
from omnitok.training.tasks.codebook_usage import CodebookUsage
from omnitok.training.tasks.measured import latent_statistics
from omnitok.training.throughput import Throughput, forward_flops, peak_tflops


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(config, step, 14) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(config, 9, 14) == pytest.approx(0.5)
    assert learning_rate(config, 14, 14) == pytest.approx(0)
    assert learning_rate(replace(config, schedule="constant"), 13, 14) == 1.0


@pytest.mark.parametrize("matrices", [(), ("0.weight", "2.weight")])
def test_named_state_continues_the_same_path(matrices: tuple[str, ...]) -> None:
    config = OptimizerConfig(lr=0.1)

    def made() -> tuple[nn.Module, NamedOptimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(5, 5))  # the last is never used
        return module, NamedOptimizer(module, config, matrices=matrices)

    def steps(module: nn.Module, optimizer: NamedOptimizer, count: int) -> None:
        for i in range(count):
            module[1](module[0](torch.full((1, 3), float(i + 1)))).sum().backward()  # type: ignore[index]
            optimizer.step(0.1)
            optimizer.zero_grad()

    module, optimizer = made()
    steps(module, optimizer, 3)
    other, second = made()
    other.load_state_dict(module.state_dict())
    second.allocate(set(optimizer.state()))
    assert second.state().keys() == optimizer.state().keys()
    assert not any(name.startswith("2.") for name in second.state())
    second.allocate({"1.bias.step"})  # a state from before most parameters had a gradient
    assert second.state().keys() == {"1.bias.step"}
    second.allocate(set(optimizer.state()))
    for name, tensor in optimizer.state().items():
        second.state()[name].copy_(tensor)
    for pair in ((module, optimizer), (other, second)):
        steps(*pair, 2)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix)
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.min() < values.max() < 1.3
    assert (found - u @ vh).norm() / (u @ vh).norm() < 0.35
    torch.testing.assert_close(orthogonalize(7 * matrix), found, atol=1e-4, rtol=1e-3)


def test_muon_moves_matrices_as_far_as_adamw_would() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(32, 64))
    weight.grad = torch.randn(32, 64)
    before = weight.detach().clone()
    muon_step([weight], {}, rate=0.01, weight_decay=0.5)
    moved = weight.detach() - before * (1 - 0.01 * 0.5)
    # all 32 singular values near 1: the root mean square is 0.2 sqrt(64) sqrt(32 / (32 64))
    assert moved.square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.2)


def test_muon_is_for_the_matrices_inside_blocks(small_model: TokenizerConfig) -> None:
    tokenizer = OmniTokenizer.from_config(small_model)
    names = matrices_of_blocks(tokenizer)
    shapes = {name: parameter.ndim for name, parameter in tokenizer.named_parameters()}
    assert names
    assert all(shapes[name] == 2 for name in names)
    assert not any(word in name for name in names for word in ("embed", "to_image", "bottleneck", "position_table"))
    left = {name for name, dimensions in shapes.items() if dimensions == 2} - set(names)
    assert not any(".blocks." in name for name in left if "position_table" not in name)


def test_averages_follow_with_their_decay() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = EMA(module, 0.5)
    nn.init.ones_(module.weight)
    average.update(0)
    assert average.weights["weight"].item() == pytest.approx(0.9)  # early: 1 / 10 stays
    average.update(1000)
    assert average.weights["weight"].item() == pytest.approx(0.95)


def test_collapse_is_told_with_the_remedy_and_only_then() -> None:
    use = CodebookUsage(100, window=10, threshold=0.2, device=torch.device("cpu"))
    for step in range(9):
        use.update(step, torch.zeros(50, dtype=torch.int64))
    assert use.alarm(8, use.share(8)) is None, "the window is not full yet"
    use.update(9, torch.zeros(50, dtype=torch.int64))
    alarm = use.alarm(9, use.share(9))
    assert alarm is not None
    assert "1.0% of its codes" in alarm
    assert "restart_threshold" in alarm
    use.update(10, torch.arange(100))
    assert use.share(10) == 1.0
    assert use.alarm(10, 1.0) is None


def test_use_is_forgotten_after_the_window() -> None:
    use = CodebookUsage(4, window=2, threshold=0.5, device=torch.device("cpu"))
    use.update(0, torch.tensor([0, 1, 2]))
    use.update(1, torch.tensor([3]))
    assert use.share(1) == 1.0
    assert use.share(2) == 0.25


def test_latent_statistics_include_the_noise(small_model: TokenizerConfig) -> None:
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(replace(small_model, bottleneck="kl")).eval()
    batches = [torch.rand(8, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 5, 32, 32) * 2 - 1]
    statistics = latent_statistics(tokenizer, batches)
    mean, std = statistics.mean, statistics.std
    draws = []
    with torch.no_grad():
        for pixels in batches:
            posterior = tokenizer.encode(pixels, check_range=False).posterior
            assert posterior is not None
            draws += [posterior.sample().movedim(1, -1).reshape(-1, 8) for _ in range(50)]
    drawn = torch.cat(draws)
    torch.testing.assert_close(torch.tensor(mean), drawn.mean(0), atol=0.05, rtol=0.05)
    torch.testing.assert_close(torch.tensor(std), drawn.std(0), atol=0.05, rtol=0.05)


def test_operations_are_counted(small_model: TokenizerConfig) -> None:
    one = forward_flops(small_model, (1, 3, 64, 64))
    positions, width = 64, small_model.width
    assert one > 2 * positions * 2 * 192 * width  # the two patch maps alone
    assert forward_flops(small_model, (2, 3, 64, 64)) == 2 * one
    assert forward_flops(small_model, (1, 3, 60, 60)) == one  # padded to whole patches
    assert forward_flops(small_model, (1, 3, 5, 64, 64)) > 2 * one


@pytest.mark.parametrize(
    ("name", "peak"),
    (
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GH200 480GB", 989.0),
    ),
)
def test_the_peak_is_of_that_very_gpu(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(torch.device("cuda")) == peak


def test_rates_are_of_the_time_since_the_last(small_model: TokenizerConfig) -> None:
    throughput = Throughput(lambda shape: forward_flops(small_model, shape), peak=1.0, world_size=3)
    throughput.update((2, 3, 16, 16))
    throughput.update((1, 3, 5, 16, 16))
    rates = throughput.rates()
    assert rates["frames_per_second"] == pytest.approx(rates["pictures_per_second"] * 15 / 6, rel=1e-3)
    assert rates["mfu"] == pytest.approx(rates["tflops"] / 3, abs=1e-3)
    assert throughput.rates()["pictures_per_second"] == 0
