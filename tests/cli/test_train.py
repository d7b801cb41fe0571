"""`omnitok train`: the three stages, resuming, the dry run, and a sentence for each mistake."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from omnitok.cli import main
from omnitok.data.video_writer import write_video
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.recipes import RECIPES
from omnitok.training.settings import read_config

SMALL = [
    *("--set", "model={width: 32, heads: 2, head_dim: 16, codebook_size: 64, window_convolution: true,"
      " normalize_patches: false, encoder_blocks: w, decoder_blocks: w, encoder_temporal_blocks: 1,"
      " decoder_temporal_blocks: 1}"),
    *("--set", "data.frames=5"),
    *("--set", "data.workers=0"),
    *("--set", "data.image_batch=4"),
    *("--set", "data.video_batch=2"),
    *("--set", "log.every=1"),
    *("--device", "cpu"),
]  # fmt: skip


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images`: 6 pictures; `videos`: 3 clips; both 40 x 48."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("media")
    (root / "images").mkdir()
    (root / "videos").mkdir()
    x = torch.linspace(-1, 1, 48).expand(40, 48)
    for i in range(6):
        shade = ((x * torch.tensor([0.5 * i, 1.0, -0.7])[:, None, None]).sin() * 127 + 128).to(torch.uint8)
        Image.fromarray(shade.permute(1, 2, 0).contiguous().numpy()).save(root / "images" / f"{i}.png")
    for i in range(3):
        frames = torch.stack([(x * (i + 1) + 0.2 * t).sin().expand(3, 40, 48) for t in range(7)], dim=1)
        write_video(root / "videos" / f"{i}.mp4", frames, fps=8.0)
    return root


def train(*arguments: str | Path) -> int:
    return main(["train", *map(str, arguments)])


def result_of(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_three_stages(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, videos = ("--images", media / "images"), ("--videos", media / "videos")
    sizes = ("--set", "data.resolutions=32,40", "--max-steps", "6", "--json")
    assert train("tiny-image", *SMALL, *images, *sizes, "--set", "quantize_after=2", "--out", tmp_path / "image") == 0
    first = result_of(capsys)
    assert first["steps"] == 6
    assert first["reason"] == "max steps"
    stage1 = tmp_path / "image" / "model"
    assert first["output"] == str(stage1)

    held_out = ("--set", f"validation.images={media / 'images'}", "--set", f"validation.videos={media / 'videos'}")
    small = ("--set", "validation.image_resolution=32", "--set", "validation.video_resolution=32")
    arguments = (*SMALL[2:], *images, *videos, *sizes, *held_out, *small)
    assert train("tiny-joint", *arguments, "--init", stage1, "--out", tmp_path / "joint") == 0
    second = result_of(capsys)
    scores = second["validation"]
    assert isinstance(scores, dict)
    names = {"psnr", "ssim", "codebook_usage", "codebook_perplexity"}
    assert set(scores) == {f"{medium}_{name}" for medium in ("image", "video") for name in names}

    assert (
        train("tiny-vae", *SMALL[2:], *images, *videos, *sizes, "--init", tmp_path / "joint", "--out", tmp_path / "vae")
        == 0
    )
    vae = OmniTokenizer.from_pretrained(tmp_path / "vae" / "model")
    assert not vae.is_discrete
    assert vae.latent_statistics is not None
    assert vae(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)


def test_a_written_configuration_is_given_back_and_resumed(media: Path, tmp_path: Path) -> None:
    arguments = (
        *SMALL,
        "--images",
        media / "images",
        "--set",
        "data.resolutions=32",
        "--set",
        "steps=6",
        "--seed",
        "3",
    )
    assert train("tiny-image", *arguments, "--out", tmp_path / "a", "--checkpoint-every", "2") == 0
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "config.yaml", tmp_path / "b")
    again = tmp_path / "b" / "config.yaml"
    assert train(again, "--device", "cpu", "--max-steps", "3") == 0
    assert train(again, "--device", "cpu", "--resume") == 0
    models = [OmniTokenizer.from_pretrained(tmp_path / run / "model").state_dict() for run in "ab"]
    for name, weight in models[0].items():
        assert torch.equal(models[1][name], weight)


def test_the_dry_run_tells_and_trains_nothing(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ("--images", media / "images", "--videos", media / "videos", "--out", out, "--dry-run")
    assert train("tiny-joint", *arguments, "--json") == 0
    found = result_of(capsys)
    assert found["data"] == {"images": 6, "videos": 3}
    assert isinstance(found["parameters"], dict)
    assert set(found["parameters"]) == {"encoder", "bottleneck", "decoder"}
    assert train("tiny-joint", *arguments) == 0
    assert "resolutions:\n    - 96\n" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments, told, code",
    [
        (["tiny-imag"], "did you mean tiny-image?", 1),
        (["tiny-image"], "give --images DIR, --videos DIR, or both", 1),
        (["tiny-image", "--images", "absent"], "absent: no such file or folder", 1),
        (["tiny-image", "--images", "absent", "--set", "optimizer.lrr=1"], "did you mean 'optimizer.lr'?", 2),
        (["tiny-image", "--images", "absent", "--set", "optimizer.lr=x"], "optimizer.lr must be a valid number", 2),
        (["tiny-joint", "--images", "MEDIA", "--init", "absent"], "no such model", 1),
        (["tiny-image", "--images", "MEDIA", "--set", "weights.perceptual=1"], "needs lpips_heads/vgg.pth", 1),
        (["tiny-image", "--images", "MEDIA", "--set", "init.grow=true"], "init.expand_depth needs init.model", 2),
        (["tiny-image", "--max-steps", "0"], "--max-steps must be at least 1, found 0", 2),
        (["tiny-image", "--time-limit", "-1"], "--time-limit must be greater than 0", 2),
        (["tiny-image", "--seed", "-1"], "seed must be at least 0, found -1", 2),
        (["tiny-image", "--device", "abacus", "--images", "MEDIA"], "--device", 2),
        ([], "give a recipe", 2),
        (["tiny-image", "--epochs", "3"], "--set steps=N", 2),
        (["tiny-image", "--num-workers", "4"], "--num-workers: is a setting of the recipe, --set data.workers=...;", 2),
        (["tiny-image", "--image-size", "64"], "--image-size: is a setting of the recipe, --set data.resolutions=", 2),
        (
            ["tiny-image", "--images", "MEDIA", "--batch-size=0", "--set", "steps=9"],
            "--batch-size must be at least 1",
            2,
        ),
        (["tiny-image", "--workers=4"], "--workers: is a setting of the recipe, --set data.workers=...;", 2),
        (["tiny-image", "--learning-rate", "1e-4"], "--set optimizer.lr=...", 2),
        (["tiny-image", "--images", "ftp://a/b"], "ftp://a/b: ftp is not among the kinds of URLs", 1),
        (["tiny-image", "--images", "MEDIA", "--lr", "-1"], "error: --lr must be greater than 0, found -1.0", 2),
        (["absent.yaml"], "absent.yaml: no such file", 1),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    told: str,
    code: int,
    media: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMNITOK_WEIGHTS", raising=False)
    given = [str(media / "images") if word == "MEDIA" else word for word in arguments]
    assert train(*given) == code
    message = capsys.readouterr().err
    assert told in message
    assert len(message.strip().splitlines()) == 1


def test_a_run_is_continued_by_its_folder(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = (*SMALL, "--images", media / "images", "--set", "data.resolutions=32", "--lr", "0.002")
    assert train("tiny-image", *arguments, "--batch-size", "2", "--out", out, "--max-steps", "1") == 0
    told = capsys.readouterr().err
    assert f"continue with: omnitok train {out} --resume" in told
    assert "step 1/1100 image: loss" in told  # stderr is no terminal here
    for again in ((out,), ("--out", out), ("tiny-image", "--out", out), (out / "config.yaml",)):
        steps = int(json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"])
        assert train(*again, "--resume", "--device", "cpu", "--max-steps", str(steps + 1)) == 0
    config = read_config(out / "config.yaml")
    assert (config.optimizer.lr, config.data.image_batch, config.data.workers) == (0.002, 2, 0)
    assert train("tiny-image", "--out", out, "--resume", "--seed", "9") == 1
    assert "was trained with seed=0, found 9" in capsys.readouterr().err


def test_the_dry_run_prints_what_can_be_trained(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("tiny-image", *SMALL, "--images", media / "images", "--dry-run") == 0
    (tmp_path / "planned.yaml").write_text(capsys.readouterr().out)
    assert read_config(tmp_path / "planned.yaml").data.images == (str(media / "images"),)


def test_another_recipe_cannot_resume(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        *SMALL,
        "--images",
        media / "images",
        "--set",
        "data.resolutions=32",
        "--out",
        tmp_path,
        "--max-steps",
        "1",
    )
    assert train("tiny-image", *arguments) == 0
    assert train("tiny-image", *arguments) == 1
    assert "continue it with --resume" in capsys.readouterr().err
    assert train("tiny-joint", *arguments, "--resume") == 1
    assert "a training of the recipe 'tiny-image', which 'tiny-joint' cannot resume" in capsys.readouterr().err


def test_recipes_are_found_by_their_own_names() -> None:
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert main(["recipes", "imagenet", "ucf", "vae"]) == 0
    assert "rFVD 23 on UCF-101" in capsys.readouterr().out
    assert main(["recipes", "tiny-image", "--json"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["recipe"] == "tiny-image"]
    assert row["command"] == "omnitok train tiny-image --images IMAGES"
    assert main(["recipes", "no-such-thing"]) == 1
