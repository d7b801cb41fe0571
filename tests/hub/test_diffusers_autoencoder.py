"""The tokenizer inside diffusers, checked as diffusers checks its own autoencoders, and in its pipelines."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.small import TINY
from omnitok.errors import OmnitokError
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer

diffusers = pytest.importorskip("diffusers")
from omnitok.hub.diffusers_autoencoder import AutoencoderOmni  # noqa: E402 (needs diffusers)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs, about numpy 2

CONFIG = dataclasses.replace(TINY, bottleneck="kl", latent_channels=8)
STATISTICS = LatentStatistics(tuple(i / 4 for i in range(8)), tuple(0.5 + i / 8 for i in range(8)))
SHAPES = [(2, 3, 16, 12), (2, 3, 5, 8, 8)]


def tokenizer(statistics: LatentStatistics | None = STATISTICS, **changes: Any) -> OmniTokenizer:
    torch.manual_seed(0)
    made = OmniTokenizer.from_config(dataclasses.replace(CONFIG, **changes)).eval().requires_grad_(False)
    made.latent_statistics = statistics
    return made


def autoencoder(**changes: Any) -> AutoencoderOmni:
    return AutoencoderOmni.from_tokenizer(tokenizer(**changes))


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ------------------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaling_factor", (None, 0.18215))
def test_round_trip_is_the_tokenizers(shape: tuple[int, ...], scaling_factor: float | None) -> None:
    tok = tokenizer()
    vae = AutoencoderOmni.from_tokenizer(tok, scaling_factor)
    x = pixels(*shape)
    scaled = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(vae.decode(scaled / vae.config.scaling_factor).sample, tok(x))
    torch.testing.assert_close(vae(x).sample, tok(x))
    latents = tok.encode(x).latents
    if scaling_factor is None:
        mean, std = (torch.tensor(v).reshape(-1, *[1] * (x.ndim - 2)) for v in (STATISTICS.mean, STATISTICS.std))
        torch.testing.assert_close(scaled, (latents - mean) / std)
        assert (vae.config.latents_mean, vae.config.latents_std) == ([0.0] * 8, [1.0] * 8)
    else:
        torch.testing.assert_close(scaled, latents * scaling_factor)
        assert vae.config.latents_mean is vae.config.latents_std is None


def test_distribution() -> None:
    tok = tokenizer()
    normal, plain = (AutoencoderOmni.from_tokenizer(tok, f).encode(pixels(1, 3, 8, 8)).latent_dist for f in (None, 1.0))
    std = torch.tensor(STATISTICS.std).reshape(-1, 1, 1)
    torch.testing.assert_close(normal.std * std, plain.std)
    draws = [d.sample(torch.Generator().manual_seed(3)) - d.mean for d in (normal, plain)]
    torch.testing.assert_close(draws[0] * std, draws[1])


def test_the_tokenizer_stays_as_it_is() -> None:
    tok = tokenizer()
    before = tok.fingerprint
    assert AutoencoderOmni.from_tokenizer(tok).tokenizer.fingerprint != before
    assert tok.fingerprint == before
    assert tok.latent_statistics == STATISTICS


@pytest.mark.parametrize("shape", [(1, 3, 13, 10), (1, 3, 4, 9, 7)])
def test_forward_gives_back_the_shape(shape: tuple[int, ...]) -> None:
    tok, x = tokenizer(), pixels(*shape)
    torch.testing.assert_close(AutoencoderOmni.from_tokenizer(tok)(x).sample, tok(x))


def test_what_pipelines_read() -> None:
    config = autoencoder(patch_size=8).config
    assert (config.scaling_factor, config.latent_channels, config.temporal_compression_ratio) == (1.0, 8, 2)
    assert 2 ** (len(config.block_out_channels) - 1) == 8


# ------------------------------------------------------------------------------------- as diffusers checks its own


@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_the_same_again_and_as_tuples(shape: tuple[int, ...]) -> None:
    vae, x = autoencoder(), pixels(*shape)
    once = vae(x).sample
    assert torch.equal(vae(x).sample, once)
    (as_tuple,) = vae(x, return_dict=False)
    assert torch.equal(as_tuple, once)
    (distribution,) = vae.encode(x, return_dict=False)
    assert torch.equal(distribution.mean, vae.encode(x).latent_dist.mean)
    (decoded,) = vae.decode(distribution.mode(), return_dict=False)
    assert torch.equal(decoded, once)
    draws = [vae(x, sample_posterior=True, generator=torch.Generator().manual_seed(s)).sample for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_forward_takes_what_theirs_takes() -> None:
    ours, theirs = (inspect.signature(kind.forward).parameters for kind in (AutoencoderOmni, diffusers.AutoencoderKL))
    assert [*ours] == [*theirs]
    assert {name: p.default for name, p in ours.items()} == {name: p.default for name, p in theirs.items()}


@torch.no_grad()
def test_saved_and_loaded(tmp_path: Path) -> None:
    vae, x = autoencoder(block_limits=(9.0, 8.0, 7.0, 6.0)), pixels(1, 3, 8, 8)
    vae.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "AutoencoderOmni"
    again = AutoencoderOmni.from_pretrained(tmp_path)
    assert not again.training
    assert again.tokenizer.config == vae.tokenizer.config
    assert torch.equal(again(x).sample, vae(x).sample)
    public = [name for name in vae.config if not name.startswith("_")]
    assert json.dumps({n: again.config[n] for n in public}) == json.dumps({n: vae.config[n] for n in public})
    from_config = AutoencoderOmni.from_config(vae.config)
    from_config.load_state_dict(vae.state_dict())
    assert torch.equal(from_config.eval()(x).sample, vae(x).sample)
    again, information = AutoencoderOmni.from_pretrained(tmp_path, output_loading_info=True)
    assert not information["missing_keys"]
    assert again.dtype == torch.float32


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("spelling", ("dtype", "torch_dtype"))
@torch.no_grad()
def test_precisions_keep_the_bottleneck_exact(tmp_path: Path, dtype: torch.dtype, spelling: str) -> None:
    vae, x = autoencoder(), pixels(1, 3, 8, 8)
    vae.save_pretrained(tmp_path)
    moved = vae.to("cpu", dtype)
    loaded = AutoencoderOmni.from_pretrained(tmp_path, **{spelling: dtype})
    for half in (moved, loaded):
        assert half.dtype == dtype
        assert {p.dtype for p in half.tokenizer.bottleneck.parameters()} == {torch.float32}
        assert half.encode(x.to(dtype)).latent_dist.mean.dtype == half(x.to(dtype)).sample.dtype == dtype
    assert torch.equal(moved(x).sample, loaded(x).sample)
    loaded.save_pretrained(tmp_path / "half")
    assert torch.equal(AutoencoderOmni.from_pretrained(tmp_path / "half", dtype=dtype)(x).sample, loaded(x).sample)
    assert next(vae.to("meta").parameters()).device.type == "meta"


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 3, 16, 8)])
def test_tiles_equal_the_whole_where_one_covers_it(shape: tuple[int, ...]) -> None:
    vae, x = autoencoder(), pixels(*shape)
    whole = vae(x).sample
    vae.enable_tiling()
    assert torch.equal(vae(x).sample, whole)
    vae.enable_tiling(tile_sample_min_size=8)
    tok = vae.tokenizer
    tiled = vae(x).sample
    assert torch.equal(tiled, tok.decode(tok.encode(x, tile=8).latents, tile=8))
    assert (tiled - whole).abs().mean() < 0.1 * whole.abs().mean()  # halos are narrow in so small a model
    vae.disable_tiling()
    assert torch.equal(vae(x).sample, whole)
    with pytest.raises(ValueError, match="tile_sample_min_size must be at least 8, found 4"):
        vae.enable_tiling(4)


@pytest.mark.parametrize("shape", SHAPES)
def test_slices_equal_the_batch(shape: tuple[int, ...]) -> None:
    vae, x = autoencoder(), pixels(*shape)
    whole = vae(x).sample
    vae.enable_slicing()
    torch.testing.assert_close(vae(x).sample, whole)
    vae.disable_slicing()
    assert not vae.use_slicing


def test_gradient_checkpointing_changes_no_gradient() -> None:
    vae, x = autoencoder().requires_grad_(True).train(), pixels(1, 3, 3, 8, 8)
    gradients = []
    for switch in (lambda: None, vae.enable_gradient_checkpointing, vae.disable_gradient_checkpointing):
        switch()
        vae.zero_grad()
        (vae(x).sample - x).square().mean().backward()
        gradients.append([p.grad.clone() for p in vae.parameters() if p.grad is not None])
        assert vae.is_gradient_checkpointing == (len(gradients) == 2)
    assert len(gradients[0]) > 20
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0])


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
        AutoencoderOmni.from_tokenizer(tokenizer(**changes), factor)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architecture": {"width": 0}}, "architecture: width must be at least 1"),
        ({"architecture": {"width": 16, "bottleneck": "vq"}}, "the bottleneck must be kl, found vq"),
        ({"latent_channels": 4}, "latent_channels must be 8, as the architecture says, found 4"),
    ],
)
def test_configurations_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderOmni(**{"architecture": dataclasses.asdict(tokenizer().config), **changes})


def test_without_diffusers_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None; from omnitok.errors import MissingExtraError\n"
        "try: import omnitok.hub.diffusers_autoencoder\n"
        "except MissingExtraError as error: print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'diffusers'" in shown


# -------------------------------------------------------------------------------------------------------- pipelines


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_inside_dit_pipeline(tmp_path: Path) -> None:
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
    vae = autoencoder()
    how = {"class_labels": [3, 7], "num_inference_steps": 2, "output_type": "pt"}
    for scheduler in (diffusers.DDIMScheduler(), diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")):
        pipeline = quiet(diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler))
        images = pipeline(**how, generator=torch.Generator().manual_seed(0)).images
        assert images.shape == (2, 3, 16, 16)
        assert 0 <= images.min() <= images.max() <= 1
        assert torch.equal(pipeline(**how, generator=torch.Generator().manual_seed(0)).images, images)
    pipeline.save_pretrained(tmp_path)
    again = quiet(diffusers.DiTPipeline.from_pretrained(tmp_path))  # model_index.json says where the class is
    assert type(again.vae) is AutoencoderOmni
    assert torch.equal(again(**how, generator=torch.Generator().manual_seed(0)).images, images)


def text_to_video(kind: Any, transformer: Any, vae: AutoencoderOmni) -> tuple[Any, dict[str, Any]]:
    """A pipeline with a random text encoder, and how it is called."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    encoder = transformers.T5EncoderModel(config).eval()
    prompt = encoder(torch.tensor([[5, 6, 7, 1]])).last_hidden_state.detach()
    parts = {"tokenizer": None, "text_encoder": encoder, "vae": vae, "transformer": transformer.eval()}
    how = {"prompt_embeds": prompt, "negative_prompt_embeds": torch.zeros_like(prompt), "num_inference_steps": 2}
    return quiet(kind(**parts, scheduler=diffusers.DDIMScheduler())), how | {"height": 16, "width": 16}


