import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.small import TINY
from omnitok.errors import OmnitokError
from omnitok.hub.adapters import DiffusersAutoencoder
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer

CONFIG = dataclasses.replace(TINY, bottleneck="kl", latent_channels=8)
STATISTICS = LatentStatistics(tuple(i / 4 for i in range(8)), tuple(0.5 + i / 8 for i in range(8)))


def tokenizer(statistics: LatentStatistics | None = STATISTICS, **changes: Any) -> OmniTokenizer:
    torch.manual_seed(0)
    made = OmniTokenizer.from_config(dataclasses.replace(CONFIG, **changes)).eval().requires_grad_(False)
    made.latent_statistics = statistics
    return made


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 3, 5, 8, 8)])
@pytest.mark.parametrize("scaling_factor", (None, 0.18215))
def test_round_trip_is_the_tokenizers(shape: tuple[int, ...], scaling_factor: float | None) -> None:
    tok = tokenizer()
    vae = DiffusersAutoencoder(tok, scaling_factor)
    x = pixels(*shape)
    scaled = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(vae.decode(scaled / vae.config.scaling_factor).sample, tok(x))
    torch.testing.assert_close(vae(x).sample, tok(x))
    latents = tok.encode(x).latents
    if scaling_factor is None:
        mean, std = (torch.tensor(v).reshape(-1, *[1] * (x.ndim - 2)) for v in (STATISTICS.mean, STATISTICS.std))
        torch.testing.assert_close(scaled, (latents - mean) / std)
    else:
        torch.testing.assert_close(scaled, latents * scaling_factor)
    (tuple_of_pixels,) = vae.decode(scaled, return_dict=False)
    (distribution,) = vae.encode(x, return_dict=False)
    assert tuple_of_pixels.shape == shape
    assert torch.equal(distribution.mean, vae.encode(x).latent_dist.mean)


def test_distribution() -> None:
    tok = tokenizer()
    normal, plain = (DiffusersAutoencoder(tok, f).encode(pixels(1, 3, 8, 8)).latent_dist for f in (None, 1.0))
    std = torch.tensor(STATISTICS.std).reshape(-1, 1, 1)
    torch.testing.assert_close(normal.std * std, plain.std)
    torch.testing.assert_close(normal.var, normal.std**2)
    draws = [d.sample(torch.Generator().manual_seed(3)) - d.mean for d in (normal, plain)]
    torch.testing.assert_close(draws[0] * std, draws[1])


def test_what_pipelines_read() -> None:
    vae = DiffusersAutoencoder(tokenizer(patch_size=8))
    assert (vae.config.scaling_factor, vae.config.latent_channels) == (1.0, 8)
    assert 2 ** (len(vae.config.block_out_channels) - 1) == 8
    assert (vae.device.type, vae.dtype) == ("cpu", torch.float32)
    assert set(vae.state_dict()) == {f"tokenizer.{name}" for name in tokenizer(patch_size=8).state_dict()}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, about numpy 2
def test_inside_diffusers_dit_pipeline() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=8,
        out_channels=16,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()  # in training it drops labels
    vae = DiffusersAutoencoder(tokenizer())
    for scheduler in (diffusers.DDIMScheduler(), diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")):
        pipeline = diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler)
        pipeline.set_progress_bar_config(disable=True)
        how = {"class_labels": [3, 7], "num_inference_steps": 2, "output_type": "pt"}
        images = pipeline(**how, generator=torch.Generator().manual_seed(0)).images
        assert images.shape == (2, 3, 16, 16)
        assert 0 <= images.min() <= images.max() <= 1
        assert torch.equal(pipeline(**how, generator=torch.Generator().manual_seed(0)).images, images)


@pytest.mark.parametrize(
    "changes, factor, error, message",
    [
        ({"bottleneck": "vq"}, 1.0, OmnitokError, "is a quantizer"),
        ({"statistics": None}, None, OmnitokError, "say scaling_factor="),
        ({}, 0.0, ValueError, "scaling_factor must be positive and finite, found 0.0"),
    ],
)
def test_what_cannot_be_adapted(
    changes: dict[str, Any], factor: float | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DiffusersAutoencoder(tokenizer(**changes), factor)
