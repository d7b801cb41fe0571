"""The language model: causality, cache, ring, vocabulary, loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from omnitok.models.code_sequence import LanguageModelConfig, prefix_ids, sequence_ids
from omnitok.models.code_transformer import CODE_LENGTHS, start_from_codebook
from omnitok.models.kv_cache import KVCache
from omnitok.models.language_model import LanguageModel, language_model_losses

SMALL = {
    "codebook_size": 20,
    "num_classes": 3,
    "latent_frames": 3,
    "latent_height": 3,
    "latent_width": 4,
    "width": 32,
    "depth": 2,
    "heads": 2,
}
RELEASED = SMALL | {
    "null_class": False,
    "positions": "learned",
    "norm": "layer",
    "activation": "gelu",
    "bias": True,
    "prefix": "class start",
}
TOLERANCE = 1e-5


def make(**fields: object) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(**(SMALL | fields))).eval()
    for parameter in model.parameters():  # larger than at initialisation, so that mistakes show
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


MODELS = {"default": make(), "released": make(**RELEASED)}


def random_ids(model: LanguageModel, batch: int, frames: int = 3, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(model.config.codebook_size, (batch, frames, 3, 4), generator=g)
    return model.ids(codes, torch.arange(batch) % 3)


# --------------------------------------------------------------------------------------------------------- vocabulary


@pytest.mark.parametrize(
    "fields, expected",
    [  # the released layouts: first class, null class, first code, ids before the codes for label 2
        ({"prefix": "class start", "null_class": False}, (1, None, 4, [3, 0])),
        ({"prefix": "start class", "null_class": False}, (1, None, 4, [0, 3])),
        ({"prefix": "class", "null_class": False}, (0, None, 3, [2])),
        ({}, (1, 4, 5, [0, 3])),
    ],
)
def test_layout(fields: dict[str, object], expected: tuple[object, ...]):
    config = LanguageModelConfig(**(SMALL | fields))
    ids = prefix_ids(config, torch.tensor([2]))[0].tolist()
    assert (config.class_offset, config.null_id, config.code_offset, ids) == expected
    assert config.vocabulary == config.code_offset + 20


@pytest.mark.parametrize("has_bos, first", [(True, 1), (False, 0)])
def test_unconditional_layout(has_bos: bool, first: int):
    config = LanguageModelConfig(**(SMALL | {"prefix": "start", "num_classes": 0, "has_bos": has_bos}))
    assert (config.code_offset, config.vocabulary) == (first, first + 20)
    assert prefix_ids(config, torch.tensor([-1])).tolist() == [[0]]
    with pytest.raises(ValueError, match="takes no labels"):
        prefix_ids(config, torch.tensor([0]))


def test_none_is_the_null_class():
    config = MODELS["default"].config
    codes = torch.zeros(2, 3, 4, dtype=torch.long)
    assert torch.equal(sequence_ids(config, codes), sequence_ids(config, codes, torch.tensor([-1, -1])))
    assert sequence_ids(config, codes)[0, :3].tolist() == [0, 4, 5]


@pytest.mark.parametrize(
    "codes, labels, message",
    [
        (torch.zeros(1, 3, 4, dtype=torch.long), torch.tensor([3]), r"labels must lie in \[0, 2\].*found 3"),
        (torch.zeros(1, 3, 4, dtype=torch.long), torch.tensor([-2]), "found -2"),
        (torch.zeros(1, 3, 4, dtype=torch.long), torch.tensor([1, 1]), r"1 items need labels \(1,\), found \(2,\)"),
        (torch.full((1, 3, 4), 20), None, r"codes must lie in \[0, 19\], found \[20, 20\]"),
        (torch.zeros(1, 3, 4), None, "whole numbers"),
        (torch.zeros(3, 4, dtype=torch.long), None, "found torch.int64"),
    ],
)
def test_bad_codes_and_labels(codes: torch.Tensor, labels: torch.Tensor | None, message: str):
    with pytest.raises(ValueError, match=message):
        sequence_ids(MODELS["default"].config, codes, labels)


def test_a_model_without_null_class_needs_labels():
    with pytest.raises(ValueError, match="no null class"):
        sequence_ids(MODELS["released"].config, torch.zeros(1, 3, 4, dtype=torch.long))


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 30, "heads": 4},
        {"prefix": "start"},
        {"prefix": "codes"},
        {"num_classes": 0, "null_class": False},
        {"heads": 8},
        {"context": 9},
        {"dropout": 1.0},
        {"feedforward_multiple": math.nan},
        {"depth": 0},
    ],
)
def test_senseless_configurations(fields: dict[str, object]):
    with pytest.raises(ValueError, match=r"must|needs|need"):
        LanguageModelConfig(**(SMALL | fields))


# ---------------------------------------------------------------------------------------------------------- causality


@pytest.mark.parametrize("name", MODELS)
def test_later_tokens_leave_earlier_logits_alone(name: str):
    model = MODELS[name]
    ids = random_ids(model, 2)
    changed = ids.clone()
    changed[:, 20:] = random_ids(model, 2, seed=1)[:, 20:]
    with torch.no_grad():
        before, after = model(ids[:, :-1]), model(changed[:, :-1])
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_is_the_beginning_of_a_clip(name: str):
    model = MODELS[name]
    codes = torch.randint(20, (2, 3, 3, 4))
    labels = torch.tensor([0, 2])
    picture, clip = model.ids(codes[:, 0], labels), model.ids(codes, labels)
    assert torch.equal(picture, clip[:, : picture.shape[1]])
    with torch.no_grad():
        torch.testing.assert_close(model(picture), model(clip[:, :-1])[:, : picture.shape[1]], atol=1e-5, rtol=0)


def test_positions_follow_the_grid():
    """The same codes on another grid are another picture; rotary tables depend on differences only."""
    model = MODELS["default"]
    ids = model.ids(torch.randint(20, (1, 2, 2)), torch.tensor([1]))
    with torch.no_grad():
        assert not torch.allclose(model(ids, grid=(2, 2)), model(ids, grid=(1, 4)))
        assert torch.equal(model(ids), model(ids, grid=(3, 4)))


# -------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("name", MODELS)
@given(prefill=st.integers(1, 36), second=st.integers(0, 8), batch=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_cached_logits_equal_uncached(name: str, prefill: int, second: int, batch: int):
    """At every position, for a prefill of any length, in one piece or two."""
    model = MODELS[name]
    ids = random_ids(model, batch)[:, :-1]
    with torch.inference_mode():
        whole = model(ids)
        cache = model.new_cache(batch)
        parts = [model(ids[:, :prefill], cache)]
        if second and prefill + second <= ids.shape[1]:
            parts.append(model(ids[:, prefill : prefill + second], cache))
        while cache.length < ids.shape[1]:
            parts.append(model(ids[:, cache.length : cache.length + 1], cache))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_compilable_step_equals_the_plain_one(name: str):
    model = MODELS[name]
    ids = random_ids(model, 2)[:, :-1]
    with torch.inference_mode():
        cache = model.new_cache(2)
        parts = [model(ids[:, :5], cache)]
        for slot in range(5, ids.shape[1]):
            parts.append(model.step(ids[:, slot : slot + 1], cache, torch.tensor([slot])))
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=TOLERANCE, rtol=0)


def test_cache_on_another_grid():
    model = MODELS["default"]
    ids = model.ids(torch.randint(20, (2, 3, 2, 3)), torch.tensor([0, 1]))[:, :-1]
    with torch.inference_mode():
        cache = model.new_cache(2, grid=(2, 3))
        parts = [model(ids[:, :4], cache), *(model(ids[:, i : i + 1], cache) for i in range(4, ids.shape[1]))]
        torch.testing.assert_close(torch.cat(parts, 1), model(ids, grid=(2, 3)), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("window", (1, 2, 3))
def test_ring_equals_uncached_inside_its_window(window: int):
    """One layer, whose keys depend on nothing but their token: after any slide the window is a clip of its own."""
    model = make(depth=1)
    frames = 7
    codes = torch.randint(20, (2, frames, 3, 4))
    labels = torch.tensor([0, 2])
    with torch.inference_mode():
        cache = model.new_cache(2, frames=window)
        last = model(model.ids(codes[:, :0].reshape(2, 0, 3, 4), labels), cache)[:, -1]
        for t in range(frames):
            if t >= window:
                cache.slide()
            first = max(0, t - window + 1)
            reference = model(model.ids(codes[:, first : t + 1], labels))
            for token in codes[:, t].flatten(1).T:
                last = model(token[:, None] + model.config.code_offset, cache)[:, -1]
                row = (
                    model.config.prefix_length + (t - first) * 12 + (cache.length - model.config.prefix_length - 1) % 12
                )
                torch.testing.assert_close(last, reference[:, row], atol=TOLERANCE, rtol=0)
    assert cache.keys.shape[3] == model.config.prefix_length + window * 12


def test_ring_of_a_deep_model_is_the_plain_cache_inside_its_window():
    model = MODELS["default"]
    ids = random_ids(model, 1)
    with torch.inference_mode():
        cache = model.new_cache(1)
        assert torch.equal(model(ids, cache), model(ids))
        cache.slide()
        assert cache.length == ids.shape[1] - 12


def test_a_cache_with_a_hidden_class_equals_a_sequence_without_it():
    """The released sampler's unconditional sequences: start at position 0, codes at their usual positions."""
    model = MODELS["released"]
    ids = random_ids(model, 2)[:, :-1]
    ids[:, 1] = 0
    shorter = LanguageModel(model.config).eval()
    shorter.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert shorter.position_embedding is not None
        table = shorter.position_embedding
        table[1 : len(table) - 1] = table[2:].clone()
    with torch.inference_mode():
        cache = model.new_cache(2)
        cache.hide_first(torch.tensor([True, False]))
        parts = [model(ids[:, :7], cache)]
        for slot in range(7, ids.shape[1]):
            if slot % 2:
                parts.append(model(ids[:, slot : slot + 1], cache))
            else:
                parts.append(model.step(ids[:, slot : slot + 1], cache, torch.tensor([slot])))
                cache.length += 1
        cached = torch.cat(parts, dim=1)
        torch.testing.assert_close(cached[:1, 1:], shorter(ids[:1, 1:]), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(cached[1:], model(ids[1:]), atol=TOLERANCE, rtol=0)


def test_cache_says_its_size():
    model = MODELS["default"]
    cache = model.new_cache(2, grid=(2, 3), frames=2)
    expected = 4 * (cache.keys.numel() + cache.values.numel())
    assert KVCache.nbytes(model.config, 2, 2, (2, 3), 4) == expected


def test_too_long():
    model = MODELS["default"]
    ids = torch.zeros(1, 39, dtype=torch.long)
    with pytest.raises(ValueError, match="39 tokens are longer than the context of 38"):
        model(ids)
    with pytest.raises(ValueError, match="15 tokens are longer than the cache of 14"):
        model(ids[:, :15], model.new_cache(1, frames=1))
    with pytest.raises(ValueError, match="outside this model's 1 x 1 to 3 x 4"):
        model(ids[:, :3], grid=(4, 4))
    with pytest.raises(ValueError, match="holds 1 to 3 latent frames"):
        model.new_cache(1, frames=4)
    with pytest.raises(ValueError, match="39 tokens are longer than the context of 38"):
        MODELS["released"](ids)


def test_a_slide_at_the_wrong_time():
    cache = MODELS["default"].new_cache(1)
    with pytest.raises(ValueError, match="when its last latent frame is complete"):
        cache.slide()
    with pytest.raises(ValueError, match="absolute"):
        MODELS["released"].new_cache(1).slide()


# --------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("name", MODELS)
def test_loss_is_the_mean_cross_entropy_of_the_codes(name: str):
    model = MODELS[name]
    codes, labels = torch.randint(20, (2, 2, 3, 4)), torch.tensor([0, 1])
    ids = model.ids(codes, labels)
    logits = model(ids[:, :-1])
    expected = 0.0
    for b in range(2):
        for i in range(2, ids.shape[1]):
            expected -= logits[b, i - 1].log_softmax(-1)[ids[b, i]].item() / (2 * 24)
    loss = language_model_losses(model, codes, labels)["cross_entropy"]
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_dropped_labels_are_the_null_class_of_their_item_alone():
    model = MODELS["default"]
    codes, labels = torch.randint(20, (2, 3, 4)), torch.tensor([0, 1])
    dropped = language_model_losses(model, codes, labels, torch.tensor([False, True]))
    explicit = language_model_losses(model, codes, torch.tensor([0, -1]))
    assert torch.equal(dropped["cross_entropy"], explicit["cross_entropy"])
    assert labels.tolist() == [0, 1]


def test_loss_is_float32_under_autocast_and_trains():
    model = make()
    codes = torch.randint(20, (2, 3, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(40):
        loss = language_model_losses(model, codes, torch.tensor([0, 1]))["cross_entropy"]
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        mixed = language_model_losses(model, codes, torch.tensor([0, 1]))["cross_entropy"]
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(loss.item(), abs=0.1)


def test_fresh_weights_predict_nothing_yet():
    model = LanguageModel(LanguageModelConfig(**SMALL)).eval()
    loss = language_model_losses(model, torch.randint(20, (4, 3, 3, 4)))["cross_entropy"].item()
    assert loss == pytest.approx(math.log(model.config.vocabulary), abs=0.1)


def test_embeddings_that_start_from_the_codebook_are_alike_where_codes_are() -> None:
    config = LanguageModelConfig(codebook_size=64, width=1536, depth=1, heads=4, latent_height=2, latent_width=2)
    torch.manual_seed(0)
    model = LanguageModel(config)
    before = model.token_embedding.weight.detach().clone()
    codebook = F.normalize(torch.randn(64, 8), dim=-1)
    start_from_codebook(model, codebook)
    squared = torch.cdist(codebook, codebook).square()
    kernel = torch.stack([(-squared / (2 * length**2)).exp() for length in CODE_LENGTHS]).mean(0)
    for embedding in (model.token_embedding.weight, model.head.weight):
        codes = embedding[config.code_offset :].detach()
        torch.testing.assert_close(codes @ codes.T / (1536 * 0.02**2), kernel, atol=0.15, rtol=0)
    assert torch.equal(model.token_embedding.weight[: config.code_offset], before[: config.code_offset])
    with pytest.raises(ValueError, match=r"must be \(64, dim\) for this model, found \(63, 8\)"):
        start_from_codebook(model, codebook[1:])