def test_inside_cogvideox_pipeline() -> None:
    """Latent videos, decoded as a whole."""
    torch.manual_seed(0)
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=8,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        temporal_compression_ratio=2,
        max_text_seq_length=4,
    )
    vae = autoencoder()
    pipeline, how = text_to_video(diffusers.CogVideoXPipeline, transformer, vae)
    latents, frames = (
        pipeline(**how, num_frames=9, output_type=kind, generator=torch.Generator().manual_seed(0)).frames
        for kind in ("latent", "pt")
    )
    assert latents.shape == (1, 5, 8, 4, 4)
    expected = vae.tokenizer.decode(latents.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(frames, (expected / 2 + 0.5).clamp(0, 1))


def test_inside_latte_pipeline() -> None:
    """Latents of frames, decoded as images."""
    torch.manual_seed(0)
    transformer = diffusers.LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=8,
        out_channels=16,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=16,
        cross_attention_dim=16,
        video_length=5,
    )
    pipeline, how = text_to_video(diffusers.LattePipeline, transformer, autoencoder())
    how |= {"negative_prompt": None, "video_length": 5, "output_type": "pt"}
    draws = [pipeline(**how, generator=torch.Generator().manual_seed(seed)).frames for seed in (0, 0, 1)]
    assert draws[0].shape == (1, 5, 3, 16, 16)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
