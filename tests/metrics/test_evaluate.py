import json
from collections.abc import Callable
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
from omnitok.metrics import LPIPS, codebook_statistics, frechet_distance, gaussian_statistics, psnr, ssim
from omnitok.metrics.evaluate import (
    Networks,
    ReconstructionSettings,
    check_reconstruction,
    evaluate_reconstruction,
    load_networks,
    needed_networks,
)
from omnitok.metrics.networks import PairNetwork
from omnitok.metrics.protocols import CLEAN, OFFICIAL, PROTOCOLS, Protocol
from omnitok.metrics.results import Result
from omnitok.metrics.samples import (
    files_by_medium,
    load_clip,
    load_picture,
    quantize_original,
    quantize_reconstruction,
    read_ahead,
    through_jpeg,
)

NONE = Networks({}, {})


def values(results: list[Result]) -> dict[str, float]:
    return {result.metric: result.value for result in results}


def test_clean_numbers_are_those_made_by_hand(tmp_path: Path) -> None:
    files, model = make_pictures(tmp_path, 5), small_model()
    settings = ReconstructionSettings(("psnr", "ssim", "usage"), CLEAN, resolution=32, batch_size=2)
    results = evaluate_reconstruction(model, files, "image", settings, NONE, "five")

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
    settings = ReconstructionSettings(("psnr",), CLEAN, resolution=16, frames=5)
    (result,) = evaluate_reconstruction(model, files, "video", settings, NONE, "two")
    clips = torch.stack([load_clip(path, 5, 16, CLEAN) for path in files])
    with torch.no_grad():
        assert result.value == pytest.approx(psnr(clips, model.tokenizer(clips).clamp(-1, 1)), rel=1e-5)
    assert (result.n, result.frames, result.medium) == (2, 5, "video")


@pytest.mark.parametrize("total, frames, first", [(20, 17, 2), (19, 17, 1), (18, 4, 7), (17, 17, 0)])
def test_official_takes_the_frames_the_authors_take(tmp_path: Path, total: int, frames: int, first: int) -> None:
    """center = n // 2; range(center - k // 2, center + k // 2 + 1) of the released code."""
    clip = load_clip(make_clip(tmp_path / "a.mp4", total), frames, None, OFFICIAL)
    shown = ((clip.mean((0, 2, 3)) + 1) * 127.5 / 8).round().tolist()
    assert shown == list(range(first, first + frames))
    assert load_clip(tmp_path / "a.mp4", 3, None, CLEAN).shape == (3, 3, 32, 32)


def test_official_squashes_with_pillow_on_8_bits(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", levels(40, 60, seed=0))
    loaded = load_picture(path, 24, OFFICIAL)
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
        settings = ReconstructionSettings(("fd_mobilenet_v2",), OFFICIAL, resolution=32)
        networks = Networks({"fd_mobilenet_v2": network}, {})
        (result,) = evaluate_reconstruction(model, files, "image", settings, networks, "noise")
        x = torch.stack([load_picture(path, 32, OFFICIAL) for path in files])
        with torch.no_grad():
            y = quantize_reconstruction(model.tokenizer(x), OFFICIAL)
        x = quantize_original(x, OFFICIAL)
        if suffix == ".jpeg":
            x, y = through_jpeg(x, 75), through_jpeg(y, 75)
        statistics = [gaussian_statistics(network.extract(pixels).features) for pixels in (x, y)]
        assert result.value == pytest.approx(frechet_distance(*statistics), rel=1e-6, abs=1e-9)
        distances[suffix] = result.value
        assert result.network == "pooled"
        assert result.warning is not None
        assert "3 samples" in result.warning
    assert distances[".png"] != distances[".jpeg"]


def test_samples_of_a_vae_do_not_depend_on_batches(tmp_path: Path) -> None:
    files, model = make_pictures(tmp_path, 5), small_model("kl")
    base = ReconstructionSettings(("psnr",), OFFICIAL, resolution=32, batch_size=5)

    def measure(settings: ReconstructionSettings) -> float:
        return evaluate_reconstruction(model, files, "image", settings, NONE, "five")[0].value

    assert measure(base) == pytest.approx(measure(replace(base, batch_size=2)), rel=1e-4)
    assert measure(base) != measure(replace(base, seed=1))


@pytest.mark.parametrize("protocol", [OFFICIAL, CLEAN])
def test_rfvd_is_float32_where_the_authors_are(tmp_path: Path, protocol: Protocol) -> None:
    files, model, network = [make_clip(tmp_path / f"{i}.mp4", 10 + i) for i in range(3)], small_model(), pooled()
    settings = ReconstructionSettings(("rfvd",), protocol, resolution=16, frames=9)
    networks = Networks({"rfvd": network}, {})
    (result,) = evaluate_reconstruction(model, files, "video", settings, networks, "three")
    x = torch.stack([load_clip(path, 9, 16, protocol) for path in files])
    with torch.no_grad():
        y = quantize_reconstruction(model.tokenizer(x), protocol)
    a, b = (gaussian_statistics(network.extract(z).features) for z in (quantize_original(x, protocol), y))
    expected = frechet_distance(a, b, float32_compat=protocol is OFFICIAL)
    assert result.value == pytest.approx(expected, rel=1e-4)


def test_lpips_is_the_networks_mean(tmp_path: Path) -> None:
    files, model, network = make_pictures(tmp_path, 3), small_model(), LPIPS("alex")
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g).abs() / max(parameter[0].numel(), 1)
    settings = ReconstructionSettings(("lpips_alex",), CLEAN, resolution=32)
    networks = Networks({}, {"lpips_alex": PairNetwork("lpips_alex", "ef" * 32, network)})
    (result,) = evaluate_reconstruction(model, files, "image", settings, networks, "three")
    x = torch.stack([load_picture(path, 32, CLEAN) for path in files])
    with torch.no_grad():
        expected = network(x, model.tokenizer(x).clamp(-1, 1)).mean().item()
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert expected > 0
    assert (result.network, result.network_sha256) == ("lpips_alex", "ef" * 32)


