import dataclasses

import pytest
import torch
from torch import Tensor, nn

import omnitok
from omnitok.models.diffusion_transformer import (
    DIFFUSION_TRANSFORMERS,
    DiffusionTransformer,
    DiffusionTransformerConfig,
    time_features,
)
from omnitok.models.positions import rotary_1d, rotate_pairs, sincos_1d, sincos_2d

TINY = DiffusionTransformerConfig(latent_channels=4, patch_size=2, width=32, depth=4, heads=2, num_classes=5)
CPU = torch.device("cpu")


def build(**changes: object) -> DiffusionTransformer:
    """With weights that matter everywhere: a fresh model answers zero."""
    torch.manual_seed(0)
    model = DiffusionTransformer(dataclasses.replace(TINY, **changes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def inputs(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=g), torch.tensor([3.0, 700.0]), torch.tensor([1, 5])


@pytest.mark.parametrize("position", ("sincos", "rotary"))
@pytest.mark.parametrize("patch_size", (1, 2, 4))
@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 5, 7), (2, 4, 3, 6, 4), (2, 4, 1, 9, 3)])
def test_any_grid_and_length(position: str, patch_size: int, shape: tuple[int, ...]) -> None:
    model = build(position=position, patch_size=patch_size, temporal=True)
    x, t, labels = inputs(*shape)
    assert model(x, t, labels).shape == (2, 8, *shape[2:])
    assert torch.isfinite(model(x, t)).all()


@pytest.mark.parametrize("temporal", (False, True))
@pytest.mark.parametrize("position", ("sincos", "rotary"))
def test_a_picture_is_a_clip_of_one_frame(temporal: bool, position: str) -> None:
    model = build(temporal=temporal, position=position)
    x, t, labels = inputs(2, 4, 6, 6)
    assert torch.equal(model(x.unsqueeze(2), t, labels), model(x, t, labels).unsqueeze(2))


def test_one_frame_takes_the_short_way_to_the_same_answer() -> None:
    attention = build(temporal=True).blocks[1].attention
    x = torch.randn(2, 1, 9, 32)
    q, k, v = (part.reshape(2, 1, 18, 16).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    whole = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 1, 9, 32)
    torch.testing.assert_close(attention(x), attention.proj(whole))


@pytest.mark.parametrize("position", ("sincos", "rotary"))
def test_frames_see_one_another_and_know_their_order(position: str) -> None:
    model = build(temporal=True, position=position)
    x, t, labels = inputs(2, 4, 3, 4, 4)
    output = model(x, t, labels)
    changed = x.clone()
    changed[:, :, 2] += 1
    assert not torch.allclose(model(changed, t, labels)[:, :, 0], output[:, :, 0], atol=1e-4)
    assert not torch.allclose(model(x.flip(2), t, labels).flip(2), output, atol=1e-4)


@pytest.mark.parametrize("position", ("sincos", "rotary"))
def test_positions_in_space_matter(position: str) -> None:
    model = build(position=position)
    x, t, labels = inputs(2, 4, 4, 6)
    assert not torch.allclose(model(x.flip(3), t, labels), model(x, t, labels).flip(3), atol=1e-3)


def test_items_do_not_mix() -> None:
    model = build(temporal=True)
    x, t, labels = inputs(2, 4, 3, 4, 4)
    for i in range(2):
        alone = model(x[i : i + 1], t[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone[0], model(x, t, labels)[i], rtol=1e-4, atol=1e-5)


def test_a_fresh_model_answers_zero_and_learns_from_the_head_up() -> None:
    model = DiffusionTransformer(TINY)
    x, t, labels = inputs(2, 4, 4, 4)
    output = model(x, t, labels)
    assert output.count_nonzero() == 0
    (output - 1).square().sum().backward()
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.count_nonzero()


def test_gradients_reach_every_weight() -> None:
    model = build(temporal=True).requires_grad_(True)
    model(*inputs(2, 4, 3, 4, 4)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_flow_times_are_embedded_as_steps() -> None:
    flow = build(objective="flow", learn_sigma=False)
    epsilon = build(learn_sigma=False)
    x, t, labels = inputs(2, 4, 4, 4)
    torch.testing.assert_close(flow(x, t / 1000, labels), epsilon(x, t, labels), rtol=1e-3, atol=1e-4)


def test_bfloat16() -> None:
    model = build(temporal=True, depth=2).to(torch.bfloat16)
    x, t, labels = inputs(2, 4, 2, 2, 2)
    output = model(x.bfloat16(), t, labels)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), build(temporal=True, depth=2)(x, t, labels), rtol=0.2, atol=0.5)


