"""Generation with a language model: reproducible, causal, guided, and the same by every road."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from helpers.seeded_weights import seeded_weights
from helpers.small import SMALL
from omnitok.errors import OmnitokError
from omnitok.generation import autoregressive, memory
from omnitok.generation.autoregressive import CodeSampler, LanguageModelGenerator, choose, guide
from omnitok.generation.random import hashed_gumbel, item_keys
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.packed_linear import pack_linears
from omnitok.models.sampling import TokenSampling
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.peers.vidtok import VidTok

CODES = 20
SETTINGS = GeneratorSettings("none", classes=("cat", "dog", "cow"), height=16, width=24, num_frames=9)
RELEASED = {
    "null_class": False,
    "positions": "learned",
    "norm": "layer",
    "activation": "gelu",
    "bias": True,
    "prefix": "class start",
}


def make(settings: GeneratorSettings = SETTINGS, **fields: object) -> LanguageModelGenerator:
    torch.manual_seed(0)
    shared = {"heads": 2, "latent_frames": 3, "latent_height": 2, "latent_width": 3, "num_classes": 3}
    model = LanguageModel(LanguageModelConfig(**(dict(codebook_size=CODES, width=32, depth=2) | shared | fields)))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)
    config = replace(SMALL, normalize_patches=False, latent_channels=4, codebook_size=CODES)
    return LanguageModelGenerator(model, OmniTokenizer.from_config(config), settings)


GENERATORS = {"default": make(), "released": make(**RELEASED)}


@pytest.fixture(autouse=True)
def _always_laid_out(monkeypatch: pytest.MonkeyPatch):
    """These samples are so small that laying the weights out would not pay; but it is what has to be right."""
    monkeypatch.setattr(autoregressive, "_STEPS_TO_LAY_OUT", 1)


def clip(frames: int, seed: int = 0, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, frames, 16, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def naive_codes(g: LanguageModelGenerator, labels: Tensor, frames: int, sampling: TokenSampling, seed: int) -> Tensor:
    """Without any cache: the whole sequence again for every code. For models with a null class."""
    keys, codes = item_keys(seed, range(len(labels))), torch.empty(len(labels), 0, dtype=torch.long)
    first, height, width = g.model.config.code_offset, 2, 3
    for position in range(frames * height * width):
        both = torch.cat([labels, torch.full_like(labels, -1)])
        ids = g.model.ids(codes[:, :0].reshape(len(labels), 0, 1), labels)
        ids = torch.cat([g.model.ids(torch.empty(len(both), 0, 1, dtype=torch.long), both)], dim=0)
        ids = torch.cat([ids, torch.cat([codes, codes]) + first], dim=1)
        logits = g.model(ids)[:, -1, first:]
        guided = sampling.guides(position % 6, 6) and sampling.is_guided
        logits = guide(logits, sampling.guidance_scale) if guided else logits.chunk(2)[0]
        noise = partial(hashed_gumbel, keys, position) if sampling.temperature else None
        codes = torch.cat([codes, choose(logits, noise, sampling)[:, None]], dim=1)
    return codes.reshape(len(labels), frames, height, width)


# ------------------------------------------------------------------------------------------------ the same by all roads


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"guidance_scale": 3.0},
        {"guidance_scale": 3.0, "guidance_interval": (0.3, 0.9), "top_k": 7},
        {"temperature": 0.0, "guidance_scale": 1.5},
        {"temperature": 0.7, "top_p": 0.8},
    ],
)
@torch.inference_mode()
def test_sampled_codes_are_those_of_the_plain_loop(arguments: dict[str, object]):
    g = GENERATORS["default"]
    labels = torch.tensor([0, 2, -1])
    expected = naive_codes(g, labels, 2, TokenSampling(**arguments), seed=5)
    assert torch.equal(g.sample_codes(labels, (2, 2, 3), seed=5, **arguments), expected)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("scale", (1.0, 2.5))
def test_items_do_not_depend_on_their_batch(name: str, scale: float):
    g = GENERATORS[name]
    labels = [0, 1, 2, 0, 1]
    whole = g.sample_codes(labels, (3, 2, 3), seed=3, guidance_scale=scale)
    for size in (1, 3):
        assert torch.equal(g.sample_codes(labels, (3, 2, 3), seed=3, guidance_scale=scale, batch_size=size), whole)
    part = g.sample_codes([2, 0], (3, 2, 3), seed=3, guidance_scale=scale, indices=[2, 3])
    assert torch.equal(part, whole[2:4])
    assert not torch.equal(g.sample_codes(labels, (3, 2, 3), seed=4, guidance_scale=scale), whole)
    assert not torch.equal(whole[0], whole[3])


@pytest.mark.parametrize("name", GENERATORS)
def test_guidance_of_one_is_conditional_sampling(name: str):
    g = GENERATORS[name]
    conditional = g.sample([0, 1])
    assert torch.equal(g.sample([0, 1], guidance_scale=1.0), conditional)
    assert torch.equal(g.sample([0, 1], guidance_scale=4.0, guidance_interval=(0.0, 0.0)), conditional)
    assert not torch.equal(g.sample([0, 1], guidance_scale=4.0), conditional)


def test_guidance_of_zero_is_unconditional_sampling():
    for g in GENERATORS.values():
        unconditional = g.sample_codes([None, None], (2, 2, 3))
        assert torch.equal(g.sample_codes([0, 2], (2, 2, 3), guidance_scale=0.0), unconditional)
        assert not torch.equal(g.sample_codes([0, 2], (2, 2, 3)), unconditional)


def test_a_picture_is_the_first_frame_of_the_clip():
    g = GENERATORS["default"]
    picture, video = g.sample([1, 2], seed=9), g.sample([1, 2], num_frames=9, seed=9)
    assert picture.shape == (2, 3, 16, 24)
    assert video.shape == (2, 3, 9, 16, 24)
    torch.testing.assert_close(picture, video[:, :, 0], atol=1e-5, rtol=0)
    assert float(video.abs().max()) <= 1


@pytest.mark.parametrize("frames, latents", [(1, 1), (2, 2), (5, 2), (7, 3)])
def test_any_number_of_frames(frames: int, latents: int):
    g = GENERATORS["default"]
    pixels = g.sample("dog", num_frames=frames)
    assert pixels.shape == ((1, 3, 16, 24) if frames == 1 else (1, 3, frames, 16, 24))
    codes = g.sample_codes("dog", (latents, 2, 3))
    expected = g.tokenizer.decode_codes(codes, (frames, 16, 24)).clamp(-1, 1)
    assert torch.equal(pixels.reshape(expected.shape), expected)


def test_labels_names_and_defaults():
    g = GENERATORS["default"]
    assert torch.equal(g.sample(["cat", "cow"]), g.sample(torch.tensor([0, 2])))
    assert torch.equal(g.sample(), g.sample([None]))
    assert g.sample(indices=range(3)).shape[0] == 3
    assert g.sample(1, height=8, width=20).shape == (1, 3, 8, 20)
    settings = GeneratorSettings("none", height=16, width=24, sampling={"guidance_scale": 3.0, "top_k": 5.0})
    torch.manual_seed(0)
    with_defaults = make(settings)
    assert torch.equal(with_defaults.sample(1), g.sample(1, guidance_scale=3.0, top_k=5))
    assert torch.equal(with_defaults.sample(1, guidance_scale=1.0, top_k=0), g.sample(1))


@pytest.mark.parametrize("name", GENERATORS)
def test_special_ids_are_never_sampled(name: str):
    g = make(**(RELEASED if name == "released" else {}))
    with torch.no_grad():
        g.model.head.weight[: g.model.config.code_offset] = 100 * g.model.head.weight[-1]
    codes = g.sample_codes([0, 1], (3, 2, 3), guidance_scale=2.0)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < CODES


def test_weights_are_laid_out_once_a_call_where_it_pays_and_fits(monkeypatch: pytest.MonkeyPatch):
    g, rows = GENERATORS["default"], []

    def count(model: LanguageModel, number: int) -> LanguageModel:
        rows.append(number)
        return pack_linears(model, number)

    monkeypatch.setattr(autoregressive, "pack_linears", count)
    plain = g.sample_codes([0, 1, 2], batch_size=2)
    g.sample_codes([0, 1, 2], guidance_scale=2.0)
    list(g.stream_video([0], 21, method="feedback"))
    assert rows == [2, 6, 1]
    monkeypatch.setattr(autoregressive, "available_bytes", lambda device: 100_000)
    assert torch.equal(g.sample_codes([0, 1, 2], batch_size=2), plain)
    monkeypatch.undo()
    monkeypatch.setattr(autoregressive, "pack_linears", count)
    assert torch.equal(g.sample_codes([0, 1, 2], batch_size=2), plain)
    assert rows == [2, 6, 1]


def test_unknown_arguments_are_named():
    with pytest.raises(TypeError, match=r"unknown sampling arguments steps; accepted are guidance_scale, .*, top_p"):
        GENERATORS["default"].sample_codes([0], steps=10)


def test_progress_counts_tokens():
    calls: list[tuple[int, int]] = []
    GENERATORS["default"].sample([0, 1, 2], batch_size=2, progress=lambda *call: calls.append(call))
    assert calls[0] == (2, 18)
    assert calls[-1] == (18, 18)
    assert len(calls) == 12


# ----------------------------------------------------------------------------------------------------- frame prediction


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("given", (1, 3, 5, 6))
def test_given_frames_stay_and_nothing_else_is_seen(name: str, given: int):
    """Changing the frames to predict changes nothing; changing the given ones does."""
    g = GENERATORS[name]
    video = clip(9)
    result = g.continue_video(video[:, :, :given], 9, labels=[0, 1])
    assert result.shape == video.shape
    assert torch.equal(result[:, :, :given], video[:, :, :given])
    other = video.clone()
    other[:, :, given:] = clip(9, seed=1)[:, :, given:]
    assert torch.equal(g.continue_video(other[:, :, :given], 9, labels=[0, 1]), result)
    assert not torch.allclose(
        g.continue_video(clip(given, seed=2), 9, labels=[0, 1])[:, :, given:], result[:, :, given:]
    )


def test_only_the_given_frames_are_encoded(monkeypatch: pytest.MonkeyPatch):
    g = make()
    seen = []
    encode = g.tokenizer.encode
    monkeypatch.setattr(g.tokenizer, "encode", lambda x, **how: seen.append(x) or encode(x, **how))
    video = clip(7)
    g.continue_video(video, 9)
    assert len(seen) == 1
    assert torch.equal(seen[0], video[:, :, 2:])  # the last 1 + 4, so that the prediction joins on


def test_a_picture_goes_on_as_a_clip():
    g = GENERATORS["default"]
    picture = clip(1)[:, :, 0]
    result = g.continue_video(picture, labels="cat", seed=1)
    assert result.shape == (2, 3, 9, 16, 24)
    assert torch.equal(result[:, :, 0], picture)
    codes = g.tokenizer.encode(picture).codes[:, None]
    expected = g.sample_codes(["cat", "cat"], (3, 2, 3), prompt_codes=codes, seed=1)
    assert torch.equal(expected[:, :1], codes)
    torch.testing.assert_close(result[:, :, 1:], g.tokenizer.decode_codes(expected)[:, :, 1:].clamp(-1, 1))


def test_prompts_in_batches():
    g = GENERATORS["default"]
    whole = g.continue_video(clip(5, batch=3), 9, labels=[0, 1, 2])
    torch.testing.assert_close(g.continue_video(clip(5, batch=3), 9, labels=[0, 1, 2], batch_size=2), whole)


# -------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("method", ("ring", "feedback"))
@pytest.mark.parametrize("given", (0, 5))
def test_a_stream_inside_the_context_is_a_sample(method: str, given: int):
    g = GENERATORS["default"]
    frames = clip(given) if given else None
    pieces = list(g.stream_video([0, 2], 9, frames=frames, method=method, seed=4, guidance_scale=2.0))
    expected = g.sample([0, 2], 9, prompt_frames=frames, seed=4, guidance_scale=2.0)
    torch.testing.assert_close(torch.cat(pieces, dim=2), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name, method", [("default", "ring"), ("default", "feedback"), ("released", None)])
@pytest.mark.parametrize("given", (0, 1, 14))
def test_streams_of_any_length(name: str, method: str, given: int):
    g = GENERATORS[name]
    frames = clip(given) if given else None
    calls: list[tuple[int, int]] = []
    pieces = list(
        g.stream_video(
            [0, 2], 31, frames=frames, method=method, seed=4, progress=lambda *call: calls.append(call), top_k=9
        )
    )
    video = torch.cat(pieces, dim=2)
    assert video.shape == (2, 3, 31, 16, 24)
    assert video.isfinite().all()
    assert float(video.abs().max()) <= 1
    if given:
        assert torch.equal(video[:, :, :given], frames)
    assert calls[-1][0] == calls[-1][1]
    again = torch.cat(list(g.stream_video([0, 2], 31, frames=frames, method=method, seed=4, top_k=9)), dim=2)
    assert torch.equal(video, again)


@pytest.mark.parametrize("given", (0, 5))
def test_a_stream_whose_decoder_waits_for_the_next_latent_frame(given: int):
    """VidTok doubles frames with their neighbours: no frame is lost or shown twice."""
    tokenizer = VidTok({"widths": (8, 8, 16, 16), "blocks": 1, "latent_channels": 2, "fsq_levels": (5, 4)})
    tokenizer.load_state_dict(seeded_weights(tokenizer.state_dict(), {}))
    g = LanguageModelGenerator(GENERATORS["default"].model, tokenizer.eval(), SETTINGS)
    frames = clip(given) if given else None
    pieces = list(g.stream_video([0, 2], 9, frames=frames, method="ring", seed=4))
    expected = g.sample([0, 2], 9, prompt_frames=frames, seed=4)
    torch.testing.assert_close(torch.cat(pieces, dim=2), expected, atol=1e-3, rtol=0)  # such weights amplify rounding


def test_an_endless_stream():
    g = GENERATORS["default"]
    stream = g.stream_video([0], window=2, seed=1)
    lengths = [next(stream).shape[2] for _ in range(20)]
    assert lengths == [1] + [4] * 19
    assert not torch.equal(next(stream), next(stream))


def test_ring_forgets_what_left_the_window():
    """With one layer and a window of 2, what follows two latent frames does not depend on those before them."""
    g = make(depth=1)
    results = []
    for first in (0, 1):
        codes = torch.randint(CODES, (1, 3, 2, 3), generator=torch.Generator().manual_seed(0))
        codes[:, 0] = first
        label = torch.tensor([1])
        sampler = CodeSampler(
            g.model, label, label, codes[:, :1], item_keys(0, [0]), TokenSampling(temperature=0), window=2
        )
        with torch.inference_mode():
            sampler.codes(0)
            g.model(codes[:, 0].flatten(1)[:, -1:] + g.model.config.code_offset, sampler.cache)
            g.model(codes[:, 1].flatten(1) + g.model.config.code_offset, sampler.cache)
            sampler.cache.slide()
            results.append(g.model(codes[:, 2].flatten(1) + g.model.config.code_offset, sampler.cache))
    assert torch.equal(*results)


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_requests_are_one_sentence():
    g = GENERATORS["default"]
    bad = [
        ({"labels": 3}, r"label 3 is out of range: labels lie in \[0, 2\]"),
        ({"labels": "emu"}, "unknown class 'emu'; known are cat, dog, cow"),
        ({"labels": []}, "labels are empty"),
        ({"labels": [0], "indices": [1, 2]}, "1 labels and 2 indices do not match"),
        ({"labels": [0, 1, 2], "prompt_frames": clip(1)}, "3 labels and 2 given images or videos do not match"),
        ({"num_frames": 13}, r"13 frames \(4 latent ones\) are more than the 3 latent frames.*stream_video"),
        ({"num_frames": 0}, "must be at least 1"),
        ({"height": 24}, "latent frames of 3 x 3 are outside this model's 1 x 1 to 2 x 3"),
        ({"prompt_frames": clip(9), "num_frames": 10}, "prompt of 3 latent frames is longer than the context of 3"),
        ({"prompt_frames": clip(5), "num_frames": 5}, "5 frames are given, so num_frames must be larger"),
        ({"prompt_frames": clip(1)[..., :16]}, "the given frames are 16 x 16 pixels, the model's are 16 x 24: resize"),
        ({"prompt_frames": clip(1)[:, :1]}, "must be .*found .*1, 1, 16, 24"),
        ({"prompt_frames": clip(1) * 9}, "pixels lie in"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"top_p": 2.0}, "top_p must be at most 1, found 2"),
    ]
    for arguments, message in bad:
        with pytest.raises(ValueError, match=message):
            g.sample(**arguments)


def test_bad_streams_are_refused_at_once():
    with pytest.raises(ValueError, match="window must be of 2 latent frames to the 3"):
        GENERATORS["default"].stream_video(window=4)
    with pytest.raises(ValueError, match="'ring' needs rotary positions"):
        GENERATORS["released"].stream_video(0, method="ring")
    with pytest.raises(ValueError, match="'ring' or 'feedback'"):
        GENERATORS["released"].stream_video(0, method="loop")


def test_models_without_what_is_asked_for():
    unconditional = make(GeneratorSettings("none", height=16, width=24), num_classes=0, prefix="start")
    assert unconditional.sample().shape == (1, 3, 16, 24)
    with pytest.raises(ValueError, match="unconditional model cannot be guided"):
        unconditional.sample(guidance_scale=2.0)
    with pytest.raises(ValueError, match="this model has no classes"):
        unconditional.sample(0)
    needs_label = make(prefix="class", null_class=False)
    with pytest.raises(ValueError, match="each item needs a label"):
        needs_label.sample()


def test_parts_that_do_not_belong_together():
    g = GENERATORS["default"]
    other = LanguageModel(LanguageModelConfig(codebook_size=21, width=32, heads=2, depth=1))
    with pytest.raises(OmnitokError, match="20 codes, the model was trained on 21"):
        LanguageModelGenerator(other, g.tokenizer, SETTINGS)
    with pytest.raises(OmnitokError, match="name 2 classes, the model has 3"):
        LanguageModelGenerator(g.model, g.tokenizer, GeneratorSettings("none", classes=("a", "b")))
    vae = OmniTokenizer.from_config(
        TokenizerConfig(width=16, heads=1, head_dim=16, encoder_blocks="w", decoder_blocks="w", bottleneck="kl")
    )
    with pytest.raises(OmnitokError, match="is a VAE"):
        LanguageModelGenerator(g.model, vae, SETTINGS)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2_500)
    # 2 layers x keys and values x (2 + 6) tokens x 32 x 4 bytes = 4096 an item... of which not even one fits
    with pytest.raises(OmnitokError, match=r"2 items at once need 8\.2 kB, 2\.5 kB are free; not even one fits"):
        GENERATORS["default"].sample([0, 1])
    monkeypatch.setattr(memory, "available_bytes", lambda device: 9_000)
    with pytest.raises(OmnitokError, match=r"3 items at once need 12\.3 kB.*batch_size=2 may fit"):
        GENERATORS["default"].sample([0, 1, 2])
    assert GENERATORS["default"].sample([0, 1, 2], batch_size=2).shape[0] == 3


@pytest.mark.parametrize("name", GENERATORS)
def test_compiled_steps_sample_the_same(name: str, monkeypatch: pytest.MonkeyPatch):
    """One graph for all steps; traced only, for generating code takes a minute."""
    g = GENERATORS[name]
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, fullgraph=True, backend=count))
    plain = g.sample_codes([0, 1], (3, 2, 3), guidance_scale=2.0)
    assert torch.equal(g.sample_codes([0, 1], (3, 2, 3), guidance_scale=2.0, compile=True), plain)
    assert len(graphs) == 1


def test_half_precision_runs():
    g = make()
    g.model.bfloat16()
    assert g.sample([0], num_frames=2).isfinite().all()
    assert math.isfinite(float(g.sample([0]).sum()))
