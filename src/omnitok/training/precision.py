"""Which precision the forward pass of a training runs in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions; without them a CPU is a hundred times slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass: bfloat16 where it is asked for, or where "auto" finds that the device has it."""
    enabled = precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
