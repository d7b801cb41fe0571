"""Positions of tokens on any grid: rotary, sin-cos tables, continuous relative bias, window bias tables and ALiBi."""

import torch
from torch import Tensor, nn


def rotary_2d(height: int, width: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables of the two-dimensional rotary embedding of a `height` x `width` grid.

    Channels are rotated in pairs (2i, 2i + 1). Pair 2j turns by ``x * theta_j`` and pair 2j + 1 by ``y * theta_j``,
    with ``theta_j = 10000 ** (-4 j / head_dim)``, x the column and y the row (the released layout).

    Returns:
        cos, sin: (height * width, head_dim / 2), float32.
    """
    theta = 10000.0 ** (-4.0 * torch.arange(head_dim // 4, device=device, dtype=torch.float32) / head_dim)
    x = torch.arange(width, device=device, dtype=torch.float32)[None, :, None] * theta  # (1, w, d/4)
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None, None] * theta  # (h, 1, d/4)
    x, y = torch.broadcast_tensors(x, y)
    angles = torch.stack([x, y], dim=-1).reshape(height * width, head_dim // 2)
    return angles.cos(), angles.sin()


def rotary_1d(length: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables of the rotary embedding of a sequence (Su et al., 2021): pair j turns by
    ``n * 10000 ** (-2 j / head_dim)``.

    Returns:
        cos, sin: (length, head_dim / 2), float32.
    """
    theta = 10000.0 ** (-2.0 * torch.arange(head_dim // 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * theta
    return angles.cos(), angles.sin()


def sincos_1d(length: int, width: int, device: torch.device) -> Tensor:
    """Table of positions 0 … length - 1 (Vaswani et al., 2017): sines, then cosines, of n * 10000^(-2 j / width).

    Returns:
        (length, width), float32; the angles are computed in float64.
    """
    theta = 10000.0 ** (-2.0 * torch.arange(width // 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * theta
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(device, torch.float32)


def sincos_2d(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Table of a grid in raster order: the first half of the channels tells the column, the second the row.

    Returns:
        (height * width, channels), float32.
    """
    columns = sincos_1d(width, channels // 2, device)[None].expand(height, -1, -1)  # h w c/2
    rows = sincos_1d(height, channels // 2, device)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], dim=-1).reshape(height * width, channels)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (2i, 2i + 1) of x (..., n, heads, d) by the angles of cos, sin (n, d / 2)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # (..., n, heads, d/2) each
    cos, sin = cos[:, None, :].to(x.dtype), sin[:, None, :].to(x.dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def rotary_3d(
    frames: Tensor, rows: Tensor, columns: Tensor, head_dim: int, base: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables of the factorised rotary embedding of tokens at (frame, row, column).

    The head_dim / 2 channel pairs are divided among the axes: three eighths to rows, as many to columns, the rest (at
    least a quarter) to time. Pair j of an axis with m pairs turns by ``position * base ** (-j / m)``.

    Args:
        frames, rows, columns: (n,) positions, which may be fractional or negative.

    Returns:
        cos, sin: (n, head_dim) float32 for `rotate`, each angle standing twice; sin with the signs (-, +).
    """
    spatial = 3 * head_dim // 16
    axes = ((frames, head_dim // 2 - 2 * spatial), (rows, spatial), (columns, spatial))
    angles = []
    for position, pairs in axes:
        rate = base ** (-torch.arange(pairs, device=position.device, dtype=torch.float32) / max(pairs, 1))
        angles.append(position.to(torch.float32)[:, None] * rate)
    angle = torch.cat(angles, dim=1)
    sin = angle.sin()
    return angle.cos().repeat_interleave(2, dim=1), torch.stack([-sin, sin], dim=-1).flatten(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (2i, 2i + 1) of x (..., n, heads, d) by the tables (n, d) of `rotary_3d`."""
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos[:, None], swapped, sin[:, None])


class ContinuousPositionBias(nn.Module):
    """Attention bias from an MLP over log-spaced offsets, as in Swin V2 and the released image-only model.

    bias(query, key) = MLP(sign(r) * log(1 + |r|)) for r = query - key as (row, column); MLP 2 -> width -> width ->
    heads with LeakyReLU(0.1).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, heads)
        )

    def forward(self, height: int, width: int) -> Tensor:
        """Bias of a grid: (heads, height * width, height * width)."""
        weight = next(self.mlp.parameters())  # for its device and dtype
        rows = torch.arange(1 - height, height, device=weight.device)
        columns = torch.arange(1 - width, width, device=weight.device)
        offsets = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).to(weight.dtype)
        table = self.mlp(offsets.sign() * offsets.abs().log1p())  # (2h-1, 2w-1, heads)
        return window_bias(table, height, width)


def window_bias(table: Tensor, height: int, width: int) -> Tensor:
    """Spread a table over offsets (2H - 1, 2W - 1, heads) into the bias of a window of height <= H, width <= W.

    Entry (query, key) is ``table[row_q - row_k + H - 1, column_q - column_k + W - 1]``.

    Returns:
        (heads, height * width, height * width)
    """
    centre_row, centre_column = table.shape[0] // 2, table.shape[1] // 2
    row = torch.arange(height, device=table.device)
    column = torch.arange(width, device=table.device)
    row_offset = (row[:, None] - row[None, :] + centre_row)[:, None, :, None]  # (h, 1, h, 1)
    column_offset = (column[:, None] - column[None, :] + centre_column)[None, :, None, :]  # (1, w, 1, w)
    bias = table[row_offset, column_offset]  # (h, w, h, w, heads)
    return bias.flatten(2, 3).flatten(0, 1).permute(2, 0, 1)


def alibi_slopes(heads: int) -> Tensor:
    """Slopes of ALiBi (Press et al., 2022): 2^(-8 i / heads) for i = 1..heads, a power of 2; other counts interleave.

    Returns:
        (heads,) float32
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    extra = [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes + extra)
