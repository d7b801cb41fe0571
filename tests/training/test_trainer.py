"""A whole run: resuming bit for bit, stopping, what lies in OUT, what is refused."""

import importlib.util
import json
import math
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import omnitok
from helpers.processes import full_disk, kill_at
from helpers.runs import assert_same_run, rows
from helpers.training import ALONE, learn, train
from omnitok.data.image import read_image
from omnitok.data.loader import Batch
from omnitok.data.video_reader import read_video
from omnitok.errors import CheckpointError, MissingExtraError, OmnitokError
from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.models.bottlenecks import VectorQuantizer
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.models.transformer import Block
from omnitok.training.config import AdversarialConfig, InitConfig, TrainConfig, ValidationConfig
from omnitok.training.data import build_dataset
from omnitok.training.settings import read_config
from omnitok.training.stopping import Limits
from omnitok.training.transfer import initial_tokenizer


@pytest.fixture
def full_config(small_config: TrainConfig) -> TrainConfig:
    """With discriminators, so that there is everything to resume."""
    critic = DiscriminatorConfig(channels=4, layers=1, norm="spectral")
    return replace(
        small_config,
        weights={"l1": 1.0, "commitment": 0.25, "image_gan": 0.1, "video_gan": 0.1, "lecam": 0.1},
        adversarial=AdversarialConfig(image=critic, video=critic),
    )


def test_stopped_and_resumed_equals_uninterrupted(full_config: TrainConfig, tmp_path: Path) -> None:
    train(full_config, tmp_path / "whole")
    stopped = train(full_config, tmp_path / "parts", limits=Limits(max_steps=3))
    assert (stopped.steps, stopped.reason) == (3, "max steps")
    assert train(full_config, tmp_path / "parts", resume=True).reason == "finished"
    assert_same_run(tmp_path / "whole", tmp_path / "parts", full_config.steps)


