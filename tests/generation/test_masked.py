"""Sampling from a masked model, and what all generators make of a part of the pixels."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from omnitok import OmniTokenizer, TokenizerConfig
from omnitok.generation.autoregressive import LanguageModelGenerator, guide
from omnitok.generation.masked import Beginnings, MaskedCodeSampler, MaskedGenerator
from omnitok.generation.random import item_keys
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.bottlenecks import VQConfig
from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel
from omnitok.models.sampling import MaskedSampling

SETTINGS = GeneratorSettings(tokenizer="t", classes=("cat", "dog"), height=8, width=12, num_frames=9)
TOKENIZER = TokenizerConfig(
    patch_size=4, temporal_patch_size=4, width=16, heads=2, head_dim=8, encoder_blocks="w", decoder_blocks="w",
    window_size=2, bottleneck=VQConfig(codebook_size=20, latent_channels=4),
)  # fmt: skip
GRID = dict(
    codebook_size=20, num_classes=2, latent_frames=4, latent_height=4, latent_width=4, width=24, depth=2, heads=2
)


def make(kind: type = MaskedGenerator) -> MaskedGenerator | LanguageModelGenerator:
    torch.manual_seed(0)
    config, model = {
        MaskedGenerator: (MaskedModelConfig, MaskedModel),
        LanguageModelGenerator: (LanguageModelConfig, LanguageModel),
    }[kind]
    network = model(config(**GRID))
    for parameter in network.parameters():
        parameter.data.mul_(3)  # so that classes and neighbours matter
    return kind(network, OmniTokenizer.from_config(TOKENIZER), SETTINGS)


G = make()


def video(frames: int = 9, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, frames, 8, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_sample_depends_on_its_seed_and_number_alone() -> None:
    labels = ["cat", "dog", None, "dog", "cat"]
    whole = G.sample_codes(labels, (3, 2, 3), seed=3, guidance_scale=2.0)
    for size in (1, 2):
        assert torch.equal(G.sample_codes(labels, (3, 2, 3), seed=3, guidance_scale=2.0, batch_size=size), whole)
    part = G.sample_codes(["dog", None], (3, 2, 3), seed=3, guidance_scale=2.0, indices=[3, 2])
    assert torch.equal(part, whole[[3, 2]])
    assert not torch.equal(G.sample_codes(labels, (3, 2, 3), seed=4, guidance_scale=2.0), whole)
    assert len({tuple(codes.flatten().tolist()) for codes in whole}) == 5


def test_numbers_of_numpy() -> None:
    options = {"seed": 3, "steps": 2, "guidance_scale": 2.0}
    wanted = G.sample_codes([1, 0], (1, 2, 3), indices=[4, 7], negative=1, **options)
    for kind in (np.int64, np.int32, np.uint8):
        given = {"indices": np.array([4, 7], kind), "negative": kind(1)}
        assert torch.equal(G.sample_codes(np.array([1, 0], kind), (1, 2, 3), **given, **options), wanted)
    assert torch.equal(G.sample_codes(np.int64(1), seed=3), G.sample_codes(1, seed=3))


def test_guidance_of_one_is_conditional_and_of_zero_unconditional() -> None:
    labels = ["cat", "dog"]
    plain = G.sample_codes(labels, (3, 2, 3), seed=1)
    assert torch.equal(G.sample_codes(labels, (3, 2, 3), seed=1, guidance_scale=1.0), plain)
    none = G.sample_codes([None, None], (3, 2, 3), seed=1)
    assert torch.equal(G.sample_codes(labels, (3, 2, 3), seed=1, guidance_scale=0.0), none)
    assert not torch.equal(plain, none)
    never = G.sample_codes(labels, (3, 2, 3), seed=1, guidance_scale=5.0, guidance_interval=(1.0, 1.0))
    assert torch.equal(never, plain)


def test_known_codes_stay_and_with_everything_known_nothing_is_drawn() -> None:
    calls = []

    def network(*given: object, **named: object) -> Tensor:
        calls.append(given)
        return G.model.features(*given, **named)

    labels, keys = torch.tensor([0, 1]), item_keys(0, [0, 1])
    sampler = MaskedCodeSampler(G.model, network, labels, labels, keys, MaskedSampling(steps=4))
    codes = torch.randint(20, (2, 3, 2, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampler.fill(codes, torch.zeros_like(codes, dtype=torch.bool)), codes)
    assert not calls
    hidden = torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    filled = sampler.fill(codes, hidden)
    assert torch.equal(filled[~hidden], codes[~hidden])
    assert len(calls) == 4
    wrong = torch.where(hidden, (codes + 1) % 20, codes)  # what is hidden does not matter
    assert torch.equal(sampler.fill(wrong, hidden), filled)


@torch.no_grad()
def test_guided_features_have_guided_logits() -> None:
    """The head is computed once for both, and only for what is drawn."""
    labels, none, keys = torch.tensor([0, 1]), torch.tensor([-1, -1]), item_keys(0, [0, 1])
    sampling = MaskedSampling(steps=1, guidance_scale=4.0, temperature=0.0)
    codes = torch.randint(20, (2, 3, 2, 3), generator=torch.Generator().manual_seed(0))
    hidden = torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    ids = torch.cat([G.model.ids(codes, of, hidden) for of in (labels, none)])
    expected = guide(G.model(ids, (2, 3)), 4.0).argmax(-1).reshape(codes.shape)
    sampler = MaskedCodeSampler(G.model, G.model.features, labels, none, keys, sampling)
    assert torch.equal(sampler.fill(codes, hidden), torch.where(hidden, expected, codes))


def test_where_nothing_is_known_each_condition_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, options = ["cat", "dog", "cat", None, "dog"], {"seed": 3, "steps": 2, "guidance_scale": 2.0}
    plain = torch.cat([G.sample_codes([of], (1, 4, 4), indices=[i], **options) for i, of in enumerate(labels)])
    rows, features = [], G.model.features

    def counted(ids: Tensor, *given: object, **named: object) -> Tensor:
        rows.append(len(ids))
        return features(ids, *given, **named)

    monkeypatch.setattr(G.model, "features", counted)
    assert torch.equal(G.sample_codes(labels, (1, 4, 4), **options, batch_size=2), plain)
    # Guided rows of two batches of two and one of one: cat and dog are new in the first batch, none in the second.
    assert rows == [4, 4, 2, 4, 2]


def test_beginnings_are_those_of_the_latest_conditions() -> None:
    known, most = Beginnings(), Beginnings._MOST
    everything = torch.arange(2.0 * most)[:, None, None]

    def get(numbers: list[int]) -> tuple[list[float], list[int]]:
        asked: list[int] = []

        def compute(items: list[int]) -> Tensor:
            asked.extend(items)
            return everything[[numbers[i] for i in items]]

        return known.get(numbers, compute).flatten().tolist(), asked

    assert get([3, 5, 3]) == ([3, 5, 3], [0, 1])
    assert get([5, 4, 3]) == ([5, 4, 3], [1])
    numbers = list(range(2 * most))  # more than are kept: the batch has all of its own
    assert get(numbers) == (numbers, [i for i in numbers if i not in (3, 4, 5)])
    assert get([0, 2 * most - 1]) == ([0, 2 * most - 1], [0])


@torch.no_grad()
def test_bfloat16() -> None:
    """Logits stay near those of float32, samples are made, and what is known is kept."""
    g = make()
    codes = torch.randint(20, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    hidden = torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    ids, labels, keys = g.model.ids(codes, torch.tensor([0, 1]), hidden), torch.tensor([0, 1]), item_keys(0, [0, 1])
    exact = g.model(ids)
    g.model.bfloat16()
    assert (g.model(ids).float() - exact).abs().max() < 0.04 * exact.abs().max()  # ten roundings of 2^-8
    sampling = MaskedSampling(steps=4, guidance_scale=2.0)
    filled = MaskedCodeSampler(g.model, g.model.features, labels, -torch.ones_like(labels), keys, sampling).fill(
        codes, hidden
    )
    assert torch.equal(filled[~hidden], codes[~hidden])
    assert g.sample(["cat", "dog"], num_frames=9, seed=1).isfinite().all()


@torch.no_grad()
def test_joint_distribution() -> None:
    """With a step a code in random order the samples follow the model's joint distribution; all at once, they follow
    the product of its marginals, which is another."""
    torch.manual_seed(2)
    # Three binary codes, one parity: an exact joint distribution p(x) ~ 1 + 0.9 * (-1) ** (x1 + x2 + x3), whose
    # conditionals are those of a network that is given here in closed form.
    config = MaskedModelConfig(codebook_size=2, latent_frames=1, latent_height=1, latent_width=3, width=12, heads=2)
    model = MaskedModel(config)
    model.head = nn.Identity()

    def network(ids: Tensor, grid: tuple[int, int], contexts: object) -> Tensor:
        codes = ids[:, 1:]
        unknown = codes == config.mask_id
        sign = (1 - 2 * (codes - config.code_offset)).where(~unknown, torch.ones_like(codes)).float()
        others = sign.prod(1, keepdim=True) * (unknown.sum(1, keepdim=True) == 1)
        one, zero = 1 - 0.9 * others, 1 + 0.9 * others
        return torch.stack([zero, one], dim=-1).log().expand(-1, 3, -1)

    joint = {x: (1 + 0.9 * (-1) ** sum(x)) / 8 for x in itertools.product((0, 1), repeat=3)}
    count = 8000

    def distance(**options: object) -> float:
        sampling = MaskedSampling(**options)
        none = torch.full((count,), -1)
        sampler = MaskedCodeSampler(model, network, none, none, item_keys(1, range(count)), sampling)
        codes = torch.zeros(count, 1, 1, 3, dtype=torch.long)
        drawn = sampler.fill(codes, torch.ones_like(codes, dtype=torch.bool)).flatten(1).tolist()
        found = {x: sum(row == list(x) for row in drawn) / count for x in joint}
        return sum(abs(found[x] - p) for x, p in joint.items()) / 2

    assert distance(steps=3, order="random") < 0.02
    assert distance(steps=1, order="random") == pytest.approx(0.45, abs=0.02)  # that of the uniform distribution


@torch.no_grad()
def test_codes_made_of_digits() -> None:
    """Digits are drawn each by itself, and a code is what they make; batches and known codes as of other models."""
    factors, count = (2, 3), 6000
    config = MaskedModelConfig(
        codebook_size=6, code_factors=factors, latent_frames=1, latent_height=1, latent_width=2, width=12, heads=2
    )
    logits = torch.tensor([0.7, 0.3, 0.6, 0.3, 0.1]).log()
    model = MaskedModel(config)
    model.head = nn.Identity()
    sampler = MaskedCodeSampler(
        model, lambda ids, grid, contexts: logits.expand(len(ids), 2, -1),
        torch.full((count,), -1), torch.full((count,), -1), item_keys(1, range(count)), MaskedSampling(steps=2),
    )  # fmt: skip
    codes = torch.zeros(count, 1, 1, 2, dtype=torch.long)
    drawn = sampler.fill(codes, torch.ones_like(codes, dtype=torch.bool))
    share = torch.bincount(drawn.flatten(), minlength=6) / drawn.numel()
    expected = (logits[2:].exp()[:, None] * logits[:2].exp()).flatten()  # the first digit counts 1
    assert (share - expected).abs().sum() / 2 < 0.02

    torch.manual_seed(0)
    network = MaskedModel(MaskedModelConfig(**GRID | {"code_factors": (4, 5)}))
    for parameter in network.parameters():
        parameter.data.mul_(3)
    g = MaskedGenerator(network, G.tokenizer, SETTINGS)
    whole = g.sample_codes(["cat", "dog", None], (3, 2, 3), seed=3, guidance_scale=2.0)
    parts = g.sample_codes(["cat", "dog", None], (3, 2, 3), seed=3, guidance_scale=2.0, batch_size=1)
    assert torch.equal(parts, whole)
    begun = g.sample_codes(["cat"], (3, 2, 3), prompt_codes=whole[:1, :1], seed=5)
    assert torch.equal(begun[:, :1], whole[:1, :1])


def test_video_frames_given_stay() -> None:
    given = video(5)
    made = G.continue_video(given, 9, ["cat", "dog"], seed=1)
    assert made.shape == (2, 3, 9, 8, 12)
    assert torch.equal(made[:, :, :5], given)
    streamed = torch.cat(list(G.stream_video(["cat", "dog"], 21, frames=given, seed=1)), dim=2)
    assert streamed.shape == (2, 3, 21, 8, 12)
    assert torch.equal(streamed[:, :, :5], given)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 3, 6, 7, 11)])
def test_inpainting_keeps_what_is_around_the_hole(shape: tuple[int, ...]) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, *shape[2:], dtype=torch.bool)
    mask[..., 2:5, 3:9] = True
    filled = G.inpaint(pixels, mask, "cat", seed=2)
    assert filled.shape == shape
    assert torch.equal(filled.where(~mask, pixels), pixels)
    assert not torch.equal(filled, pixels)
    unseen = pixels.masked_fill(mask, torch.nan)
    assert torch.equal(G.inpaint(unseen, mask, "cat", seed=2), filled)
    assert torch.equal(G.inpaint(pixels[1:], mask, "cat", seed=2, indices=[1]), filled[1:])
    assert torch.equal(G.inpaint(pixels, torch.zeros_like(mask), "cat"), pixels)


def test_bright_pixels_are_no_mistake() -> None:
    """An image without anything darker than mid-grey is filled, and a stream goes on from one that it made."""
    bright = (video(5) + 1).div(2).clamp(0.004, 0.99)
    bright[..., 0, 0] = 0.004
    assert torch.equal(G.outpaint(bright[:, :, 0], (0, 0, 0, 4), "cat")[..., :8, :], bright[:, :, 0])
    assert torch.equal(G.continue_video(bright, 9, "cat")[:, :, :5], bright)


@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (2, 3, 5, 6, 7)])
def test_outpainting(shape: tuple[int, ...]) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wide = G.outpaint(pixels, (1, 3, 2, 0), "dog")
    assert wide.shape == (*shape[:-2], shape[-2] + 2, shape[-1] + 4)
    assert torch.equal(wide[..., 2:, 1:-3], pixels)
    assert wide[..., :2, :].abs().max() > 0


@pytest.mark.parametrize("first, last, count", [(1, 1, 9), (5, 3, 12), (2, 4, 12)])
def test_interpolation(first: int, last: int, count: int) -> None:
    start, end = video(first, 1), video(last, 2)
    made = G.interpolate(start, end, count, ["cat", "dog"], seed=4)
    assert made.shape == (2, 3, count, 8, 12)
    assert torch.equal(made[:, :, :first], start)
    assert torch.equal(made[:, :, -last:], end)
    assert not torch.equal(G.interpolate(start, end, count, ["cat", "dog"], seed=5), made)
    if first == last == 1:
        assert torch.equal(G.interpolate(start[:, :, 0], end[:, :, 0], None, ["cat", "dog"], seed=4), made)


def test_a_language_model_fills_what_comes_after_everything_known() -> None:
    g = make(LanguageModelGenerator)
    pixels = video(1)[:, :, 0]
    made = g.outpaint(pixels, (0, 0, 0, 8), ["cat", "dog"], seed=1)
    assert made.shape == (2, 3, 16, 12)
    assert torch.equal(made[:, :, :8], pixels)
    mask = torch.zeros(1, 1, 9, 8, 12, dtype=torch.bool)
    mask[:, :, 5:] = True
    filled = g.inpaint(video(), mask, ["cat", "dog"], seed=1)
    assert torch.equal(filled[:, :, :5], video()[:, :, :5])
    with pytest.raises(ValueError, match="a language model sees what comes before alone"):
        g.inpaint(video(), ~mask, ["cat", "dog"])


@pytest.mark.parametrize("kind", [LanguageModelGenerator, MaskedGenerator])
def test_progress_of_filling_ends(kind: type) -> None:
    """Also where a part of an image is known, or all of it."""
    told: list[tuple[int, int]] = []
    mask = torch.zeros(2, 1, 8, 12, dtype=torch.bool)
    mask[1, :, 4:] = True
    make(kind).inpaint(video(1)[:, :, 0], mask, batch_size=1, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0


@torch.inference_mode()
def test_a_language_model_begins_within_a_latent_frame() -> None:
    """What it draws after a part of a frame is what it draws there in one go."""
    g = make(LanguageModelGenerator)
    whole = g.sample_codes(["cat", "dog"], (2, 2, 3), seed=7, guidance_scale=2.0)
    request = g._request(["cat", "dog"], (5, 8, 12), None, {"seed": 7, "guidance_scale": 2.0})
    hidden = torch.zeros_like(whole, dtype=torch.bool)
    hidden.flatten(1)[:, 8:] = True
    draw = g._begin(request, (2, 2, 3), 1, 2)
    assert torch.equal(g._fill(draw, slice(0, 2), whole.masked_fill(hidden, 0), hidden), whole)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: g.interpolate(video(), video()[:, :, :, :4], 30), "alike but for their frames"),
        (lambda g: g.interpolate(video(1), video(1), 3), "num_frames must be at least 6"),
        (lambda g: g.interpolate(video(1).byte(), video(1).byte()), "pixels have dtype torch.uint8"),
        (
            lambda g: g.interpolate(video(1)[0], video(1)),
            "first and last must be .b, 3, …, H, W. .* found .3, 1, 8, 12.",
        ),
        (lambda g: g.outpaint(video(1)[0], 1), "pixels must be .b, 3, …, H, W. .* found .3, 1, 8, 12."),
        (lambda g: g.outpaint(video(1), -1), "padding must be 0 or more"),
        (lambda g: g.outpaint(video(1), (0, 0, 0, 32)), "outside this model's 1 x 1 to 4 x 4"),
        (lambda g: g.sample("cat", 17), "17 frames .5 latent ones. are more than the 4 latent frames"),
        (lambda g: g.sample("cat", steps=0), "steps"),
        (lambda g: next(g.stream_video("cat", 30, window=5)), "the window must be of 2 latent frames to the 4"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(G)
