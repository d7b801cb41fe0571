"""bfloat16 where the device has it, and conditioned models whose weights are shared out."""

import pytest
import torch

from helpers.processes import in_process_group, on_two_processes
from omnitok.distributed import Processes
from omnitok.models.code_sequence import MaskedModelConfig
from omnitok.models.conditions import TextCondition, encode_texts
from omnitok.models.masked_model import MaskedModel
from omnitok.training.config import EngineConfig
from omnitok.training.parallel import autocast, computes_bfloat16, gather, parallelize


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


def conditioned_gradients(processes: Processes) -> list[float]:
    """Sums of the gradients of a conditioned model's weights."""
    torch.manual_seed(0)
    sizes = {"codebook_size": 8, "latent_frames": 1, "latent_height": 2, "latent_width": 2, "width": 16, "heads": 2}
    model = MaskedModel(MaskedModelConfig(**sizes, depth=2, condition=TextCondition(max_length=8, depth=1)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids, conditions = torch.randint(10, (2, 5)), encode_texts(["red", "blue"], 8)
    parallelize(model, processes, "fsdp")(ids, (2, 2), conditions).square().mean().backward()
    return [float(gather(p.grad).abs().sum()) for p in model.parameters() if p.grad is not None]


def test_fsdp_reads_conditions_as_one_process_does() -> None:
    device = torch.device("cpu")
    alone = conditioned_gradients(Processes(0, 1, device))
    shared = on_two_processes(in_process_group(lambda rank: conditioned_gradients(Processes(rank, 2, device))))
    assert len(alone) > 20
    assert shared[0] == pytest.approx(alone, rel=1e-4)
