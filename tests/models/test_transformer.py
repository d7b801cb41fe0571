"""Each block against the plain way of writing it."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.models.positions import alibi_slopes, rotary_2d, rotate_pairs, window_bias
from omnitok.models.transformer import (
    Block,
    BlockCache,
    CosineAttention,
    FeedForward,
    JointAttention,
    PositionalConvolution,
    SpatialAttention,
    Stack,
    TemporalAttention,
    WindowAttention,
    limit_length,
    saturate,
)

WIDTH, HEADS, DIM = 12, 2, 8
ATOL = 1e-5


def randomize(module: torch.nn.Module) -> None:
    """Norms and scales start at one, biases at zero: nothing that tests could see."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


# ------------------------------------------------------------------------------------------ positional convolution


@pytest.mark.parametrize("frames", (1, 2, 3, 6))
@pytest.mark.parametrize("causal", (True, False))
def test_positional_convolution_is_a_3d_convolution(causal: bool, frames: int) -> None:
    peg = PositionalConvolution(WIDTH, causal)
    randomize(peg)
    x = torch.randn(2, frames, 4, 5, WIDTH)
    padded = F.pad(x.permute(0, 4, 1, 2, 3), (1, 1, 1, 1, *((2, 0) if causal else (1, 1))))
    expected = F.conv3d(padded, peg.weight, peg.bias, groups=WIDTH).permute(0, 2, 3, 4, 1)
    assert torch.allclose(peg(x), expected, atol=ATOL)


@pytest.mark.parametrize("cuts", ((1, 1, 1, 1, 1, 1), (4, 2), (1, 5), (2, 3, 1)))
def test_positional_convolution_streams(cuts: tuple[int, ...]) -> None:
    peg = PositionalConvolution(WIDTH)
    randomize(peg)
    x = torch.randn(2, 6, 4, 5, WIDTH)
    cache = BlockCache()
    parts = []
    for piece in x.split(cuts, dim=1):
        parts.append(peg(piece, cache))
        assert cache.frames is not None
        assert cache.frames.shape[1] <= 2
    assert torch.allclose(torch.cat(parts, dim=1), peg(x), atol=ATOL)


def test_released_layout_reinterprets_memory() -> None:
    """As the released code: the memory of (b h w) t d, read as b t h w d, convolved, read back."""
    released, grid = PositionalConvolution(WIDTH, layout="released"), PositionalConvolution(WIDTH)
    randomize(grid)
    released.load_state_dict(grid.state_dict())
    b, t, h, w = 2, 3, 4, 5
    memory = torch.randn(b * h * w, t, WIDTH)
    expected = grid(memory.reshape(b, t, h, w, WIDTH)).reshape(b, h, w, t, WIDTH).permute(0, 3, 1, 2, 4)
    actual = released(memory.reshape(b, h, w, t, WIDTH).permute(0, 3, 1, 2, 4))
    assert torch.allclose(actual, expected, atol=ATOL)
    assert not torch.allclose(actual, grid(memory.reshape(b, h, w, t, WIDTH).permute(0, 3, 1, 2, 4)), atol=0.1)
    one = torch.randn(b, 1, h, w, WIDTH)  # of one frame, the memory is the grid
    assert torch.allclose(released(one), grid(one), atol=ATOL)


# ------------------------------------------------------------------------------------------------ plain attention


