"""Diffusion generators with random weights: what must hold for any weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.small import TINY
from omnitok.errors import OmnitokError
from omnitok.generation.diffusion import DiffusionGenerator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.peers.base import Coded, PeerTokenizer, Traits

TOKENIZER = dataclasses.replace(TINY, bottleneck="kl", latent_channels=4)
STATISTICS = LatentStatistics((0.5, -0.5, 0.0, 1.0), (0.5, 1.0, 2.0, 1.5))
MODEL = DiffusionTransformerConfig(
    latent_channels=4, patch_size=1, width=16, depth=2, heads=2, num_classes=3, temporal=True
)
SETTINGS = GeneratorSettings(
    tokenizer="tiny",
    classes=("cat", "dog", "robin"),
    height=16,
    width=16,
    num_frames=5,
    sampling={"steps": 3, "sampler": "dpm++", "guidance_scale": 2.0},
)


def build(**changes: Any) -> DiffusionGenerator:
    """`changes` of the model's configuration, or of `settings` and `tokenizer`."""
    torch.manual_seed(0)
    tokenizer = OmniTokenizer.from_config(dataclasses.replace(TOKENIZER, **changes.pop("tokenizer", {})))
    tokenizer.latent_statistics = changes.pop("statistics", STATISTICS)
    settings = dataclasses.replace(SETTINGS, **changes.pop("settings", {}))
    model = DiffusionTransformer(dataclasses.replace(MODEL, **changes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return DiffusionGenerator(model.requires_grad_(False), tokenizer.requires_grad_(False), settings)


@pytest.fixture(scope="module")
def generator() -> DiffusionGenerator:
    return build()


@pytest.fixture(scope="module")
def flow() -> DiffusionGenerator:
    return build(objective="flow", learn_sigma=False, settings={"sampling": {"steps": 3}})


def clip(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ samples


def test_shapes_and_range(generator: DiffusionGenerator) -> None:
    pictures = generator.sample([0, 2])
    assert pictures.shape == (2, 3, 16, 16)
    assert pictures.abs().max() <= 1
    assert generator.sample(1, num_frames=4, height=10, width=21).shape == (1, 3, 4, 10, 21)
    assert generator.sample(["cat", None, -1]).shape == (3, 3, 16, 16)
    assert generator.sample(torch.tensor([0, 1])).shape == (2, 3, 16, 16)
    assert generator.sample().shape == (1, 3, 16, 16)
    assert generator.sample("dog", indices=[4, 9]).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("sampler", ("ddpm", "ddim", "dpm++"))
def test_an_item_depends_on_seed_and_index_only(generator: DiffusionGenerator, sampler: str) -> None:
    how = {"sampler": sampler, "steps": 3, "eta": 0.5, "num_frames": 3}
    together = generator.sample([0, 1, 2, 1], **how)
    assert_same(generator.sample([0, 1, 2, 1], batch_size=3, **how), together)
    assert_same(generator.sample([1], indices=[3], **how), together[3:])
    assert_same(generator.sample([2, 1], indices=[2, 1], **how), together[[2, 1]])
    assert not torch.allclose(together[1], together[3], atol=1e-3)
    assert not torch.allclose(generator.sample([0], seed=1, **how), together[:1], atol=1e-3)


@pytest.mark.parametrize("sampler", ("euler", "heun"))
def test_flow_models(flow: DiffusionGenerator, sampler: str) -> None:
    together = flow.sample([0, 1], sampler=sampler, num_frames=3)
    assert together.shape == (2, 3, 3, 16, 16)
    assert_same(flow.sample(["dog"], sampler=sampler, num_frames=3, indices=[1]), together[1:])


def test_a_picture_is_a_clip_of_one_frame(generator: DiffusionGenerator) -> None:
    latents = generator.sample_latents([0, 1])
    assert latents.shape == (2, 4, 4, 4)
    assert_same(generator.sample_latents([0, 1], grid=(1, 4, 4)), latents.unsqueeze(2))
    assert_same(generator.tokenizer.decode(latents).clamp(-1, 1), generator.sample([0, 1]))


def test_labels_and_guidance_matter(generator: DiffusionGenerator) -> None:
    one = generator.sample_latents([0], guidance_scale=1.0)
    assert not torch.allclose(generator.sample_latents([1], guidance_scale=1.0), one, atol=1e-3)
    assert not torch.allclose(generator.sample_latents([0]), one, atol=1e-3)
    free = generator.sample_latents([None], guidance_scale=1.0)
    assert_same(generator.sample_latents([None]), free)  # guided towards nothing
    assert_same(generator.sample_latents([2], guidance_scale=0.0), free)


def test_guided_channels_and_interval(generator: DiffusionGenerator) -> None:
    plain, whole = (generator.sample_latents([0], guidance_scale=s) for s in (1.0, 2.0))
    assert torch.equal(generator.sample_latents([0], guided_channels=4), whole)
    part = generator.sample_latents([0], guided_channels=3)
    assert not torch.allclose(part, whole, atol=1e-4)
    assert not torch.allclose(part, plain, atol=1e-4)
    assert_same(generator.sample_latents([0], guidance_interval=(0.0, 0.0)), plain)
    narrow = generator.sample_latents([0], guidance_interval=(0.1, 0.5))
    assert not torch.allclose(narrow, plain, atol=1e-4)
    assert not torch.allclose(narrow, whole, atol=1e-4)


def test_defaults_come_from_the_settings(generator: DiffusionGenerator) -> None:
    explicit = generator.sample_latents([0], steps=3, sampler="dpm++", guidance_scale=2.0)
    assert torch.equal(generator.sample_latents([0]), explicit)
    seen = list[tuple[int, int]]()
    generator.sample([0, 1, 2], batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 6) for i in range(6)]
    seen.clear()
    build(settings={"sampling": {}}).sample(0, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (250, 250)  # the paper's
    # another sampler than the settings' does not take the settings' number of steps
    seen.clear()
    generator.sample(0, sampler="ddim", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50, 50)
    # the default sampler, named, is no other
    seen.clear()
    unnamed = build(settings={"sampling": {"steps": 4}})
    unnamed.sample(0, sampler="ddpm", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


def test_clips_have_a_guidance_of_their_own() -> None:
    made = build(settings={"sampling": {**SETTINGS.sampling.chosen(), "video_guidance_scale": 1.0}})
    clip = made.sample([0], 5, guidance_scale=1.0)
    assert torch.equal(made.sample([0], 5), clip)
    assert torch.equal(
        made.continue_video(clip[:, :, :1], labels=[0]), made.sample([0], 5, prompt_frames=clip[:, :, :1])
    )
    assert torch.equal(torch.cat(list(made.stream_video([0], 5)), dim=2), clip)
    assert torch.equal(made.sample([0]), made.sample([0], guidance_scale=2.0))
    assert not torch.equal(made.sample([0]), made.sample([0], guidance_scale=1.0))
    grid = made.tokenizer.config.latent_shape(5, 16, 16)
    assert torch.equal(made.sample_latents([0], grid), made.sample_latents([0], grid, guidance_scale=1.0))
    mask = torch.ones(1, 1, 5, 16, 16, dtype=torch.bool)
    assert torch.equal(made.inpaint(clip, mask, labels=[0]), made.inpaint(clip, mask, labels=[0], guidance_scale=1.0))


def test_latents_are_normalised(generator: DiffusionGenerator) -> None:
    latents = torch.randn(2, 4, 3, 4, 4)
    normal = generator.normalize(latents)
    torch.testing.assert_close(normal[:, 3], (latents[:, 3] - 1.0) / 1.5)
    torch.testing.assert_close(generator.denormalize(normal), latents)
    released = build(settings={"latent_scale": 0.18215})
    torch.testing.assert_close(released.normalize(latents), latents * 0.18215)
    torch.testing.assert_close(released.denormalize(released.normalize(latents)), latents)


def test_models_without_classes_and_of_pictures() -> None:
    free = build(num_classes=0, settings={"classes": (), "sampling": {"steps": 2, "sampler": "ddim"}})
    assert free.sample(indices=[1, 2]).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="unconditional model cannot be guided"):
        free.sample(guidance_scale=2.0)
    with pytest.raises(ValueError, match="label 0 is out of range: this model has no classes"):
        free.sample(0)
    pictures = build(temporal=False)
    assert pictures.sample(0).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="images only, so num_frames must be 1, found 5"):
        pictures.sample(0, num_frames=5)


def test_half_precision() -> None:
    generator = build(settings={"height": 4, "width": 4})
    generator.model.to(torch.bfloat16)
    assert torch.isfinite(generator.sample(0, steps=1)).all()


# ------------------------------------------------------------------------------------------------- prediction, filling


@pytest.mark.parametrize("given", (1, 2, 3, 4))
def test_continued_video_begins_with_the_given_frames(generator: DiffusionGenerator, given: int) -> None:
    frames = clip(2, 3, given, 16, 16)
    result = generator.continue_video(frames, num_frames=7, labels=[0, 1])
    assert result.shape == (2, 3, 7, 16, 16)
    assert torch.equal(result[:, :, :given], frames)
    assert_same(generator.continue_video(frames[1:], num_frames=7, labels=1, indices=[1]), result[1:])
    assert generator.continue_video(frames).shape == (2, 3, 5, 16, 16)  # the trained length
    assert generator.continue_video(frames[..., :8, :]).shape == (2, 3, 5, 8, 16)  # the frames' own size


def test_what_follows_depends_on_the_given_frames(generator: DiffusionGenerator) -> None:
    frames = clip(1, 3, 3, 16, 16)
    result = generator.continue_video(frames, num_frames=7)
    assert not torch.allclose(generator.continue_video(-frames, num_frames=7)[:, :, 3:], result[:, :, 3:], atol=1e-3)
    assert generator.sample(num_frames=7, prompt_frames=frames[:, :, 0]).shape == (1, 3, 7, 16, 16)


@pytest.mark.parametrize("kind", ("dpm++", "ddpm", "euler"))
def test_given_latents_are_kept(kind: str, generator: DiffusionGenerator, flow: DiffusionGenerator) -> None:
    chosen = flow if kind == "euler" else generator
    known = torch.randn(2, 4, 3, 4, 4)
    mask = torch.zeros(1, 1, 3, 4, 4, dtype=torch.bool)
    mask[:, :, :1] = mask[..., :2] = True
    latents = chosen.sample_latents([0, 1], grid=(3, 4, 4), known=known, mask=mask, sampler=kind, steps=4)
    kept = mask.expand_as(known)
    assert (latents[kept] - known[kept]).abs().max() < 1e-4
    changed = torch.where(mask, known, known + 7)  # what is not kept does not matter
    assert_same(chosen.sample_latents([0, 1], grid=(3, 4, 4), known=changed, mask=mask, sampler=kind, steps=4), latents)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 3, 5, 12, 10)])
