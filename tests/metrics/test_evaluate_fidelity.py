from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_media import levels, make_clip, make_pictures, pooled, write_picture
from torch import Tensor

from omnitok.errors import MediaError, OmnitokError
from omnitok.metrics import (
    FrechetAccumulator,
    frechet_distance,
    gaussian_statistics,
    inception_score,
    kid,
    precision_recall,
    psnr,
    save_statistics,
    saved_state,
)
from omnitok.metrics.evaluate import EvaluationConfig, Progress
from omnitok.metrics.fidelity import compute_statistics, evaluate_fidelity
from omnitok.metrics.networks import Network
from omnitok.metrics.protocols import OFFICIAL
from omnitok.metrics.results import Result
from omnitok.metrics.sample_sets import open_samples
from omnitok.metrics.samples import from_uint8

ALL = ("fid", "is", "precision", "recall", "kid", "psnr")


def networks() -> dict[str, Network]:
    """The same humble network wherever one is asked for."""
    return dict.fromkeys(("inception_tf1", "mobilenet_v2_video", "i3d"), pooled(classes=5))


def values(results: list[Result]) -> dict[str, float]:
    return {result.metric: result.value for result in results}


def batch(seeds: range) -> Tensor:
    return torch.stack([levels(20, 24, seed) for seed in seeds])


def write_folder(folder: Path, pixels: Tensor) -> Path:
    for i, picture in enumerate(pixels):
        write_picture(folder / f"{i:03d}.png", picture)
    return folder


def write_array(path: Path, pixels: Tensor, **others: np.ndarray) -> Path:
    np.savez(path, arr_0=pixels.movedim(1, -1).numpy(), **others)
    return path


def test_every_metric_is_that_of_the_features(tmp_path: Path) -> None:
    real, fake = batch(range(20)), batch(range(100, 120))
    network = pooled(classes=5)
    (a, _), (b, logits) = network.extract(real), network.extract(fake)
    assert logits is not None
    manifolds = precision_recall(a, b)
    expected = {
        "fid": frechet_distance(gaussian_statistics(a), gaussian_statistics(b)),
        "is": inception_score(logits).mean,
        "precision": manifolds.precision,
        "recall": manifolds.recall,
        "kid": kid(a, b).mean,
        "psnr": psnr(from_uint8(real), from_uint8(fake)),
    }
    sets = write_folder(tmp_path / "r", real), write_folder(tmp_path / "f", fake)
    results = evaluate_fidelity(*sets, ALL, networks=networks())
    assert values(results) == pytest.approx(expected, rel=1e-6)
    assert [result.metric for result in results] == list(ALL)
    assert all(result.n == 20 for result in results)
    fid = results[0]
    assert (fid.reference, fid.n_reference, fid.network) == (str(tmp_path / "r"), 20, "pooled")
    assert fid.resolution is None

    arrays = [write_array(tmp_path / f"{i}.npz", x) for i, x in enumerate((real, fake))]
    found = evaluate_fidelity(*arrays, ALL, EvaluationConfig(batch_size=7), networks=networks())
    assert values(found) == pytest.approx(expected, rel=1e-5)


