"""Stage to stage: a still clip is embedded as its picture; a swapped bottleneck keeps what it can."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange

from omnitok.errors import OmnitokError
from omnitok.models.bottlenecks import DiagonalGaussian, KLConfig, VectorQuantizer
from omnitok.models.protocol import LatentStatistics
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig
from omnitok.training.transfer import expand_depth, inflate_video_patches, swap_bottleneck


def tokenizer(config: TokenizerConfig, normalize_patches: bool = False) -> OmniTokenizer:
    torch.manual_seed(0)
    made = OmniTokenizer.from_config(replace(config, normalize_patches=normalize_patches))
    for parameter in made.parameters():  # gains and biases other than 1 and 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval()


@pytest.mark.parametrize("normalize_patches", [False, True])
def test_still_frames_are_embedded_as_the_picture(small_model: TokenizerConfig, normalize_patches: bool) -> None:
    tok = tokenizer(small_model, normalize_patches)
    inflate_video_patches(tok)
    picture = torch.randn(2, 3, 16, 24)
    p, s = tok.config.patch_size, tok.config.temporal_patch_size
    as_image = rearrange(picture, "b c (h p) (w q) -> b h w (c p q)", p=p, q=p)
    still = picture.unsqueeze(2).repeat(1, 1, s, 1, 1)
    as_video = rearrange(still, "b c s (h p) (w q) -> b h w (c s p q)", p=p, q=p)
    torch.testing.assert_close(
        tok.encoder.embed_video(as_video), tok.encoder.embed_image(as_image), atol=1e-5, rtol=1e-5
    )


def test_every_frame_of_a_patch_is_decoded_as_the_picture(small_model: TokenizerConfig) -> None:
    tok = tokenizer(small_model)
    inflate_video_patches(tok)
    features = torch.randn(3, small_model.width)
    s, p = tok.config.temporal_patch_size, tok.config.patch_size
    frames = rearrange(tok.decoder.to_video(features), "b (c s p q) -> b s c p q", c=3, s=s, p=p)
    picture = rearrange(tok.decoder.to_image(features), "b (c p q) -> b 1 c p q", c=3, p=p)
    torch.testing.assert_close(frames, picture.expand_as(frames))


def test_inflation_leaves_pictures_alone(small_model: TokenizerConfig) -> None:
    tok, same = tokenizer(small_model, True), tokenizer(small_model, True)
    inflate_video_patches(tok)
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(tok(picture), same(picture))


def test_vq_becomes_vae_and_keeps_encoder_decoder_and_projections(small_model: TokenizerConfig) -> None:
    tok = tokenizer(small_model)
    features = torch.randn(1, 1, 2, 2, small_model.width)
    before = tok.bottleneck.project_in(features)
    swapped = swap_bottleneck(tok, KLConfig())
    assert swapped.config.bottleneck == KLConfig()
    assert swapped.encoder is tok.encoder
    assert swapped.decoder is tok.decoder
    posterior = swapped.bottleneck.encode(features).posterior
    assert posterior is not None
    torch.testing.assert_close(posterior.mean, before)
    assert posterior.logvar.max() < -5


def test_means_start_on_the_sphere_that_the_decoder_knows(small_model: TokenizerConfig) -> None:
    tok = tokenizer(small_model)
    pictures = torch.rand(4, 3, 32, 32) * 2 - 1
    swapped = swap_bottleneck(tok, KLConfig(), pictures)
    lengths = swapped.encode(pictures, check_range=False).latents.norm(dim=1)
    assert lengths.mean().item() == pytest.approx(1, abs=1e-4)


def test_vae_becomes_vq_for_the_reverse_order(small_model: TokenizerConfig) -> None:
    torch.manual_seed(0)
    vae = OmniTokenizer.from_config(replace(small_model, bottleneck=KLConfig()))
    vae.latent_statistics = LatentStatistics((0.0,) * 8, (1.0,) * 8)
    assert isinstance(vae.bottleneck, DiagonalGaussian)
    mean_weight = vae.bottleneck.project_in.weight[:8].clone()
    swapped = swap_bottleneck(vae, small_model.bottleneck)
    assert isinstance(swapped.bottleneck, VectorQuantizer)
    assert torch.equal(swapped.bottleneck.project_in.weight, mean_weight)
    assert swapped.latent_statistics is None
    assert not swapped.bottleneck.initialised


def test_other_number_of_channels_starts_fresh(small_model: TokenizerConfig) -> None:
    tok = tokenizer(small_model)
    swapped = swap_bottleneck(tok, KLConfig(latent_channels=4), torch.zeros(1, 3, 8, 8))
    assert swapped.latent_channels == 4
    assert swapped(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


DEEPER = {
    "encoder_blocks": "tww",
    "encoder_temporal_blocks": 2,
    "decoder_blocks": "twttt",
    "decoder_temporal_blocks": 3,
}


@pytest.mark.parametrize("bottleneck", ["vq", "kl"])
@pytest.mark.parametrize("window_convolution", [False, True])
def test_a_deeper_model_starts_from_the_same_function(
    small_model: TokenizerConfig, bottleneck: str, window_convolution: bool
) -> None:
    config = replace(small_model, encoder_blocks="tw", decoder_blocks="twt", encoder_temporal_blocks=1)
    config = replace(config, bottleneck=bottleneck, window_convolution=window_convolution, decoder_temporal_blocks=1)
    tok = tokenizer(config)
    grown = expand_depth(tok, replace(config, **DEEPER)).eval()
    assert grown.config == replace(config, **DEEPER)
    assert len(grown.decoder.spatial.blocks) == 5
    clip = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert torch.equal(grown(clip), tok(clip))
    for block in grown.decoder.spatial.blocks[3:]:  # and what is silent can learn
        assert all(weight.any() for name, weight in block.named_parameters() if "expand" in name or "norm" in name)
    loss = grown(clip).square().mean()
    loss.backward()
    for name, parameter in grown.decoder.spatial.blocks[4].named_parameters():
        if name.endswith(("to_out.weight", "project.weight", "positional_convolution.weight")):
            assert parameter.grad is not None
            assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("encoder_blocks", "t", "'tw' and more blocks 'w' to grow this model, found 't'"),
        ("decoder_blocks", "twt", "'tw' and more blocks 'w' to grow this model, found 'twt'"),
        ("decoder_temporal_blocks", 0, "1 or more to grow this model, found 0"),
    ],
)
def test_a_model_grows_at_the_ends_of_its_stacks_only(
    small_model: TokenizerConfig, field: str, value: str | int, found: str
) -> None:
    config = replace(small_model, encoder_blocks="tw", decoder_blocks="tw", decoder_temporal_blocks=1)
    with pytest.raises(OmnitokError, match=f"model.{field} must be {found}"):
        expand_depth(tokenizer(config), replace(config, **{field: value}))
