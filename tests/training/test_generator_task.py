"""Whole trainings of generators: resuming bit for bit, learning by heart, what lies in OUT, what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.processes import kill_at
from helpers.runs import assert_same_run, rows
from helpers.training import ALONE, resolved, train
from omnitok import load_generator
from omnitok.cli import main
from omnitok.errors import OmnitokError
from omnitok.hub.architectures import build
from omnitok.hub.folder import load_generator_model, load_tokenizer
from omnitok.models.bottlenecks import LFQConfig
from omnitok.models.code_sequence import MaskedModelConfig
from omnitok.models.protocol import fingerprint
from omnitok.models.sampling import narrow
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import AnyGeneratorConfig, DataConfig, MaskedModelTrainConfig, OptimizerConfig
from omnitok.training.data import open_shards
from omnitok.training.settings import apply_settings, read_config
from omnitok.training.stopping import Limits
from omnitok.training.tasks.generator_objectives import OBJECTIVES, draw_batch

from .conftest import SMALL

Configs = dict[str, AnyGeneratorConfig]


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_stopped_and_resumed_equals_uninterrupted(generator_configs: Configs, tmp_path: Path, kind: str) -> None:
    config = generator_configs[kind]
    train(config, tmp_path / "whole")
    stopped = train(config, tmp_path / "parts", limits=Limits(max_steps=3))
    assert (stopped.steps, stopped.reason) == (3, "max steps")
    written = read_config(tmp_path / "parts" / "config.yaml")  # resolved: the recipe and its file are one run
    assert train(written, tmp_path / "parts", resume=True).reason == "finished"
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)
    assert {row["modality"] for row in rows(tmp_path / "whole")} == {"image", "video"}


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_killed_and_resumed_equals_uninterrupted(generator_configs: Configs, tmp_path: Path, kind: str) -> None:
    config = replace(generator_configs[kind], steps=40, checkpoint_every=4)  # killed while writing, as likely as not
    train(config, tmp_path / "whole")
    out = tmp_path / "killed"
    kill_at(13, lambda progress: train(config, out, progress=lambda done, _: progress(done)))
    assert train(config, out, resume=True).steps == 40
    assert_same_run(tmp_path / "whole", out, 40)
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_the_folder_says_all_that_sampling_needs(generator_configs: Configs, tmp_path: Path, kind: str) -> None:
    config = generator_configs[kind]
    result = train(config, tmp_path, limits=Limits(max_steps=1))
    trained = load_generator_model(result.model)
    assert trained.settings.classes == ("a", "b", "c")
    assert trained.model.config.num_classes == 3
    assert trained.settings.tokenizer == config.tokenizer
    assert trained.settings.tokenizer_sha256 == fingerprint(load_tokenizer(str(config.tokenizer)))
    assert (trained.settings.height, trained.settings.width, trained.settings.num_frames) == (16, 16, 5)
    assert narrow(trained.settings.sampling, type(config.sampling)) == config.sampling
    assert "tflops" in result.last_row
    assert (result.model / "README.md").is_file()


@pytest.mark.parametrize("kind", ["lm", "dit"])
def test_eight_pictures_are_learnt_by_heart(generator_configs: Configs, tmp_path: Path, kind: str) -> None:
    config = generator_configs[kind]
    config = replace(
        apply_settings(config, ["model.dropout=0"]) if kind == "lm" else config,
        data=replace(config.data, videos=(), image_batch=8),
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=5),
        label_dropout=0.0,
        steps=50,
    )
    train(config, tmp_path)
    losses = [row["loss"] for row in rows(tmp_path)]
    if kind == "lm":
        floor = math.log(4) / 4  # which of the four pictures of its class it is, told by the first of four codes
        assert floor - 1e-3 < losses[-1] < floor + 0.1
    else:
        assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_classes_of_both_media_are_one_list(generator_configs: Configs) -> None:
    ready = resolved(generator_configs["lm"])
    batches = list(ready.batches(0, 8))
    assert ready.data.classes == ("a", "b", "c")
    images = {int(n) for batch in batches if batch.modality == "image" for n in batch.labels}
    videos = {int(n) for batch in batches if batch.modality == "video" for n in batch.labels}
    assert images == {0, 1}
    assert videos == {1, 2}


def test_latents_need_no_posterior(generator_configs: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many autoencoders of other projects have latents without a variance; it used to fail."""
    task = resolved(generator_configs["dit"])
    expected = next(iter(task.batches(0, 1))).inputs
    encode = task.tokenizer.encode
    monkeypatch.setattr(task.tokenizer, "encode", lambda *given, **how: replace(encode(*given, **how), posterior=None))
    inputs = next(iter(task.batches(0, 1))).inputs
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, expected)


