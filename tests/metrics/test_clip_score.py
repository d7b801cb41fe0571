"""CLIPScore against what transformers computes of the same small random model, and what is said where it cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.text_models import save_clip, save_t5
from omnitok.cli import main
from omnitok.data import write_image, write_video
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.metrics import load_clip_score

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_clip(folder)


def images(n: int, height: int, width: int) -> torch.Tensor:
    """Smooth ones, uint8."""
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def theirs(folder: Path, model: Any, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """2.5 max(cos, 0) by the library's own tokenizer, preprocessing and cosine, text by text."""
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_convert_rgb=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    scores = []
    for image, text in zip(pixels, texts, strict=True):
        inputs = processor(images=Image.fromarray(image.permute(1, 2, 0).numpy()), return_tensors="pt")
        inputs |= tokenizer("A photo depicts " + text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            out = model(**inputs)
        scores.append(2.5 * (out.logits_per_image / model.logit_scale.exp()).clamp(min=0)[0, 0])
    return torch.stack(scores)


def test_scores_are_those_of_transformers(clip: tuple[Path, Any]) -> None:
    folder, model = clip
    score = load_clip_score(folder)
    assert (score.size, score.max_length) == (32, 10)
    pixels, texts = images(3, 32, 32), ["a red dress", "blue", "a dark apple"]
    wanted = theirs(folder, model, pixels, texts)
    assert (wanted > 0).any()
    torch.testing.assert_close(score(pixels, texts), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(score(pixels.float() / 127.5 - 1, texts), wanted, atol=1e-5, rtol=1e-5)
    resized = images(2, 50, 80)  # Pillow rounds the resized pixels to 8 bits
    torch.testing.assert_close(score(resized, texts[:2]), theirs(folder, model, resized, texts[:2]), atol=5e-3, rtol=0)


def test_opposite_embeddings_score_zero(clip: tuple[Path, Any]) -> None:
    score = load_clip_score(clip[0])
    pixels = images(8, 32, 32)
    scores = score(pixels, ["red"] * 8)
    assert ((scores >= 0) & (scores <= 2.5)).all()
    assert scores[0] == score(pixels[:1], ["red"])[0]


def test_a_video_scores_as_the_mean_of_its_frames(clip: tuple[Path, Any]) -> None:
    score, frames = load_clip_score(clip[0]), images(4, 32, 32)
    video = frames.transpose(0, 1)[None]
    torch.testing.assert_close(score(video, ["a dress"]), score(frames, ["a dress"] * 4).mean()[None])


def test_a_long_text_is_cut_aloud(clip: tuple[Path, Any]) -> None:
    score = load_clip_score(clip[0])
    with pytest.warns(UserWarning, match="a text is cut to 10 tokens: 'a red"):
        long = score(images(1, 32, 32), ["a red dress on a light background on a dark background"])
    torch.testing.assert_close(long, score(images(1, 32, 32), ["a red dress on a light"]))


def test_the_models_own_normalisation_is_taken(clip: tuple[Path, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip[0], tmp_path / "other"))
    note = folder / "preprocessor_config.json"
    note.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}))
    assert load_clip_score(folder)._mean.flatten().tolist() == [0.5, 0.5, 0.5]
    note.write_text(json.dumps({"image_mean": [0.5, "x"]}))
    with pytest.raises(OmnitokError, match=r"preprocessor_config\.json: image_mean and image_std"):
        load_clip_score(folder)


def test_other_models_are_refused(clip: tuple[Path, Any], tmp_path: Path) -> None:
    save_t5(tmp_path / "t5")
    with pytest.raises(CheckpointError, match="model_type is t5, where CLIPScore needs clip"):
        load_clip_score(tmp_path / "t5")
    folder = Path(shutil.copytree(clip[0], tmp_path / "cut"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cut: holds no model\.safetensors"):
        load_clip_score(folder)


def test_the_command_line_scores_samples_that_have_texts(
    clip: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    pixels = images(4, 32, 32)
    for index, image in enumerate(pixels):
        write_image(fake / f"{index:06d}.png", image.float() / 127.5 - 1)
    (fake / "generate.json").write_text(json.dumps({"texts": ["a red dress", None]}))
    line = ["evaluate", "alignment", "--fake", str(fake), "--metrics", "clip_score", "--device", "cpu", "--json"]
    assert main([*line, "--clip", str(clip[0])]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    score = load_clip_score(clip[0])
    assert row["value"] == pytest.approx(float(score(pixels[::2], ["a red dress"] * 2).mean()), abs=1e-6)
    assert (row["n"], row["network"], row["network_sha256"]) == (2, str(clip[0]), score.sha256)
    assert main(line) == 1
    assert "model.safetensors and tokenizer.json of a CLIP model" in (error := capsys.readouterr().err)
    assert "--clip" in error
    assert main([*line, "--clip", str(tmp_path / "none")]) == 1
    assert "none: no such folder" in capsys.readouterr().err


def test_videos_are_scored(clip: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    write_video(fake / "000000-a.mp4", (images(5, 32, 32).float() / 127.5 - 1).transpose(0, 1), fps=8)
    (fake / "generate.json").write_text(json.dumps({"texts": ["a dress"]}))
    line = ["evaluate", "alignment", "--video", "--frames", "5", "--fake", str(fake), "--clip", str(clip[0]), "--json"]
    assert main([*line, "--device", "cpu"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["metric"], row["n"], row["frames"]) == ("clip_score", 1, 5)
