"""Validation while a tokenizer trains: the figures of `omnitok evaluate`, and what is refused before the first step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from helpers.small import SMALL
from helpers.training import ALONE, resolved, train
from omnitok.cli import main
from omnitok.data.samples import Index, Samples
from omnitok.data.video_writer import write_video
from omnitok.errors import MissingWeightsError, OmnitokError
from omnitok.metrics.networks import Network
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import DataConfig, LogConfig, PerceptualConfig, TrainConfig, ValidationConfig
from omnitok.training.run_folder import check_unchanged
from omnitok.training.settings import read_run, to_plain
from omnitok.training.stopping import Limits
from omnitok.training.tasks import make_task, tokenizer_validation
from omnitok.training.tasks.tokenizer_validation import plan_validation

NOTHING = Index(Samples(), Samples())  # is held out
WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of 40 x 30 and two clips of 9 frames of 32 x 32 in one folder."""
    root = tmp_path_factory.mktemp("media")
    x = torch.linspace(-1, 1, 40).expand(30, 40)
    for i in range(3):
        shades = ((x * torch.tensor([0.5 * i, 1.0, -0.7])[:, None, None]).sin() * 127 + 128).to(torch.uint8)
        Image.fromarray(shades.permute(1, 2, 0).contiguous().numpy()).save(root / f"{i}.png")
    for i in range(2):
        frames = torch.stack([(x[:, :32] * (i + 1) + 0.2 * t).sin().expand(3, 30, 32) for t in range(9)], dim=1)
        write_video(root / f"{i}.mp4", frames, fps=8.0)
    return root


@pytest.fixture(scope="module")
def tokenizer() -> OmniTokenizer:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(SMALL).eval()


def config_of(media: Path, frames: int = 9, weights_dir: Path | None = None, **chosen: object) -> TrainConfig:
    """Validation at 32 pixels, of both media."""
    files: dict[str, object] = {"images": (str(media),), "videos": (str(media),)}
    sizes = {"image_resolution": 32, "video_resolution": 32}
    return TrainConfig(
        name="test",
        model=SMALL,
        data=DataConfig(images=(str(media),), frames=frames),
        perceptual=PerceptualConfig(weights_dir=None if weights_dir is None else str(weights_dir)),
        validation=ValidationConfig(**(files | sizes | chosen)),
    )


def test_validation_is_of_the_files_that_are_named(media: Path, tokenizer: OmniTokenizer) -> None:
    assert plan_validation(config_of(media, images=(), videos=()), NOTHING) is None
    validate = plan_validation(config_of(media, videos=(), samples=2), NOTHING)
    assert validate is not None
    scores = validate(tokenizer)
    assert set(scores) == {"image_psnr", "image_ssim", "image_codebook_usage", "image_codebook_perplexity"}
    assert 0 < scores["image_codebook_usage"] <= 1


