import math

import pytest
import torch

from omnitok.models.positions import ContinuousPositionBias, alibi_slopes, rotary_2d, rotate_pairs, window_bias


def test_rotary_angles_are_the_released_ones() -> None:
    """Pair 2j turns by x * theta_j, pair 2j + 1 by y * theta_j, theta_j = 10000^(-4j / head_dim); x = n mod W."""
    height, width, dim = 3, 5, 16
    cos, sin = rotary_2d(height, width, dim, torch.device("cpu"))
    assert cos.shape == sin.shape == (15, 8)
    for n in range(15):
        for j in range(4):
            theta = 10000 ** (-4 * j / dim)
            x, y = (n % width) * theta, (n // width) * theta
            for pair, angle in ((2 * j, x), (2 * j + 1, y)):
                assert cos[n, pair] == pytest.approx(math.cos(angle), abs=1e-6)
                assert sin[n, pair] == pytest.approx(math.sin(angle), abs=1e-6)


def test_rotary_products_depend_on_offsets_alone() -> None:
    """<R_m q, R_n k> is the same for every pair of positions with the same offset, and rotation keeps lengths."""
    height, width, dim = 6, 7, 8
    q, k = torch.randn(dim, dtype=torch.float64), torch.randn(dim, dtype=torch.float64)
    cos, sin = (table.double() for table in rotary_2d(height, width, dim, torch.device("cpu")))
    everywhere = [rotate_pairs(x.expand(height * width, 1, dim), cos, sin)[:, 0] for x in (q, k)]
    assert torch.allclose(everywhere[0].norm(dim=-1), q.norm().expand(42))
    products = (everywhere[0] @ everywhere[1].T).reshape(height, width, height, width)
    for dy, dx in ((0, 0), (1, 0), (0, 1), (2, -3), (-4, 5)):
        rows = [y for y in range(height) if 0 <= y + dy < height]
        columns = [x for x in range(width) if 0 <= x + dx < width]
        same = torch.stack([products[y, x, y + dy, x + dx] for y in rows for x in columns])
        assert torch.allclose(same, same[:1].expand_as(same), atol=1e-5)
    assert products.std() > 0.01


def test_rotary_of_a_larger_grid_begins_with_the_smaller() -> None:
    small = rotary_2d(2, 3, 8, torch.device("cpu"))[0].reshape(2, 3, 4)
    large = rotary_2d(5, 9, 8, torch.device("cpu"))[0].reshape(5, 9, 4)
    assert torch.equal(large[:2, :3], small)


def test_window_bias_looks_up_offsets() -> None:
    table = torch.randn(7, 7, 2)
    height, width = 3, 4
    bias = window_bias(table, height, width)
    assert bias.shape == (2, 12, 12)
    for query in range(12):
        for key in range(12):
            row, column = query // width - key // width + 3, query % width - key % width + 3
            assert torch.equal(bias[:, query, key], table[row, column])


def test_continuous_bias_is_the_mlp_of_log_offsets() -> None:
    bias = ContinuousPositionBias(8, 3)
    out = bias(3, 4)
    assert out.shape == (3, 12, 12)
    for query, key in ((0, 0), (0, 11), (11, 0), (5, 2)):
        r = torch.tensor([query // 4 - key // 4, query % 4 - key % 4], dtype=torch.float32)
        expected = bias.mlp(r.sign() * (1 + r.abs()).log())
        assert torch.allclose(out[:, query, key], expected, atol=1e-6)


def test_alibi_slopes() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2.0**-8]
    six = alibi_slopes(6).tolist()  # Press et al.: four of the power of two, then every other one of eight
    assert six == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