def plain_attention(module: CosineAttention, queries: Tensor, context: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """softmax(8 q kᵀ + bias) v with normalised, scaled q and k, for (n, d) tokens, one head after the other."""
    norm = F.layer_norm(queries, queries.shape[-1:]) * module.norm.weight
    source = norm if module.normalize_context else context
    keys_of, values_of = module.to_kv.weight.chunk(2)
    out = []
    for head in range(HEADS):
        rows = slice(head * DIM, (head + 1) * DIM)
        q, k, v = (x @ m[rows].T for x, m in ((norm, module.to_q.weight), (source, keys_of), (source, values_of)))
        if isinstance(module, SpatialAttention) and module.position == "rotary":
            q, k = (rotate_pairs(x[:, None], *module.tables)[:, 0] for x in (q, k))
        q, k = F.normalize(q, dim=-1) * module.q_scale, F.normalize(k, dim=-1) * module.k_scale
        weights = 8 * q @ k.T + (bias if isinstance(bias, float) else bias[head])
        out.append(weights.softmax(dim=-1) @ v)
    return torch.cat(out, dim=-1) @ module.to_out.weight.T


@pytest.mark.parametrize("normalize_context", (True, False))
@pytest.mark.parametrize("position", ("rotary", "relative", "none"))
def test_spatial_attention(position: str, normalize_context: bool) -> None:
    module = SpatialAttention(WIDTH, HEADS, DIM, position, normalize_context)
    randomize(module)
    x = torch.randn(2, 2, 3, 4, WIDTH)
    module.tables = rotary_2d(3, 4, DIM, x.device)
    bias = 0.0 if module.relative_bias is None else module.relative_bias(3, 4)
    actual = module(x)
    for b in range(2):
        for t in range(2):
            tokens = x[b, t].reshape(12, WIDTH)
            expected = plain_attention(module, tokens, tokens, bias)
            assert torch.allclose(actual[b, t].reshape(12, WIDTH), expected, atol=ATOL)


@pytest.mark.parametrize("normalize_context", (True, False))
@pytest.mark.parametrize("position", ("alibi", "none"))
@pytest.mark.parametrize("window, causal", ((None, True), (3, True), (1, True), (None, False)))
def test_temporal_attention(window: int | None, causal: bool, position: str, normalize_context: bool) -> None:
    module = TemporalAttention(WIDTH, HEADS, DIM, window, causal, position, normalize_context)
    randomize(module)
    t = 6
    x = torch.randn(2, t, 2, 3, WIDTH)
    bias = torch.zeros(HEADS, t, t)
    for i in range(t):
        for j in range(t):
            if position == "alibi":
                bias[:, i, j] = -alibi_slopes(HEADS) * abs(i - j)
            if causal and (j > i or (window is not None and i - j >= window)):
                bias[:, i, j] = -math.inf
    actual = module(x)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                tokens = x[b, :, row, column]
                expected = plain_attention(module, tokens, tokens, bias)
                assert torch.allclose(actual[b, :, row, column], expected, atol=ATOL)


@pytest.mark.parametrize("normalize_context", (True, False))
def test_one_frame_shortcut(normalize_context: bool) -> None:
    """With a cache, and as the first of two frames, attention takes the long way; the answer is the same."""
    module = TemporalAttention(WIDTH, HEADS, DIM, 3, True, "none", normalize_context)
    randomize(module)
    x = torch.randn(2, 1, 3, 4, WIDTH)
    short = module(x)
    assert torch.allclose(module(x, BlockCache()), short, atol=ATOL)
    assert torch.allclose(module(torch.cat([x, torch.randn_like(x)], dim=1))[:, :1], short, atol=ATOL)


@pytest.mark.parametrize("window", (1, 2, 4))
def test_temporal_window_is_exact(window: int) -> None:
    """Frame j moves the outputs i of j <= i < j + window, all of them and no other."""
    module = TemporalAttention(WIDTH, HEADS, DIM, window)
    randomize(module)
    x = torch.randn(1, 8, 1, 1, WIDTH)
    for j in range(8):
        changed = x.clone()
        changed[:, j] = torch.randn(WIDTH)
        moved = (module(changed) != module(x)).any(dim=-1).flatten().tolist()
        assert moved == [j <= i < j + window for i in range(8)]


@pytest.mark.parametrize("position", ("alibi", "none"))
@pytest.mark.parametrize("window", (1, 3, None))
@pytest.mark.parametrize("cuts", ((1, 1, 1, 1, 1, 1, 1), (2, 4, 1), (5, 2)))
def test_temporal_attention_streams(cuts: tuple[int, ...], window: int | None, position: str) -> None:
    module = TemporalAttention(WIDTH, HEADS, DIM, window, position=position)
    randomize(module)
    x = torch.randn(2, 7, 2, 2, WIDTH)
    cache = BlockCache()
    parts = [module(piece, cache) for piece in x.split(cuts, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), module(x), atol=ATOL)
    assert cache.keys is not None
    assert cache.keys.shape[2] == (7 if window is None else window - 1)


# ----------------------------------------------------------------------------------------------- window attention


@pytest.mark.parametrize("grid", ((4, 4), (8, 4), (5, 7), (3, 2), (1, 9), (4, 6)))
def test_window_attention_on_ragged_grids_is_padding_and_masking(grid: tuple[int, int]) -> None:
    size = 4
    module = WindowAttention(WIDTH, HEADS, DIM, size)
    randomize(module)
    h, w = grid
    x = torch.randn(2, 3, h, w, WIDTH)
    padded_h, padded_w = -(-h // size) * size, -(-w // size) * size
    padded = F.pad(x, (0, 0, 0, padded_w - w, 0, padded_h - h), value=7.0)
    real = F.pad(torch.ones(h, w, dtype=torch.bool), (0, padded_w - w, 0, padded_h - h))
    normed = F.layer_norm(padded, (WIDTH,)) * module.norm.weight
    q, k, v = (normed @ module.qkv.weight.T).chunk(3, dim=-1)
    side = 2 * size - 1
    bias = window_bias(module.position_table.reshape(side, side, HEADS), size, size)
    out = torch.zeros(2, 3, padded_h, padded_w, HEADS * DIM)
    for top in range(0, padded_h, size):
        for left in range(0, padded_w, size):
            area = (slice(top, top + size), slice(left, left + size))
            visible = real[area].flatten()
            for head in range(HEADS):
                rows = slice(head * DIM, (head + 1) * DIM)
                qh, kh, vh = (y[:, :, area[0], area[1], rows].flatten(2, 3) for y in (q, k, v))
                logits = qh @ kh.mT / DIM**0.5 + bias[head]
                weights = logits.masked_fill(~visible, -math.inf).softmax(dim=-1)
                out[:, :, area[0], area[1], rows] = (weights @ vh).unflatten(2, (size, size))
    expected = module.proj(out[:, :, :h, :w])
    assert torch.allclose(module(x), expected, atol=ATOL)


# ---------------------------------------------------------------------------------------- feed-forward, block, stack


def test_feedforward_is_geglu() -> None:
    module = FeedForward(WIDTH, 4.0)
    randomize(module)
    hidden = int(4.0 * 2 / 3 * WIDTH)
    assert module.expand.weight.shape == (2 * hidden, WIDTH)
    x = torch.randn(3, WIDTH)
    normed = F.layer_norm(x, (WIDTH,), module.norm.weight, module.norm.bias)
    value, gate = normed @ module.expand.weight[:hidden].T, normed @ module.expand.weight[hidden:].T
    gelu = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2)))
    assert torch.allclose(module(x), (value * gelu) @ module.project.weight.T, atol=ATOL)


