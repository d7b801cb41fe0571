import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_media import levels, make_clip, make_pictures, pooled, small_model, write_picture
from PIL import Image

from omnitok.data import read_image
from omnitok.errors import MediaError, MissingWeightsError, OmnitokError
from omnitok.metrics import LPIPS, codebook_statistics, frechet_distance, gaussian_statistics, psnr, saved_state, ssim
from omnitok.metrics.evaluate import EvaluationConfig, Progress
from omnitok.metrics.networks import Network, load_networks
from omnitok.metrics.protocols import CLEAN, OFFICIAL, PROTOCOLS, Protocol
from omnitok.metrics.reconstruction import check_frames, check_reconstruction, evaluate_reconstruction
from omnitok.metrics.registry import check_metrics, networks_for
from omnitok.metrics.results import Result
from omnitok.metrics.samples import (
    files_by_modality,
    jpeg_roundtrip,
    load_sample,
    quantize_original,
    quantize_reconstruction,
    read_ahead,
)


def load_image(path: Path, resolution: int, protocol: Protocol) -> torch.Tensor:
    return load_sample(path, "image", protocol, resolution, 1)


def load_video(path: Path, frames: int, resolution: int | None, protocol: Protocol) -> torch.Tensor:
    return load_sample(path, "video", protocol, resolution, frames)


def values(results: list[Result]) -> dict[str, float]:
    return {result.metric: result.value for result in results}