def test_inpaint(generator: DiffusionGenerator, shape: tuple[int, ...]) -> None:
    pixels = clip(*shape)
    mask = torch.zeros(1, 1, *shape[2:], dtype=torch.bool)
    mask[..., 3:9, 2:7] = True
    result = generator.inpaint(pixels, mask, [0, 1])
    assert result.shape == shape
    inside = mask.expand_as(pixels)
    assert torch.equal(result[~inside], pixels[~inside])
    assert not torch.allclose(result[inside], pixels[inside], atol=0.01)
    hidden = pixels.masked_fill(inside, float("nan"))  # what lies in the hole does not matter
    assert_same(generator.inpaint(hidden, mask, [0, 1]), result)
    assert_same(generator.inpaint(pixels[1:], mask, 1, indices=[1]), result[1:])
    assert torch.equal(generator.inpaint(pixels, torch.zeros_like(mask), 0), pixels)


class Pairs(PeerTokenizer):
    """Means of two frames of 4 x 4 pixels, of sides that are multiples of 8; no frame is a latent frame by itself."""

    def __init__(self) -> None:
        traits = {"is_video_model": True, "first_frame_alone": False, "multiple": (8, 8)}
        super().__init__(
            {}, Traits("Pairs", 3, (2, 4, 4), statistics=LatentStatistics((0.0,) * 3, (1.0,) * 3), **traits)
        )
        self.gain = nn.Parameter(torch.ones(()))

    def encode_pixels(self, pixels: Tensor) -> Coded:
        return Coded(self.gain * F.avg_pool3d(pixels, (2, 4, 4)))

    def decode_latents(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents / self.gain, scale_factor=(2, 4, 4))


