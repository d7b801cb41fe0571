"""`omnitok generate`: names, labels, resuming, sharing, grids, .npz, continuations, and what is refused."""

import json
import os
import subprocess
import sys
import threading
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import omnitok
from helpers.conditioned import save_conditioned
from helpers.processes import TIMEOUT
from omnitok import load_generator
from omnitok.atomic import lock_folder
from omnitok.cli import main
from omnitok.data import list_media, read_image, read_video, write_image, write_video
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.generation import sample_folder, work
from omnitok.hub import names
from omnitok.hub.folder import load_tokenizer, save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.bottlenecks import KLConfig
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.code_transformer import CodeBlock
from omnitok.models.conditions import EmbeddingCondition, TextCondition
from omnitok.models.diffusion_transformer import (
    DiffusionBlock,
    DiffusionTransformer,
    DiffusionTransformerConfig,
)
from omnitok.models.language_model import LanguageModel
from omnitok.models.protocol import LatentStatistics, fingerprint
from omnitok.models.tokenizer import OmniTokenizer

from .conftest import SMALL, moving_gradient

FRAMES = 5


def settings_of(tokenizer: Path, sampling: dict[str, Any]) -> GeneratorSettings:
    sha256 = fingerprint(load_tokenizer(tokenizer))
    return GeneratorSettings(str(tokenizer), sha256, ("cat", "big dog"), 16, 16, FRAMES, sampling, 8.0)