def test_a_model_without_classes_or_condition_is_previewed(generator_configs: Configs, tmp_path: Path) -> None:
    config = replace(generator_configs["lm"], class_conditional=False, steps=1)
    result = train(replace(config, log=replace(config.log, images_every=1, images=2)), tmp_path)
    assert result.reason == "finished"
    assert sorted(path.suffix for path in (tmp_path / "previews").iterdir()) == [".mp4", ".png"]


def test_labels_can_be_left_out(generator_configs: Configs) -> None:
    config = apply_settings(generator_configs["lm"], ["sampling.guidance_scale=3", "class_conditional=false"])
    ready = resolved(config)
    assert ready.settings.sampling.guidance_scale == 1, "a model without classes cannot be guided"
    assert ready.config.model.num_classes == 0
    assert ready.settings.classes == ()
    assert all((batch.labels == -1).all() for batch in ready.batches(0, 2))


def test_what_cannot_be_trained_is_said_in_a_sentence(
    generator_configs: Configs, tokenizers: dict[str, str], media: Path, tmp_path: Path
) -> None:
    config = generator_configs["lm"]
    with pytest.raises(OmnitokError, match="nothing to train on"):
        resolved(replace(config, data=DataConfig()))
    with pytest.raises(OmnitokError, match="but not both"):
        resolved(replace(config, shards=(str(media),)))
    with pytest.raises(OmnitokError, match="pixels need a tokenizer"):
        resolved(replace(config, tokenizer=None))
    with pytest.raises(OmnitokError, match="learns codes, found latents"):
        resolved(replace(config, tokenizer=tokenizers["kl"]))
    with pytest.raises(OmnitokError, match="num_classes is 2, but the data have 3"):
        resolved(apply_settings(config, ["model.num_classes=2"]))
    with pytest.raises(OmnitokError, match=r"model.temporal=true"):
        resolved(apply_settings(generator_configs["dit"], ["model.temporal=false"]))
    train(config, tmp_path, limits=Limits(max_steps=1))
    with pytest.raises(OmnitokError, match=r"optimizer.lr=0.01, found 0.1"):
        train(apply_settings(config, ["optimizer.lr=0.1"]), tmp_path, resume=True)


@pytest.fixture(scope="module", params=["lm", "dit"])
def sharded(
    request: pytest.FixtureRequest,
    labelled_media: Path,
    tokenizers: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, tuple[str, ...]]:
    """A kind of generator, and shards of the labelled media for it."""
    out = tmp_path_factory.mktemp("shards")
    model = tokenizers["vq" if request.param == "lm" else "kl"]
    for medium in ("images", "videos"):
        options = (
            f"--labels folders --resolution 16 --frames 5 --workers 0 --device cpu --model {model} -o {out / medium}"
        )
        assert main(["tokenize", str(labelled_media / medium), *options.split()]) == 0
    return request.param, (str(out / "images"), str(out / "videos"))


