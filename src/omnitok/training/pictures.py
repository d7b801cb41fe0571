"""Reconstruction grids: the same samples again and again while the model learns."""

from pathlib import Path

import torch
from torch import Tensor

from omnitok.data.image import write_image
from omnitok.data.loader import PixelDataset
from omnitok.data.modality import MODALITIES
from omnitok.data.video_writer import write_video
from omnitok.models.tokenizer import OmniTokenizer

FPS = 8.0


def fixed_samples(dataset: PixelDataset, count: int) -> list[Tensor]:
    """Up to `count` pictures (n, 3, H, W) and clips (n, 3, T, H, W): those of the first batch of each medium."""
    samples: dict[str, Tensor] = {}
    for step in range(100):  # with a video share near 0 or 1 the other medium may come late
        medium = dataset.sampler.modality(step)
        if medium not in samples:
            samples[medium] = dataset[step].inputs[:count]
        if len(samples) == sum(1 for modality in MODALITIES if dataset.samples[modality]):
            break
    return list(samples.values())


@torch.no_grad()
def write_grids(tokenizer: OmniTokenizer, samples: list[Tensor], folder: Path, step: int) -> None:
    """Write `step-…-image.png` and `step-…-video.mp4`: originals above, reconstructions below."""
    for pixels in samples:
        reconstruction = tokenizer(pixels.to(tokenizer.device)).cpu().float().clamp(-1, 1)
        grid = torch.cat([_row(pixels), _row(reconstruction)], dim=-2)  # 3 (T) 2H nW
        if pixels.ndim == 4:
            write_image(folder / f"step-{step:09d}-image.png", grid)
        else:
            height, width = (side - side % 2 for side in grid.shape[-2:])  # H.264 wants even sides
            write_video(folder / f"step-{step:09d}-video.mp4", grid[..., :height, :width], fps=FPS)


def _row(pixels: Tensor) -> Tensor:
    """Samples side by side: (n, 3, ..., H, W) -> (3, ..., H, n W)."""
    return torch.cat(list(pixels), dim=-1)