def test_killed_and_resumed_equals_uninterrupted(full_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(full_config, steps=60, checkpoint_every=4)  # killed while writing, as likely as not
    train(config, tmp_path / "whole")
    out = tmp_path / "killed"
    kill_at(13, lambda progress: train(config, out, progress=lambda done, _: progress(done)))
    result = train(config, out, resume=True)
    assert result.steps == 60
    assert_same_run(tmp_path / "whole", out, 60)
    assert not list((out / "checkpoints").glob(".*"))


def test_a_signal_ends_with_a_checkpoint_and_the_model(full_config: TrainConfig, tmp_path: Path) -> None:
    def interrupt(step: int, line: str | None) -> None:
        if step == 4 and line is None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    result = train(full_config, tmp_path, progress=interrupt)
    assert (result.steps, result.reason) == (4, "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "checkpoints" / "step-000000004").is_dir()
    OmniTokenizer.from_pretrained(result.model)


def test_the_time_limit_ends_with_a_checkpoint(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(small_config, steps=100_000, checkpoint_every=100_000)
    began = time.monotonic()
    result = train(config, tmp_path, limits=Limits(time_limit=0.02))
    assert result.reason == "time limit"
    assert 0 < result.steps < 100_000
    assert time.monotonic() - began < 60
    assert (tmp_path / "checkpoints" / f"step-{result.steps:09d}").is_dir()


def test_six_frames_lead_from_fit_to_the_first_block(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `main` and `run` of the command line: the eight that a newcomer has to read."""
    package = str(Path(omnitok.__file__).parent)
    walks: list[list[str]] = []

    def look(self: Block, *args: Any) -> None:
        walks.append([frame.name for frame in traceback.extract_stack() if frame.filename.startswith(package)])
        raise OmnitokError("seen")

    monkeypatch.setattr(Block, "forward", look)
    with pytest.raises(OmnitokError, match="seen"):
        train(small_config, tmp_path)
    assert walks[0][0] == "fit"
    assert len(walks[0]) <= 6


def test_what_lies_in_out(small_config: TrainConfig, tmp_path: Path, media: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    data = replace(small_config.data, images=(*small_config.data.images, str(broken)))
    config = replace(small_config, data=data, log=replace(small_config.log, images_every=4, images=2))
    validation = ValidationConfig(images=small_config.data.images, samples=2, image_resolution=16)
    config = replace(config, validation=validation)
    lines: list[str] = []
    result = train(config, tmp_path / "out", progress=lambda done, line: lines.append(line) if line else None)
    out = tmp_path / "out"
    assert read_config(out / "config.yaml") == replace(config, held_out=0.0)  # validation files are named
    grids = sorted(path.name for path in (out / "previews").iterdir())
    assert grids == [f"step-00000000{n}-{kind}" for n in (4, 8) for kind in ("image.png", "video.mp4")]
    assert read_image(out / "previews" / grids[0]).shape[-1] == 2 * 24 or 2 * 32
    assert read_video(out / "previews" / grids[1]).shape[1] == 5
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {"psnr", "l1", "grad_norm", "codebook_usage", "frames_per_second", "tflops", "skipped"} <= set(logged[0])
    assert logged[-1]["event"] == "validation"
    assert logged[-1]["image_psnr"] == result.validation["image_psnr"] > 0
    assert re.fullmatch(r"step 8/8 video: loss \S+, lr \S+, \S+ steps/s, 0 s left", lines[-1])
    with Image.open(out / "curves.png") as curves:
        assert len(curves.getcolors(10**6) or ()) > 3
    assert [row["modality"] for row in logged[:4]] == ["image", "video", "image", "video"]
    assert (out / "unreadable.txt").read_text().startswith(str(broken))
    assert not list(out.glob(".*"))  # neither locks nor half-written files
    assert json.loads((out / "model" / "config.json").read_text())["width"] == config.model.width


def test_the_model_is_there_from_the_first_checkpoint_on(small_config: TrainConfig, tmp_path: Path) -> None:
    seen = []

    def look(step: int, line: str | None) -> None:
        if line is None and (tmp_path / "model" / "model.safetensors").exists():
            seen.append(step)

    train(replace(small_config, checkpoint_every=3), tmp_path, progress=look)
    assert seen == [4, 5, 6, 7, 8]


def test_rows_after_the_checkpoint_are_written_once(small_config: TrainConfig, tmp_path: Path) -> None:
    train(small_config, tmp_path, limits=Limits(max_steps=3))
    with (tmp_path / "log.jsonl").open("a") as log:  # as a process leaves it that is killed between checkpoints
        log.write('{"step": 3, "medium": "video"}\n{"step": 4, "medium": "video"}\n{"step": 5, "med')
    train(small_config, tmp_path, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, *range(3, 9)]
    assert all(row["modality"] in ("image", "video") for row in rows(tmp_path))  # its older name is read too


def test_loading_processes_give_the_same(small_config: TrainConfig, tmp_path: Path) -> None:
    train(small_config, tmp_path / "none")
    train(replace(small_config, data=replace(small_config.data, workers=2)), tmp_path / "two")
    assert rows(tmp_path / "none") == rows(tmp_path / "two")


def test_a_vae_gets_its_latent_statistics(small_config: TrainConfig, tmp_path: Path) -> None:
    stage2 = train(replace(small_config, steps=2), tmp_path / "vq").model
    config = replace(
        small_config,
        steps=2,
        model=replace(small_config.model, bottleneck="kl"),
        weights={"l1": 1.0, "kl": 1e-6},
        init=InitConfig(str(stage2)),
    )
    tokenizer = OmniTokenizer.from_pretrained(train(config, tmp_path / "vae").model)
    assert not tokenizer.is_discrete
    assert tokenizer.latent_statistics is not None
    assert len(tokenizer.latent_statistics.mean) == 8
    assert min(tokenizer.latent_statistics.std) > 0


def test_limits_of_blocks_are_measured_at_the_end_and_never_widened(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(small_config, steps=2, limit_room=1.5)
    first = OmniTokenizer.from_pretrained(train(config, tmp_path / "first").model)
    limits = first.config.block_limits
    assert limits is not None
    pixels = build_dataset(config.data, 1, config.seed, ALONE)[0].inputs
    free = OmniTokenizer.from_pretrained(tmp_path / "first" / "model")
    free.limit_blocks(None)
    # Nothing that was trained on is near its limit; pixels beyond 1.5 are bent, which is not seen.
    assert torch.equal(first(pixels).clamp(-1, 1), free(pixels).clamp(-1, 1))
    halved = tuple(limit / 2 for limit in limits)
    first.limit_blocks(halved)
    first.save_pretrained(tmp_path / "halved")
    again = replace(config, init=InitConfig(str(tmp_path / "halved"), freeze_encoder=True))
    second = OmniTokenizer.from_pretrained(train(again, tmp_path / "second").model)
    assert second.config.block_limits is not None
    of_encoder = len(first.config.encoder_blocks) + first.config.encoder_temporal_blocks
    assert second.config.block_limits[:of_encoder] == halved[:of_encoder]
    assert all(a <= b for a, b in zip(second.config.block_limits, halved, strict=True))


def test_init_keeps_the_weights_and_inflates(small_config: TrainConfig, tmp_path: Path) -> None:
    stage1 = train(replace(small_config, steps=1), tmp_path / "image").model
    first = OmniTokenizer.from_pretrained(stage1)
    plain = initial_tokenizer(replace(small_config, init=InitConfig(str(stage1))))
    for name, weight in first.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight), name
    inflated = initial_tokenizer(replace(small_config, init=InitConfig(str(stage1), inflate=True)))
    changed = {n for n, w in first.state_dict().items() if not torch.equal(inflated.state_dict()[n], w)}
    assert changed == {
        "encoder.embed_video.0.weight",
        "encoder.embed_video.0.bias",
        "decoder.to_video.weight",
        "decoder.to_video.bias",
    }


def test_how_the_codebook_learns_is_the_recipes(small_config: TrainConfig, tmp_path: Path) -> None:
    first = train(replace(small_config, steps=1), tmp_path / "first").model
    model = replace(small_config.model, codebook_decay=0.75, restart_threshold=0.0)
    tokenizer = initial_tokenizer(replace(small_config, model=model, init=InitConfig(str(first))))
    assert isinstance(tokenizer.bottleneck, VectorQuantizer)
    assert tokenizer.bottleneck.config == model.bottleneck
    assert tokenizer.config == replace(
        OmniTokenizer.from_pretrained(first).config, codebook_decay=0.75, restart_threshold=0.0
    )


def test_the_model_says_what_it_was_trained_on(small_config: TrainConfig, tmp_path: Path) -> None:
    def trained_on(config: TrainConfig, name: str, **options: Any) -> tuple[str, ...]:
        return OmniTokenizer.from_pretrained(train(config, tmp_path / name, **options).model).trained_on

    config = replace(small_config, steps=2)
    images = replace(config, data=replace(config.data, videos=()))
    videos = replace(config, data=replace(config.data, images=()), init=InitConfig(str(tmp_path / "images/model")))
    assert trained_on(images, "images") == ("image",)
    assert trained_on(replace(config, data=replace(config.data, video_share=0.0)), "no videos") == ("image",)
    assert trained_on(videos, "both", limits=Limits(max_steps=1)) == ("image", "video")
    (tmp_path / "images").rename(tmp_path / "away")
    assert trained_on(videos, "both", resume=True) == ("image", "video")
    unknown = OmniTokenizer.from_config(config.model).save_pretrained(tmp_path / "unknown")
    assert trained_on(replace(images, init=InitConfig(str(unknown))), "further") == ()


def test_init_grows_to_the_depth_of_the_recipe(small_config: TrainConfig, tmp_path: Path) -> None:
    first = train(replace(small_config, steps=1), tmp_path / "first").model
    blocks = small_config.model.decoder_blocks
    model = replace(small_config.model, decoder_blocks=blocks + 2 * blocks[-1])
    config = replace(small_config, model=model, init=InitConfig(str(first), expand_depth=True), steps=2)
    after = OmniTokenizer.from_pretrained(train(config, tmp_path / "second").model)
    assert after.config.decoder_blocks == blocks + 2 * blocks[-1]
    assert after.decoder.spatial.blocks[-1].feedforward.project.weight.any()


@pytest.mark.parametrize("bottleneck", ("vq", "kl"))
def test_the_decoder_alone_can_be_trained_further(small_config: TrainConfig, tmp_path: Path, bottleneck: str) -> None:
    weights = {"l1": 1.0, "commitment": 0.25} if bottleneck == "vq" else {"l1": 1.0, "kl": 1e-4}
    config = replace(small_config, model=replace(small_config.model, bottleneck=bottleneck), weights=weights)
    first = train(config, tmp_path / "first").model
    config = replace(config, init=InitConfig(str(first), freeze_encoder=True))
    before = OmniTokenizer.from_pretrained(first)
    after = OmniTokenizer.from_pretrained(train(config, tmp_path / "second").model)
    assert after.config == before.config
    assert after.compatible_tokenizers == (fingerprint(before),)
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name for name in new if name.startswith("decoder.") and name.endswith("weight")} <= changed
    assert not any(name.startswith("encoder.") for name in changed)
    assert {name.split(".")[1] for name in changed if name.startswith("bottleneck.")} == {"project_out"}
    third = replace(config, init=InitConfig(str(tmp_path / "second" / "model"), freeze_encoder=True), steps=1)
    again = OmniTokenizer.from_pretrained(train(third, tmp_path / "third").model)
    assert again.compatible_tokenizers == (fingerprint(after), fingerprint(before))
    resumed = replace(config, steps=config.steps + 1)
    resumed = OmniTokenizer.from_pretrained(train(resumed, tmp_path / "second", resume=True).model)
    assert resumed.compatible_tokenizers == after.compatible_tokenizers
    assert resumed.latent_statistics == before.latent_statistics
    whole = replace(third, init=InitConfig(str(tmp_path / "second" / "model")))
    assert initial_tokenizer(whole).compatible_tokenizers == ()
    other = replace(
        config, model=replace(config.model, bottleneck="kl" if bottleneck == "vq" else "vq"), weights={"l1": 1}
    )
    with pytest.raises(OmnitokError, match="freeze_encoder keeps the bottleneck"):
        train(other, tmp_path / "fourth")


def test_an_encoder_that_learns_drawn_images_keeps_the_codes_of_files(
    small_config: TrainConfig, media: Path, tmp_path: Path
) -> None:
    first = train(replace(small_config, steps=20), tmp_path / "first").model
    before = OmniTokenizer.from_pretrained(first)
    bottleneck = {"type": "vq", "decay": 1.0, "restart_threshold": 0.0}
    config = replace(
        small_config,
        model=replace(small_config.model, bottleneck=bottleneck),
        data=replace(small_config.data, drawn=0.5, resolutions=(32,), image_policy="center_crop", flip=False),
        weights={"l1": 1.0, "commitment": 20.0},
        steps=20,
    )
    images = torch.stack([read_image(path, size=32) for path in sorted((media / "images").iterdir())])
    codes = before.encode(images).codes
    same = list[float]()
    for keeps in (True, False):
        changed = replace(config, init=InitConfig(str(first), keep_codes=str(first) if keeps else None))
        after = OmniTokenizer.from_pretrained(train(changed, tmp_path / f"second-{keeps}").model)
        assert torch.equal(after.bottleneck.codebook, before.bottleneck.codebook)
        assert not torch.equal(after.encoder.embed_image[-1].weight, before.encoder.embed_image[-1].weight)
        assert after.compatible_tokenizers == ((fingerprint(before),) if keeps else ())
        same.append((after.encode(images).codes == codes).float().mean().item())
    assert same[0] > same[1] + 0.1
    config = replace(config, init=InitConfig(str(first), keep_codes=str(first)))
    train(config, tmp_path / "parts", limits=Limits(max_steps=7))
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "second-True", tmp_path / "parts", config.steps)
    other = replace(config, model=replace(config.model, bottleneck="simvq"))
    with pytest.raises(OmnitokError, match=r"keep_codes: .* has the bottleneck 'vq' of 32 codes .* 'simvq' of 8192"):
        train(other, tmp_path / "third")


def test_a_resumed_stage_needs_its_first_model_no_more(small_config: TrainConfig, tmp_path: Path) -> None:
    stage1 = train(replace(small_config, steps=1), tmp_path / "image").model
    config = replace(small_config, init=InitConfig(str(stage1)))
    train(config, tmp_path / "out", limits=Limits(max_steps=2))
    (stage1 / "model.safetensors").unlink()
    assert train(config, tmp_path / "out", resume=True).steps == 8


# ------------------------------------------------------------------------------------------------------------- broken


def poisoned(config: TrainConfig, first: int) -> Callable[[Any], Iterator[Batch]]:
    """Batches of one image of noise, not finite from step `first` on."""

    def batches(task: Any) -> Iterator[Batch]:
        for step in range(task.start, config.steps):
            pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(step)) * 2 - 1
            pixels = pixels.fill_(math.nan) if step >= first else pixels
            yield Batch(step, "image", pixels, pixel_shape=(2, 3, 16, 16))

    return batches


def test_a_training_that_has_diverged_ends_and_the_good_model_stays(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(small_config, steps=60, checkpoint_every=2, max_skipped=5, keep_checkpoints=2)
    start = lambda task: setattr(task, "start", 0)  # noqa: E731
    learn(replace(config, steps=4), tmp_path / "good", poisoned(replace(config, steps=4), 99), start)
    with pytest.raises(OmnitokError) as failure:
        learn(config, tmp_path / "bad", poisoned(config, 6), start)
    told = str(failure.value)
    assert "ended at step 11: 5 steps in a row were skipped: a loss or a gradient is not finite" in told
    assert "the checkpoint of step 4 and its model are kept" in told  # that of step 6 was not seen to be good
    assert [path.name for path in (tmp_path / "bad" / "checkpoints").iterdir()] == ["step-000000004"]
    good, kept = (OmniTokenizer.from_pretrained(tmp_path / out / "model").state_dict() for out in ("good", "bad"))
    for name, weight in good.items():
        assert torch.isfinite(kept[name]).all()
        assert weight.shape == kept[name].shape


def test_a_game_that_diverges_at_once_ends_with_the_model_from_before_it(
    small_config: TrainConfig, tmp_path: Path
) -> None:
    """The checkpoint is older than the state of the discriminators' optimizer."""
    config = replace(
        small_config,
        weights={"l1": 1.0, "image_gan": 0.1},
        adversarial=AdversarialConfig(image=DiscriminatorConfig(channels=4, layers=1), start_step=4),
        **{"steps": 60, "checkpoint_every": 4, "max_skipped": 3},
    )
    start = lambda task: setattr(task, "start", 0)  # noqa: E731
    with pytest.raises(OmnitokError, match=r"3 steps in a row were skipped.*the checkpoint of step 4 and its model"):
        learn(config, tmp_path, poisoned(config, 5), start)


def test_an_error_beyond_float32_is_logged(small_config: TrainConfig, tmp_path: Path) -> None:
    def batches(task: Any) -> Iterator[Batch]:
        pixels = torch.zeros(2, 3, 16, 16)
        for step in range(3):
            task.model.decoder.to_image.bias.data.fill_(1e25 if step == 1 else 0)
            yield Batch(step, "image", pixels, pixel_shape=(2, 3, 16, 16))

    learn(replace(small_config, steps=3), tmp_path, batches)
    logged = [row for row in rows(tmp_path) if "lr" in row]
    assert [row["l2"] is None for row in logged] == [False, True, False]
    assert ["psnr" in row for row in logged] == [True, False, True]


def test_nothing_is_written_from_weights_that_are_not_finite(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(small_config, steps=3, checkpoint_every=1, optimizer=replace(small_config.optimizer, lr=1e-2))

    def batches(task: Any) -> Iterator[Batch]:
        pixels = torch.zeros(2, 3, 16, 16)
        yield Batch(0, "image", pixels, pixel_shape=(2, 3, 16, 16))
        yield Batch(1, "image", pixels, pixel_shape=(2, 3, 16, 16))
        task.model.decoder.to_video.weight.data.fill_(math.inf)  # which a batch of images does not use
        yield Batch(2, "image", pixels, pixel_shape=(2, 3, 16, 16))

    with pytest.raises(OmnitokError, match=r"the weights are not finite; the checkpoint of step 2 and its model"):
        learn(config, tmp_path, batches)
    for weight in OmniTokenizer.from_pretrained(tmp_path / "model").state_dict().values():
        assert torch.isfinite(weight).all()


def test_a_second_training_in_the_folder_is_refused(small_config: TrainConfig, tmp_path: Path) -> None:
    seen = []

    def second(done: int, line: str | None) -> None:
        if done == 3 and line is None:
            with pytest.raises(OmnitokError, match=rf"omnitok train \(process {os.getpid()} on .*is writing"):
                train(small_config, tmp_path, resume=True)
            seen.append(done)

    train(small_config, tmp_path, progress=second)
    assert seen == [3]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 9))


def test_a_damaged_log_does_not_stop_a_run(small_config: TrainConfig, tmp_path: Path) -> None:
    train(small_config, tmp_path, limits=Limits(max_steps=3))
    with (tmp_path / "log.jsonl").open("ab") as log:
        log.write(b'\xff\xfe bad bytes\n{"step": "x"}\n[1]\n' + b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n")
        log.write(b'{"step": -1}\n{"step": 2, "loss": 1e999, "l1": ' + b"9" * 400 + b"}\n" + b"x" * 2**21)
    train(small_config, tmp_path, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 2, *range(4, 9)]


# ------------------------------------------------------------------------------------------------------------ refused


def test_runs_are_not_overwritten_or_mixed(small_config: TrainConfig, tmp_path: Path) -> None:
    train(small_config, tmp_path, limits=Limits(max_steps=1))
    with pytest.raises(OmnitokError, match="holds a training at step 1; continue it with --resume"):
        train(small_config, tmp_path)
    with pytest.raises(OmnitokError, match="recipe 'test', which 'other' cannot resume"):
        train(replace(small_config, name="other"), tmp_path, resume=True)
    wider = replace(small_config, model=replace(small_config.model, width=48))
    with pytest.raises(OmnitokError, match=r"trained with model\.width=32, found 48"):
        train(wider, tmp_path, resume=True)
    with pytest.raises(OmnitokError, match="seed=0, found 1"):
        train(replace(small_config, seed=1), tmp_path, resume=True)
    with pytest.raises(OmnitokError, match=r"data\.frames=5, found 9"):
        train(replace(small_config, data=replace(small_config.data, frames=9)), tmp_path, resume=True)
    elsewhere = replace(small_config.perceptual, weights_dir=str(tmp_path))
    moved = replace(small_config, data=replace(small_config.data, workers=1), perceptual=elsewhere)
    assert train(replace(moved, steps=3, checkpoint_every=1), tmp_path, resume=True).steps == 3


def test_data_that_is_not_there(small_config: TrainConfig, tmp_path: Path) -> None:
    def with_data(**changes: object) -> TrainConfig:
        return replace(small_config, data=replace(small_config.data, **changes))

    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.txt").write_text("a.png\tcat\n")
    cases = {
        "nothing to train on": with_data(images=(), videos=()),
        "no such file": with_data(images=(str(tmp_path / "absent"),)),
        "there are no images": with_data(images=(str(tmp_path / "empty"),)),
        "label must be an integer": with_data(images=(str(tmp_path / "labels.txt"),)),
        "data.image_batch=3 cannot be shared evenly": replace(
            with_data(image_batch=3), optimizer=replace(small_config.optimizer, accumulation=2)
        ),
    }
    for told, config in cases.items():
        with pytest.raises(OmnitokError, match=told):
            train(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_unreadable_files_end_the_run_and_keep_the_checkpoint(
    small_config: TrainConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    good = sorted(Path(small_config.data.images[0]).iterdir())[0].read_bytes()
    for i in range(10):
        (folder / f"{i}.png").write_bytes(good if i < 5 else b"no picture")
    data = replace(small_config.data, images=(str(folder),), videos=())
    config = replace(small_config, data=data, steps=200, checkpoint_every=1)
    with pytest.raises(OmnitokError, match=r"could not be read, at most 5\.0% may fail"):
        train(config, tmp_path / "out")
    assert list((tmp_path / "out" / "checkpoints").glob("step-*"))


def test_a_full_disk_loses_no_checkpoint(small_config: TrainConfig, tmp_path: Path) -> None:
    train(small_config, tmp_path, limits=Limits(max_steps=2))
    with full_disk(50_000), pytest.raises(CheckpointError, match="File too large"):
        train(small_config, tmp_path, resume=True)
    assert train(small_config, tmp_path, resume=True).steps == 8


def test_tensorboard_is_an_extra(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(small_config, steps=1, log=replace(small_config.log, tensorboard=True))
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(MissingExtraError, match=r"pip install 'tensorboard'"):
            train(config, tmp_path)
    else:
        train(config, tmp_path)
        assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, while it loads its compiler
def test_compiled_blocks_learn_the_same(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(small_config, steps=2, data=replace(small_config.data, resolutions=(24,)))
    train(config, tmp_path / "plain")
    train(replace(config, engine=replace(config.engine, compile=True)), tmp_path / "compiled")
    for a, b in zip(rows(tmp_path / "plain"), rows(tmp_path / "compiled"), strict=True):
        assert b["l1"] == pytest.approx(a["l1"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