def test_a_tokenizer_whose_first_frame_is_not_alone() -> None:
    tokenizer = Pairs()
    like = build(latent_channels=3, tokenizer={"latent_channels": 3}, statistics=tokenizer.latent_statistics)
    pairs = DiffusionGenerator(like.model, tokenizer, SETTINGS)
    holes = torch.zeros(1, 1, 5, 12, 8, dtype=torch.bool)
    holes[0, 0, 1, 0, 0] = holes[0, 0, 4, 11, 7] = True
    latent = pairs._latent_mask(holes)
    assert latent.shape == (1, *tokenizer.latent_shape(5, 12, 8))
    assert latent.nonzero()[:, 1:].tolist() == [[0, 0, 0], [2, 2, 1], [2, 3, 1]]  # the last in padding of the last row
    video = clip(1, 3, 5, 12, 8)
    filled = pairs.inpaint(video, holes, 0)
    assert torch.equal(filled.where(~holes, video), video)
    assert not torch.equal(filled, video)

    given = video[:, :, :3]
    longer = pairs.sample(0, 6, 12, 8, prompt_frames=given)
    assert longer.shape == (1, 3, 6, 12, 8)
    assert torch.equal(longer[:, :, :3], given)
    streamed = torch.cat(list(pairs.stream_video(0, 9, 12, 8, frames=given, window=2)), dim=2)
    assert streamed.shape == (1, 3, 9, 12, 8)
    assert torch.equal(streamed[:, :, :3], given)
    with pytest.raises(ValueError, match="1 frames are given, fewer than the 2 that are coded at once"):
        pairs.continue_video(video[:, :, :1], 6)