class Stopped(Exception):
    pass


def stop_after(n: int) -> Callable[[int], None]:
    done = 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        if done > n:
            raise Stopped

    return progress


def test_a_stopped_run_continues_and_gives_the_same_numbers(tmp_path: Path) -> None:
    files, model = make_pictures(tmp_path / "in", 7), small_model()
    settings = ReconstructionSettings(("psnr", "usage", "fd_mobilenet_v2"), CLEAN, resolution=32, batch_size=1)
    networks = Networks({"fd_mobilenet_v2": pooled()}, {})
    whole = evaluate_reconstruction(model, files, "image", settings, networks, "seven")

    def run(progress: Callable[[int], None]) -> list[Result]:
        out = tmp_path / "state"
        return evaluate_reconstruction(
            model, files, "image", settings, networks, "seven", out, progress, save_seconds=0
        )

    with pytest.raises(Stopped):
        run(stop_after(3))
    assert len(list((tmp_path / "state").iterdir())) == 1
    told: list[int] = []
    assert values(run(told.append)) == pytest.approx(values(whole), rel=1e-12)
    assert told == [3, 1, 1, 1, 1]  # three were kept
    assert not list((tmp_path / "state").iterdir())


def test_the_state_of_other_files_or_settings_is_not_used(tmp_path: Path) -> None:
    files, model = make_pictures(tmp_path / "in", 4), small_model()
    settings = ReconstructionSettings(("psnr",), CLEAN, resolution=32, batch_size=1)

    def run(settings: ReconstructionSettings, progress: Callable[[int], None]) -> list[Result]:
        return evaluate_reconstruction(
            model, files, "image", settings, NONE, "four", tmp_path / "state", progress, save_seconds=0
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
        run(chosen, told.append)
        assert told == [1, 1, 1, 1], change


def test_one_unreadable_file_stops_the_measurement(tmp_path: Path) -> None:
    files = make_pictures(tmp_path, 3)
    files[1].write_bytes(files[1].read_bytes()[:200])
    settings = ReconstructionSettings(("psnr",), CLEAN, resolution=32)
    with pytest.raises(MediaError, match=r"001\.png"):
        evaluate_reconstruction(small_model(), files, "image", settings, NONE, "three")


def test_a_model_that_answers_nan_is_named(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.tokenizer.decoder.to_image.bias.fill_(torch.nan)
    settings = ReconstructionSettings(("psnr",), CLEAN, resolution=32)
    with pytest.raises(OmnitokError, match="small-vq answers NaN"):
        evaluate_reconstruction(model, make_pictures(tmp_path, 2), "image", settings, NONE, "two")


def test_short_clips_are_one_sentence(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 5)
    for protocol in PROTOCOLS.values():
        with pytest.raises(MediaError, match="has 5 frames, but the measurement takes 17"):
            load_clip(path, 17, 16, protocol)
    with pytest.raises(ValueError, match="at least 9 frames, but frames is 8"):
        ReconstructionSettings(("rfvd",), CLEAN, frames=8)


@pytest.mark.parametrize(
    "metrics, said",
    [
        (("rfvd",), "rfvd needs clips, but there are only pictures"),
        (("fd_mobilenet_v2",), "at least 2 files of its kind, but there is 1"),
        (("usage",), "this model is a VAE"),
    ],
)
def test_metrics_without_anything_to_measure(tmp_path: Path, metrics: tuple[str, ...], said: str) -> None:
    make_pictures(tmp_path, 1)
    with pytest.raises(OmnitokError, match=said):
        check_reconstruction(ReconstructionSettings(metrics, CLEAN), files_by_medium(tmp_path), "kl", "folder")


def test_lists_keep_their_order_and_folders_sort(tmp_path: Path) -> None:
    """The released annotation format: path<TAB>label, from the list's own folder."""
    files = make_pictures(tmp_path / "in", 3)
    make_clip(tmp_path / "in/a.mp4", 2)
    (tmp_path / "val.txt").write_text("in/002.png\t7\nin/000.png\t1\nin/a.mp4\t0\n")
    found = files_by_medium(tmp_path / "val.txt")
    assert found == {"image": [files[2], files[0]], "video": [tmp_path / "in/a.mp4"]}
    assert files_by_medium(tmp_path / "in")["image"] == files


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no images or videos"):
        files_by_medium(tmp_path)


@pytest.mark.parametrize(
    "metrics, options, said",
    [
        (("foo",), {}, "found foo"),
        ((), {}, "found none"),
        (("psnr",), {"resolution": 0}, "resolution"),
        (("psnr",), {"frames": 0}, "frames"),
        (("psnr",), {"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_that_make_no_sense(metrics: tuple[str, ...], options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ReconstructionSettings(metrics, CLEAN, **options)


def test_all_missing_weights_are_named_at_once(tmp_path: Path) -> None:
    settings = ReconstructionSettings(("lpips", "rfid", "rfvd", "fd_mobilenet_v2"), OFFICIAL)
    (tmp_path / "mobilenet_v2.safetensors").write_bytes(b"wrong")
    with pytest.raises(MissingWeightsError) as caught:
        load_networks(needed_networks(settings), tmp_path)
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
