"""Scaled dot-product attention, by torch's kernels where they are good."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float | None = None, is_causal: bool = False
) -> Tensor:
    """`F.scaled_dot_product_attention`, otherwise computed where it learns on a CPU.

    There torch's backward pass in bfloat16 takes three times as long as in float32 (64 tokens in 8 heads of 32), so
    attention is float32 beside linear layers in bfloat16. For a mask that learns torch has no fused kernel at all, and
    half of its forward pass is a search for rows that are masked altogether: it is written out.

    Args:
        q, k, v: (..., n, d).
        mask: (..., n, n), finite, added to the scaled scores; or bool, True where a query sees a key.
        scale: of the scores; None is d to the power of -1/2.
        is_causal: each query sees the keys up to its own; not with a mask.
    """
    mask_learns = mask is not None and mask.requires_grad
    if q.device.type != "cpu" or not (mask_learns or (q.requires_grad and q.dtype != torch.float32)):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale)
    with torch.autocast("cpu", enabled=False):
        queries, keys, values = q.float(), k.float(), v.float()
        if mask is None or not mask_learns:
            mask = mask.float() if mask is not None and mask.is_floating_point() else mask
            out = F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=is_causal, scale=scale)
        else:
            factor = q.shape[-1] ** -0.5 if scale is None else scale
            out = torch.softmax((queries * factor) @ keys.mT + mask.float(), dim=-1) @ values
    return out.to(q.dtype)
