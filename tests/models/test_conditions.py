"""Texts and sequences of embeddings as conditions of all three kinds of generator."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnitok import OmniTokenizer, TokenizerConfig
from omnitok.diffusion import diffusion_losses, draw_times
from omnitok.generation.autoregressive import LanguageModelGenerator
from omnitok.generation.diffusion import DiffusionGenerator
from omnitok.generation.masked import MaskedGenerator
from omnitok.hub.folder import load_generator_model, save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.bottlenecks import KLConfig, VQConfig
from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
from omnitok.models.conditions import (
    ConditionEncoder,
    EmbeddingCondition,
    TextCondition,
    drop_conditions,
    encode_texts,
    has_condition,
    make_conditions,
    no_condition,
)
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel, language_model_losses
from omnitok.models.masked_model import MaskedModel, masked_model_losses
from omnitok.models.token_masks import draw_hidden

TEXT, EMBEDDINGS = TextCondition(max_length=40, depth=1), EmbeddingCondition(channels=5, max_length=6)
CODES = {"codebook_size": 8, "latent_frames": 1, "latent_height": 2, "latent_width": 2, "width": 32, "heads": 2}
TOKENIZER = {
    "patch_size": 4, "temporal_patch_size": 4, "width": 16, "heads": 2, "head_dim": 8,
    "encoder_blocks": "w", "decoder_blocks": "w", "window_size": 2,
}  # fmt: skip


def build(kind: str, condition: object) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "diffusion":
        return DiffusionTransformer(
            DiffusionTransformerConfig(
                latent_channels=4, patch_size=1, width=32, depth=2, heads=2, learn_sigma=False, objective="flow",
                condition=condition,
            )
        )  # fmt: skip
    if kind == "masked":
        return MaskedModel(MaskedModelConfig(**CODES, depth=2, condition=condition))
    return LanguageModel(LanguageModelConfig(**CODES, depth=2, prefix="start", null_class=False, condition=condition))


def loss_of(
    model: torch.nn.Module,
    tokens: Tensor,
    conditions: Tensor,
    drop: Tensor | None = None,
    torch_rng: torch.Generator | None = None,
) -> Tensor:
    if isinstance(model, LanguageModel):
        return language_model_losses(model, tokens, conditions, drop)["cross_entropy"]
    if isinstance(model, MaskedModel):
        hidden = draw_hidden(tuple(tokens.shape), {"generation": 1.0}, torch_rng or torch.Generator().manual_seed(0))
        return masked_model_losses(model, tokens, hidden, conditions, drop)["cross_entropy"]
    given = conditions if drop is None else drop_conditions(conditions, drop)
    t = draw_times("flow", len(tokens), torch.Generator().manual_seed(0))
    losses = diffusion_losses(model, tokens, given, t, torch.randn(tokens.shape), "flow")
    return torch.stack([loss.mean() for loss in losses.values()]).sum()


def make_generator(model: torch.nn.Module) -> LanguageModelGenerator | MaskedGenerator | DiffusionGenerator:
    settings = GeneratorSettings(tokenizer="t", height=8, width=8, latent_scale=1.0)
    bottleneck = (
        KLConfig(latent_channels=4)
        if isinstance(model, DiffusionTransformer)
        else VQConfig(codebook_size=8, latent_channels=4)
    )
    tokenizer = OmniTokenizer.from_config(TokenizerConfig(**TOKENIZER, bottleneck=bottleneck))
    kinds = {LanguageModel: LanguageModelGenerator, MaskedModel: MaskedGenerator}
    return kinds.get(type(model), DiffusionGenerator)(model, tokenizer, settings)


def draw(
    generator: LanguageModelGenerator | MaskedGenerator | DiffusionGenerator, items: object, **options: object
) -> Tensor:
    if isinstance(generator, DiffusionGenerator):
        return generator.sample_latents(items, (2, 2), **options)
    return generator.sample_codes(items, (1, 2, 2), **options)


KINDS = ["language", "masked", "diffusion"]


def test_tensors_of_conditions() -> None:
    texts = encode_texts(["ab", None, "é", ""], 8)
    assert texts.tolist() == [[97, 98], [-1, -1], [195, 169], [-1, -1]]
    assert encode_texts([], 8).shape == (0, 1)
    assert encode_texts(["aé"], 2, cut=True).tolist() == [[97]]  # no half characters
    assert has_condition(texts).any(1).tolist() == [True, False, True, False]
    dropped = drop_conditions(texts, torch.tensor([True, False, False, False]))
    assert dropped.tolist() == [[-1, -1], *texts[1:].tolist()]
    sequences = make_conditions(EMBEDDINGS, [torch.ones(2, 5), None])
    assert has_condition(sequences).tolist() == [[True, True], [False, False]]
    assert not has_condition(no_condition(sequences)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_matter_and_conditions_do(kind: str) -> None:
    model = build(kind, TEXT).eval()
    for name, parameter in model.named_parameters():
        if name.endswith((".cross.out.weight", "modulation.weight", "head.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, 4, 2, 2) if kind == "diffusion" else torch.randint(8, (2, 2, 2))
    short, longer = encode_texts(["red", "blue"], 40), encode_texts(["red", "blue", "x" * 30], 40)[:2]
    torch.manual_seed(0)
    expected = loss_of(model, tokens, short)
    torch.manual_seed(0)
    torch.testing.assert_close(loss_of(model, tokens, longer), expected)
    torch.manual_seed(0)
    assert (loss_of(model, tokens, encode_texts(["blue", "red"], 40)) - expected).abs() > 1e-4
    torch.manual_seed(0)
    none = loss_of(model, tokens, no_condition(short))
    torch.manual_seed(0)
    torch.testing.assert_close(loss_of(model, tokens, short, torch.ones(2, dtype=torch.bool)), none)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", [TEXT, EMBEDDINGS], ids=["text", "embeddings"])
def test_an_answer_that_depends_on_the_condition_alone_is_learnt(kind: str, condition: object) -> None:
    """Four conditions, four answers; texts are told by a word, embeddings by the pitch of a tone."""
    model, torch_rng = build(kind, condition), torch.Generator().manual_seed(0)
    words = ["red", "green", "dark blue", "white"]
    answers = torch.randint(8, (4, 2, 2), generator=torch_rng)
    if kind == "diffusion":
        answers = torch.randn(4, 4, 1, 1, generator=torch_rng).expand(4, 4, 2, 2).contiguous()

    def items(choice: Tensor) -> list[object]:
        if condition is TEXT:
            return [f"a {words[c]} thing" for c in choice]
        time = torch.arange(30).reshape(6, 5)
        phases = torch.rand(len(choice), generator=torch_rng) * 6.28
        return [torch.sin(2 * math.pi * (c + 1) / 10 * time + p) for c, p in zip(choice, phases, strict=True)]

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(350):
        choice = torch.randint(4, (16,), generator=torch_rng)
        drop = torch.rand(16, generator=torch_rng) < 0.1
        loss = loss_of(model, answers[choice], make_conditions(condition, items(choice)), drop, torch_rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    generator = make_generator(model)
    choice = torch.arange(4).repeat(8)
    drawn = draw(generator, items(choice), seed=1)
    if kind == "diffusion":
        right = (drawn[:, None] - answers).flatten(2).norm(dim=2).argmin(1) == choice
    else:
        right = (drawn.reshape(32, 2, 2) == answers[choice]).flatten(1).all(1)
    assert right.float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_and_negative_texts(kind: str) -> None:
    model = build(kind, TEXT)
    for name, parameter in model.named_parameters():
        if name.endswith((".cross.out.weight", "modulation.weight", "head.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    g = make_generator(model)
    texts = ["a red dress", None, "a blue shoe"]
    plain = draw(g, texts, seed=3)
    torch.testing.assert_close(draw(g, texts, seed=3, batch_size=1), plain)
    none = draw(g, [None] * 3, seed=3)
    torch.testing.assert_close(draw(g, texts, seed=3, guidance_scale=0.0), none)
    torch.testing.assert_close(draw(g, texts, seed=3, guidance_scale=0.0, negative="a red dress")[0], plain[0])
    assert not torch.equal(draw(g, texts, seed=3, guidance_scale=4.0, negative="grass"), plain)
    assert draw(g, "a red dress", seed=3).shape[0] == 1


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_diffusion_encodes_conditions_once_and_samples_as_if_it_did_at_each_step(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("diffusion", TEXT)
    for name, parameter in model.named_parameters():
        if name.endswith((".cross.out.weight", "modulation.weight", "head.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    g, rows = make_generator(model), []
    model.encode_condition.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    options = {"seed": 3, "sampler": sampler, "steps": 6, "guidance_scale": 4.0, "guidance_interval": (0.2, 0.8)}
    texts = ["a red dress", None, "a blue shoe"]
    drawn = draw(g, texts, **options, negative="grass")
    assert sorted(rows) == [3, 6]
    rows.clear()
    monkeypatch.setattr("omnitok.generation.diffusion._encoding_once", lambda model, network: network)
    plain = draw(g, texts, **options, negative="grass")
    assert len(rows) >= 6
    assert torch.equal(drawn, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind: str, tmp_path: object) -> None:
    g = make_generator(build(kind, TEXT))
    save_generator(g.model, g.settings, tmp_path / "model", None)
    loaded = load_generator_model(tmp_path / "model").model
    assert loaded.config == g.model.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), g.model.parameters(), strict=True))


def test_a_model_from_before_there_were_kernels_is_read(tmp_path: Path) -> None:
    g = make_generator(build("masked", TextCondition(max_length=40, depth=1, kernel=1)))
    path = save_generator(g.model, g.settings, tmp_path / "model", None) / "config.json"
    config = json.loads(path.read_text())
    assert config["condition"].pop("kernel") == 1
    path.write_text(json.dumps(config))
    assert load_generator_model(tmp_path / "model").model.config == g.model.config


@pytest.mark.parametrize(
    "condition, item, message",
    [
        (TEXT, 3, "conditioned on texts, found 3"),
        (TEXT, "x" * 41, "may have 40 bytes for this model, found 41"),
        (EMBEDDINGS, "red", r"conditioned on embeddings \(n, 5\), found 'red'"),
        (EMBEDDINGS, torch.ones(2, 4), r"embeddings must be \(n, 5\) for this model, found \(2, 4\)"),
        (EMBEDDINGS, torch.ones(7, 5), "may have 6 embeddings for this model, found 7"),
    ],
)
def test_errors(condition: object, item: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_conditions(condition, [item])
    with pytest.raises(ValueError, match="needs conditions"):
        build("masked", condition)(torch.zeros(1, 5, dtype=torch.long))


@pytest.mark.parametrize("kernel", [1, 9])
def test_what_follows_a_text_in_a_batch_is_not_read(kernel: int) -> None:
    torch.manual_seed(0)
    encoder = ConditionEncoder(TextCondition(max_length=40, depth=1, kernel=kernel), 32, 2).eval()
    assert any("words" in name for name, _ in encoder.named_parameters()) == (kernel > 1)
    alone = encoder(encode_texts(["a red dress"], 40))[0]
    beside = encoder(encode_texts(["a red dress", "a much longer text of blue shoes"], 40))[0]
    torch.testing.assert_close(alone[0], beside[0, : alone.shape[1]], atol=1e-5, rtol=0)


def test_a_kernel_is_odd() -> None:
    with pytest.raises(ValueError, match="kernel must be odd, found 4"):
        TextCondition(kernel=4)
