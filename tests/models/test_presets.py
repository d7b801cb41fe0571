import pytest
import torch

from omnitok.hub.folder import build_on_meta, shapes_of
from omnitok.models.autoencoder import TokenizerConfig
from omnitok.models.bottlenecks import VQConfig
from omnitok.models.presets import PRESETS, preset


def parameters(name: str) -> int:
    not_trained = ("bottleneck.cluster_size", "bottleneck.cluster_sum", "bottleneck.initialised")
    shapes = shapes_of(build_on_meta(preset(name)))
    return sum(torch.Size(shape).numel() for key, shape in shapes.items() if key not in not_trained)


@pytest.mark.parametrize("name, low, high", [("tiny", 3e6, 5e6), ("small", 10e6, 20e6), ("base", 40e6, 100e6)])
def test_sizes(name: str, low: float, high: float) -> None:
    assert low <= parameters(name) <= high


def test_base_is_the_released_architecture_with_its_faults_mended() -> None:
    base, released = preset("base"), preset("released")
    assert (base.patch_size, base.temporal_patch_size, base.width) == (8, 4, 512)
    assert (base.encoder_blocks, base.decoder_blocks) == ("ttww", "tttt")
    assert (base.encoder_temporal_blocks, base.decoder_temporal_blocks, base.window_size) == (4, 4, 8)
    assert base.bottleneck == VQConfig(latent_channels=8, codebook_size=8192)
    assert base == TokenizerConfig()
    assert shapes_of(build_on_meta(base)) == shapes_of(build_on_meta(released))


def test_who_can_stream() -> None:
    assert {name for name, config in PRESETS.items() if config.streamable} == {"base", "small", "tiny"}


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'tiney'; known are .*tiny"):
        preset("tiney")


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("patch_size", 0, "patch_size must be at least 1, found 0"),
        ("encoder_temporal_blocks", -1, "must be at least 0"),
        ("encoder_blocks", "tx", "must match pattern"),
        ("bottleneck", "unheard-of", "'vq', 'kl'"),
        ("head_dim", 6, "multiple of 4"),
        ("temporal_window", 0, "at least 1"),
        ("latent_mean", (0.0,), "latent_mean is not architecture"),
        ("layers", 3, "layers is not a known field"),
        ("pixel_scale", 0.0, "pixel_scale must be greater than 0"),
        ("pixel_scale", float("nan"), "pixel_scale must be a finite number"),
        ("feedforward_multiple", float("inf"), "finite number"),
        ("codebook_decay", 1.5, "decay must be at most 1"),
        ("restart_threshold", -0.1, "restart_threshold must be at least 0"),
    ],
)
def test_config_refuses(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**{field: value})


@pytest.mark.parametrize("frames, latent_frames", [(1, 1), (2, 2), (5, 2), (6, 3), (17, 5)])
def test_latent_size(frames: int, latent_frames: int) -> None:
    config = TokenizerConfig()
    assert config.latent_shape(frames, 1, 17) == (latent_frames, 1, 3)
    assert config.num_frames(latent_frames) >= frames > config.num_frames(latent_frames - 1)
