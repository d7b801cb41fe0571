"""From one stage's weights to the next one's: image -> joint (inflation), VQ <-> KL (another bottleneck), deeper."""

import dataclasses

import torch
from torch import nn

from omnitok.errors import OmnitokError
from omnitok.models.autoencoder import TokenizerConfig
from omnitok.models.bottlenecks import BottleneckConfig, build_bottleneck
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.models.transformer import Block

_DEPTHS = ("encoder_blocks", "encoder_temporal_blocks", "decoder_blocks", "decoder_temporal_blocks")


@torch.no_grad()
def inflate_video_patches(tokenizer: OmniTokenizer) -> None:
    """Start the video patch embedding and output from the image ones, in place.

    A video patch is laid out (c s p q). Each of its s frames gets the image embedding's weight / s, so that a still
    clip is embedded as the picture; the affine norm over the patch repeats its gain and bias for every frame (it is
    applied a pixel at a time, so there is nothing to divide); each of the s output frames gets the weights of the
    picture's.
    """
    s = tokenizer.config.temporal_patch_size
    for image, video in zip(tokenizer.encoder.embed_image, tokenizer.encoder.embed_video, strict=True):
        if isinstance(image, nn.Linear):
            weights = {"weight": _repeat_frames(image.weight, s, dim=1) / s, "bias": image.bias}
        elif image.state_dict()["weight"].shape == video.state_dict()["weight"].shape:  # the norm over the features
            weights = image.state_dict()
        else:  # the norm over the patch
            weights = {name: _repeat_frames(value, s, dim=0) for name, value in image.state_dict().items()}
        video.load_state_dict(weights)
    to_image, to_video = tokenizer.decoder.to_image, tokenizer.decoder.to_video
    to_video.weight.copy_(_repeat_frames(to_image.weight, s, dim=0))
    to_video.bias.copy_(_repeat_frames(to_image.bias, s, dim=0))


@torch.no_grad()
def grow_stacks(tokenizer: OmniTokenizer, target: TokenizerConfig) -> OmniTokenizer:
    """A tokenizer with as many blocks as `target` says that computes what `tokenizer` does.

    Further blocks follow the last one of each stack as copies of it whose outputs are zero, so that training starts
    from the same function (function-preserving growth: Net2Net, Chen et al., 2016, arXiv 1511.05641).

    Raises:
        OmnitokError: a stack of `target` is not one of `tokenizer` with further blocks of the kind that it ends with.
    """
    old = tokenizer.config
    for name in ("encoder_blocks", "decoder_blocks"):
        have, wanted = getattr(old, name), getattr(target, name)
        if wanted != have + have[-1:] * (len(wanted) - len(have)):
            accepted = f"{have!r} and more blocks {have[-1]!r}" if have else "no block"
            raise OmnitokError(f"model.{name} must be {accepted} to grow this model, found {wanted!r}")
    for name in ("encoder_temporal_blocks", "decoder_temporal_blocks"):
        have, wanted = getattr(old, name), getattr(target, name)
        if wanted < have or (have == 0 and wanted > 0):
            accepted = f"{have} or more" if have else "0"
            raise OmnitokError(f"model.{name} must be {accepted} to grow this model, found {wanted}")
    depths = {name: getattr(target, name) for name in _DEPTHS}
    grown = OmniTokenizer.from_config(dataclasses.replace(old, **depths, block_limits=None))  # of other blocks
    grown = grown.to(tokenizer.device)
    grown.load_state_dict(tokenizer.state_dict(), strict=False)  # lacks the further blocks alone
    for stack in ("encoder.spatial", "encoder.temporal", "decoder.temporal", "decoder.spatial"):
        small, large = (list(model.get_submodule(f"{stack}.blocks").children()) for model in (tokenizer, grown))
        for block in large[len(small) :]:
            assert isinstance(block, Block)
            block.load_state_dict(small[-1].state_dict())
            for module in (*block.outputs, block.positional_convolution):
                for parameter in () if module is None else module.parameters():
                    nn.init.zeros_(parameter)
    return grown


def _repeat_frames(x: torch.Tensor, s: int, dim: int) -> torch.Tensor:
    """Dimension `dim` from (c p q) to (c s p q)."""
    channels = x.unflatten(dim, (3, -1))  # c (p q)
    return channels.repeat_interleave(s, dim=dim).flatten(dim, dim + 1)


@torch.no_grad()
def swap_bottleneck(
    tokenizer: OmniTokenizer, target: BottleneckConfig, pixels: torch.Tensor | None = None
) -> OmniTokenizer:
    """A tokenizer with the encoder and decoder of `tokenizer` and the bottleneck that `target` describes.

    The projections carry over where the number of latent channels is the same: the mean's from and to the quantizer's.
    A quantizer projects onto the unit sphere, a Gaussian does not; with `pixels` (b, 3, H, W) the mean's projection is
    scaled so that the means of these pictures have length 1 on average, which is what the decoder is used to.
    """
    old = tokenizer.bottleneck
    new = build_bottleneck(tokenizer.config.width, target)
    new.take_projections(old)
    swapped = OmniTokenizer(tokenizer.encoder, new.to(tokenizer.device), tokenizer.decoder)
    if (
        pixels is not None
        and old.latent_channels == new.latent_channels
        and tokenizer.is_discrete > swapped.is_discrete
    ):
        length = swapped.encode(pixels, check_range=False).latents.norm(dim=1).mean()
        new.project_in.weight[: new.latent_channels].div_(length)
        new.project_in.bias[: new.latent_channels].div_(length)
    return swapped
