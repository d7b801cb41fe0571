"""Batches: resumed anywhere, shared by any number of processes, with bad files replaced and counted."""

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from helpers.collections import index_of, pixels_of
from omnitok.data import read_video, write_image, write_video
from omnitok.data.config import DataConfig
from omnitok.data.index import build_index
from omnitok.data.loader import MAX_REPLACEMENTS, Batch, FailureCounter, PixelDataset, load_batches, load_training_video
from omnitok.data.samples import Index
from omnitok.data.video_reader import WindowSampling, read_window
from omnitok.errors import MediaError, OmnitokError

IMAGES, VIDEOS = 7, 3


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures IMG/CLASS/i.png and clips VID/i.mp4 of random smooth colours."""
    root = tmp_path_factory.mktemp("media")
    generator = torch.Generator().manual_seed(0)
    for i in range(IMAGES):
        small = torch.rand(1, 3, 3, 4, generator=generator) * 2 - 1
        pixels = torch.nn.functional.interpolate(small, (24, 30 + i), mode="bicubic").clamp(-1, 1)
        write_image(root / f"img/{'ab'[i % 2]}/{i}.png", pixels[0])
    for i in range(VIDEOS):
        small = torch.rand(1, 3, 4, 3, 4, generator=generator) * 2 - 1
        pixels = torch.nn.functional.interpolate(small, (8 + i, 32, 48), mode="trilinear")
        write_video(root / f"vid/{i}.mp4", pixels[0], fps=10)
    return root


@pytest.fixture(scope="module")
def counting_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames at 10 a second; frame k has the grey level 4 k."""
    path = tmp_path_factory.mktemp("clips") / "counting.mp4"
    levels = (torch.arange(60) * 4) / 127.5 - 1
    write_video(path, levels.view(1, 60, 1, 1).expand(3, 60, 32, 32), fps=10)
    return path


def dataset(media: Path, rank: int = 0, world_size: int = 1, **changes: object) -> PixelDataset:
    images = build_index(media / "img", labels="folders")
    index = Index(images.images, build_index(videos=media / "vid").videos, images.classes)
    config = DataConfig(frames=5, image_batch=4, video_batch=2, resolutions=(16, 24))
    return pixels_of(index, config, 5, rank, world_size)


def squashed(**changes: int) -> DataConfig:
    return DataConfig(
        **{"frames": 5, "resolutions": (16,), **changes}, image_policy="squash", video_policy="squash", flip=False
    )


def same(a: Batch, b: Batch) -> bool:
    return (
        (a.step, a.modality, a.failures) == (b.step, b.modality, b.failures)
        and torch.equal(a.inputs, b.inputs)
        and torch.equal(a.labels, b.labels)
    )


def numbers_of(clip: torch.Tensor) -> list[int]:
    """Which frames of the counting clip these are."""
    return [round((level + 1) * 127.5 / 4) for level in clip.mean((0, 2, 3)).tolist()]


def test_shapes_ranges_and_labels(media: Path) -> None:
    image, video = dataset(media)[0], dataset(media)[1]
    assert (image.modality, video.modality) == ("image", "video")
    assert image.inputs.shape == (4, 3, *image.inputs.shape[-2:])
    assert video.inputs.shape[:3] == (2, 3, 5)
    assert image.inputs.dtype == torch.float32
    assert image.inputs.abs().max() <= 1
    assert image.labels.dtype == torch.int64
    assert set(image.labels.tolist()) == {0, 1}
    assert video.labels.tolist() == [-1, -1]


def test_labels_belong_to_the_pixels(media: Path) -> None:
    data = dataset(media)
    plan = data.sampler.plan(0)
    expected = [data.samples["image"][draw.index].label for draw in plan.draws]
    assert data[0].labels.tolist() == expected


def test_resuming_in_the_middle_with_other_workers_gives_exactly_the_rest(media: Path) -> None:
    whole = list(load_batches(dataset(media), 0, 9))
    assert [batch.step for batch in whole] == list(range(9))
    rest = list(load_batches(dataset(media), 4, 9, workers=2, prefetch=1))
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_any_number_of_processes_shares_the_same_batch(media: Path) -> None:
    for step in range(4):
        whole = dataset(media)[step]
        shares = [dataset(media, rank, 2)[step] for rank in range(2)]
        assert {share.inputs.shape[-1] for share in shares} == {whole.inputs.shape[-1]}  # one resolution for all
        for rank, share in enumerate(shares):
            assert torch.equal(share.inputs, whole.inputs[rank::2])
            assert torch.equal(share.labels, whole.labels[rank::2])


def test_plain_paths_do(media: Path) -> None:
    paths = sorted((media / "img").rglob("*.png"))
    plain = pixels_of(index_of(paths), squashed(image_batch=4), 5)
    assert plain[0].inputs.shape == (4, 3, 16, 16)


def test_bad_files_are_replaced_counted_and_named(media: Path, tmp_path: Path) -> None:
    shutil.copytree(media, tmp_path, dirs_exist_ok=True)
    bad = tmp_path / "img/b/1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    empty = tmp_path / "vid/0.mp4"
    empty.write_bytes(b"")
    batches = list(load_batches(dataset(tmp_path), 0, 12))
    assert all(torch.isfinite(batch.inputs).all() for batch in batches)
    failures = [failure for batch in batches for failure in batch.failures]
    assert {path for path, _ in failures} == {str(bad), str(empty)}
    assert all(reason.startswith(path) for path, reason in failures)
    # every process meets the failures of its own share, and the replacements do not depend on how it is shared
    for rank in range(2):
        for batch in batches:
            share = dataset(tmp_path, rank, 2)[batch.step]
            assert torch.equal(share.inputs, batch.inputs[rank::2])