def test_clean_numbers_are_those_made_by_hand(tmp_path: Path) -> None:
    files, model = make_pictures(tmp_path, 5), small_model()
    metrics, settings = ("psnr", "ssim", "usage"), EvaluationConfig(CLEAN, resolution=32, batch_size=2)
    results = evaluate_reconstruction(model, {"image": files}, metrics, settings, networks={}, name="five")

    originals, codes = [], []
    for path in files:
        square = read_image(path)[None, :, :, 4:44]  # 40 x 48: the largest centred square
        small = F.interpolate(square, (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
        originals.append(small)
        codes.append(model.tokenizer.encode(small, check_range=False).codes)
    x = torch.cat(originals)
    with torch.no_grad():
        y = model.tokenizer(x).clamp(-1, 1)
    known = codebook_statistics(torch.cat([c for c in codes if c is not None]), 64)
    expected = {
        "psnr": psnr(x, y),
        "ssim": ssim(x, y),
        "usage": known.usage,
        "perplexity": known.perplexity,
        "entropy": known.entropy,
    }
    assert values(results) == pytest.approx(expected, rel=1e-5)
    assert list(values(results)) == list(expected)
    first = results[0]
    assert (first.n, first.resolution, first.frames, first.protocol) == (5, 32, 1, "clean")
    assert (first.model, first.model_sha256, first.data) == ("small-vq", "ab" * 32, "five")
    assert first.spread is not None
    assert first.spread > 0


def test_clips_are_their_first_frames_per_frame_then_mean(tmp_path: Path) -> None:
    files, model = [make_clip(tmp_path / f"{i}.mp4", 9 + i) for i in range(2)], small_model()
    metrics, settings = ("psnr",), EvaluationConfig(CLEAN, resolution=16, frames=5)
    (result,) = evaluate_reconstruction(model, {"video": files}, metrics, settings, networks={}, name="two")
    clips = torch.stack([load_video(path, 5, 16, CLEAN) for path in files])
    with torch.no_grad():
        assert result.value == pytest.approx(psnr(clips, model.tokenizer(clips).clamp(-1, 1)), rel=1e-5)
    assert (result.n, result.frames, result.modality) == (2, 5, "video")


@pytest.mark.parametrize("total, frames, first", [(20, 17, 2), (19, 17, 1), (18, 4, 7), (17, 17, 0)])
def test_official_takes_the_frames_the_authors_take(tmp_path: Path, total: int, frames: int, first: int) -> None:
    """center = n // 2; range(center - k // 2, center + k // 2 + 1) of the released code."""
    clip = load_video(make_clip(tmp_path / "a.mp4", total), frames, None, OFFICIAL)
    shown = ((clip.mean((0, 2, 3)) + 1) * 127.5 / 8).round().tolist()
    assert shown == list(range(first, first + frames))
    assert load_video(tmp_path / "a.mp4", 3, None, CLEAN).shape == (3, 3, 32, 32)


def test_official_squashes_with_pillow_on_8_bits(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", levels(40, 60, seed=0))
    loaded = load_image(path, 24, OFFICIAL)
    expected = np.asarray(Image.open(path).resize((24, 24), Image.Resampling.BICUBIC))
    assert torch.equal(((loaded + 1) * 127.5).round().byte().permute(1, 2, 0), torch.from_numpy(expected.copy()))


def test_official_truncates_originals_and_reconstructions_as_the_authors_do() -> None:
    u = torch.arange(256)
    half = u.float() / 255 - 0.5  # their dataset: ToTensor, Normalize(0.5, 1)
    authors = ((half + 0.5).numpy() * 255).astype(np.uint8)
    ours = quantize_original(u.float() / 127.5 - 1, OFFICIAL)
    assert ours.tolist() == authors.tolist()
    assert ours.tolist() != u.tolist()  # the quirk is real: some levels fall by one
    decoded = torch.linspace(-0.6, 0.6, 1001)
    assert quantize_reconstruction(2 * decoded, OFFICIAL).tolist() == (
        (torch.clamp(decoded + 0.5, 0, 1).numpy() * 255).astype(np.uint8).tolist()
    )
    assert quantize_original(u.float() / 127.5 - 1, CLEAN).tolist() == u.tolist()


def test_official_sees_jpegs_through_jpeg_and_others_not(tmp_path: Path) -> None:
    noisy = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model, network = small_model(), pooled()
    distances = {}
    for suffix in (".png", ".jpeg"):
        files = [write_picture(tmp_path / suffix / f"{i}{suffix}", picture) for i, picture in enumerate(noisy)]
        metrics, settings = ("fd_mobilenet_v2",), EvaluationConfig(OFFICIAL, resolution=32)
        networks = {"mobilenet_v2": network}
        (result,) = evaluate_reconstruction(model, {"image": files}, metrics, settings, networks=networks, name="noise")
        x = torch.stack([load_image(path, 32, OFFICIAL) for path in files])
        with torch.no_grad():
            y = quantize_reconstruction(model.tokenizer(x), OFFICIAL)
        x = quantize_original(x, OFFICIAL)
        if suffix == ".jpeg":
            x, y = jpeg_roundtrip(x, 75), jpeg_roundtrip(y, 75)
        statistics = [gaussian_statistics(network.extract(pixels)[0]) for pixels in (x, y)]
        assert result.value == pytest.approx(frechet_distance(*statistics), rel=1e-6, abs=1e-9)
        distances[suffix] = result.value
        assert result.network == "pooled"
        assert result.warning is not None
        assert "3 samples" in result.warning
    assert distances[".png"] != distances[".jpeg"]


def test_samples_of_a_vae_do_not_depend_on_batches(tmp_path: Path) -> None:
    files, model = make_pictures(tmp_path, 5), small_model("kl")
    metrics, base = ("psnr",), EvaluationConfig(OFFICIAL, resolution=32, batch_size=5)

    def measure(settings: EvaluationConfig) -> float:
        return evaluate_reconstruction(model, {"image": files}, metrics, settings, networks={}, name="five")[0].value

    assert measure(base) == pytest.approx(measure(replace(base, batch_size=2)), rel=1e-4)
    assert measure(base) != measure(replace(base, seed=1))


@pytest.mark.parametrize("protocol", [OFFICIAL, CLEAN])
def test_rfvd_is_float32_where_the_authors_are(tmp_path: Path, protocol: Protocol) -> None:
    files, model, network = [make_clip(tmp_path / f"{i}.mp4", 10 + i) for i in range(3)], small_model(), pooled()
    metrics, settings = ("rfvd",), EvaluationConfig(protocol, resolution=16, frames=9)
    networks = {"i3d": network}
    (result,) = evaluate_reconstruction(model, {"video": files}, metrics, settings, networks=networks, name="three")
    x = torch.stack([load_video(path, 9, 16, protocol) for path in files])
    with torch.no_grad():
        y = quantize_reconstruction(model.tokenizer(x), protocol)
    a, b = (gaussian_statistics(network.extract(z)[0]) for z in (quantize_original(x, protocol), y))
    expected = frechet_distance(a, b, float32_compat=protocol is OFFICIAL)
    assert result.value == pytest.approx(expected, rel=1e-4)


def test_lpips_is_the_networks_mean(tmp_path: Path) -> None:
    files, model, network = make_pictures(tmp_path, 3), small_model(), LPIPS("alex")
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g).abs() / max(parameter[0].numel(), 1)
    metrics, settings = ("lpips_alex",), EvaluationConfig(CLEAN, resolution=32)
    networks = {"lpips_alex": Network("lpips_alex", "ef" * 32, network)}
    (result,) = evaluate_reconstruction(model, {"image": files}, metrics, settings, networks=networks, name="three")
    x = torch.stack([load_image(path, 32, CLEAN) for path in files])
    with torch.no_grad():
        expected = network(x, model.tokenizer(x).clamp(-1, 1)).mean().item()
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert expected > 0
    assert (result.network, result.network_sha256) == ("lpips_alex", "ef" * 32)


class Stopped(Exception):
    pass


def stop_after(n: int) -> Progress:
    def progress(done: int, total: int) -> None:
        if done > n:
            raise Stopped

    return progress


def test_a_stopped_run_continues_and_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_state, "SECONDS", 0)
    files, model = make_pictures(tmp_path / "in", 7), small_model()
    metrics, settings = ("psnr", "usage", "fd_mobilenet_v2"), EvaluationConfig(CLEAN, resolution=32, batch_size=1)
    networks = {"mobilenet_v2": pooled()}
    whole = evaluate_reconstruction(model, {"image": files}, metrics, settings, networks=networks, name="seven")

    def run(progress: Progress) -> list[Result]:
        out = tmp_path / "state"
        return evaluate_reconstruction(
            model,
            {"image": files},
            metrics,
            settings,
            networks=networks,
            name="seven",
            state_folder=out,
            progress=progress,
        )

    with pytest.raises(Stopped):
        run(stop_after(3))
    assert len(list((tmp_path / "state").iterdir())) == 1
    told: list[int] = []
    assert values(run(lambda done, total: told.append(done))) == pytest.approx(values(whole), rel=1e-12)
    assert told == [3, 4, 5, 6, 7]  # three were kept
    assert not list((tmp_path / "state").iterdir())


def test_the_state_of_other_files_or_settings_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_state, "SECONDS", 0)
    files, model = make_pictures(tmp_path / "in", 4), small_model()
    metrics, settings = ("psnr",), EvaluationConfig(CLEAN, resolution=32, batch_size=1)

    def run(settings: EvaluationConfig, progress: Progress) -> list[Result]:
        return evaluate_reconstruction(
            model,
            {"image": files},
            metrics,
            settings,
            networks={},
            name="four",
            state_folder=tmp_path / "state",
            progress=progress,
        )

    for change in ("file", "settings", "damage"):
        with pytest.raises(Stopped):
            run(settings, stop_after(2))
        if change == "file":
            write_picture(files[0], levels(40, 50, seed=99))
        elif change == "damage":
            next((tmp_path / "state").iterdir()).write_bytes(b"not a state")
        told: list[int] = []
        chosen = replace(settings, seed=1) if change == "settings" else settings
        run(chosen, lambda done, total, told=told: told.append(done))
        assert told == [0, 1, 2, 3, 4], change