def test_latent_mask(generator: DiffusionGenerator) -> None:
    holes = torch.zeros(1, 1, 6, 9, 8, dtype=torch.bool)
    holes[0, 0, 2, 8, 0] = holes[0, 0, 0, 0, 7] = holes[0, 0, 5, 3, 3] = True
    latent = generator._latent_mask(holes)
    assert latent.shape == (1, 4, 3, 2)  # frames 0 | 1 2 | 3 4 | 5
    assert latent[0].nonzero().tolist() == [[0, 0, 1], [1, 2, 0], [3, 0, 0]]


# ------------------------------------------------------------------------------------------------------- long video


def test_stream_gives_as_many_frames_as_asked_for(generator: DiffusionGenerator) -> None:
    seen = list[tuple[int, int]]()
    pieces = list(
        generator.stream_video([0, 1], num_frames=12, progress=lambda done, total: seen.append((done, total)))
    )
    # windows of 5 frames (3 latent ones), each going on from 1 frame
    assert [piece.shape[2] for piece in pieces] == [5, 4, 3]
    assert seen == [(i + 1, 9) for i in range(9)]
    assert all(piece.shape[:2] == (2, 3) and piece.abs().max() <= 1 for piece in pieces)
    alone = list(generator.stream_video([1], num_frames=12, indices=[1]))
    assert_same(torch.cat(alone, dim=2), torch.cat(pieces, dim=2)[1:])
    assert_same(pieces[0], generator.sample([0, 1], num_frames=5))


@pytest.mark.parametrize("given", (1, 3, 9))
def test_stream_goes_on_from_frames(generator: DiffusionGenerator, given: int) -> None:
    frames = clip(1, 3, given, 16, 16)
    seen = list[tuple[int, int]]()
    pieces = list(
        generator.stream_video(
            0, num_frames=given + 9, frames=frames, window=4, progress=lambda done, total: seen.append((done, total))
        )
    )
    video = torch.cat(pieces, dim=2)
    assert video.shape == (1, 3, given + 9, 16, 16)
    assert torch.equal(video[:, :, :given], frames)
    assert seen[-1][0] == seen[-1][1]
    endless = generator.stream_video(0, frames=frames)
    assert [next(endless).shape[2] for _ in range(4)] == [given, 4, 4, 4]