def test_a_set_is_at_no_distance_from_itself(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", batch(range(15)))
    found = values(evaluate_fidelity(folder, folder, ("fid", "precision", "recall", "psnr"), networks=networks()))
    assert found["fid"] < 1e-8
    assert (found["precision"], found["recall"], found["psnr"]) == (1, 1, float("inf"))


def test_saved_statistics_stand_for_the_set(tmp_path: Path) -> None:
    real, fake = write_folder(tmp_path / "r", batch(range(9))), write_folder(tmp_path / "f", batch(range(50, 59)))
    statistics = compute_statistics(real, "fid", networks=networks())
    assert statistics.n == 9
    save_statistics(tmp_path / "s.npz", statistics)
    (whole,) = evaluate_fidelity(real, fake, ["fid"], networks=networks())
    (saved,) = evaluate_fidelity(tmp_path / "s.npz", fake, ["fid"], networks=networks())
    assert saved.value == pytest.approx(whole.value, rel=1e-12)
    assert saved.n_reference == 9
    with pytest.raises(OmnitokError, match="kid needs the samples themselves"):
        evaluate_fidelity(tmp_path / "s.npz", fake, ["kid"], networks=networks())


def test_statistics_of_another_network_are_refused(tmp_path: Path) -> None:
    other = FrechetAccumulator(12, "another network")
    other.update(torch.rand(20, 12))
    save_statistics(tmp_path / "s.npz", other.compute())
    with pytest.raises(OmnitokError, match="of another network, not of pooled"):
        evaluate_fidelity(
            tmp_path / "s.npz", write_folder(tmp_path / "f", batch(range(9))), ["fid"], networks=networks()
        )


def test_adm_references_give_their_statistics_to_fid_and_their_samples_to_the_rest(tmp_path: Path) -> None:
    pixels = batch(range(12))
    mean, covariance = np.full(12, 0.25), np.eye(12)
    reference = write_array(tmp_path / "r.npz", pixels, mu=mean, sigma=covariance)
    fake = write_folder(tmp_path / "f", pixels)
    found = values(evaluate_fidelity(reference, fake, ("fid", "precision"), networks=networks()))
    assert found["precision"] == 1
    assert found["fid"] > 1  # from mu and sigma, not from the equal samples


def test_order_changes_nothing_but_the_splits(tmp_path: Path) -> None:
    real, fake = batch(range(20)), batch(range(100, 120))
    metrics = ("fid", "is", "precision", "recall", "kid")
    found = []
    for name, order in (("a", torch.arange(20)), ("b", torch.randperm(20, generator=torch.Generator().manual_seed(0)))):
        sets = (write_folder(tmp_path / f"{name}{i}", pixels[order]) for i, pixels in enumerate((real, fake)))
        found.append(values(evaluate_fidelity(*sets, metrics, networks=networks())))
    plain, permuted = found
    assert plain.pop("is") != permuted.pop("is")
    assert permuted == pytest.approx(plain, rel=1e-6)


def test_other_counts_than_the_official_ones_are_said(tmp_path: Path) -> None:
    samples = write_folder(tmp_path / "a", batch(range(15)))
    (result,) = evaluate_fidelity(samples, samples, ["fid"], EvaluationConfig(OFFICIAL), networks=networks())
    assert result.warning == "fid of the official protocol is over 50000 samples, not 15"


def test_samples_are_drawn_by_seed_and_keep_their_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", batch(range(30)))
    settings = EvaluationConfig(samples=20)
    first, second = (evaluate_fidelity(folder, folder, ("is", "fid"), settings, networks=networks()) for _ in range(2))
    assert [result.n for result in first] == [20, 20]
    assert values(second) == values(first)
    chosen = sorted(np.random.default_rng(0).choice(30, 20, replace=False))
    _, logits = pooled(classes=5).extract(batch(range(30))[torch.tensor(chosen)])
    assert logits is not None
    assert first[0].value == pytest.approx(inception_score(logits).mean, rel=1e-6)


def test_clips_from_folders_and_arrays(tmp_path: Path) -> None:
    for i in range(3):
        make_clip(tmp_path / f"r/{i}.mp4", 6 + i)
        make_clip(tmp_path / f"f/{i}.mp4", 12)
    metrics = ("fd_mobilenet_v2_video", "psnr")
    sets = tmp_path / "r", tmp_path / "f"

    def evaluate(frames: int, metrics: tuple[str, ...] = metrics) -> dict[str, float]:
        config = EvaluationConfig(frames=frames)
        return values(evaluate_fidelity(*sets, metrics, config, modality="video", networks=networks()))

    found = evaluate(4)
    assert found["psnr"] > 35  # the first four frames are alike
    clips = torch.arange(6, dtype=torch.uint8).view(1, 1, 6, 1, 1).expand(3, 3, 6, 8, 8)
    path = write_array(tmp_path / "a.npz", clips)
    (shown,) = open_samples(path, "video", EvaluationConfig(OFFICIAL, frames=4)).iterate([1], 1)
    assert shown[0, 0, :, 0, 0].tolist() == [1, 2, 3, 4]  # the centre
    with pytest.raises(OmnitokError, match="have 6 frames, but the measurement takes 17"):
        open_samples(path, "video", EvaluationConfig(frames=17))
    with pytest.raises(MediaError, match="has 6 frames, at least 9 are needed"):
        evaluate(9)
    with pytest.raises(OmnitokError, match="at least 9 frames"):
        evaluate(4, ("fvd",))


def test_a_folder_of_generated_samples_is_its_samples(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", batch(range(4)))
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"{i:06d}-red_cat.png")
    (folder / "generate.json").write_text("{}")
    write_picture(folder / "grid.png", levels(50, 70, 0))
    make_clip(folder / "grid.mp4", 3)
    (result,) = evaluate_fidelity(folder, folder, ["psnr"], networks={})
    assert result.n == 4


def one_picture(folder: Path) -> tuple[Path, Path]:
    return write_folder(folder / "a", batch(range(5))), write_folder(folder / "b", batch(range(1)))


def mixed_sizes(folder: Path) -> tuple[Path, Path]:
    a = write_folder(folder / "a", batch(range(5)))
    write_picture(a / "004.png", levels(24, 20, 0))
    return a, write_folder(folder / "b", batch(range(5)))


def sizes_that_differ(folder: Path) -> tuple[Path, Path]:
    make_pictures(folder / "b", 5)
    return write_folder(folder / "a", batch(range(5))), folder / "b"


def unequal_counts(folder: Path) -> tuple[Path, Path]:
    return write_folder(folder / "a", batch(range(5))), write_folder(folder / "b", batch(range(6)))


def unequal_names(folder: Path) -> tuple[Path, Path]:
    b = write_folder(folder / "b", batch(range(5)))
    (b / "003.png").rename(b / "zzz.png")
    return write_folder(folder / "a", batch(range(5))), b


def empty(folder: Path) -> tuple[Path, Path]:
    (folder / "b").mkdir()
    return write_folder(folder / "a", batch(range(5))), folder / "b"


def clips_among_pictures(folder: Path) -> tuple[Path, Path]:
    make_clip(folder / "b/a.mp4", 3)
    return write_folder(folder / "a", batch(range(5))), write_folder(folder / "b", batch(range(5)))


def floating_array(folder: Path) -> tuple[Path, Path]:
    np.savez(folder / "b.npz", arr_0=np.full((5, 20, 24, 3), np.nan, np.float32))
    return write_folder(folder / "a", batch(range(5))), folder / "b.npz"


def pickled_array(folder: Path) -> tuple[Path, Path]:
    np.savez(folder / "b.npz", arr_0=np.array([{"a": 1}], dtype=object))
    return write_folder(folder / "a", batch(range(5))), folder / "b.npz"


def nan_statistics(folder: Path) -> tuple[Path, Path]:
    np.savez(folder / "a.npz", mu=np.full(12, np.nan), sigma=np.eye(12))
    return folder / "a.npz", write_folder(folder / "b", batch(range(5)))


def foreign_file(folder: Path) -> tuple[Path, Path]:
    (folder / "b.npz").write_bytes(b"no archive")
    return write_folder(folder / "a", batch(range(5))), folder / "b.npz"


def nothing(folder: Path) -> tuple[Path, Path]:
    return write_folder(folder / "a", batch(range(5))), folder / "b"


@pytest.mark.parametrize(
    "make, metric, said",
    [
        (one_picture, "fid", "fid needs at least 2 images, but there are 1"),
        (mixed_sizes, "fid", "20 x 24 pixels, but .*000.png is 24 x 20 pixels; a set has one size"),
        (sizes_that_differ, "fid", "20x24 and .* of 40x48: give --resolution"),
        (unequal_counts, "psnr", "has 5 samples and .*b 6"),
        (unequal_names, "psnr", "has 003 where .*b has 004"),
        (empty, "fid", "no images"),
        (clips_among_pictures, "fid", "only images are wanted, but there are 1 videos"),
        (floating_array, "fid", r"uint8 \(n, H, W, 3\), but arr_0.npy is float32"),
        (pickled_array, "fid", "but arr_0.npy is object"),
        (nan_statistics, "fid", "NaN"),
        (foreign_file, "fid", r"b\.npz: cannot be read as an? \.npz file"),
        (nothing, "fid", "no such file or folder"),
        (unequal_counts, "is", "is needs at least 10 images, but there are 6"),
    ],
)
def test_sets_that_cannot_be_compared_are_one_sentence(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]], metric: str, said: str
) -> None:
    real, fake = make(tmp_path)
    with pytest.raises(OmnitokError, match=said) as caught:
        evaluate_fidelity(real, fake, [metric], networks=networks())
    assert "\n" not in str(caught.value)


