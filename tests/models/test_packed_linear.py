"""Products of a few rows: another layout, the same numbers."""

import pytest
import torch
from torch import nn

from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.packed_linear import MOST_ROWS, PackedLinear, pack_linears

GPT = {"positions": "learned", "norm": "layer", "activation": "gelu", "bias": True}
needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="laid out for MKL only")


def model_of(**fields: object) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"codebook_size": 21, "num_classes": 3, "latent_frames": 2, "latent_height": 2, "latent_width": 3}
    model = LanguageModel(LanguageModelConfig(**(sizes | {"width": 32, "depth": 2, "heads": 2} | fields))).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.15)
    return model


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("laid_out_for", (1, 2, 4, 5, 8, MOST_ROWS))
def test_layer_is_the_linear_one_for_any_number_of_rows(laid_out_for: int, bias: bool):
    torch.manual_seed(0)
    linear = nn.Linear(37, 45, bias=bias)
    layer = PackedLinear(linear, laid_out_for)
    with torch.no_grad():
        for shape in ((1,), (laid_out_for,), (3, 1), (2, 5), (40, 1)):
            x = torch.randn(*shape, 37)
            y = layer(x)
            torch.testing.assert_close(y, linear(x), atol=1e-6, rtol=1e-6)


@needs_mkl
@pytest.mark.parametrize("fields", ({}, GPT))
@pytest.mark.parametrize("batch", (1, 2, 5))
def test_cached_logits_equal_uncached_ones(fields: dict[str, object], batch: int):
    model = model_of(**fields)
    laid_out = pack_linears(model, batch)
    assert laid_out is not model
    codes = torch.randint(21, (batch, 2, 2, 3), generator=torch.Generator().manual_seed(1))
    ids = model.ids(codes, torch.arange(batch) % 3)[:, :-1]
    with torch.inference_mode():
        cache = model.new_cache(batch)
        parts = [model(ids[:, :3], cache), *(laid_out(ids[:, i : i + 1], cache) for i in range(3, ids.shape[1]))]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-5, rtol=0)


@needs_mkl
def test_the_rest_is_shared_and_the_model_stays_as_it_is():
    model = model_of()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    laid_out = pack_linears(model, 8)
    assert not any(type(module) is nn.Linear for module in laid_out.modules())
    assert laid_out.token_embedding.weight is model.token_embedding.weight
    assert laid_out.blocks[0].attention_norm.weight is model.blocks[0].attention_norm.weight
    assert pack_linears(model, 3).get_submodule("head").weight.data_ptr() == model.head.weight.data_ptr()
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_elsewhere_it_is_the_model_itself():
    model = model_of()
    assert pack_linears(model, MOST_ROWS + 1) is model
    with torch.autocast("cpu", torch.bfloat16):
        assert pack_linears(model, 1) is model
    assert pack_linears(model_of().to("meta"), 1).device.type == "meta"
    half = model.bfloat16()
    assert pack_linears(half, 1) is half