@pytest.mark.parametrize("convolution", (True, False))
def test_block_adds_its_parts_in_order(convolution: bool) -> None:
    peg = PositionalConvolution(WIDTH) if convolution else None
    block = Block(WindowAttention(WIDTH, HEADS, DIM, 2), FeedForward(WIDTH, 2.0), peg)
    randomize(block)
    x = torch.randn(1, 2, 3, 3, WIDTH)
    expected = x if peg is None else x + peg(x)
    expected = expected + block.attention(expected)
    expected = expected + block.feedforward(expected)
    assert torch.allclose(block(x), expected, atol=ATOL)


def test_empty_stack_is_a_norm() -> None:
    stack = Stack(WIDTH, [])
    x = torch.randn(1, 1, 2, 2, WIDTH)
    assert torch.allclose(stack(x), F.layer_norm(x, (WIDTH,)), atol=ATOL)
    assert stack.new_cache() == []


@pytest.mark.parametrize(
    "make", (lambda: SpatialAttention(WIDTH, HEADS, DIM, "rotary"), lambda: WindowAttention(WIDTH, HEADS, DIM, 2))
)
def test_spatial_blocks_see_one_frame(make: Callable[[], torch.nn.Module]) -> None:
    module = make()
    x = torch.randn(1, 3, 3, 5, WIDTH)
    assert torch.allclose(module(x)[:, 1:2], module(x[:, 1:2]), atol=ATOL)


def test_limits_leave_shorter_tokens_bit_for_bit() -> None:
    tokens = torch.randn(2, 1, 3, 4, 8)
    lengths = tokens.norm(dim=-1)
    limit = float(lengths.median())
    limited = limit_length(tokens, limit)
    inside = lengths < limit * (1 - 1e-6)
    assert torch.equal(limited[inside], tokens[inside])
    assert limited.norm(dim=-1).max() <= limit * (1 + 1e-6)
    directions = torch.nn.functional.cosine_similarity(limited, tokens, dim=-1)
    assert torch.allclose(directions, torch.ones_like(directions))


def test_a_stack_limits_tokens_after_each_block() -> None:
    blocks = [Block(SpatialAttention(8, 2, 4, "rotary"), FeedForward(8, 2.0), None) for _ in range(2)]
    plain, limited = Stack(8, blocks, normalize=False), Stack(8, blocks, normalize=False, limits=(1.5, 1e30))
    x = 3 * torch.randn(1, 1, 2, 2, 8)
    assert torch.equal(limited(x), blocks[1](limit_length(blocks[0](x), 1.5)))
    assert not torch.equal(limited(x), plain(x))


