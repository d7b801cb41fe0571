"""Attention as it is computed where it learns on a CPU, beside torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.models.attention import attend

HEADS, N, DIM = 3, 6, 8


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, HEADS, N, DIM, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def with_gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    pull = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, inputs, pull)]


@torch.enable_grad()
def test_a_learnt_bias() -> None:
    bias = torch.randn(HEADS, N, N, generator=torch.Generator().manual_seed(2)).requires_grad_()
    learnt = [*inputs(), bias]
    q, k, v = learnt[:3]
    for scale in (None, 0.3):
        found = with_gradients(attend(q, k, v, bias, scale=scale), learnt)
        expected = with_gradients(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale), learnt)
        for ours, torchs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, torchs, atol=1e-5, rtol=0)


@torch.enable_grad()
@pytest.mark.parametrize("masked", ["all", "bool", "bias", "causal"])
def test_bfloat16_is_as_near_to_float32_as_its_digits_allow(masked: str) -> None:
    low = inputs(torch.bfloat16)
    mask = {"bool": torch.ones(N, N).tril() > 0, "bias": torch.linspace(-2, 2, N * N).reshape(N, N)}.get(masked)
    high = [x.detach().float().requires_grad_() for x in low]
    is_causal = masked == "causal"
    expected = with_gradients(F.scaled_dot_product_attention(*high, mask, is_causal=is_causal), high)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(attend(*low, mask, is_causal=is_causal), low)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), exact, atol=2e-2, rtol=2e-2)


def test_without_gradients_it_is_torchs_own_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = inputs(dtype)
        with torch.no_grad():
            assert torch.equal(attend(q.detach(), k, v), F.scaled_dot_product_attention(q, k, v))
