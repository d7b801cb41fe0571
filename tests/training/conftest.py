"""Pictures and clips made by the tests, and a tokenizer small enough to train in a second."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import helpers.small
from omnitok.data.image import write_image
from omnitok.data.video_writer import write_video
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformerConfig
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.training.config import (
    AnyGeneratorConfig,
    DataConfig,
    DiffusionTrainConfig,
    EngineConfig,
    LanguageModelTrainConfig,
    LogConfig,
    OptimizerConfig,
    TrainConfig,
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def smooth_frames(seed: int, frames: int, size: int) -> torch.Tensor:
    """Coloured waves that move a little: (3, frames, size, size) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    y, x = torch.meshgrid(*(torch.linspace(0, 1, size),) * 2, indexing="ij")
    t = torch.arange(frames)[:, None, None] * 0.1
    channels = [torch.sin(rng.uniform(1, 8) * x + rng.uniform(1, 8) * y + rng.uniform(0, 6) + t) for _ in range(3)]
    return torch.stack(channels)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images` (8 PNG, 40 x 40) and `videos` (4 MP4, 6 frames of 32 x 32)."""
    root = tmp_path_factory.mktemp("media")
    (root / "images").mkdir()
    (root / "videos").mkdir()
    for i in range(8):
        pixels = (smooth_frames(i, 1, 40)[:, 0].permute(1, 2, 0) * 127.5 + 127.5).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(root / "images" / f"picture_{i}.png")
    for i in range(4):
        write_video(root / "videos" / f"clip_{i}.mp4", smooth_frames(100 + i, 6, 32), fps=8.0)
    return root


SMALL = replace(helpers.small.SMALL, window_size=8, normalize_patches=False, codebook_size=32)


@pytest.fixture
def small_model() -> TokenizerConfig:
    """An architecture that trains in milliseconds."""
    return SMALL


@pytest.fixture
def small_config(media: Path) -> TrainConfig:
    """A joint training of 8 steps with averaged weights."""
    return TrainConfig(
        name="test",
        model=SMALL,
        data=DataConfig(
            images=(str(media / "images"),),
            videos=(str(media / "videos"),),
            frames=5,
            resolutions=(24, 32),
            image_batch=4,
            video_batch=2,
            workers=0,
        ),
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=2, ema_decay=0.9),
        engine=EngineConfig(precision="float32"),
        log=LogConfig(every=1, images_every=0),
        steps=8,
        checkpoint_every=100,
    )


@pytest.fixture(scope="session")
def labelled_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images` (classes "a" and "b", 4 PNG each, 16 x 16) and `videos` ("b" and "c", 2 MP4 each)."""
    root = tmp_path_factory.mktemp("labelled")
    for i in range(8):
        folder = root / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"picture_{i}.png", smooth_frames(i, 1, 16)[:, 0])
    for i in range(4):
        folder = root / "videos" / "bc"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"clip_{i}.mp4", smooth_frames(100 + i, 6, 16), fps=8.0)
    return root


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a quantizer ("vq") and of a VAE ("kl"), untrained."""
    folder = tmp_path_factory.mktemp("tokenizers")
    torch.manual_seed(0)
    for kind in ("vq", "kl"):
        config = SMALL if kind == "vq" else replace(SMALL, bottleneck=KLConfig())
        tokenizer = OmniTokenizer.from_config(config).eval()
        if kind == "kl":
            tokenizer.latent_statistics = LatentStatistics((0.0,) * 8, (1.5,) * 8)
        tokenizer.save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in ("vq", "kl")}


@pytest.fixture
def generator_configs(labelled_media: Path, tokenizers: dict[str, str]) -> dict[str, AnyGeneratorConfig]:
    """A language model ("lm") and a diffusion transformer ("dit") of pictures and clips, 6 steps each, on pixels."""
    shared: dict[str, Any] = {
        "data": DataConfig(
            images=(str(labelled_media / "images"),),
            videos=(str(labelled_media / "videos"),),
            frames=5,
            resolutions=(16,),
            image_batch=4,
            video_batch=2,
            image_policy="center_crop",
            video_policy="center_crop",
            flip=False,
            workers=0,
        ),
        "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=2, ema_decay=0.9),
        "engine": EngineConfig(precision="float32"),
        "log": LogConfig(every=1, images_every=0),
        "label_dropout": 0.3,
        "steps": 6,
        "checkpoint_every": 100,
    }
    return {
        "lm": LanguageModelTrainConfig(
            name="test-lm",
            tokenizer=tokenizers["vq"],
            model=LanguageModelConfig(width=32, depth=2, heads=2, dropout=0.1),
            **shared,
        ),
        "dit": DiffusionTrainConfig(
            name="test-dit",
            tokenizer=tokenizers["kl"],
            model=DiffusionTransformerConfig(
                patch_size=1, width=32, depth=2, heads=2, temporal=True, objective="flow", learn_sigma=False
            ),
            **shared,
        ),
    }
