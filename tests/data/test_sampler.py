"""Which files make up a step: exact epochs, exact mixtures, nothing remembered."""

from collections import Counter

import numpy as np
import pytest

from omnitok.data.config import DataConfig
from omnitok.data.sampler import BLOCK_STEPS, LARGEST_TABLE, Draw, Sampler, _feistel


def sampler_of(
    images: int,
    videos: int,
    image_batch: int,
    video_batch: int,
    resolutions: tuple[int, ...],
    seed: int,
    video_weights: list[float] | None = None,
    **options: object,
) -> Sampler:
    config = DataConfig(image_batch=image_batch, video_batch=video_batch, resolutions=resolutions, **options)
    return Sampler(images, videos, config, seed, video_weights)


def indices(sampler: Sampler, medium: str, steps: int) -> list[int]:
    plans = [sampler.plan(k) for k in range(steps)]
    return [draw.index for plan in plans if plan.modality == medium for draw in plan.draws]


def test_draws_never_change() -> None:
    """Frozen values: trained models are repeatable from their recipe only while these stay."""
    plan = sampler_of(47, 13, 4, 3, (96, 128, 160), seed=11).plan(26)
    assert (plan.modality, plan.resolution) == ("image", 128)
    assert plan.draws == (
        Draw(9, 3562929131678711475),
        Draw(4, 752339432130089532),
        Draw(11, 1148540146429716729),
        Draw(15, 2325538970196882578),
    )
    weighted = sampler_of(0, 13, 4, 3, (96,), seed=11, video_weights=[0.1 * i + 0.01 for i in range(13)]).plan(27)
    assert [draw.index for draw in weighted.draws] == [12, 10, 11]


def test_a_plan_depends_on_seed_and_step_alone() -> None:
    one, other = sampler_of(20, 20, 4, 4, (64, 96), 1), sampler_of(20, 20, 4, 4, (64, 96), 1)
    later = [other.plan(k) for k in (7, 3, 100)]
    assert [one.plan(k) for k in (7, 3, 100)] == later
    assert sampler_of(20, 20, 4, 4, (64, 96), 2).plan(7) != later[0]


@pytest.mark.parametrize("share", [None, 0.3, 0.5])
def test_every_file_once_an_epoch_also_across_batches(share: float | None) -> None:
    sampler = sampler_of(23, 17, 5, 3, (64,), 0, video_share=share)
    for medium, n in (("image", 23), ("video", 17)):
        drawn = indices(sampler, medium, 300)
        epochs = [drawn[i : i + n] for i in range(0, len(drawn) - n, n)]
        assert len(epochs) >= 5
        assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_media_alternate() -> None:
    sampler = sampler_of(5, 5, 1, 1, (64,), 0)
    assert [sampler.modality(k) for k in range(4)] == ["image", "video", "image", "video"]


@pytest.mark.parametrize("share", [0.0, 0.01, 1 / 3, 0.8, 1.0])
def test_mixture_is_exact(share: float) -> None:
    sampler = sampler_of(5, 5, 1, 1, (64,), 3, video_share=share)
    media = [sampler.modality(k) for k in range(100 * BLOCK_STEPS)]
    for blocks in range(101):
        videos = media[: blocks * BLOCK_STEPS].count("video")
        assert abs(videos - share * blocks * BLOCK_STEPS) <= 0.5
    if 0.3 < share < 1:  # and in no fixed order
        assert media[:BLOCK_STEPS] != media[BLOCK_STEPS : 2 * BLOCK_STEPS]


def test_mixture_far_into_the_run_is_found_without_replaying_it() -> None:
    sampler = sampler_of(5, 5, 2, 2, (64,), 3, video_share=0.25)
    step = 10**12
    before = sampler.steps_before(step, "video")
    assert abs(before - step / 4) <= BLOCK_STEPS
    assert sampler.steps_before(step + 1, "video") == before + (sampler.modality(step) == "video")
    assert before + sampler.steps_before(step, "image") == step


def test_one_medium_alone() -> None:
    assert sampler_of(5, 0, 1, 1, (64,), 0, video_share=0.9).modality(1) == "image"
    assert sampler_of(0, 5, 1, 1, (64,), 0).modality(0) == "video"


def test_resolution_is_one_for_the_batch_and_of_its_medium() -> None:
    sampler = sampler_of(5, 5, 2, 2, (64, 96), 0, video_resolutions=(32,))
    seen = {(plan.modality, plan.resolution) for plan in map(sampler.plan, range(40))}
    assert seen == {("image", 64), ("image", 96), ("video", 32)}


def test_weights() -> None:
    sampler = sampler_of(0, 4, 1, 10, (64,), 0, video_weights=[0, 1, 0, 3])
    counts = Counter(indices(sampler, "video", 400))
    assert set(counts) == {1, 3}
    assert counts[3] / 4000 == pytest.approx(0.75, abs=0.03)
    assert set(sampler.replacements("video", Draw(1, 99), 50)) == {1, 3}


def test_replacements_depend_on_the_draw_alone() -> None:
    sampler = sampler_of(1000, 0, 1, 1, (64,), 0)
    assert sampler.replacements("image", Draw(3, 5), 20) == sampler.replacements("image", Draw(9, 5), 20)
    assert sampler.replacements("image", Draw(3, 5), 20) != sampler.replacements("image", Draw(3, 6), 20)


@pytest.mark.parametrize("n", [1, 2, 3, 100, 4097])
def test_computed_order_is_a_permutation(n: int) -> None:
    order = _feistel(np.random.default_rng(n), n, np.arange(n))
    assert sorted(order.tolist()) == list(range(n))


def test_computed_order_is_used_for_many_files_and_is_shuffled() -> None:
    n = LARGEST_TABLE + 5
    drawn = np.array(indices(sampler_of(n, 0, 1000, 1, (64,), 0), "image", 20))
    assert len(set(drawn.tolist())) == drawn.size
    assert abs(np.corrcoef(drawn, np.arange(drawn.size))[0, 1]) < 0.05
    assert np.histogram(drawn, bins=10, range=(0, n))[0].min() > 0.9 * drawn.size / 10


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": 0, "videos": 0}, "nothing to sample"),
        ({"image_batch": 0}, "image_batch must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_bad_arguments_are_told(changes: dict[str, object], message: str) -> None:
    good = {"images": 5, "videos": 5, "image_batch": 1, "video_batch": 1, "resolutions": (64,), "seed": 0}
    with pytest.raises(ValueError, match=message):
        sampler_of(**(good | changes))
