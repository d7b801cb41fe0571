"""Drawn images: the same for the same seed, and mixed into batches by each draw's own seed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omnitok.data.drawn import drawn_image, drawn_mask, drawn_set
from omnitok.data.image import write_image
from omnitok.distributed import Processes
from omnitok.training.config import DataConfig
from omnitok.training.data import build_dataset


@pytest.mark.parametrize("side", [1, 17, 64, 130])
def test_drawn_images_depend_on_side_and_seed(side: int) -> None:
    for seed in range(40):
        image = drawn_image(side, seed)
        assert image.shape == (3, side, side)
        assert image.abs().max() <= 1
        assert torch.equal(image, drawn_image(side, seed))
    assert side == 1 or len({drawn_image(side, seed).sum().item() for seed in range(40)}) > 30


def test_drawn_masks() -> None:
    masks = torch.stack([drawn_mask(48, seed) for seed in range(40)])
    assert masks.shape == (40, 1, 48, 48)
    assert torch.equal(masks[3], drawn_mask(48, 3))
    assert (masks.abs() == 1).float().mean() > 0.9  # all but the edges
    assert ((masks > 0).flatten(1).float().mean(1) > 0.02).sum() > 30
    assert -0.8 < masks.mean() < 0.8


def test_the_evaluation_set_is_fixed() -> None:
    samples = drawn_set()
    assert len({sample.name for sample in samples}) == len(samples) > 100
    assert all(sample.pixels.shape == (3, 256, 256) for sample in samples)
    again = drawn_set()
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(samples, again, strict=True))
    assert torch.equal(samples[0].pixels, torch.full((3, 256, 256), -1.0))


def test_a_share_of_each_batch_is_drawn_whoever_loads_it(tmp_path: Path) -> None:
    gray = torch.zeros(3, 48, 48)
    for i in range(3):
        write_image(tmp_path / f"{i}.png", gray)
    config = DataConfig(
        images=(str(tmp_path),), resolutions=(32,), image_batch=8, video_batch=2, frames=5, drawn=0.5, workers=0
    )

    def batches(config: DataConfig, rank: int, world_size: int) -> torch.Tensor:
        dataset = build_dataset(config, 1, 3, Processes(rank, world_size, torch.device("cpu")))
        return torch.stack([dataset[step].inputs for step in range(6)])

    whole = batches(config, 0, 1)
    drawn = (whole.abs() > 0.05).flatten(2).any(dim=2)  # steps, 8
    assert 12 <= drawn.sum() <= 36
    for rank in range(2):
        assert torch.equal(batches(config, rank, 2), whole[:, rank::2])
    plain = batches(replace(config, drawn=0.0), 0, 1)
    assert torch.equal(plain[~drawn], whole[~drawn])
    assert (plain.abs() < 0.05).all()


def test_drawn_clips_move_over_one_image(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", torch.zeros(3, 48, 48))
    config = DataConfig(images=(str(tmp_path),), resolutions=(32,), frames=5, drawn=1.0, workers=0)
    dataset = build_dataset(config, 1, 3, Processes(0, 1, torch.device("cpu")))
    draw = dataset.sampler.plan(0).draws[0]
    clip = dataset._load("video", draw, 32, []).pixels
    assert clip.shape == (3, 5, 32, 32)
    assert clip.abs().max() <= 1