@pytest.fixture(scope="session")
def lm(vq_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = LanguageModelConfig(
        codebook_size=64, num_classes=2, latent_frames=2, latent_height=2, latent_width=2, width=32, depth=1, heads=2
    )
    settings = settings_of(vq_folder, {"guidance_scale": 1.5})
    return str(save_generator(LanguageModel(config), settings, tmp_path_factory.mktemp("generators") / "lm"))


@pytest.fixture(scope="session")
def dit(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("generators")
    torch.manual_seed(0)
    channels = SMALL.bottleneck.latent_channels
    vae = OmniTokenizer.from_config(replace(SMALL, bottleneck=KLConfig(latent_channels=channels))).eval()
    vae.latent_statistics = LatentStatistics((0.0,) * channels, (1.0,) * channels)
    vae.save_pretrained(folder / "vae")
    config = DiffusionTransformerConfig(
        latent_channels=channels, patch_size=1, width=32, depth=2, heads=2, num_classes=2, temporal=True,
        objective="flow", learn_sigma=False,
    )  # fmt: skip
    settings = settings_of(folder / "vae", {"steps": 2, "sampler": "euler"})
    return str(save_generator(DiffusionTransformer(config), settings, folder / "dit"))


@pytest.fixture(scope="session")
def conditioned(vq_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Masked models, of texts and of embeddings."""
    folder = tmp_path_factory.mktemp("generators")
    conditions = {"text": TextCondition(max_length=20), "embeddings": EmbeddingCondition(channels=3, max_length=4)}
    return {name: save_conditioned(each, vq_folder, folder / name) for name, each in conditions.items()}


def generate(*arguments: str | Path) -> int:
    return main(["generate", *map(str, arguments), "--device", "cpu"])


def test_guidance_in_an_interval_is_noted_with_the_samples(lm: str, tmp_path: Path) -> None:
    command = (lm, "--labels", "cat", "--guidance", "20", "--count", "3")
    assert generate(*command, "-o", tmp_path / "whole") == 0
    part = (*command, "-o", tmp_path / "part", "--guidance-interval", "0", "0.25")
    assert generate(*part) == 0
    names = [f"{i:06d}-cat.png" for i in range(3)]
    assert any((tmp_path / "part" / n).read_bytes() != (tmp_path / "whole" / n).read_bytes() for n in names)
    assert generate(*part) == 0  # the same again
    assert generate(*command, "-o", tmp_path / "part") == 1  # made with other settings


def test_another_decoder_of_the_same_tokens_may_decode(lm: str, vq_folder: Path, tmp_path: Path) -> None:
    other = load_tokenizer(vq_folder)
    other.compatible_tokenizers = (fingerprint(other),)
    with torch.no_grad():
        other.decoder.to_image.bias.add_(0.1)
    other.save_pretrained(tmp_path)
    plain, changed = (load_generator(lm, tokenizer=name).sample(["cat"], seed=1) for name in (vq_folder, tmp_path))
    assert not torch.equal(plain, changed)
    OmniTokenizer.from_config(other.config).save_pretrained(tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="was trained on the tokenizer"):
        load_generator(lm, tokenizer=tmp_path / "foreign")


def test_pictures_of_each_class_and_their_rows(lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (lm, "--labels", "big dog", "0", "--count", "2", "-o", tmp_path, "--json", "--seed", "3")
    assert generate(*command) == 0
    rows = json.loads(capsys.readouterr().out)
    names = ["000000-big_dog.png", "000001-cat.png", "000002-big_dog.png", "000003-cat.png"]
    assert [Path(row["output"]).name for row in rows] == names
    assert [row["label"] for row in rows] == ["big dog", "cat", "big dog", "cat"]
    assert all(row["seed"] == 3 and row["seconds"] > 0 for row in rows)
    expected = load_generator(lm).sample([1, 0, 1, 0], seed=3)
    found = torch.stack([read_image(tmp_path / name) for name in names])
    assert (found - expected.clamp(-1, 1)).abs().max() <= 1 / 127.5


def test_samples_of_texts(conditioned: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (conditioned["text"], "--text", "a red dress", "étoile", "--count", "2", "--seed", "3")
    assert generate(*command, "-o", tmp_path / "a", "--json", "--grid") == 0
    rows = json.loads(capsys.readouterr().out)
    names = ["000000-a_red_dress.png", "000001-étoile.png", "000002-a_red_dress.png", "000003-étoile.png"]
    assert [Path(row["output"]).name for row in rows] == names
    assert [row["text"] for row in rows] == ["a red dress", "étoile"] * 2
    assert json.loads((tmp_path / "a" / "generate.json").read_text())["texts"] == ["a red dress", "étoile"]
    generator = load_generator(conditioned["text"])
    expected = generator.sample(["a red dress", "étoile"] * 2, seed=3)
    found = torch.stack([read_image(tmp_path / "a" / name) for name in names])
    assert (found - expected.clamp(-1, 1)).abs().max() <= 1 / 127.5
    assert generate(*command, "--negative", "grass", "-o", tmp_path / "a") == 1  # made with other settings
    assert generate(*command, "--negative", "grass", "-o", tmp_path / "b") == 0
    other = torch.stack([read_image(tmp_path / "b" / name) for name in names])
    expected = generator.sample(["a red dress", "étoile"] * 2, seed=3, negative="grass")
    assert (other - expected.clamp(-1, 1)).abs().max() <= 1 / 127.5
    assert not torch.equal(other, found)


def test_samples_of_embeddings(conditioned: dict[str, str], tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    np.save(tmp_path / "one.npy", embeddings)
    assert generate(conditioned["embeddings"], "--embeddings", tmp_path / "one.npy", "-o", tmp_path / "a") == 0
    expected = load_generator(conditioned["embeddings"]).sample([torch.from_numpy(embeddings)])
    found = read_image(tmp_path / "a" / "000000-one.png")
    assert (found - expected[0].clamp(-1, 1)).abs().max() <= 1 / 127.5


@pytest.mark.parametrize(
    "kind, options, code, said",
    [
        ("text", ["--labels", "cat"], 2, "--labels: this model has no classes; it takes --text"),
        ("text", ["--text", "x" * 21], 2, "--text: a text may have 20 bytes for this model, found 21"),
        ("text", ["--embeddings", "wide.npy"], 2, "--embeddings: this model has no embeddings; it takes --text"),
        ("embeddings", ["--embeddings", "wide.npy"], 2, "embeddings must be (n, 3) for this model, found (2, 5)"),
        ("embeddings", ["--embeddings", "text.npy"], 1, "text.npy"),
        ("embeddings", ["--embeddings", "nan.npy"], 1, "nan.npy: holds values that are not finite"),
        ("embeddings", ["--negative", "x"], 2, "--negative: this model takes embeddings"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(
    kind: str,
    options: list[str],
    code: int,
    said: str,
    conditioned: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.zeros((2, 5)))
    np.save("nan.npy", np.full((2, 3), np.nan))
    Path("text.npy").write_text("no array")
    assert generate(conditioned[kind], *options, "-o", "out") == code
    assert said in capsys.readouterr().err


def test_an_interrupted_set_is_completed_and_parts_equal_the_whole(lm: str, tmp_path: Path) -> None:
    command = (lm, "--labels", "all", "--count", "3")
    assert generate(*command, "-o", tmp_path / "whole", "--batch-size", "4") == 0
    for part in ("1/2", "0/2"):
        assert generate(*command, "-o", tmp_path / "parts", "--shard", part, "--npz", "--grid") == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("0*.png")}
    assert len(whole) == 6
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").glob("0*.png")} == whole
    with np.load(tmp_path / "parts" / "samples.npz") as stored:
        pictures = stored["arr_0"]
    assert pictures.dtype == np.uint8
    assert pictures.shape == (6, 16, 16, 3)
    last = read_image(tmp_path / "whole" / "000005-big_dog.png")
    assert (torch.from_numpy(pictures[5]).permute(2, 0, 1) / 127.5 - 1 - last).abs().max() < 1e-6
    assert read_image(tmp_path / "parts" / "grid.png").shape == (3, 32, 48)
    (tmp_path / "whole" / "000002-cat.png").unlink()
    kept = (tmp_path / "whole" / "000001-big_dog.png").stat().st_mtime_ns
    assert generate(*command, "-o", tmp_path / "whole") == 0
    assert (tmp_path / "whole" / "000002-cat.png").read_bytes() == whole["000002-cat.png"]
    assert (tmp_path / "whole" / "000001-big_dog.png").stat().st_mtime_ns == kept
    assert generate(*command, "-o", tmp_path / "whole", "--guidance", "3") == 1  # other samples


@pytest.mark.slow
def test_torchrun_completes_an_interrupted_set_with_exact_counts(lm: str, tmp_path: Path) -> None:
    """Seven samples a class by two processes, of which three were there: the same files as by one, and one .npz."""
    command = (lm, "--labels", "all", "--count", "7")
    assert generate(*command, "-o", tmp_path / "one", "--batch-size", "4") == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "one").glob("0*.png")}
    out = tmp_path / "two"
    assert generate(*command, "-o", out) == 0
    kept = {name: (out / name).stat().st_mtime_ns for name in sorted(whole)[:3]}
    for name in whole.keys() - kept.keys():
        (out / name).unlink()
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = ["-m", "omnitok", "generate", *command, "-o", str(out), "--device", "cpu", "--npz", "--batch-size", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(omnitok.__file__).parents[1])}
    subprocess.run([sys.executable, *run, *line], env=environment, capture_output=True, check=True, timeout=TIMEOUT)
    assert {path.name: path.read_bytes() for path in out.glob("0*.png")} == whole
    assert Counter(name.split("-")[1] for name in whole) == {"cat.png": 7, "big_dog.png": 7}
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    with np.load(out / "samples.npz") as stored:
        assert stored["arr_0"].shape == (14, 16, 16, 3)
    assert not [path for path in out.iterdir() if path.suffix not in (".png", ".npz", ".json")]


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_clips_short_and_long(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = request.getfixturevalue(kind)
    for frames in (FRAMES, 13):
        out = tmp_path / str(frames)
        assert generate(model, "--labels", "cat", "--frames", frames, "--grid", "-o", out) == 0
        assert read_video(out / "000000-cat.mp4").shape == (3, frames, 16, 16)
        assert read_video(out / "grid.mp4").shape[1] == frames


@pytest.mark.parametrize("kind", ["lm", "dit"])
@pytest.mark.parametrize("frames", [None, 11])
def test_a_clip_is_continued_and_its_frames_marked(
    kind: str, frames: int | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    write_video(tmp_path / "clip.mp4", moving_gradient(8, 24, 16), fps=6.0)
    out = tmp_path / "out.mp4"
    more = () if frames is None else ("--frames", str(frames))
    model = request.getfixturevalue(kind)
    assert generate(model, "--video", tmp_path / "clip.mp4", "--given", "3", "--mark", *more, "-o", out) == 0
    clip = read_video(out)
    assert clip.shape == (3, frames or FRAMES, 16, 16)
    red, other = clip[:, :3, :, 0].mean(dim=(1, 2)), clip[:, 3:, :, 0].mean(dim=(1, 2))
    assert red[0] - max(red[1], red[2]) > 1.2
    assert other[0] - max(other[1], other[2]) < 0.8


def test_of_an_image_one_frame_is_marked(lm: str, tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", torch.zeros(3, 16, 16))
    generator = load_generator(lm)
    made = work.continuation(generator, tmp_path / "image.png", 3, FRAMES, mark=True).draw([None], seed=1)
    plain = generator.sample(num_frames=FRAMES, prompt_frames=read_image(tmp_path / "image.png")[None], seed=1)
    same = (torch.cat([*made], dim=2) - plain).abs().amax(dim=(0, 1, 3, 4)) < 0.01
    assert same.tolist() == [False] + [True] * (FRAMES - 1)


@pytest.mark.parametrize(
    "kind, options, code, said",
    [
        ("lm", "--steps 3", 2, "--steps is not for"),
        ("lm", "--sampler euler", 2, "--sampler is not for"),
        ("dit", "--top-k 3", 2, "--top-k is not for"),
        ("dit", "--temperature 0.5", 2, "--temperature is not for"),
        ("lm", "--labels 2", 2, "a class is a number from 0 to 1, or one of cat, big dog"),
        ("lm", "--labels horse", 2, "found 'horse'"),
        ("lm", "--count 0", 2, "--count must be at least 1"),
        ("lm", "--mark", 2, "--mark is for --video"),
        ("dit", "--guidance-interval 0.6 0.2", 2, "--guidance-interval must be two fractions in order, found 0.6 0.2"),
        ("lm", "--frames 5 --npz", 2, "--npz is for images"),
        ("lm", "--shard 2/2", 2, "--shard must be I/N"),
        ("dit", "--sampler ddpm", 1, "ddpm"),
        ("lm", "--text cat", 2, "--text: this model has no text; it takes --labels"),
        ("lm", "--labels cat --negative cow", 2, "--negative: found 'cow'"),
        ("lm", "--labels cat --negative all", 2, "--negative: guidance leads away from one class, found 'all'"),
        ("lm", "--video missing.mp4", 1, "missing.mp4"),
        ("lm", "--tokenizer omnitok-tiny-vq", 1, "was trained on the tokenizer"),
    ],
)
def test_what_makes_no_sense_is_refused(
    kind: str,
    options: str,
    code: int,
    said: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert generate(request.getfixturevalue(kind), *options.split(), "-o", tmp_path) == code
    error = capsys.readouterr().err
    assert said in error
    assert "internal error" not in error


def test_a_tokenizer_is_no_generator(vq_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(vq_folder) == 1
    assert "'OmniTokenizer'" in capsys.readouterr().err


def test_generators_are_listed(lm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(names, "BUNDLED_FOLDER", Path(lm).parent)
    assert main(["models", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["name"], row["kind"], row["bottleneck"]) == ("lm", "language model", None)
    assert row["parameters"] > 1000
    assert main(["models"]) == 0
    assert "language model" in capsys.readouterr().out


def test_a_grid_is_no_sample(lm: str, tmp_path: Path) -> None:
    assert generate(lm, "--labels", "all", "--count", "2", "--grid", "--npz", "-o", tmp_path) == 0
    assert (tmp_path / "grid.png").exists()
    assert [path.name for path in list_media(tmp_path)] == [path.name for path in sorted(tmp_path.glob("0*.png"))]
    (tmp_path / "generate.json").unlink()
    assert len(list_media(tmp_path)) == 5  # any folder of images


def test_two_runs_in_one_folder(lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock_folder(tmp_path, "omnitok generate"):
        assert generate(lm, "--seed", "1", "-o", tmp_path) == 1
    error = capsys.readouterr().err
    assert "is writing to this folder" in error
    assert f"process {os.getpid()}" in error
    assert generate(lm, "--seed", "1", "-o", tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.png", "generate.json"]


def test_defaults_that_are_named_are_no_other_settings(dit: str, tmp_path: Path) -> None:
    assert generate(dit, "--sampler", "heun", "-o", tmp_path) == 0
    again = load_generator(dit).options({"sampler": "heun", "steps": 25}, False).chosen()
    noted = json.loads((tmp_path / "generate.json").read_text())
    assert noted.items() >= again.items()
    assert generate(dit, "--sampler", "heun", "--steps", "25", "--count", "2", "-o", tmp_path) == 0
    assert generate(dit, "--sampler", "heun", "--steps", "24", "--count", "2", "-o", tmp_path) == 1


def test_parts_with_different_seeds_that_begin_at_once(tmp_path: Path) -> None:
    """Parts share a folder and hold no lock: the first note counts."""
    outcomes = list[str]()
    barrier = threading.Barrier(8)

    def begin(seed: int) -> None:
        barrier.wait()
        try:
            sample_folder._note(tmp_path, {"seed": seed})
            outcomes.append("done")
        except OmnitokError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("done") == 1
    assert sum("holds samples made with seed" in outcome for outcome in outcomes) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["generate.json"]


@pytest.mark.parametrize("kind, block", [("lm", CodeBlock), ("dit", DiffusionBlock)])
def test_the_walk_to_the_first_block_is_short(
    kind: str, block: type, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = list[list[str]]()
    forward = block.forward

    def count(self: Any, *args: Any) -> Any:
        source = str(Path(omnitok.__file__).parent)
        walks.append([f.name for f in traceback.extract_stack() if f.filename.startswith(source)])
        return forward(self, *args)

    monkeypatch.setattr(block, "forward", count)
    assert generate(request.getfixturevalue(kind), "--labels", "cat", "-o", tmp_path) == 0
    assert walks[0][:3] == ["main", "run", "sample"]
    assert len(walks[0]) <= 6


def test_given_files_are_filled_widened_and_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, mask, hole = torch.rand(3, 64, 64) * 2 - 1, torch.full((3, 64, 64), -1.0), slice(16, 40)
    mask[:, hole, hole] = 1
    for name, pixels in (("a.png", image), ("b.png", image.flip(2)), ("mask.png", mask), ("small.png", mask[:, :32])):
        omnitok.data.write_image(tmp_path / name, pixels)
    omnitok.data.write_image(tmp_path / "empty.png", torch.full((3, 64, 64), -1.0))

    def run(*arguments: str) -> int:
        given = [str(tmp_path / a) if a.endswith(".png") else a for a in arguments]
        return main(["generate", "omnitok-tiny-mask", "--steps", "2", "-o", str(tmp_path / "out"), *given])

    assert run("--inpaint", "a.png", "--mask", "mask.png", "--labels", "apple") == 0
    (written,) = (tmp_path / "out").glob("*.png")
    kept = mask < 0
    assert torch.equal(omnitok.data.read_image(written)[kept], omnitok.data.read_image(tmp_path / "a.png")[kept])
    assert run("--interpolate", "a.png", "b.png", "--frames", "9") == 0
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1
    capsys.readouterr()
    assert run("--inpaint", "a.png", "--mask", "small.png") == 1
    assert "64" in capsys.readouterr().err
    assert run("--inpaint", "a.png", "--mask", "empty.png") == 1
    assert run("--mask", "mask.png") == 2
