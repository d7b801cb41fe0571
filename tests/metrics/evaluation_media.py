"""Pictures, clips and a small tokenizer for the tests of evaluation."""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from helpers.small import SMALL
from omnitok.data import write_video
from omnitok.metrics import EvaluatedModel
from omnitok.metrics.networks import Network
from omnitok.models.tokenizer import OmniTokenizer


def small_model(bottleneck: str = "vq") -> EvaluatedModel:
    torch.manual_seed(0)
    config = SMALL if bottleneck == "vq" else replace(SMALL, bottleneck="kl")
    return EvaluatedModel(OmniTokenizer.from_config(config).eval(), f"small-{bottleneck}", "ab" * 32)


def levels(height: int, width: int, seed: int) -> Tensor:
    """A smooth uint8 picture (3, height, width)."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    return (smooth[0] * 255).round().to(torch.uint8)


def write_picture(path: Path, pixels: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return path


def make_pictures(folder: Path, n: int, height: int = 40, width: int = 48, suffix: str = ".png") -> list[Path]:
    return [write_picture(folder / f"{i:03d}{suffix}", levels(height, width, seed=i)) for i in range(n)]


def make_clip(path: Path, frames: int, side: int = 32) -> Path:
    """Flat grey frames: frame i has the level 8 i, which survives the codec to a level or two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = (torch.arange(frames).float() * 8 / 127.5 - 1)[None, :, None, None]
    write_video(path, grey.expand(3, frames, side, side).contiguous(), fps=10)
    return path


def pooled(classes: int = 0) -> Network:
    """A real if humble feature network: 3 x 2 x 2 means of the pixels; logits are the first of them, sharpened."""

    def extract(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        frames = pixels.float().mean(2) if pixels.ndim == 5 else pixels.float()
        features = torch.nn.functional.adaptive_avg_pool2d(frames, 2).flatten(1) / 255  # (n, 12)
        return features, 20 * features[:, :classes] if classes else None

    return Network("pooled", "cd" * 32, extract, 12, classes)