def test_progress_of_filling_ends(generator: DiffusionGenerator) -> None:
    told: list[tuple[int, int]] = []
    mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    mask[1] = True
    options = {"batch_size": 1, "steps": 2, "progress": lambda done, total: told.append((done, total))}
    generator.inpaint(clip(2, 3, 16, 16), mask, **options)
    assert told[-1] == (4, 4)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: g.sample(3), r"label 3 is out of range: labels lie in \[0, 2\]"),
        (lambda g: g.sample("cow"), "unknown class 'cow'; known are cat, dog, robin"),
        (lambda g: g.sample([]), "labels are empty"),
        (lambda g: g.sample([0, 1], indices=[0]), "2 labels and 1 indices do not match"),
        (lambda g: g.sample(0, height=0), "must be at least 1"),
        (lambda g: g.sample(0, num_frames=0), "must be at least 1"),
        (lambda g: g.sample(0, batch_size=0), "batch_size must be at least 1, found 0"),
        (lambda g: g.sample(0, sampler="heun"), "'heun' is not for models of objective 'epsilon'; .* ddpm, ddim, dpm"),
        (lambda g: g.sample(0, steps=0), "steps must be at least 1, found 0"),
        (lambda g: g.sample(0, guided_channels=5), "guided_channels must be at most 4"),
        (lambda g: g.sample_latents(0, grid=(4,)), r"a grid is \(h, w\) or \(t, h, w\)"),
        (lambda g: g.sample_latents(0, known=torch.zeros(1, 4, 4, 4)), "go together"),
        (
            lambda g: g.sample_latents(0, known=torch.zeros(1, 4, 4, 5), mask=torch.ones(1, 1, 4, 4).bool()),
            r"known must be \(1, 4, 4, 4\), found \(1, 4, 4, 5\)",
        ),
        (
            lambda g: g.sample_latents(0, known=torch.zeros(1, 4, 4, 4), mask=torch.ones(1, 3, 4, 4).bool()),
            "mask must be",
        ),
        (
            lambda g: g.sample(num_frames=5, prompt_frames=clip(1, 3, 3, 8, 16)),
            "the given frames are 8 x 16 pixels, the model's are 16 x 16",
        ),
        (
            lambda g: g.continue_video(clip(1, 3, 5, 16, 16)),
            "5 frames are given, so num_frames must be larger, found 5",
        ),
        (lambda g: g.continue_video(clip(1, 1, 5, 16, 16)), "frames to go on from must be"),
        (lambda g: g.continue_video(clip(2, 3, 1, 16, 16), labels=[0, 1, 2]), "3 labels and 2 given images or videos"),
        (lambda g: g.continue_video(9 * clip(1, 3, 1, 16, 16)), "pixels lie in"),
        (lambda g: g.inpaint(clip(1, 3, 16, 16), torch.ones(1, 1, 16, 16)), "the mask must be boolean"),
        (
            lambda g: g.inpaint(clip(1, 3, 16, 16), torch.ones(1, 1, 16, 15).bool()),
            r"found torch.bool \(1, 1, 16, 15\)",
        ),
        (lambda g: g.inpaint(clip(3, 3, 16, 16), torch.ones(2, 1, 16, 16).bool()), "3 items and 2 masks"),
        (lambda g: g.inpaint(clip(3, 16, 16), torch.ones(2, 1, 16, 16).bool()), "pixels must be"),
        (lambda g: g.stream_video(0, window=1), "a window must have at least 2 latent frames, found 1"),
        (lambda g: g.stream_video(0, frames=clip(1, 3, 4, 16, 16), num_frames=4), "num_frames must be larger, found 4"),
    ],
)
def test_bad_input(generator: DiffusionGenerator, call: Callable[[DiffusionGenerator], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(generator)


def test_unknown_arguments(generator: DiffusionGenerator) -> None:
    with pytest.raises(TypeError, match="unknown sampling arguments top_k; accepted are guidance_scale"):
        generator.sample_latents(0, top_k=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tokenizer": {"bottleneck": "vq"}}, "is a quantizer"),
        ({"latent_channels": 8}, "has 4 latent channels, .* trained on 8: they do not belong together"),
        ({"settings": {"sampling": {"top_k": 5}}}, "top_k is not a known field"),
        ({"num_classes": 5}, "the settings name 3 classes, the model has 5"),
        ({"statistics": None}, "no latent_statistics .*0.18215"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OmnitokError, match=message):
        build(**changes)


def test_too_little_memory_is_said_before_the_work(generator: DiffusionGenerator) -> None:
    with pytest.raises(OmnitokError, match=r"too little memory on cpu: 3 items at once need .* GB, .* are free; "):
        generator.sample([0, 1, 2], height=400_000, width=400_000)