def test_published_sizes() -> None:
    assert set(DIFFUSION_TRANSFORMERS) == {
        f"{f}-{s}/{p}" for f in ("dit", "latte") for s in ["s", "b", "l", "xl"] for p in (1, 2, 4)
    }
    config = dataclasses.replace(DIFFUSION_TRANSFORMERS["dit-xl/2"], latent_channels=4, num_classes=1000)
    with torch.device("meta"):
        model = omnitok.DiffusionTransformer(config)
    # DiT-XL/2 has 675 million parameters (Table 4 of DiT), the 256 x 1152 position table excepted
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 675
    assert DIFFUSION_TRANSFORMERS["latte-xl/2"].temporal
    assert config.null_label == 1000
    assert DIFFUSION_TRANSFORMERS["dit-s/4"].null_label is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"width": 0}, "width must be at least 1, found 0"),
        ({"num_classes": -1}, "num_classes must be at least 0"),
        ({"heads": 3}, "width must be a multiple of heads, found 32 and 3"),
        ({"feedforward_multiple": float("nan")}, "feedforward_multiple must be a finite number"),
        ({"position": "learned"}, "position must be 'sincos' or 'rotary', found 'learned'"),
        ({"objective": "score"}, "objective must be 'epsilon' or 'flow'"),
        ({"width": 6}, "sincos positions need width to be a multiple of 4, found 6"),
        ({"position": "rotary", "width": 36}, "rotary positions need .* found 18"),
        ({"temporal": True, "depth": 1}, "depth must be at least 2, found 1"),
        ({"objective": "flow"}, "no sigma to learn"),
    ],
)
def test_wrong_configurations(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    "x, t, labels, message",
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), None, r"latents must be .*\(b, 4, h, w\).* found .*\(2, 3, 4, 4\)"),
        (torch.zeros(2, 4, 4), torch.zeros(2), None, "latents must be"),
        (torch.zeros(2, 4, 4, 4).long(), torch.zeros(2), None, "found torch.int64"),
        ("latents", torch.zeros(2), None, "found str"),
        (torch.zeros(2, 4, 0, 4), torch.zeros(2), None, "latents are empty"),
        (torch.zeros(2, 4, 3, 4, 4), torch.zeros(2), None, "spatial only.*found 3 frames"),
        (torch.zeros(2, 4, 4, 4), torch.zeros(3), None, r"t must hold one time per item, shape \(2,\), found \(3,\)"),
        (torch.zeros(2, 4, 4, 4), 5, None, "found int"),
        (torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.zeros(2), "labels must be integers.*found torch.float32"),
        (torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.zeros(1).long(), r"labels must be integers of shape \(2,\)"),
        (torch.zeros(2, 4, 4, 4), torch.zeros(2), [1, 2], "found list"),
        (torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.tensor([0, 6]), r"lie in \[0, 5\] .* found \[0, 6\]"),
        (torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.tensor([-1, 0]), r"found \[-1, 0\]"),
    ],
)
def test_wrong_inputs(x: object, t: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionTransformer(TINY)(x, t, labels)


def test_labels_for_an_unconditional_model() -> None:
    x, t, labels = inputs(2, 4, 4, 4)
    with pytest.raises(ValueError, match="unconditional"):
        build(num_classes=0)(x, t, labels)


# ---------------------------------------------------------------------------------------------------------- positions


def test_sincos_tables() -> None:
    table = sincos_1d(6, 8, CPU)
    theta = 10000.0 ** -(torch.arange(4) / 4)
    torch.testing.assert_close(table[5], torch.cat([(5 * theta).sin(), (5 * theta).cos()]))
    grid = sincos_2d(3, 6, 16, CPU).reshape(3, 6, 16)
    assert torch.equal(grid[2, 5, :8], table[5])  # the column first
    assert torch.equal(grid[2, 5, 8:], table[2])
    assert torch.equal(sincos_2d(2, 4, 16, CPU).reshape(2, 4, 16), grid[:2, :4])


def test_rotary_1d_depends_on_distance_only() -> None:
    cos, sin = rotary_1d(7, 8, CPU)
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    turned_q = rotate_pairs(q.expand(7, 1, 8), cos, sin)[:, 0]
    turned_k = rotate_pairs(k.expand(7, 1, 8), cos, sin)[:, 0]
    products = turned_q @ turned_k.t()
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1], rtol=1e-4, atol=1e-5)


def test_time_features() -> None:
    features = time_features(torch.tensor([0.0, 999.0]))
    assert features.shape == (2, 256)
    assert torch.equal(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert features[1, 0] == torch.tensor(999.0).cos()  # the first frequency is 1
    assert features[1, 128] == torch.tensor(999.0).sin()