def test_no_black_frames_where_a_clip_is_too_short(media: Path, tmp_path: Path) -> None:
    shutil.copytree(media / "vid", tmp_path / "vid")
    videos = build_index(videos=tmp_path / "vid")
    batch = pixels_of(videos, squashed(frames=9, video_batch=3), 5)[0]  # the first has 8 frames
    assert [Path(path).name for path, _ in batch.failures].count("0.mp4") >= 1
    assert "8 frames, at least 9 are needed" in batch.failures[0][1]
    assert batch.inputs.shape == (3, 3, 9, 16, 16)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_stops_in_one_sentence(tmp_path: Path, workers: int) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"junk")
    data = pixels_of(build_index(tmp_path), squashed(image_batch=2), 0)
    with pytest.raises(
        MediaError, match=rf"^{MAX_REPLACEMENTS} files in a row could not be read as images; the last: "
    ) as e:
        list(load_batches(data, 0, 1, workers=workers))
    assert "Traceback" not in str(e.value)
    assert "\n" not in str(e.value)


def test_failure_counter() -> None:
    counter = FailureCounter(0.05)
    for _ in range(5):
        counter.count(4, [("a.jpg", "a.jpg: broken")])
        counter.check()  # 5 of the first 100 are no more than 5 %
    counter.count(4, [("b.jpg", "b.jpg: broken")])
    with pytest.raises(MediaError) as caught:
        counter.check()
    told = "6 of 30 files could not be read, at most 5.0% may fail; such as a.jpg: broken; b.jpg: broken"
    assert str(caught.value) == told  # each once
    counter.count(0, [(name, f"{name}: broken") for name in "cdefgh"])
    assert len(counter.examples) == FailureCounter.EXAMPLES
    counter.count(1000, [])
    counter.check()
    FailureCounter(0.0).check()


@pytest.mark.parametrize(
    "sampling, position, expected",
    [
        (WindowSampling(5), 0.0, [0, 1, 2, 3, 4]),
        (WindowSampling(5), 0.999, [55, 56, 57, 58, 59]),
        (WindowSampling(5, stride=3), 0.999, [47, 50, 53, 56, 59]),
        (WindowSampling(5, start="center"), 0.999, [28, 29, 30, 31, 32]),
        (WindowSampling(4, fps=5), 0.0, [0, 2, 4, 6]),
        (WindowSampling(4, fps=5), 0.999, [52, 54, 56, 58]),
        (WindowSampling(3, fps=5, stride=2, start="center"), 0.0, [26, 30, 34]),
        (WindowSampling(4, fps=20), 0.0, [0, 0, 1, 1]),
    ],
)
def test_which_frames_make_a_clip(
    counting_clip: Path, sampling: WindowSampling, position: float, expected: list[int]
) -> None:
    """Starts beyond a second are sought, the others decoded; the frames are those of the whole file either way."""
    clip = read_window(counting_clip, sampling, position).pixels
    assert numbers_of(clip) == expected
    if sampling.fps is None:
        assert torch.equal(clip, read_video(counting_clip)[:, expected])


def test_starts_are_even(counting_clip: Path) -> None:
    starts = [
        numbers_of(load_training_video(counting_clip, WindowSampling(51), 8, "squash", False, seed))[0]
        for seed in range(60)
    ]
    assert set(starts) == set(range(10))


def test_flip_and_crop_are_the_same_for_all_frames(media: Path) -> None:
    sampling = WindowSampling(5, start="center")
    flipped, plain = (load_training_video(media / "vid/2.mp4", sampling, 16, "squash", f, 3) for f in (True, False))
    seeds = [load_training_video(media / "vid/2.mp4", sampling, 16, "squash", True, seed) for seed in range(12)]
    mirrored = [torch.equal(clip, plain.flip(-1)) for clip in seeds]
    assert 0 < sum(mirrored) < 12
    assert all(m or torch.equal(clip, plain) for m, clip in zip(mirrored, seeds, strict=True))
    assert torch.equal(flipped, plain) or torch.equal(flipped, plain.flip(-1))


def test_bad_sampling_is_told() -> None:
    with pytest.raises(ValueError, match="frames must be at least 1, found 0"):
        WindowSampling(0)
    for fps in (0, float("nan"), 1e300):
        with pytest.raises(ValueError, match="fps must be"):
            WindowSampling(5, fps=fps)
    with pytest.raises(ValueError, match="found 'end'"):
        WindowSampling(5, start="end")


def test_a_sample_list_survives_into_workers(media: Path) -> None:
    data = pixels_of(build_index(media / "img"), squashed(image_batch=7), 0)
    (alone,), (worker,) = list(load_batches(data, 2, 3)), list(load_batches(data, 2, 3, workers=1))
    assert same(alone, worker)


class Suicidal(torch.utils.data.Dataset[int]):
    """Its worker dies at the third item, as if the system ended it."""

    def __getitem__(self, item: int) -> int:
        if item == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    with pytest.raises(OmnitokError, match="a process that reads data was ended from outside"):
        list(load_batches(Suicidal(), 0, 5, workers=1))


def test_too_few_open_files_are_told_before_a_worker_hangs(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (12, 12))
    with pytest.raises(OmnitokError, match="may open 12 files"):
        next(load_batches(dataset(media), 0, 2, workers=1))
    assert len(list(load_batches(dataset(media), 0, 2))) == 2
    monkeypatch.setattr(resource, "getrlimit", lambda which: (12, allowed[1]))
    changed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: changed.append(limits))
    assert len(list(load_batches(dataset(media), 0, 2, workers=1))) == 2
    assert changed
    assert changed[0][0] >= 64