def test_frechet_distances_of_both_media(
    media: Path, tokenizer: OmniTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the way of rFID and rFVD, whose networks are not at hand."""

    def colours(name: str) -> Network:
        return Network(name, "00", lambda pixels: pixels.double().flatten(2).mean(2), 3)

    loaded: list[list[str]] = []

    def load(needed: list[str], *_: object) -> dict[str, Network]:
        loaded.append(needed)
        return {name: colours(name) for name in needed}

    monkeypatch.setattr(tokenizer_validation, "require_weights", lambda *_: None)
    monkeypatch.setattr(tokenizer_validation, "load_networks", load)
    validate = plan_validation(config_of(media, metrics=("rfid", "rfvd")), NOTHING)
    assert validate is not None
    assert not loaded
    scores = validate(tokenizer)
    assert validate(tokenizer) == scores
    assert loaded == [["inception_pytorch_fid", "i3d"]]
    assert scores["image_rfid"] > 0
    assert scores["video_rfvd"] > 0
    assert scores["video_psnr"] > 0


@pytest.mark.skipif(not (WEIGHTS / "mobilenet_v2.safetensors").is_file(), reason="needs ../shared/weights")
def test_validation_gives_the_figures_of_evaluate(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"metrics": ("fd_mobilenet_v2",), "perceptual": "mobilenet", "videos": ()}
    validate = plan_validation(config_of(media, weights_dir=WEIGHTS, **chosen), NOTHING)
    assert validate is not None
    encoded: list[int] = []
    hook = tokenizer.encoder.register_forward_pre_hook(lambda module, given: encoded.append(len(given[0])))
    scores = validate(tokenizer)
    hook.remove()
    assert sum(encoded) == len(list(media.glob("*.png")))  # each once, whatever is measured
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for path in media.glob("*.png"):
        (pictures / path.name).symlink_to(path)
    model = tokenizer.save_pretrained(tmp_path / "model")
    line = f"evaluate reconstruction --model {model} --data {pictures} --weights-dir {WEIGHTS} --device cpu --json"
    assert main([*line.split(), "--metrics", "psnr,ssim,usage,fd_mobilenet_v2", "--resolution", "32"]) == 0
    rows = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    for name, metric in {"codebook_usage": "usage", "codebook_perplexity": "perplexity"}.items():
        rows[name] = rows.pop(metric)
    for name in ("psnr", "ssim", "codebook_usage", "codebook_perplexity", "fd_mobilenet_v2"):
        assert scores[f"image_{name}"] == pytest.approx(rows[name], rel=1e-6), name
    assert scores["image_perceptual"] > 0


def test_what_cannot_be_measured_is_said_before_the_first_step(media: Path, tmp_path: Path) -> None:
    def refused(config: TrainConfig) -> str:
        with pytest.raises(OmnitokError) as caught:
            train(config, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        with pytest.raises(OmnitokError):
            resolved(config)
        return str(caught.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MissingWeightsError, match="i3d_pretrained_400"):
        resolved(config_of(media, metrics=("rfvd",), weights_dir=empty))
    told = refused(config_of(media, metrics=("rfid", "rfvd", "fd_mobilenet_v2"), weights_dir=empty))
    assert "pt_inception-2015-12-05-6726825d.pth" in told
    assert "i3d_pretrained_400.pt" in told
    assert "mobilenet_v2.safetensors" in told
    assert "validation: metrics are psnr, ssim" in refused(config_of(media, metrics=("fid",)))
    assert "rfvd needs videos of at least 9 frames" in refused(config_of(media, frames=5, metrics=("rfvd",)))
    assert "rfvd needs videos, but there are only images" in refused(config_of(media, videos=(), metrics=("rfvd",)))
    assert "validation.metrics needs files" in refused(config_of(media, images=(), videos=(), metrics=("rfid",)))
    told = refused(config_of(media, video_resolution=8))
    assert "validation.video_resolution must be at least 11, SSIM's window, found 8" in told
    assert "the video has 9 frames, but validation measures videos of data.frames=17" in refused(config_of(media, 17))
    pictures = str(media / "0.png")
    assert "validation.videos names no videos" in refused(config_of(media, videos=(pictures,)))


def test_a_share_of_the_files_is_held_out_by_default(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(50):
        Image.new("RGB", (16, 16), (5 * i, 90, 30)).save(images / f"{i:02d}.png")
    config = config_of(images, images=(), videos=(), image_resolution=16)
    config = replace(config, weights={"l1": 1.0}, steps=1, log=LogConfig(images_every=0), held_out=0.04)
    config = replace(config, data=replace(config.data, resolutions=(16,), image_batch=2, workers=0))
    (images / "12.png").write_bytes(b"no image")  # one of those that would be held out
    task = resolved(config)
    assert len(task.dataset.samples.images) == 49
    names = {Path(sample.path).name for sample in task.dataset.samples.images}
    assert "37.png" not in names
    result = train(config, tmp_path / "out")
    assert result.validation["image_psnr"] > 0
    named = replace(config, validation=replace(config.validation, images=(str(images / "01.png"),)))
    assert len(resolved(named).dataset.samples.images) == 50
    assert not resolved(replace(config, held_out=0.0)).validate(lambda _: pytest.fail("a model is measured"))


def test_a_resumed_run_keeps_the_files_that_it_began_with(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(50):
        Image.new("RGB", (16, 16), (5 * i, 90, 30)).save(images / f"{i:02d}.png")
    unnamed = replace(config_of(images, images=(), videos=()), held_out=0.04)
    named = replace(unnamed, validation=replace(unnamed.validation, images=(str(images / "01.png"),)))

    def files(config: TrainConfig, saved: TrainConfig | None) -> tuple[int, float]:
        task = make_task(config)
        task.resolve(ALONE, saved, pytest.fail)
        return len(task.dataset.samples.images), task.config.held_out

    assert files(named, None) == (50, 0.0)
    begun = resolved(named).config
    assert files(named, begun) == (50, 0.0)
    begun_without = resolved(unnamed).config
    assert files(named, begun_without) == (48, 0.04)  # what was held out stays out

    begun = replace(begun, weights={"l1": 1.0}, steps=2, log=LogConfig(images_every=0))
    begun = replace(begun, data=replace(begun.data, resolutions=(16,), image_batch=2, workers=0))
    train(begun, tmp_path / "run", limits=Limits(max_steps=1))
    going_on = replace(read_run(tmp_path / "run"), validation=unnamed.validation)
    with pytest.raises(OmnitokError, match=r"was trained with held_out=0\.0, found 0\.04"):
        train(replace(going_on, held_out=0.04), tmp_path / "run", resume=True)
    assert train(going_on, tmp_path / "run", resume=True).validation == {}
    fewer = replace(begun_without, validation=replace(begun_without.validation, samples=1))
    with pytest.raises(OmnitokError, match=r"validation\.samples=.*, found 1"):
        check_unchanged(fewer, begun_without, tmp_path)  # they say how many are held out


def test_runs_from_before_go_on_with_all_their_files(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    plain = to_plain(config)
    del plain["held_out"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    saved = read_run(tmp_path)
    assert isinstance(saved, TrainConfig)
    assert saved == replace(config, held_out=0.0)
