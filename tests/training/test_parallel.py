"""bfloat16 where the device has it."""

import pytest
import torch

from omnitok.training.config import EngineConfig
from omnitok.training.parallel import autocast, computes_bfloat16


def product_dtype(precision: str) -> torch.dtype:
    with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_auto_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EngineConfig().precision == "auto"
    assert product_dtype("float32") == torch.float32
    assert product_dtype("bfloat16") == torch.bfloat16
    for has_it, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_it=has_it: has_it)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert computes_bfloat16(torch.device("cpu")) is has_it
        assert product_dtype("auto") == expected


def test_unknown_devices_compute_in_float32() -> None:
    assert not computes_bfloat16(torch.device("meta"))
