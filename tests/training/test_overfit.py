"""A few pictures and clips are learnt by heart, by each stage from the one before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.training import train
from omnitok.data.loader import load_training_image, load_training_video
from omnitok.data.video_reader import WindowSampling
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import InitConfig, OptimizerConfig, TrainConfig

WIDTH = {"width": 64, "heads": 2, "head_dim": 32, "codebook_size": 64}


def overfit_config(small_config: TrainConfig, steps: int) -> TrainConfig:
    data = replace(
        small_config.data, resolutions=(32,), image_policy="center_crop", video_policy="center_crop", flip=False
    )
    return replace(
        small_config,
        model=replace(small_config.model, **WIDTH),
        data=replace(data, image_batch=8, video_batch=4),
        weights={"l1": 1.0, "l2": 4.0, "commitment": 0.5},
        optimizer=OptimizerConfig(lr=4e-3, warmup_steps=20, betas=(0.9, 0.95), weight_decay=0.0),
        log=replace(small_config.log, every=50),
        steps=steps,
        checkpoint_every=steps,
    )


def decibels(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a.clamp(-1, 1) - b).square().mean()))


@torch.no_grad()
def measure(model: Path, config: TrainConfig) -> tuple[float, float, float]:
    """PSNR of the pictures and of the clips, and the share of the codebook that they use (0 for a VAE)."""
    tokenizer = OmniTokenizer.from_pretrained(model)
    images = sorted(Path(config.data.images[0]).iterdir())
    videos = sorted(Path(config.data.videos[0]).iterdir())
    pictures = torch.stack([load_training_image(path, 32, "center_crop", False, 0) for path in images])
    clips = torch.stack([load_training_video(path, WindowSampling(5), 32, "center_crop", False, 0) for path in videos])
    usage = 0.0
    if tokenizer.is_discrete:
        codes = [tokenizer.encode(x, check_range=False).codes for x in (pictures, clips)]
        usage = len(torch.cat([c.flatten() for c in codes if c is not None]).unique()) / tokenizer.vocab_size
    return decibels(tokenizer(pictures), pictures), decibels(tokenizer(clips), clips), usage


@pytest.mark.slow
def test_three_stages_overfit(small_config: TrainConfig, tmp_path: Path) -> None:
    joint = overfit_config(small_config, 320)
    image = replace(joint, name="image", data=replace(joint.data, videos=()), quantizer_warmup_steps=100)
    stage1 = train(image, tmp_path / "image").model
    with pytest.warns(UserWarning, match="trained on images only"):
        psnr, _, usage = measure(stage1, joint)
    assert psnr > 25, f"image stage: {psnr:.1f} dB on pictures"
    assert usage > 0.3  # pictures alone have 128 tokens for 64 codes

    stage2 = train(replace(joint, init=InitConfig(str(stage1), inflate=True)), tmp_path / "joint").model
    psnr, video_psnr, usage = measure(stage2, joint)
    assert psnr > 25, f"joint stage: {psnr:.1f} dB on pictures"
    assert video_psnr > 25, f"joint stage: {video_psnr:.1f} dB on clips"
    assert usage > 0.5

    vae = replace(
        joint,
        name="vae",
        model=replace(joint.model, bottleneck="kl"),
        weights={"l1": 1.0, "l2": 4.0, "kl": 1e-6},
        init=InitConfig(str(stage2)),
    )
    psnr, video_psnr, _ = measure(train(vae, tmp_path / "vae").model, joint)
    assert psnr > 30, f"vae stage: {psnr:.1f} dB on pictures"
    assert video_psnr > 30, f"vae stage: {video_psnr:.1f} dB on clips"


def test_learning_is_under_way_after_a_hundred_steps(small_config: TrainConfig, tmp_path: Path) -> None:
    config = overfit_config(small_config, 100)
    psnr, video_psnr, usage = measure(train(config, tmp_path).model, config)
    assert psnr > 18
    assert video_psnr > 18
    assert usage > 0.3