def test_saturated_pixels_are_the_same_once_clamped_and_stay_below_two() -> None:
    pixels = torch.cat([torch.linspace(-3, 3, 601), torch.tensor([-200.0, 200.0])]).requires_grad_()
    with torch.enable_grad():
        bounded = saturate(pixels)
        (slope,) = torch.autograd.grad(bounded.sum(), pixels)
    inside = pixels.abs() <= 1.5
    assert torch.equal(bounded[inside], pixels[inside])
    assert torch.equal(bounded.clamp(-1, 1), pixels.clamp(-1, 1))
    assert bounded.abs().max() < 2
    assert (bounded[:601].diff() > 0).all()
    assert (slope > 0).all()
    assert slope.max() <= 1 + 1e-6


@pytest.mark.parametrize("limit", [132.4, 134.0, 126.9, 53.16, 49.4, 23.67])
def test_tokens_within_a_limit_come_back_bit_for_bit_whatever_the_limit(limit: float) -> None:
    tokens = torch.randn(7, 16)
    assert torch.equal(limit_length(tokens, limit), tokens)


# ------------------------------------------------------------------------------------------- shifted windows, joint


@pytest.mark.parametrize("grid", ((8, 8), (7, 10), (1, 3), (2, 5), (13, 4)))
def test_shifted_windows_are_plain_attention_in_each_cell(grid: tuple[int, int]) -> None:
    """Cells end at half a window and then at every whole one; none sees another, at any size."""
    size, shift = 4, 2
    module = WindowAttention(WIDTH, HEADS, DIM, size, shift)
    plain = WindowAttention(WIDTH, HEADS, DIM, size)
    randomize(module)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 2, *grid, WIDTH)
    whole = module(x)
    rows, columns = ([0, *range(shift, length, size), length] for length in grid)
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            cell = (slice(None), slice(None), slice(top, bottom), slice(left, right))
            assert torch.allclose(whole[cell], plain(x[cell]), atol=ATOL)


@pytest.mark.parametrize("window, causal", ((None, True), (2, True), (1, True), (3, False)))
@pytest.mark.parametrize("position", ("rotary", "relative", "none"))
def test_joint_attention_is_masked_attention_over_all_positions(
    window: int | None, causal: bool, position: str
) -> None:
    module = JointAttention(WIDTH, HEADS, DIM, position, window=window, causal=causal)
    randomize(module)
    b, t, h, w = 2, 4, 2, 3
    x = torch.randn(b, t, h, w, WIDTH)
    q, k, v = (
        y.unflatten(0, (b, t)).transpose(1, 2).flatten(2, 3) for y in module._queries_keys_values(x)
    )  # b heads (t n) d
    frame = torch.arange(t).repeat_interleave(h * w)
    back = frame[:, None] - frame
    visible = (back >= 0) & (back < (window or t)) if causal else torch.ones_like(back, dtype=torch.bool)
    scores = q @ k.mT
    if module.relative_bias is not None:
        scores = scores + module.relative_bias(h, w).repeat(1, t, t)
    out = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ v
    expected = out.unflatten(2, (t, h * w)).permute(0, 2, 3, 1, 4).reshape(b, t, h, w, -1) @ module.to_out.weight.T
    assert torch.allclose(module(x), expected, atol=ATOL)
    if window == 1:
        spatial = SpatialAttention(WIDTH, HEADS, DIM, position)
        spatial.load_state_dict(module.state_dict())
        assert torch.allclose(module(x), spatial(x), atol=ATOL)
        assert torch.equal(module(x[:, :1]), spatial(x[:, :1]))


@pytest.mark.parametrize("window", (None, 3, 1))
@pytest.mark.parametrize("cuts", ([1] * 6, [2, 4], [3, 1, 2]))
def test_joint_attention_streams(window: int | None, cuts: list[int]) -> None:
    module = JointAttention(WIDTH, HEADS, DIM, "rotary", window=window)
    randomize(module)
    x, cache = torch.randn(2, 6, 2, 3, WIDTH), BlockCache()
    parts = [module(piece, cache) for piece in x.split(cuts, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), module(x), atol=ATOL)
    assert cache.keys is not None
    assert cache.keys.shape[1] == (6 if window is None else window - 1)
