"""Which files a training draws, and how often."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.training import ALONE
from omnitok.data.image import write_image
from omnitok.distributed import Processes
from omnitok.errors import OmnitokError
from omnitok.training.config import DataConfig
from omnitok.training.data import build_dataset


@pytest.mark.parametrize("with_manifest", [True, False])
def test_domains_are_drawn_by_the_root_of_their_size(tmp_path: Path, with_manifest: bool) -> None:
    """16 clips of one kind and 1 of another: 4 to 1, told apart by the manifest or by their names."""
    names = [f"{'x' if with_manifest or i else 'y'}_{i:03d}.mp4" for i in range(17)]
    for name in names:
        (tmp_path / name).touch()
    if with_manifest:
        rows = [f"{name},{'rare' if i == 0 else 'common'}" for i, name in enumerate(names)]
        (tmp_path / "manifest.csv").write_text("\n".join(["file,domain", *rows]))
    data = DataConfig(videos=(str(tmp_path),), balance_sources=True, resolutions=(32,), video_batch=50)
    dataset = build_dataset(data, 1, 0, Processes(0, 1, torch.device("cpu")))
    samples = dataset.samples["video"]
    drawn = Counter(
        Path(samples[draw.index].path).name for step in range(100) for draw in dataset.sampler.plan(step).draws
    )
    assert drawn[names[0]] / drawn.total() == pytest.approx(0.2, abs=0.03)
    assert len(drawn) == 17


def test_batches_of_a_modality_that_is_not_there_need_not_be_shared(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.zeros(3, 8, 8))
    data = DataConfig(images=(str(tmp_path),), image_batch=8, video_batch=3, resolutions=(8,))
    assert build_dataset(data, 8, 0, ALONE)[0].size == 8
    with pytest.raises(OmnitokError, match=r"data\.image_batch=9 cannot be shared evenly by 1 processes in 8 parts"):
        build_dataset(replace(data, image_batch=9), 8, 0, ALONE)