def test_the_same_tokens_give_the_same_loss_from_shards_and_from_pixels(
    sharded: tuple[str, tuple[str, ...]], generator_configs: Configs
) -> None:
    kind, shards = sharded
    config = replace(
        generator_configs[kind], label_dropout=0.0, data=replace(generator_configs[kind].data, image_batch=8)
    )
    pixels = resolved(replace(config, data=replace(config.data, videos=())))
    stored = resolved(
        replace(config, shards=shards[:1], data=replace(config.data, images=(), videos=()), tokenizer=None)
    )
    assert stored.config.model == pixels.config.model
    assert stored.settings == replace(pixels.settings, num_frames=stored.settings.num_frames)
    encoded, read = next(iter(pixels.batches(0, 1))), next(iter(stored.batches(0, 1)))
    assert encoded.pixel_shape == read.pixel_shape == (8, 3, 16, 16)
    order, other = (np.lexsort(batch.inputs.flatten(1).numpy().round(2).T) for batch in (encoded, read))
    assert torch.equal(encoded.labels[order], read.labels[other])
    torch.manual_seed(0)
    config = stored.config
    objective = OBJECTIVES[type(config)](config, build(config.model), stored.tokenizer.latent_statistics).eval()
    losses = []
    for batch, chosen in ((encoded, order), (read, other)):
        batch = replace(batch, inputs=batch.inputs[chosen], labels=batch.labels[chosen])
        draws = draw_batch(objective, batch, config, ALONE)
        losses.append(float(objective(batch.inputs, batch.labels, *draws)["loss"].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6 if kind == "lm" else 1e-3)  # latents are stored as float16


def test_training_on_shards_of_both_media_with_held_out_losses(
    sharded: tuple[str, tuple[str, ...]], generator_configs: Configs, tmp_path: Path
) -> None:
    kind, shards = sharded
    config = generator_configs[kind]
    config = replace(
        config,
        tokenizer=None,
        shards=shards,
        validation_shards=shards[1:],
        data=replace(config.data, images=(), videos=(), video_share=0.5),
    )
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", limits=Limits(max_steps=2))
    result = train(config, tmp_path / "parts", resume=True)
    stopped = [row for row in rows(tmp_path / "parts") if (row["step"], row.get("event")) != (2, "validation")]
    assert rows(tmp_path / "whole") == stopped
    assert result.validation.keys() == {"video_loss"}
    assert load_generator_model(result.model).settings.classes == ("a", "b", "c")
    assert load_generator_model(result.model).settings.num_frames == 5


def test_shards_of_another_tokenizer_are_refused_with_both_names(
    sharded: tuple[str, tuple[str, ...]], generator_configs: Configs, tokenizers: dict[str, str]
) -> None:
    kind, shards = sharded
    config = generator_configs[kind]
    other = tokenizers["kl" if kind == "lm" else "vq"]
    data = replace(config.data, images=(), videos=())
    with pytest.raises(OmnitokError, match=f"of the tokenizer '.*', not of '{other}'|{other}"):
        resolved(replace(config, shards=shards, tokenizer=other, data=data))


def test_shards_from_before_and_after_the_decoder_was_trained_on_are_read_together(
    labelled_media: Path, tokenizers: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = load_tokenizer(tokenizers["vq"])
    new = OmniTokenizer.from_config(old.config).eval()
    new.compatible_tokenizers = (fingerprint(old),)
    new.load_state_dict(old.state_dict())
    with torch.no_grad():
        next(new.decoder.parameters()).mul_(1.5)
    new.save_pretrained(tmp_path / "new")
    options = ["--resolution", "16", "--workers", "0", "--device", "cpu"]
    for name, model in (("of-old", tokenizers["vq"]), ("of-new", str(tmp_path / "new"))):
        command = ["tokenize", str(labelled_media / "images"), "--model", model, "-o", str(tmp_path / name)]
        assert main([*command, *options]) == 0
    folders = [str(tmp_path / "of-old"), str(tmp_path / "of-new")]
    shards = open_shards(folders, new, "new")
    assert len(shards) == 16
    assert torch.equal(shards[0].codes, shards[8].codes)
    with pytest.raises(OmnitokError, match="not of"):
        open_shards(folders, old, "old")  # does not know of the new one
    capsys.readouterr()
    inspect = ["tokenize", "--inspect", *folders, "-o", str(tmp_path / "grid.png"), "--device", "cpu", "--json"]
    assert main(inspect) == 1  # the old one, whose name the first folder has, does not either
    assert "its tokens are of the tokenizer" in capsys.readouterr().err
    assert main([*inspect, "--model", str(tmp_path / "new")]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 16


def test_many_codes_made_of_digits_are_learnt_by_these(
    generator_configs: Configs, labelled_media: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    OmniTokenizer.from_config(replace(SMALL, bottleneck=LFQConfig(bits=16))).save_pretrained(tmp_path / "lfq")
    lm = generator_configs["lm"]
    config = MaskedModelTrainConfig(
        name="mask", model=MaskedModelConfig(width=32, depth=1, heads=2), tokenizer=str(tmp_path / "lfq"),
        data=lm.data, optimizer=lm.optimizer, engine=lm.engine, log=lm.log, steps=2, start_from_codebook=True,
    )  # fmt: skip
    trained = train(config, tmp_path / "run")
    model = load_generator_model(trained.model).model
    assert (model.config.codebook_size, model.config.code_factors) == (65536, (256, 256))
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    assert load_generator(trained.model).sample(["a"], num_frames=5).shape == (1, 3, 5, 16, 16)
    train(replace(config, init=str(trained.model)), tmp_path / "again", limits=Limits(max_steps=1))
    with pytest.raises(OmnitokError, match="knows 256 x 256 codes, and the tokens have 32"):
        train(replace(config, init=str(trained.model), tokenizer=lm.tokenizer), tmp_path / "refused")
