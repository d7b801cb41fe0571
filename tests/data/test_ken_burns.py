"""Clips made from pictures: smooth, inside the picture, and the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.collections import index_of, pixels_of
from omnitok.data import read_image, write_image, write_video
from omnitok.data.config import DataConfig
from omnitok.data.ken_burns import _windows, ken_burns
from omnitok.errors import MediaError


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red grows to the right, green downwards, blue is constant."""
    path = tmp_path_factory.mktemp("pictures") / "ramp.png"
    y, x = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 80), indexing="ij")
    write_image(path, torch.stack([x, y, torch.zeros_like(x)]))
    return path


def test_a_window_moves_smoothly_over_the_picture(ramp: Path) -> None:
    for seed in range(6):
        clip = ken_burns(read_image(ramp), 9, 32, flip=False, seed=seed)
        assert clip.shape == (3, 9, 32, 32)
        assert clip[2].abs().max() < 0.01
        means = clip[:2].mean(dim=(-2, -1))  # where the window's centre is
        steps = means.diff(dim=1)
        assert steps.abs().max() < 0.35
        assert (clip[0].diff(dim=-1).mean(dim=(-2, -1)) > 0.01).all()  # never mirrored or turned
        assert (clip[1].diff(dim=-2).mean(dim=(-2, -1)) > 0.01).all()
    moved = [ken_burns(read_image(ramp), 9, 32, flip=False, seed=seed).diff(dim=1).abs().mean() for seed in range(6)]
    assert max(moved) > 0.002


def test_windows_stay_inside(ramp: Path) -> None:
    for seed in range(200):
        for row, column, side in _windows(np.random.default_rng(seed), 17, 32, 40, 55):
            assert side / 2 - 1e-9 <= row <= 40 - side / 2 + 1e-9
            assert side / 2 - 1e-9 <= column <= 55 - side / 2 + 1e-9


def test_the_seed_decides(ramp: Path) -> None:
    first, again, other = (ken_burns(read_image(ramp), 5, 32, flip=True, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_small_picture_and_a_single_frame(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", torch.zeros(3, 7, 90))
    assert ken_burns(read_image(tmp_path / "small.png"), 1, 32, flip=True, seed=0).shape == (3, 1, 32, 32)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"bad\.png"):
        ken_burns(read_image(tmp_path / "bad.png"), 1, 32, flip=True, seed=0)


def test_a_share_of_the_clips_is_made_from_pictures(ramp: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "grey.mp4", torch.zeros(3, 6, 40, 40), fps=10)

    def batches(pictures: list[Path], share: float) -> tuple[torch.Tensor, list[tuple[str, str]]]:
        config = DataConfig(
            frames=5,
            resolutions=(32,),
            image_batch=1,
            video_batch=16,
            video_policy="center_crop",
            flip=False,
            ken_burns=share,
        )
        batch = pixels_of(index_of(pictures, [tmp_path / "grey.mp4"]), config, seed=0)[1]
        return (batch.inputs.std(dim=(1, 2, 3, 4)) > 0.1).sum(), batch.failures

    assert batches([ramp], 0.0)[0] == 0
    assert 3 <= batches([ramp], 0.5)[0] <= 13
    assert batches([ramp], 1.0)[0] == 16
    (tmp_path / "bad.png").write_bytes(b"no picture")
    made, failures = batches([tmp_path / "bad.png"], 1.0)  # unreadable pictures are counted; clips take their place
    assert made == 0
    assert len(failures) == 16


def test_a_line_of_pixels_stays_small(tmp_path: Path) -> None:
    write_image(tmp_path / "line.png", torch.zeros(3, 1, 60_000))
    assert ken_burns(read_image(tmp_path / "line.png"), 2, 64, flip=False, seed=0).shape == (3, 2, 64, 64)
