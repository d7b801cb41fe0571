"""Views of a file follow from its size and the seed alone."""

import numpy as np
import pytest

from omnitok.tokenization.augmentations import draw_augmentations
from omnitok.tokenization.settings import TokenizeSettings


def test_crops_lie_inside_and_are_as_large_as_the_range_says() -> None:
    sides = {}
    for crop_range in (None, 1.1, 1.0):
        views = draw_augmentations(TokenizeSettings(64, views=200, crop_range=crop_range), 7, 120, 160)
        assert views[0].box == (0, 20, 120, 120)
        crops = np.array([view.box for view in views[1:]])
        assert (crops >= 0).all()
        assert (crops[:, 0] + crops[:, 2] <= 120).all()
        assert (crops[:, 1] + crops[:, 3] <= 160).all()
        assert (crops[:, 2] == crops[:, 3]).all()
        sides[crop_range] = (crops[:, 2].min(), crops[:, 2].max())
    assert sides == {None: (64, 120), 1.1: (109, 120), 1.0: (120, 120)}


def test_small_files_are_taken_whole() -> None:
    assert {view.box[2] for view in draw_augmentations(TokenizeSettings(64, views=20), 1, 40, 50)} == {40}
    settings = TokenizeSettings(64, views=50, crop_range=2.0)
    assert min(view.box[2] for view in draw_augmentations(settings, 1, 40, 50)) == 20


@pytest.mark.parametrize("settings", [{"crop_range": 0.5}, {"crop_range": float("nan")}, {"views": 1}])
def test_a_range_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="crop_range"):
        TokenizeSettings(**({"resolution": 64, "views": 4, "crop_range": 1.1} | settings))
