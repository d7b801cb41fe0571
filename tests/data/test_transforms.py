"""Frames to squares: what is cut, what is kept in shape, what is random."""

import numpy as np
import pytest
import torch

from omnitok.data.transforms import fit_square, resize


def gradient(height: int, width: int, frames: int = 2) -> torch.Tensor:
    """(2, t, h, w): the row and the column of each pixel, in [-1, 1]."""
    rows = torch.linspace(-1, 1, height).view(1, height, 1).expand(frames, height, width)
    columns = torch.linspace(-1, 1, width).view(1, 1, width).expand(frames, height, width)
    return torch.stack([rows, columns])


def test_same_size_is_the_same_tensor() -> None:
    frames = gradient(8, 12)
    assert resize(frames, 8, 12) is frames


def test_resizing_antialiases_and_stays_in_range() -> None:
    board = (torch.arange(64).view(-1, 1) + torch.arange(64)).remainder(2).mul(2.0).sub(1).expand(3, 1, 64, 64)
    assert resize(board, 16, 16)[..., 2:-2, 2:-2].abs().max() < 0.1  # without antialiasing it would be -1 or 1
    edge = torch.cat([-torch.ones(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], dim=-1)
    assert resize(edge, 32, 32).abs().max() <= 1


def test_squash_keeps_the_borders_and_center_crop_the_aspect() -> None:
    frames = gradient(40, 80)
    squashed = fit_square(frames, 20, "squash")
    assert squashed.shape == (2, 2, 20, 20)
    assert squashed[1].max() > 0.94
    cropped = fit_square(frames, 20, "center_crop")
    assert cropped[1].abs().max() == pytest.approx(0.5, abs=0.03)  # the middle half of the width
    assert cropped[0].abs().max() > 0.94


def test_random_crop_lies_inside_covers_everything_and_depends_on_the_generator() -> None:
    frames = gradient(40, 60)
    spans, lefts = [], []
    for seed in range(200):
        out = fit_square(frames, 16, "random_resized_crop", np.random.default_rng(seed))
        spans.append((out[0].max() - out[0].min()).item() / 2)
        lefts.append(out[1].min().item())
        rows = out[0].diff(dim=1).mean().item() * 39
        columns = out[1].diff(dim=2).mean().item() * 59
        assert rows == pytest.approx(columns, rel=0.1)  # the aspect is kept
    assert min(spans) < 0.45  # down to 16 of 40 rows
    assert max(spans) > 0.94  # up to all of them
    assert min(lefts) < -0.95
    again = fit_square(frames, 16, "random_resized_crop", np.random.default_rng(7))
    assert torch.equal(again, fit_square(frames, 16, "random_resized_crop", np.random.default_rng(7)))


def test_random_crop_of_a_small_picture_enlarges_it() -> None:
    frames = gradient(6, 9)
    out = fit_square(frames, 16, "random_resized_crop", np.random.default_rng(0))
    assert out.shape == (2, 2, 16, 16)


def test_all_frames_of_a_clip_are_cut_alike() -> None:
    out = fit_square(gradient(40, 60, frames=5), 16, "random_resized_crop", np.random.default_rng(3))
    assert all(torch.equal(out[:, t], out[:, 0]) for t in range(5))


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="random generator"):
        fit_square(gradient(8, 8), 4, "random_resized_crop")
