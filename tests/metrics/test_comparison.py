import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_media import levels, make_clip, make_pictures, pooled, small_model

from omnitok.data import VideoReader, read_image, write_video
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.metrics import OFFICIAL, EvaluatedModel, EvaluationConfig, evaluate_reconstruction
from omnitok.metrics.codecs import RATES, Codec
from omnitok.metrics.comparison import PICTURES, PLOT, compare
from omnitok.metrics.comparison_page import write_page
from omnitok.metrics.drawing import Plot, side_by_side, write_plots

WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"
MODELS = {"small-vq": "vq", "small-kl": "kl"}


def load(name: str) -> EvaluatedModel:
    return small_model(name.removeprefix("small-"))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of different sizes, and a video of odd ones."""
    folder = tmp_path_factory.mktemp("media")
    make_pictures(folder, 1, 40, 48)
    make_pictures(folder / "more", 1, 33, 70)
    texture = torch.rand(3, 66, 80, generator=torch.Generator().manual_seed(0)) - 0.5 + levels(66, 80, 1) / 255
    pan = torch.stack([texture[:, :, 2 * i : 2 * i + 66] for i in range(5)], dim=1)
    write_video(folder / "a.mp4", pan, fps=10)
    return folder


def test_figures_are_those_of_the_evaluation(media: Path, tmp_path: Path) -> None:
    config = EvaluationConfig(resolution=32, frames=5)
    found, shown = compare(media, MODELS, load, tmp_path, ["psnr", "ssim", "usage"], config, references=False, shown=1)
    assert [(c.name, c.modality) for c in found] == [
        (name, modality) for name in MODELS.values() for modality in ("image", "video")
    ]
    for comparison in found:
        model = load(comparison.model)
        metrics = [name for name in comparison.values if name in ("psnr", "ssim", "usage")]
        rows = evaluate_reconstruction(model, media, metrics, config)
        expected = {row.metric: row.value for row in rows if row.modality == comparison.modality}
        assert comparison.values == pytest.approx(expected, rel=1e-5)
        assert ("usage" in metrics) == model.tokenizer.is_discrete
        (file, *_) = comparison.files
        tokens = 1
        for side in model.tokenizer.latent_shape(file.frames, 32, 32):
            tokens *= side
        assert (file.tokens, file.width, file.height) == (tokens, 32, 32)
        assert comparison.bits_per_pixel == pytest.approx(tokens * model.tokenizer.bits_per_token / file.pixels)
        assert comparison.parameters == sum(p.numel() for p in model.tokenizer.parameters())
        assert comparison.peak_memory is not None
        assert comparison.peak_memory > 10**7
    assert sorted(item.path.suffix for item in shown) == [".mp4", ".png"]


def test_files_keep_their_size_and_stand_side_by_side(media: Path, tmp_path: Path) -> None:
    found, shown = compare(media, MODELS, load, tmp_path, config=EvaluationConfig(frames=3))
    sizes = {(file.width, file.height) for c in found if c.modality == "image" for file in c.files}
    assert sizes == {(48, 40), (70, 33)}
    (row, *_) = [c.row() for c in found]
    assert {"psnr", "ssim", "bits_per_pixel", "tokens", "seconds", "peak_memory", "parameters", "n"} <= row.keys()
    json.dumps([c.row() for c in found], allow_nan=False)
    for kinds in RATES.values():
        for kind in kinds:
            curve = [c for c in found if c.codec == kind]
            rates, decibels = [c.bits_per_pixel for c in curve], [c.values["psnr"] for c in curve]
            assert rates == sorted(rates), kind
            assert decibels == sorted(decibels), kind
    for item in shown:
        assert item.path.parent.name == PICTURES
        if item.modality == "image":
            _, height, width = read_image(item.path).shape
        else:
            with VideoReader(item.path) as reader:
                height, width = reader.height, reader.width
                assert sum(1 for _ in reader) == 3
        assert width > 3 * 220 - 1
        assert height > width / 4
    page = tmp_path / "index.html"
    write_page(found, shown, tmp_path / PLOT, page)
    text = page.read_text()
    assert text.count("<h2>") == 3
    assert set(re.findall(r'src="(data:\w+/\w+;)?', text)) == {"data:image/png;", "data:image/jpeg;", "data:video/mp4;"}
    assert "http" not in text


def test_what_one_model_cannot_do_is_said_and_the_others_go_on(media: Path, tmp_path: Path) -> None:
    class ImagesOnly:
        def __getattr__(self, name: str) -> object:
            return getattr(small_model().tokenizer, name)

        def encode(self, x: torch.Tensor, **options: object) -> object:
            if x.ndim == 5:
                raise OmnitokError("this tokenizer has no videos <b>")
            return small_model().tokenizer.encode(x)

    def load_some(name: str) -> EvaluatedModel:
        if name == "gone":
            raise CheckpointError("gone: no such model")
        return small_model() if name == "whole" else EvaluatedModel(ImagesOnly(), name, "")  # type: ignore[arg-type]

    names = {name: name for name in ("gone", "images", "whole")}
    config = EvaluationConfig(resolution=32, frames=2)
    found, shown = compare(media, names, load_some, tmp_path, ["psnr"], config, references=False)
    errors = {(c.name, c.modality): c.error for c in found}
    assert errors == {
        ("gone", "image"): "gone: no such model",
        ("gone", "video"): "gone: no such model",
        ("images", "image"): None,
        ("images", "video"): "this tokenizer has no videos <b>",
        ("whole", "image"): None,
        ("whole", "video"): None,
    }
    assert len(shown) == 3
    titles, cells = found.table("video")
    assert [row[1] == "-" for row in cells] == [True, True, False]
    assert all(len(row) == len(titles) for row in cells)
    write_page(found, shown, tmp_path / PLOT, tmp_path / "index.html")
    assert "no videos &lt;b&gt;" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("weights", ["stand-in", "real"])
def test_distances_of_features_of_images_and_videos(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path / "in", 2)
    for i in range(2):
        make_clip(tmp_path / f"in/{i}.mp4", 2)
    config, metrics = EvaluationConfig(resolution=32, frames=2), ("fd_mobilenet_v2", "fd_mobilenet_v2_video")
    if weights == "real" and not (WEIGHTS / "mobilenet_v2.safetensors").is_file():
        pytest.skip("needs ../shared/weights")
    if weights == "stand-in":
        networks = {name: replace(pooled(), name=name) for name in ("mobilenet_v2", "mobilenet_v2_video")}
        monkeypatch.setattr("omnitok.metrics.comparison.load_networks", lambda *given: networks)
    found, _ = compare(
        tmp_path / "in", MODELS, load, tmp_path, metrics, config, weights_dir=WEIGHTS, references=False, shown=0
    )
    assert [list(c.values) for c in found] == 2 * [[name] for name in metrics]
    for c in found:
        assert c.error is None
        assert 0 < c.values[metrics[c.modality == "video"]] < float("inf")
    assert found[0].values != found[2].values  # the originals' features are those of the first pass


@pytest.mark.parametrize("kind", ["H.264", "AV1"])
def test_codecs_of_videos_keep_odd_sizes(kind: str) -> None:
    codec = Codec(kind, RATES["video"][kind][-1])  # type: ignore[arg-type, index]
    video = levels(35, 71, 0)[None, :, None].expand(-1, -1, 4, -1, -1).float() / 127.5 - 1
    result, codes = codec.reconstruct(video, [0], EvaluationConfig())
    assert codes is None
    assert result.shape == video.shape
    assert (result - video).abs().mean() < 0.05
    assert 0 < codec.bits[0] < 8 * 3 * 4 * 35 * 71


def test_errors_are_drawn_where_they_are() -> None:
    original = torch.full((3, 1, 300, 300), 100, dtype=torch.uint8)
    changed = original.clone()
    changed[:, :, :10] = 151
    drawn = side_by_side(original, [original, changed], ["a", "b", "c"])
    right, middle = drawn[:, 0, -300:, -300:], drawn[:, 0, -300:, 306:606]
    assert torch.equal(middle, torch.full_like(middle, -1))
    assert torch.equal(right[:, 10:], torch.full_like(right[:, 10:], -1))
    assert right[0, :10].min() == 1  # 5 x 51 / 255
    assert drawn.shape == (3, 1, drawn.shape[2], 3 * 300 + 2 * 6)


def test_errors_of_alpha_and_of_bands_are_seen() -> None:
    original = torch.full((4, 1, 300, 300), 255, dtype=torch.uint8)  # white on white, and opaque
    changed = original.clone()
    changed[3, :, :150] = 0
    drawn = side_by_side(original, [changed], ["a", "b"])[:, 0]
    heat, result = drawn[:, -300:, 306:], drawn[:, 21:321, 306:]
    assert torch.equal(drawn[:, 21:321, :300], torch.ones(3, 300, 300))
    assert heat[0, :150].min() == 1  # a quarter of the range, five times as large
    assert torch.equal(heat[:, 150:], -torch.ones(3, 150, 300))
    assert torch.equal(result[:, 150:], torch.ones(3, 150, 300))
    assert len(result[0, :150].unique()) == 2  # squares are seen through it
    bands = torch.zeros((5, 1, 300, 300), dtype=torch.uint8)
    other = bands.clone()
    other[4] = 200
    drawn = side_by_side(bands, [other], ["a", "b"])[:, 0]
    assert torch.equal(drawn[:, 21:321, 306:], drawn[:, 21:321, :300])  # the last band is not shown
    assert drawn[0, -300:, 306:].min() > 0.5  # its errors are


def test_plots_hold_what_cannot_be_drawn(tmp_path: Path) -> None:
    nothing = Plot("nothing", {}, {"a": (1.0, float("inf"))})
    one = Plot("one", {"JPEG": [(0.5, 30.0), (1.0, float("nan"))]}, {"a": (0.5, 30.0)})
    write_plots([nothing, one, one], tmp_path / "plot.png")
    pixels = read_image(tmp_path / "plot.png")
    assert pixels.shape == (3, 840, 1240)
    assert pixels[:, 440:, 100:500].std() > 0.05


def test_the_originals_of_the_first_pass_change_nothing_for_later_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `official` results go through JPEG where the source is one, also when only they are looked at."""
    make_pictures(tmp_path / "in", 3, suffix=".jpg")
    monkeypatch.setattr(
        "omnitok.metrics.comparison.load_networks",
        lambda *given: {"mobilenet_v2": replace(pooled(), name="mobilenet_v2")},
    )
    config, names = EvaluationConfig(protocol=OFFICIAL, resolution=32), {"small-vq": "a", "small-vq ": "b"}
    found, _ = compare(
        tmp_path / "in",
        names,
        lambda _: small_model(),
        tmp_path,
        ["fd_mobilenet_v2"],
        config,
        references=False,
        shown=0,
    )
    first, second = (c.values["fd_mobilenet_v2"] for c in found)
    assert first == second > 0


@pytest.mark.parametrize("metric, is_there", [("psnr", False), ("usage", True)])
def test_a_page_without_anything_to_plot(metric: str, is_there: bool, tmp_path: Path) -> None:
    def load_it(name: str) -> EvaluatedModel:
        if not is_there:
            raise CheckpointError("gone: no such model")
        return small_model()

    make_pictures(tmp_path / "in", 1)
    config = EvaluationConfig(resolution=32)
    found, shown = compare(tmp_path / "in", {"one": "one"}, load_it, tmp_path, [metric], config, references=False)
    assert [c.error is None for c in found] == [is_there]
    write_page(found, shown, tmp_path / PLOT, tmp_path / "index.html")
    assert read_image(tmp_path / PLOT).shape == (3, 420, 620)