def test_resolution_brings_mixed_sizes_to_one(tmp_path: Path) -> None:
    real, fake = mixed_sizes(tmp_path)
    found = evaluate_fidelity(real, fake, ["fid"], EvaluationConfig(resolution=16), networks=networks())
    assert found[0].resolution == 16
    assert found[0].value > 0


def test_too_few_neighbours_and_metrics_without_sense(tmp_path: Path) -> None:
    samples = write_folder(tmp_path / "a", batch(range(3)))
    with pytest.raises(OmnitokError, match="recall needs at least 4 images, but there are 3"):
        evaluate_fidelity(samples, samples, ["recall"], networks=networks())
    for metrics in (["fvd"], []):
        with pytest.raises(ValueError, match="found"):
            evaluate_fidelity(samples, samples, metrics)


class Stopped(Exception):
    pass


def test_a_stopped_comparison_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_state, "SECONDS", 0)
    sets = write_folder(tmp_path / "r", batch(range(12))), write_folder(tmp_path / "f", batch(range(50, 62)))
    metrics = ("fid", "is", "precision", "recall", "psnr")
    config = EvaluationConfig(batch_size=3)
    whole = evaluate_fidelity(*sets, metrics, config, networks=networks())
    state = tmp_path / "state"

    def run(progress: Progress) -> dict[str, float]:
        rows = evaluate_fidelity(*sets, metrics, config, networks=networks(), state_folder=state, progress=progress)
        return values(rows)

    for last in (16, 26):  # in the second set, then among the pairs

        def stop(done: int, total: int, last: int = last) -> None:
            if done > last:
                raise Stopped

        with pytest.raises(Stopped):
            run(stop)
    told: list[tuple[int, int]] = []
    again = run(lambda done, total: told.append((done, total)))
    assert told == [(done, 36) for done in range(26, 37)]
    assert again == pytest.approx(values(whole), rel=1e-12)
    assert not list(state.iterdir())


def test_one_pair_is_enough_for_metrics_of_pairs(tmp_path: Path) -> None:
    real, fake = (write_folder(tmp_path / name, batch(range(1))) for name in "ab")
    (row,) = evaluate_fidelity(real, fake, ["ssim"], networks=networks())
    assert (row.value, row.n, row.row()["spread"]) == (pytest.approx(1), 1, None)


def test_lists_may_name_files_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the list's folder, and absolute."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_folder(tmp_path / name, batch(range(2)))
        Path(f"{name}.txt").write_text(f"{name}/000.png\n{tmp_path}/{name}/001.png\n")
    (row,) = evaluate_fidelity("a.txt", "b.txt", ["ssim"], networks=networks())
    assert row.value == pytest.approx(1)
