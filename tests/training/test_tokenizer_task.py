"""One step: one forward, nothing learnt from what is not finite, accumulation, recomputation."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.training import built, learn
from omnitok.data.loader import Batch
from omnitok.errors import MissingWeightsError
from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.losses.perceptual import change_between_frames
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training.config import AdversarialConfig, EngineConfig, OptimizerConfig, PerceptualConfig, TrainConfig
from omnitok.training.seeds import step_seed
from omnitok.training.tasks import tokenizer as tokenizer_task
from omnitok.training.tasks.tokenizer import TokenizerTask

SMALL_CRITIC = DiscriminatorConfig(channels=8, layers=1, norm="spectral")


def image_batch(step: int, size: int = 4) -> Batch:
    pixels = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(step)) * 2 - 1
    return Batch(step, "image", pixels, pixel_shape=(size, 3, 16, 16))


def video_batch(step: int, size: int = 2) -> Batch:
    pixels = torch.rand(size, 3, 5, 16, 16, generator=torch.Generator().manual_seed(step)) * 2 - 1
    return Batch(step, "video", pixels, pixel_shape=(size, 3, 5, 16, 16))


def adversarial(config: TrainConfig, **changes: object) -> TrainConfig:
    weights = {"l1": 1.0, "commitment": 0.25, "image_gan": 0.1, "video_gan": 0.1, "feature_matching": 1.0, "lecam": 0.1}
    game = AdversarialConfig(image=SMALL_CRITIC, video=SMALL_CRITIC)
    return replace(config, weights=weights, adversarial=replace(game, **changes))


def test_one_forward_feeds_both_sides_and_one_codebook_update(
    small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Tensor] = []
    forwards, updates = [], []

    def watch(task: TokenizerTask) -> None:
        encoder, bottleneck, adversary = task.model.encoder, task.model.bottleneck, task.adversary
        encoder_forward, update = encoder.forward, bottleneck._update
        monkeypatch.setattr(encoder, "forward", lambda *a: forwards.append(1) or encoder_forward(*a))
        monkeypatch.setattr(bottleneck, "_update", lambda *a: updates.append(1) or update(*a))
        assert adversary is not None
        for name in ("generator_terms", "backward"):
            inner = getattr(adversary, name)
            monkeypatch.setattr(
                adversary,
                name,
                lambda views, *rest, inner=inner: seen.append(views[-1].fake.detach()) or inner(views, *rest),
            )

    _, (report,) = learn(adversarial(small_config), tmp_path, lambda task: iter([video_batch(0)]), watch)
    assert report.applied
    assert len(forwards) == len(updates) == 1
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_both_sides_learn_and_only_their_own_weights(small_config: TrainConfig, tmp_path: Path) -> None:
    _, (before, after) = learn(adversarial(small_config), tmp_path, lambda task: iter([image_batch(0), image_batch(1)]))
    assert {"image_gan", "feature_matching", "image_discriminator", "image_lecam"} <= set(after.scalars)
    assert "video_gan" not in after.scalars
    moved = {
        f"{group}/{name}"
        for group in ("model", "adversary")
        for name, tensor in before.state[group].items()
        if not torch.equal(tensor, after.state[group][name])
    }
    assert any(name.startswith("adversary/discriminators.image") for name in moved)
    assert not any(name.startswith("adversary/discriminators.video") for name in moved)
    assert "model/encoder.embed_image.0.weight" in moved
    assert "model/encoder.embed_video.0.weight" not in moved


def test_the_game_begins_at_its_step(small_config: TrainConfig, tmp_path: Path) -> None:
    config = adversarial(small_config, start_step=1)
    _, (first, second) = learn(config, tmp_path, lambda task: iter([image_batch(0), image_batch(1)]))
    assert "image_gan" not in first.scalars
    assert not first.state["adversary_optimizer"]
    assert "image_gan" in second.scalars


@pytest.mark.parametrize("where", ["pixels", "weights"])
def test_a_step_that_is_not_finite_changes_nothing(small_config: TrainConfig, where: str, tmp_path: Path) -> None:
    def batches(task: TokenizerTask) -> Iterator[Batch]:
        yield image_batch(0)
        yield video_batch(1)
        bad = image_batch(2)
        if where == "pixels":
            bad.inputs[0, 0, 0, 0] = float("nan")
            yield bad
        else:  # finite losses for the generator, but not for the discriminator
            assert task.adversary is not None
            task.adversary.discriminators["image"].to_logits[0].bias.data.fill_(float("inf"))  # type: ignore[index, union-attr]
            yield bad

    trainer, (_, before, after) = learn(adversarial(small_config), tmp_path, batches)
    assert not after.applied
    assert int(trainer.skipped) == 1
    changed = {
        f"{group}/{name}"
        for group, tensors in before.state.items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, after.state[group][name])
    }
    of_the_test = {"adversary/discriminators.image.to_logits.0.bias"} if where == "weights" else set()
    assert changed == {"progress/skipped"} | of_the_test


def test_the_run_goes_on_after_a_skipped_step(small_config: TrainConfig, tmp_path: Path) -> None:
    bad = image_batch(0)
    bad.inputs.fill_(float("nan"))
    trainer, (skipped, applied) = learn(small_config, tmp_path, lambda task: iter([bad, image_batch(1)]))
    assert not skipped.state["model"]["bottleneck.initialised"]
    assert applied.applied
    assert int(trainer.updates) == 1


def test_parts_of_a_batch_add_up_to_the_whole(small_config: TrainConfig, tmp_path: Path) -> None:
    vae = replace(small_config, model=replace(small_config.model, bottleneck="kl"), weights={"l1": 1.0, "l2": 1.0})
    states = []
    for n in (1, 2):
        config = replace(vae, optimizer=OptimizerConfig(lr=1e-2, warmup_steps=1, accumulation=n))
        _, (report,) = learn(
            config,
            tmp_path / str(n),
            lambda task: iter([image_batch(0)]),
            lambda task: task.model.bottleneck.eval(),  # the mode: noise does not depend on how the batch is cut
        )
        assert report.applied
        states.append(report.state["optimizer"])
    for name, moment in states[0].items():  # of Adam: the gradient but for a factor
        torch.testing.assert_close(states[1][name], moment, atol=1e-6, rtol=1e-4)


def test_recomputing_activations_changes_nothing(small_config: TrainConfig, tmp_path: Path) -> None:
    recomputed = replace(small_config, engine=EngineConfig(precision="float32", activation_checkpointing=True))
    (plain, other) = (
        learn(config, tmp_path / name, lambda task: iter([video_batch(0)]))[1][0].state["model"]
        for name, config in (("plain", small_config), ("recomputed", recomputed))
    )
    assert plain.keys() == other.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(other[name], weight)


def test_averaged_weights_are_published_and_the_codebook_follows(small_config: TrainConfig, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    trainer, reports = learn(small_config, tmp_path, lambda task: map(image_batch, range(4)))
    state = reports[-1].state
    published = OmniTokenizer.from_pretrained(tmp_path / "model").state_dict()
    assert torch.equal(published["bottleneck.codebook"], state["model"]["bottleneck.codebook"])
    name = "decoder.to_image.weight"
    assert not torch.equal(published[name], state["model"][name])
    assert torch.equal(published[name], state["ema"][name])
    torch.set_rng_state(before)
    trainer._snapshot(everywhere=False)
    assert torch.equal(torch.get_rng_state(), before)  # building the copy leaves the random numbers alone


def test_latents_pass_unquantized_at_first(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(small_config, quantizer_warmup_steps=1)
    _, (first, second) = learn(config, tmp_path, lambda task: map(image_batch, range(2)))
    assert "codebook_usage" not in first.scalars
    assert "codebook_usage" in second.scalars


def test_entropy_is_learnt_where_it_has_a_weight(small_config: TrainConfig, tmp_path: Path) -> None:
    weights = {"l1": 1e-3, "entropy": 1.0}
    config = replace(small_config, weights=weights, entropy_temperature=0.1, quantizer_warmup_steps=1, steps=40)
    config = replace(config, optimizer=replace(config.optimizer, lr=1e-3))
    same = image_batch(0)
    _, reports = learn(config, tmp_path / "a", lambda task: (replace(same, step=step) for step in range(16)))
    values = [float(report.scalars["entropy"]) for report in reports]
    assert values[0] == 0  # nothing is quantized yet
    assert -math.log(config.model.bottleneck.codebook_size) < values[-1] < values[1] - 0.05
    _, (report,) = learn(small_config, tmp_path / "b", lambda task: iter([image_batch(0)]))
    assert "entropy" not in report.scalars
    with pytest.raises(ValueError, match="has no such loss"):
        replace(config, model=replace(config.model, bottleneck="kl"))


def test_the_temporal_loss_makes_videos_flicker_less(small_config: TrainConfig, tmp_path: Path) -> None:
    """One batch learnt with and without it; steps of images, which have no such loss, pass."""
    after = {}
    for weight in (0.0, 4.0):
        config = replace(small_config, weights={"log_l2": 1.0, "temporal": weight}, steps=100)
        same = video_batch(1)
        _, reports = learn(
            config,
            tmp_path / str(weight),
            lambda task, same=same: iter([image_batch(0), *(replace(same, step=step) for step in range(1, 31))]),
        )
        assert "temporal" not in reports[0].scalars
        after[weight] = float(reports[-1].scalars["temporal"])
    assert after[4.0] < after[0.0] - 0.05


def test_the_temporal_loss_stands_beside_the_game(small_config: TrainConfig, tmp_path: Path) -> None:
    config = adversarial(small_config, adaptive=True)
    config = replace(config, weights=config.weights | {"temporal": 0.5})
    _, reports = learn(config, tmp_path, lambda task: iter([image_batch(0), video_batch(1)]))
    assert all(report.applied for report in reports)


class SquaredDistance(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean(dim=(1, -2, -1))


def test_change_between_frames() -> None:
    clip = torch.zeros(2, 3, 4, 2, 2)
    clip[:, :, 2:] = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1)  # both jump from frame 1 to frame 2
    distance = SquaredDistance()
    assert change_between_frames(distance, clip).tolist() == [[0, 1, 0], [0, 9, 0]]
    assert change_between_frames(distance, clip, torch.tensor([0, 1])).tolist() == [0, 9]


@pytest.mark.parametrize("all_frames", [True, False])
def test_the_temporal_perceptual_loss_is_of_change_that_the_clip_has_not(
    small_config: TrainConfig, all_frames: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenizer_task, "load_perceptual", lambda *_: SquaredDistance())
    weights = {"l1": 1e-6, "temporal_perceptual": 1.0}
    perceptual = PerceptualConfig(all_frames=all_frames)
    config = replace(small_config, weights=weights, perceptual=perceptual, steps=100)
    still = video_batch(1)
    still.inputs[:, :, :] = still.inputs[:, :, :1]  # so that any change in the reconstruction is too much
    loud = replace(video_batch(22), inputs=50 * video_batch(1).inputs)  # more than a model at its beginning can make
    batches = [image_batch(0), *(replace(still, step=step) for step in range(1, 22)), loud]
    _, reports = learn(config, tmp_path, lambda task: iter(batches))
    assert not {"perceptual", "temporal_perceptual"} & set(reports[0].scalars)
    first, last = (reports[n].scalars["temporal_perceptual"] for n in (1, 21))
    assert 0 < last < 0.5 * first
    assert "perceptual" not in reports[21].scalars
    assert reports[22].scalars["temporal_perceptual"] == 0


def test_perceptual_losses_are_of_files_alone(
    small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenizer_task, "load_perceptual", lambda *_: SquaredDistance())
    config = replace(small_config, weights={"l1": 1.0, "perceptual": 1.0, "temporal_perceptual": 1.0}, steps=9)
    image, video = image_batch(0), video_batch(1)
    none, some = (True,) * len(image.inputs), (False, *(True,) * (len(image.inputs) - 1))
    batches = [
        replace(image, drawn=none),
        replace(image, step=1, drawn=some),
        replace(image, step=2),
        replace(video, step=3, drawn=(True,) * len(video.inputs)),
    ]
    _, reports = learn(config, tmp_path, lambda task: iter(batches))
    assert reports[0].scalars["perceptual"] == 0
    assert "temporal_perceptual" not in reports[0].scalars
    assert 0 < reports[1].scalars["perceptual"] < reports[2].scalars["perceptual"]
    assert reports[3].scalars["perceptual"] == reports[3].scalars["temporal_perceptual"] == 0


def test_perceptual_weights_must_be_there(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(
        small_config, weights={"l1": 1.0, "perceptual": 1.0}, perceptual=PerceptualConfig(weights_dir=str(tmp_path))
    )
    with pytest.raises(MissingWeightsError, match="LPIPS"):
        built(config)
    with pytest.raises(MissingWeightsError, match="LPIPS"):
        built(replace(config, weights={"l1": 1.0, "temporal_perceptual": 1.0}))


def test_seeds_of_steps_and_processes_differ() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
