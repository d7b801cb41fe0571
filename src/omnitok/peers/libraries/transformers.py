"""Image and video tokenizers of transformers (github.com/huggingface/transformers), alone or in a model of their codes.

Their code computes.
"""

import math
from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnitok.errors import CheckpointError, OmnitokError, describe
from omnitok.hub.header import check_layers
from omnitok.models.encoding import FEATURES_WHY, check_crop, check_finite, check_latents
from omnitok.peers.base import Coded, PeerTokenizer, Traits
from omnitok.peers.family import Family
from omnitok.peers.library import Library, find_name, import_class

CLASSES = {"chameleon_vqgan": "ChameleonVQVAE", "emu3_vqgan": "Emu3VQVAE", "janus_vqgan": "JanusVQVAE"}
"""`model_type` of a configuration -> its class."""

REFUSED = {
    "apertus1p5_vision_tokenizer": "is of an encoder whose decoder transformers does not have",
    "glm_image_vqmodel": "has codes of the features of another network, not of pixels",
}


class TransformersTokenizer(PeerTokenizer):
    """A tokenizer of transformers.

    To a model of videos (Emu3) an image is a clip that repeats it: one latent frame, whose first frame is the image.

    Args:
        config: the fields of its configuration, `model_type` among them.

    Raises:
        CheckpointError: an architecture that is not known here or not installed, or values that no such model has.
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        name = _class_of(config)
        model = _build(name, config)
        shape = model.config
        time, space = _time(shape), 2 ** (len(shape.channel_multiplier) - 1)
        traits = Traits(
            name,
            latent_channels=shape.embed_dim,
            downsample=(time or 1, space, space),
            vocab_size=model.quantize.embedding.num_embeddings,
            is_video_model=time is not None,
            first_frame_alone=time is None,
            channels=shape.in_channels,
        )
        super().__init__(config, traits)
        self.model = model

    def encode_pixels(self, pixels: Tensor) -> Coded:
        """Codes and their vectors."""
        video = pixels if self.traits.is_video_model else pixels.unsqueeze(2)
        t, h, w = self.latent_shape(*video.shape[2:])
        if self.traits.is_video_model:
            # It crops codes to the sizes of images, and of a video takes frames for rows: nothing is to be cropped.
            sizes = [(self.downsample[1] * max(t, h, w),) * 2] * len(pixels)
            out = self.model.encode(pixels.transpose(1, 2), image_sizes=sizes)
            codes = torch.stack(out.image_tokens)
        else:
            out = self.model.encode(pixels)
            codes = out.image_tokens.reshape(-1, h, w)
        check_finite(out.last_hidden_state, "features", FEATURES_WHY)
        return Coded(self.lookup(codes).movedim(-1, 1), codes)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels, not clamped."""
        model = self.model
        if not hasattr(model, "decoder"):
            raise OmnitokError(f"{self.traits.name} of transformers has no decoder: it makes codes of images only")
        latents = latents.contiguous()
        if not self.traits.is_video_model:
            return model.decoder(model.post_quant_conv(latents))
        frames = model.decoder(model.post_quant_conv(latents).transpose(1, 2), latents.transpose(1, 2))
        return frames.unflatten(0, (len(latents), -1)).transpose(1, 2)

    def lookup(self, codes: Tensor) -> Tensor:
        """What the decoder is given for each code: Janus normalises it, though not where it looks for the nearest."""
        vectors = self.model.quantize.embedding(codes)
        return F.normalize(vectors, dim=-1) if self.traits.name == "JanusVQVAE" else vectors

    def decode(self, latents: Tensor, size: tuple[int, int, int] | None = None, tile: int | None = None) -> Tensor:
        """As of every peer; an image of a model of videos is the first of the frames that its latents decode to."""
        check_latents(latents, self.latent_channels)
        if latents.ndim == 5 or not self.traits.is_video_model:
            return super().decode(latents, size, tile)
        (h, w), (_, height, width) = latents.shape[2:], self.downsample
        size = check_crop(size, (1, h * height, w * width), is_image=True)
        return super().decode(latents.unsqueeze(2), size, tile).squeeze(2)

    def _check_image(self, is_image: bool) -> None:
        """All take images."""


def _class_of(config: Mapping[str, Any]) -> str:
    return CLASSES[find_name(config, "model_type", CLASSES, REFUSED, "tokenizers")]


def _build(name: str, config: Mapping[str, Any]) -> Any:
    """Their model with fresh weights."""
    transformers, kind = import_class("transformers", name)
    known = {field.name for field in fields_of(kind.config_class)}
    known -= {field.name for field in fields_of(transformers.PreTrainedConfig)}
    own = {field: value for field, value in config.items() if field in known}
    check_layers(own)
    shape = kind.config_class(**own)
    widest = shape.base_channels * shape.channel_multiplier[-1]
    for field, value in {"double_latent": False, "out_channels": shape.in_channels, "hidden_size": widest}.items():
        if getattr(shape, field, value) != value:  # their code would fail, or give other channels than it took
            raise CheckpointError(f"field {field} is {describe(getattr(shape, field))}, which must be {value} here")
    return kind(shape)


def _time(shape: Any) -> int | None:
    """Frames per latent frame; None of a model of images."""
    factor = getattr(shape, "temporal_downsample_factor", None)
    if factor is not None and 2 ** int(math.log2(factor)) != factor:
        raise CheckpointError(f"field temporal_downsample_factor must be a power of 2, found {describe(factor)}")
    return factor


# ------------------------------------------------------------------------------------------------------------ the files


def _configure(fields: dict[str, Any], reference: str) -> dict[str, Any]:
    """Of a tokenizer, or of the tokenizer in a whole model."""
    config = fields.get("vq_config", fields)
    if not isinstance(config, dict):
        raise CheckpointError(f"field vq_config must hold the tokenizer's configuration, found {describe(config)}")
    _class_of(config)
    return config


def _rename(name: str, fields: Mapping[str, Any]) -> str | None:
    if "vq_config" not in fields:
        return f"model.{name}"
    before, _, own = name.partition("vqmodel.")
    return f"model.{own}" if own and before in ("", "model.") else None


FAMILY = Family(
    "transformers",
    TransformersTokenizer,
    library=Library(("model.safetensors", "model.safetensors.index.json"), _configure, _rename),
)
"""For folders that `save_pretrained` wrote; no single file is of this family."""
