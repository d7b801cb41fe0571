"""One step: one forward, nothing learnt from what is not finite, accumulation, recomputation."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omnitok.data.loader import Batch
from omnitok.distributed import Processes
from omnitok.errors import MissingWeightsError
from omnitok.losses.discriminators import DiscriminatorConfig
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.training import tokenizer_step
from omnitok.training.config import AdversarialConfig, EngineConfig, OptimizerConfig, PerceptualConfig, TrainConfig
from omnitok.training.step import step_seed
from omnitok.training.tokenizer_step import TokenizerLearner, change_between_frames

ALONE = Processes(0, 1, torch.device("cpu"))
SMALL_CRITIC = DiscriminatorConfig(channels=8, layers=1, norm="spectral")


def learner(config: TrainConfig) -> TokenizerLearner:
    torch.manual_seed(0)
    return TokenizerLearner(config, OmniTokenizer.from_config(config.model), ALONE)


def picture_batch(step: int = 0, size: int = 4) -> Batch:
    return Batch(step, "image", torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(step)) * 2 - 1)


def clip_batch(step: int = 1, size: int = 2) -> Batch:
    return Batch(step, "video", torch.rand(size, 3, 5, 16, 16, generator=torch.Generator().manual_seed(step)) * 2 - 1)


def adversarial(config: TrainConfig, **changes: object) -> TrainConfig:
    weights = {"l1": 1.0, "commitment": 0.25, "image_gan": 0.1, "video_gan": 0.1, "feature_matching": 1.0, "lecam": 0.1}
    game = AdversarialConfig(image=SMALL_CRITIC, video=SMALL_CRITIC)
    return replace(config, weights=weights, adversarial=replace(game, **changes))


def copy_of(state: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {group: {name: tensor.clone() for name, tensor in tensors.items()} for group, tensors in state.items()}


def test_one_forward_feeds_both_sides_and_one_codebook_update(
    small_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = learner(adversarial(small_config))
    seen: list[Tensor] = []
    forwards, updates = [], []
    encoder_forward, update = made.tokenizer.encoder.forward, made.tokenizer.bottleneck._update
    monkeypatch.setattr(made.tokenizer.encoder, "forward", lambda *a: forwards.append(1) or encoder_forward(*a))
    monkeypatch.setattr(made.tokenizer.bottleneck, "_update", lambda *a: updates.append(1) or update(*a))
    adversary = made.adversary
    assert adversary is not None
    for name in ("generator_terms", "backward"):
        inner = getattr(adversary, name)
        monkeypatch.setattr(
            adversary,
            name,
            lambda views, *rest, inner=inner: seen.append(views[-1].fake.detach()) or inner(views, *rest),
        )
    report = made.step(clip_batch())
    assert report.applied
    assert len(forwards) == len(updates) == 1
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_both_sides_learn_and_only_their_own_weights(small_config: TrainConfig) -> None:
    made = learner(adversarial(small_config))
    assert made.adversary is not None
    before = copy_of(made.state())
    report = made.step(picture_batch())
    after = made.state()
    assert {"image_gan", "feature_matching", "image_discriminator", "image_lecam"} <= set(report.scalars)
    assert "video_gan" not in report.scalars
    moved = {
        name for name in before["adversary"] if not torch.equal(before["adversary"][name], after["adversary"][name])
    }
    assert any(name.startswith("discriminators.image") for name in moved)
    assert not any(name.startswith("discriminators.video") for name in moved)
    assert not torch.equal(
        before["model"]["encoder.embed_image.0.weight"], after["model"]["encoder.embed_image.0.weight"]
    )
    assert torch.equal(before["model"]["encoder.embed_video.0.weight"], after["model"]["encoder.embed_video.0.weight"])


def test_the_game_begins_at_its_step(small_config: TrainConfig) -> None:
    made = learner(adversarial(small_config, start_step=1))
    assert "image_gan" not in made.step(picture_batch(0)).scalars
    assert not made.adversary.optimizer.state()  # type: ignore[union-attr]
    assert "image_gan" in made.step(picture_batch(1)).scalars


@pytest.mark.parametrize("where", ["pixels", "weights"])
def test_a_step_that_is_not_finite_changes_nothing(small_config: TrainConfig, where: str) -> None:
    made = learner(adversarial(small_config))
    made.step(picture_batch(0))
    made.step(clip_batch(1))
    bad = picture_batch(2)
    if where == "pixels":
        bad.inputs[0, 0, 0, 0] = float("nan")
    else:  # finite losses for the generator, but not for the discriminator
        made.adversary.discriminators["image"].to_logits[0].bias.data.fill_(float("inf"))  # type: ignore[union-attr, index]
    before = copy_of(made.state())
    report = made.step(bad)
    assert not report.applied
    assert int(made.skipped) == 1
    after = made.state()
    for group in before:
        for name in before[group]:
            if name != "skipped":
                torch.testing.assert_close(
                    after[group][name], before[group][name], rtol=0, atol=0, msg=f"{group}/{name}"
                )


def test_the_run_goes_on_after_a_skipped_step(small_config: TrainConfig) -> None:
    made = learner(small_config)
    bad = picture_batch(0)
    bad.inputs.fill_(float("nan"))
    made.step(bad)
    assert not made.tokenizer.bottleneck.initialised
    assert made.step(picture_batch(1)).applied
    assert int(made.updates) == 1


def test_parts_of_a_batch_add_up_to_the_whole(small_config: TrainConfig) -> None:
    vae = replace(small_config, model=replace(small_config.model, bottleneck="kl"), weights={"l1": 1.0, "l2": 1.0})
    whole, parts = (
        learner(replace(vae, optimizer=OptimizerConfig(lr=1e-2, warmup_steps=1, accumulation=n))) for n in (1, 2)
    )
    for made in (whole, parts):  # the mode, so that noise does not depend on how the batch is cut
        made.tokenizer.bottleneck.eval()
        report = made.step(picture_batch())
        assert report.applied
    for name, weight in whole.state()["model"].items():
        # Adam divides a gradient by its own size, so the rounding of a tiny one is a share of the step of 1e-2.
        torch.testing.assert_close(parts.state()["model"][name], weight, atol=1e-4, rtol=1e-4)


def test_recomputing_activations_changes_nothing(small_config: TrainConfig) -> None:
    plain = learner(small_config)
    recomputed = learner(replace(small_config, engine=EngineConfig(precision="float32", activation_checkpointing=True)))
    for made in (plain, recomputed):
        made.step(clip_batch())
    assert plain.state()["model"].keys() == recomputed.state()["model"].keys()
    for name, weight in plain.state()["model"].items():
        torch.testing.assert_close(recomputed.state()["model"][name], weight)


def test_averaged_weights_are_published_and_the_codebook_follows(small_config: TrainConfig) -> None:
    made = learner(small_config)
    for step in range(4):
        made.step(picture_batch(step))
    copy = made.snapshot()
    assert copy is not None
    live = made.tokenizer
    assert torch.equal(copy.bottleneck.codebook, live.bottleneck.codebook)
    assert not torch.equal(copy.decoder.to_image.weight, live.decoder.to_image.weight)
    assert torch.equal(copy.decoder.to_image.weight, made.state()["ema"]["decoder.to_image.weight"])


def test_a_snapshot_leaves_the_random_numbers_alone(small_config: TrainConfig) -> None:
    made = learner(small_config)
    before = torch.get_rng_state()
    made.snapshot()
    assert torch.equal(torch.get_rng_state(), before)


def test_latents_pass_unquantized_at_first(small_config: TrainConfig) -> None:
    made = learner(replace(small_config, quantize_after=1))
    assert "codebook_usage" not in made.step(picture_batch(0)).scalars
    assert "codebook_usage" in made.step(picture_batch(1)).scalars


def test_entropy_is_learnt_where_it_has_a_weight(small_config: TrainConfig) -> None:
    weights = {"l1": 1e-3, "entropy": 1.0}
    config = replace(small_config, weights=weights, entropy_temperature=0.1, quantize_after=1, steps=40)
    config = replace(config, optimizer=replace(config.optimizer, lr=1e-3))
    made = learner(config)
    values = [float(made.step(replace(picture_batch(0), step=step)).scalars["entropy"]) for step in range(16)]
    assert values[0] == 0  # nothing is quantized yet
    assert -math.log(config.model.bottleneck.codebook_size) < values[-1] < values[1] - 0.05
    assert "entropy" not in learner(small_config).step(picture_batch(0)).scalars
    with pytest.raises(ValueError, match="has no such loss"):
        replace(config, model=replace(config.model, bottleneck="kl"))


def test_the_temporal_loss_makes_clips_flicker_less(small_config: TrainConfig) -> None:
    """One batch learnt with and without it; steps of pictures, which have no such loss, pass."""
    after = {}
    for weight in (0.0, 4.0):
        made = learner(replace(small_config, weights={"log_l2": 1.0, "temporal": weight}))
        assert "temporal" not in made.step(picture_batch(0)).scalars
        for _ in range(30):
            report = made.step(clip_batch())
        after[weight] = float(report.scalars["temporal"])
    assert after[4.0] < after[0.0] - 0.05


def test_the_temporal_loss_stands_beside_the_game(small_config: TrainConfig) -> None:
    config = adversarial(small_config, adaptive=True)
    made = learner(replace(config, weights=config.weights | {"temporal": 0.5}))
    assert made.step(picture_batch(0)).applied
    assert made.step(clip_batch(1)).applied


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
    small_config: TrainConfig, all_frames: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_step, "load_perceptual", lambda config: SquaredDistance())
    weights = {"l1": 1e-6, "temporal_perceptual": 1.0}
    made = learner(replace(small_config, weights=weights, perceptual=PerceptualConfig(all_frames=all_frames)))
    assert not {"perceptual", "temporal_perceptual"} & set(made.step(picture_batch(0)).scalars)
    batch = clip_batch()
    batch.inputs[:, :, :] = batch.inputs[:, :, :1]  # still, so that any change in the reconstruction is too much
    first = made.step(batch).scalars["temporal_perceptual"]
    for _ in range(20):
        report = made.step(batch)
    assert 0 < report.scalars["temporal_perceptual"] < 0.5 * first
    assert "perceptual" not in report.scalars
    loud = Batch(1, "video", 50 * clip_batch().inputs)  # more than a model at its beginning can make
    assert made.step(loud).scalars["temporal_perceptual"] == 0


def test_perceptual_weights_must_be_there(small_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(
        small_config, weights={"l1": 1.0, "perceptual": 1.0}, perceptual=PerceptualConfig(weights_dir=str(tmp_path))
    )
    with pytest.raises(MissingWeightsError, match="LPIPS"):
        learner(config)
    with pytest.raises(MissingWeightsError, match="LPIPS"):
        learner(replace(config, weights={"l1": 1.0, "temporal_perceptual": 1.0}))


def test_seeds_of_steps_and_processes_differ() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
