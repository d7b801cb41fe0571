"""Patch discriminators: shapes, receptive fields, options, and the blur against an explicit convolution."""

import pytest
import torch
from torch import nn

from helpers.processes import in_process_group, on_two_processes
from omnitok.losses.adversarial import discriminator_loss, feature_matching, r1_penalty
from omnitok.losses.discriminators import (
    BatchNorm,
    BinomialBlur,
    DiscriminatorConfig,
    LearntNoise,
    PatchDiscriminator,
    frame_indices,
    take_frames,
)


def test_the_released_shapes() -> None:
    images = PatchDiscriminator(DiscriminatorConfig(), dimensions=2)
    widths = [m.out_channels for m in images.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64, 128, 256, 512, 1]
    # pix2pix-style 4 x 4 kernels: 3 -> 64 -> 128 -> 256 -> 512 -> 1 with biases, and two numbers per normalised channel
    convolutions = sum(16 * a * b + b for a, b in [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)])
    assert sum(p.numel() for p in images.parameters()) == convolutions + 2 * (128 + 256 + 512)


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (32, 32)])
@pytest.mark.parametrize("blur", [False, True])
def test_any_size_gives_logits_and_one_feature_per_layer(size: tuple[int, int], blur: bool) -> None:
    config = DiscriminatorConfig(channels=4, layers=2, blur=blur)
    output = PatchDiscriminator(config, 2)(torch.rand(2, 3, *size))
    h, w = (n // 4 + 3 for n in size) if not any(n % 4 for n in size) else output.logits.shape[-2:]
    assert output.logits.shape == (2, 1, h, w)
    assert [f.shape[1] for f in output.features] == [4, 8, 16]


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_clips_of_any_length(frames: int) -> None:
    output = PatchDiscriminator(DiscriminatorConfig(channels=2, layers=2), 3)(torch.rand(2, 3, frames, 12, 20))
    assert output.logits.ndim == 5
    assert len(output.features) == 3


def test_blur_does_not_change_the_sizes() -> None:
    x = torch.rand(1, 3, 37, 50)
    plain, blurred = (PatchDiscriminator(DiscriminatorConfig(channels=4, norm="none", blur=b), 2)(x) for b in (0, 1))
    assert [f.shape for f in plain.features] == [f.shape for f in blurred.features]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_blur_is_the_binomial_convolution(dimensions: int) -> None:
    x = torch.rand(2, 3, *(5, 7, 6)[:dimensions])
    stride = 2
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    expected = x
    for axis in range(2, 2 + dimensions):  # one axis after the other, tap by tap
        n = expected.shape[axis]
        taps = [expected.index_select(axis, (torch.arange(n) + o).clamp(0, n - 1)) for o in (-1, 0, 1)]
        expected = sum(w * t for w, t in zip(line, taps, strict=True))
        expected = expected.index_select(axis, torch.arange(0, n, stride))
    torch.testing.assert_close(BinomialBlur(dimensions, stride)(x), expected)


def test_norms_are_where_they_are_configured() -> None:
    kinds = {
        norm: [type(m) for m in PatchDiscriminator(DiscriminatorConfig(4, norm=norm), 3).modules()]
        for norm in ("batch", "spectral", "none")
    }
    assert kinds["batch"].count(BatchNorm) == 3
    assert BatchNorm not in kinds["spectral"] + kinds["none"]
    released = PatchDiscriminator(DiscriminatorConfig(4, normalize_logits=True), 3)
    assert sum(isinstance(m, BatchNorm) for m in released.modules()) == 4


def _game(dimensions: int, rank: int = 0, world_size: int = 1) -> tuple[dict[str, list[float]], list[list[float]]]:
    """Losses, gradients and buffers after a process's share of four samples; the gradients of its fake samples."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(channels=4, layers=2, noise=True, normalize_logits=True)
    model = PatchDiscriminator(config, dimensions)
    torch.nn.init.constant_(model.noise.weight, 0.3)
    share = slice(rank, None, world_size)
    real, fake = (torch.rand(4, 3, *(6, 9, 12)[-dimensions:])[share] for _ in range(2))
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)[share]]
    of_real, of_fake = model(real, generators), model(fake.requires_grad_(), generators)
    losses = [
        discriminator_loss(of_real.logits, of_fake.logits, "hinge"),
        feature_matching(of_real.features, of_fake.features),
        r1_penalty(lambda x: model(x, generators).logits, real),  # second derivatives
    ]
    sum(losses).backward()
    tensors = {"losses": torch.stack(losses).detach(), **dict(model.named_buffers())}
    tensors |= {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return {name: t.double().flatten().tolist() for name, t in tensors.items()}, (fake.grad / world_size).flatten(
        1
    ).tolist()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_batch_norm_and_noise_of_two_processes_equal_those_of_one(dimensions: int) -> None:
    one, of_samples = _game(dimensions)
    (first, of_even), (second, of_odd) = on_two_processes(in_process_group(lambda rank: _game(dimensions, rank, 2)))
    for name, expected in one.items():
        mean = [(a + b) / 2 for a, b in zip(first[name], second[name], strict=True)]
        torch.testing.assert_close(
            torch.tensor(mean), torch.tensor(expected), msg=lambda told, name=name: f"{name}: {told}"
        )
    torch.testing.assert_close(torch.tensor([of_even, of_odd]).transpose(0, 1).flatten(0, 1), torch.tensor(of_samples))


def test_spectral_norm_bounds_every_convolution() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(channels=4, norm="spectral"), 2)
    for _ in range(50):  # power iterations
        model(torch.rand(1, 3, 16, 16))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_noise_starts_at_nothing_and_only_in_training() -> None:
    noise, x = LearntNoise(3), torch.rand(2, 3, 4, 4)
    assert torch.equal(noise(x), x)
    with torch.no_grad():
        noise.weight.copy_(torch.tensor([0.0, 1.0, 2.0]))
    added = noise(x) - x
    assert torch.equal(added[:, 0], torch.zeros(2, 4, 4))
    torch.testing.assert_close(2 * added[:, 1], added[:, 2])
    assert torch.equal(noise.eval()(x), x)


def test_noise_of_a_sample_follows_from_its_generator() -> None:
    noise, x = LearntNoise(3), torch.rand(3, 3, 4, 4)
    torch.nn.init.ones_(noise.weight)

    def noisy(samples: list[int]) -> torch.Tensor:
        return noise(x[samples], [torch.Generator().manual_seed(i) for i in samples])

    assert torch.equal(noisy([2, 0]), noisy([0, 1, 2])[[2, 0]])


def test_a_patch_sees_only_its_surroundings() -> None:
    """Three strides of 2, kernels of 4: 70 x 70 pixels, the PatchGAN of the paper."""
    model = PatchDiscriminator(DiscriminatorConfig(channels=4, norm="none"), 2)
    x = torch.rand(1, 3, 160, 160, requires_grad=True)
    logits = model(x).logits
    logits[0, 0, 10, 10].backward()
    rows = x.grad[0].abs().sum((0, 2)).nonzero().squeeze(1)
    assert rows[-1] - rows[0] + 1 == 70


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(ValueError, match="norm must be"):
        DiscriminatorConfig(norm="layer")
    with pytest.raises(ValueError, match="at least 1"):
        DiscriminatorConfig(layers=0)
    with pytest.raises(ValueError, match="needs norm='batch'"):
        DiscriminatorConfig(norm="none", normalize_logits=True)


def test_one_random_frame_of_each_clip() -> None:
    clips = torch.arange(4 * 3 * 5).view(4, 3, 5, 1, 1).float()
    indices = frame_indices(4, 5, seed=3, step=7)
    frames = take_frames(clips, indices)
    for i, k in enumerate(indices.tolist()):
        assert torch.equal(frames[i], clips[i, :, k])
    assert torch.equal(indices, frame_indices(4, 5, seed=3, step=7))
    drawn = torch.stack([frame_indices(4, 5, seed=3, step=s) for s in range(200)])
    assert torch.bincount(drawn.flatten(), minlength=5).min() > 100  # 160 each on average