def test_one_unreadable_file_stops_the_measurement(tmp_path: Path) -> None:
    files = make_pictures(tmp_path, 3)
    files[1].write_bytes(files[1].read_bytes()[:200])
    metrics, settings = ("psnr",), EvaluationConfig(CLEAN, resolution=32)
    with pytest.raises(MediaError, match=r"001\.png"):
        evaluate_reconstruction(small_model(), {"image": files}, metrics, settings, networks={}, name="three")


def test_a_model_that_answers_nan_is_named(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.tokenizer.decoder.to_image.bias.fill_(torch.nan)
    metrics, settings = ("psnr",), EvaluationConfig(CLEAN, resolution=32)
    with pytest.raises(OmnitokError, match="decoded pixels hold NaN"):
        evaluate_reconstruction(
            model, {"image": make_pictures(tmp_path, 2)}, metrics, settings, networks={}, name="two"
        )


def test_features_that_are_not_finite_name_the_network(tmp_path: Path) -> None:
    broken = Network("broken", "", lambda pixels: torch.full((len(pixels), 4), torch.nan), 4)
    with pytest.raises(OmnitokError, match=r"000\.png: the network broken answers NaN"):
        evaluate_reconstruction(
            small_model(), {"image": make_pictures(tmp_path, 2)}, ["fd_mobilenet_v2"], networks={"mobilenet_v2": broken}
        )


def test_a_tokenizer_and_a_folder_are_enough(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    rows = evaluate_reconstruction(small_model().tokenizer, tmp_path, config=EvaluationConfig(resolution=32))
    assert [row.metric for row in rows] == ["psnr", "ssim", "usage", "perplexity", "entropy"]
    assert (rows[0].model, rows[0].data) == ("OmniTokenizer", str(tmp_path))
    assert len(rows[0].model_sha256 or "") == 64


def test_short_clips_are_one_sentence(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 5)
    for protocol in PROTOCOLS.values():
        with pytest.raises(MediaError, match="has 5 frames, at least 17 are needed"):
            load_video(path, 17, 16, protocol)
    with pytest.raises(ValueError, match="at least 9 frames, but frames is 8"):
        check_frames(["rfvd"], EvaluationConfig(frames=8))


@pytest.mark.parametrize(
    "metrics, said",
    [
        (("rfvd",), "rfvd needs videos, but there are only images"),
        (("fd_mobilenet_v2",), "at least 2 images, but there is 1"),
        (("usage",), "this model is a VAE"),
    ],
)
def test_metrics_without_anything_to_measure(tmp_path: Path, metrics: tuple[str, ...], said: str) -> None:
    make_pictures(tmp_path, 1)
    with pytest.raises(OmnitokError, match=said):
        check_reconstruction(metrics, EvaluationConfig(), files_by_modality(tmp_path), False, "folder")


def test_lists_keep_their_order_and_folders_sort(tmp_path: Path) -> None:
    """The released annotation format: path<TAB>label, from the list's own folder."""
    files = make_pictures(tmp_path / "in", 3)
    make_clip(tmp_path / "in/a.mp4", 2)
    (tmp_path / "val.txt").write_text("in/002.png\t7\nin/000.png\t1\nin/a.mp4\t0\n")
    found = files_by_modality(tmp_path / "val.txt")
    assert found == {"image": [files[2], files[0]], "video": [tmp_path / "in/a.mp4"]}
    assert files_by_modality(tmp_path / "in")["image"] == files


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"there are no images .* or videos"):
        files_by_modality(tmp_path)


@pytest.mark.parametrize("options", [{"resolution": 0}, {"frames": 0}, {"batch_size": 0}, {"samples": 1}, {"seed": -1}])
def test_configs_that_make_no_sense(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least"):
        EvaluationConfig(**options)


@pytest.mark.parametrize("metrics, said", [(("psnr", "foo"), "psnr, ssim, .*found foo"), ((), "found none")])
def test_metrics_that_there_are_not(metrics: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_metrics(metrics, "reconstruction")


def test_all_missing_weights_are_named_at_once(tmp_path: Path) -> None:
    metrics = ("lpips", "rfid", "rfvd", "fd_mobilenet_v2")
    (tmp_path / "mobilenet_v2.safetensors").write_bytes(b"wrong")
    with pytest.raises(MissingWeightsError) as caught:
        load_networks(networks_for(metrics, OFFICIAL), tmp_path)
    for part in ("vgg16-397923af.pth", "lpips_heads/vgg.pth", "pt_inception", "i3d_pretrained_400.pt"):
        assert part in str(caught.value)
    assert "mobilenet_v2.safetensors has the sha256" in str(caught.value)
    assert "--weights-dir" in str(caught.value)


def test_protocols_are_plain_data() -> None:
    for name, protocol in PROTOCOLS.items():
        described = json.loads(json.dumps(protocol.describe()))
        assert described["name"] == name
        assert len(described) >= 18


def test_rows_have_the_fixed_keys_and_no_number_json_lacks() -> None:
    row = Result("psnr", float("inf"), "clean", 2, "image", 32, 1, spread=float("nan")).row()
    assert {"metric", "value", "protocol", "n", "resolution", "frames", "network", "network_sha256"} <= set(row)
    assert {"model", "model_sha256", "seed", "version"} <= set(row)
    assert row["value"] is None
    assert row["spread"] is None
    json.dumps(row, allow_nan=False)


def test_reading_ahead_keeps_the_order_and_passes_errors() -> None:
    def load(i: int) -> int:
        if i == 7:
            raise MediaError("seven")
        return i * i

    assert list(read_ahead(load, range(7))) == [i * i for i in range(7)]
    with pytest.raises(MediaError, match="seven"):
        list(read_ahead(load, range(20)))


@pytest.mark.parametrize("keeps_state", [False, True])
def test_a_file_that_went_is_one_sentence(keeps_state: bool, tmp_path: Path) -> None:
    with pytest.raises(OmnitokError, match=r"gone\.png.*no such file"):
        evaluate_reconstruction(
            small_model(), {"image": [tmp_path / "gone.png"]}, ("psnr",), state_folder=tmp_path if keeps_state else None
        )
