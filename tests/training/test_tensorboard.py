"""What TensorBoard shows of a training; needs the package."""

from pathlib import Path

import pytest
import torch

from omnitok.training.logging import JsonlLogger


def test_events_hold_the_numbers_and_the_previews(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = JsonlLogger(tmp_path, 0, tensorboard=True)
    for step in (1, 2):
        logger.write({"step": step, "modality": "image", "loss": 0.5 / step, "skipped": False, "lr": float("nan")})
    preview = {"image": torch.full((3, 8, 12), 1.0), "video": torch.linspace(-1, 1, 3 * 5 * 8 * 12).view(3, 5, 8, 12)}
    logger.write_preview(2, preview, fps=8)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("image/loss")] == [(1, 0.5), (2, 0.25)]
    tags = events.Tags()
    assert {"image/loss", "image/seconds"} == set(tags["scalars"])
    assert set(tags["images"]) == {"preview/image", "preview/video"}
    image, video = (events.Images(f"preview/{name}")[0] for name in ("image", "video"))
    assert (image.step, image.width, image.height) == (2, 12, 8)
    assert video.width > 12  # the frames of a video lie in a grid
    assert video.height >= 8
