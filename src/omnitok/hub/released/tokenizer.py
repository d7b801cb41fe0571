"""Released tokenizers -> `OmniTokenizer`: flags -> configuration, released weight names -> ours.

The names, shapes and quirks of the released files are those of the authors' code (arXiv 2406.09399). Every weight of a
file is either used, or set aside for a reason given below, or an error that lists it.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from omnitok.errors import CheckpointError
from omnitok.hub.architectures import build_on_meta, check_shapes, rename_weights, shapes_of, to_float32
from omnitok.hub.released.flags import Flags
from omnitok.hub.released.reader import ReleasedCheckpoint
from omnitok.models.bottlenecks import KLConfig, VQConfig
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

# Weights of the training that a tokenizer does not need.
_TRAINING_PREFIXES = ("image_discriminator.", "video_discriminator.", "perceptual_model.", "video_perceptual_model.")

# Released module -> ours. The layers of the stacks follow below.
_MODULES = {
    "encoder.to_patch_emb_first_frame.1": "encoder.embed_image.0",
    "encoder.to_patch_emb_first_frame.2": "encoder.embed_image.1",
    "encoder.to_patch_emb_first_frame.3": "encoder.embed_image.2",
    "encoder.to_patch_emb.1": "encoder.embed_video.0",
    "encoder.to_patch_emb.2": "encoder.embed_video.1",
    "encoder.to_patch_emb.3": "encoder.embed_video.2",
    "decoder.to_pixels_first_frame.0": "decoder.to_image",
    "decoder.to_pixels.0": "decoder.to_video",
    "pre_vq_conv.1": "bottleneck.project_in",
    "post_vq_conv.1": "bottleneck.project_out",
}
_CODEBOOK = {
    "codebook.embeddings": "bottleneck.codebook",
    "codebook.N": "bottleneck.cluster_size",
    "codebook.z_avg": "bottleneck.cluster_sum",
}
_STACKS = {
    "encoder.enc_spatial_transformer": "encoder.spatial",
    "encoder.enc_temporal_transformer": "encoder.temporal",
    "decoder.dec_temporal_transformer": "decoder.temporal",
    "decoder.dec_spatial_transformer": "decoder.spatial",
}
_LAYER = {
    "0.dsconv.weight": "positional_convolution.weight",
    "0.dsconv.bias": "positional_convolution.bias",
    "1.norm.gamma": "attention.norm.weight",
    "1.to_q.weight": "attention.to_q.weight",
    "1.to_kv.weight": "attention.to_kv.weight",
    "1.to_out.weight": "attention.to_out.weight",
    "1.q_scale": "attention.q_scale",
    "1.k_scale": "attention.k_scale",
    "1.qkv.weight": "attention.qkv.weight",
    "1.proj.weight": "attention.proj.weight",
    "1.proj.bias": "attention.proj.bias",
    "1.relative_position_bias_table": "attention.position_table",
    "3.0.weight": "feedforward.norm.weight",
    "3.0.bias": "feedforward.norm.bias",
    "3.1.weight": "feedforward.expand.weight",
    "3.4.weight": "feedforward.project.weight",
}
_RELATIVE_BIAS = {  # continuous position bias: three linear layers
    "1.spatial_rel_pos_bias.net.0.0": "attention.relative_bias.mlp.0",
    "1.spatial_rel_pos_bias.net.1.0": "attention.relative_bias.mlp.2",
    "1.spatial_rel_pos_bias.net.2": "attention.relative_bias.mlp.4",
}
_IN_LAYER = re.compile(r"(?P<stack>(?:en|de)coder\.\w+)\.layers\.(?P<index>\d+)\.(?P<rest>.+)")


# ------------------------------------------------------------------------------------------------------------- flags


def config_from_flags(hyper_parameters: Mapping[str, object], state_dict: Mapping[str, Tensor]) -> TokenizerConfig:
    """The configuration that a released tokenizer's flags ask for.

    The weights are asked only whether they hold what `spatial_pos` "rel" needs: the image-only release (and no other)
    was trained without fused attention, so that its relative bias and ALiBi are live. Models with fused attention have
    `spatial_pos` "rope" and no bias in their spatial blocks.

    Raises:
        CheckpointError: a missing flag, one of the wrong type, or a value that the released weights never had.
    """
    flags = Flags(hyper_parameters)
    flags.only(_ONLY_VALUE)
    spatial_depth = flags.integer("spatial_depth")
    if spatial_depth > len(state_dict):
        raise CheckpointError(
            f"flag spatial_depth is {spatial_depth}, more than the {len(state_dict)} weights of the file"
        )
    temporal_depth = flags.integer("temporal_depth")
    encoder_blocks = flags.text("enc_block", "t" * spatial_depth)
    decoder_blocks = flags.text("dec_block", "t" * spatial_depth)
    if max(len(encoder_blocks), len(decoder_blocks), temporal_depth) > len(state_dict):
        raise CheckpointError(f"the flags ask for more layers than the {len(state_dict)} weights of the file")
    position = flags.text("spatial_pos", "rel")
    if position not in ("rel", "rope"):
        raise CheckpointError(f"flag spatial_pos is {position!r}; 'rel' and 'rope' can be converted")
    biased = position == "rel"
    has_spatial_bias = any("_spatial_transformer." in name and ".spatial_rel_pos_bias." in name for name in state_dict)
    if "t" in encoder_blocks + decoder_blocks and biased != has_spatial_bias:
        found = "has" if has_spatial_bias else "lacks"
        raise CheckpointError(
            f"flag spatial_pos is {position!r}, but the file {found} relative bias weights in its spatial stacks"
        )
    is_vae, channels = flags.boolean("use_vae", False), flags.integer("codebook_dim")
    try:
        return TokenizerConfig(
            patch_size=flags.integer("patch_size"),
            temporal_patch_size=flags.integer("temporal_patch_size"),
            width=flags.integer("embedding_dim"),
            heads=flags.integer("heads"),
            head_dim=flags.integer("dim_head"),
            feedforward_multiple=flags.number("ff_mult"),
            encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks,
            encoder_temporal_blocks=temporal_depth,
            decoder_temporal_blocks=temporal_depth,
            window_size=flags.integer("twod_window_size", 4),
            spatial_position="relative" if biased else "rotary",
            temporal_position="alibi" if biased else "none",
            temporal_window=None,
            causal=flags.boolean(flags.spelling("causal_in_temporal_transformer", "casual_in_temporal_transformer")),
            causal_convolution=flags.boolean(flags.spelling("causal_in_peg", "casual_in_peg")),
            temporal_convolution_layout="released",
            normalize_context=False,
            bottleneck=KLConfig(latent_channels=channels)
            if is_vae
            else VQConfig(latent_channels=channels, codebook_size=flags.integer("n_codes"), normalize_codes=False),
            pixel_scale=0.5,
        )
    except ValueError as error:
        raise CheckpointError(f"the flags describe no tokenizer: {error}") from error


# Flags of the authors' code that change the network, with the value that all released weights have.
_ONLY_VALUE: dict[str, object] = {
    "image_channels": 3,
    "patch_embed": "linear",
    "defer_temporal_pool": False,
    "defer_spatial_pool": False,
    "gen_upscale": None,
    "use_external_codebook": False,
    "codebook_type": "vq",
    "l2_code": True,
}


# ----------------------------------------------------------------------------------------------------------- weights


def convert_state_dict(state_dict: Mapping[str, Tensor], config: TokenizerConfig) -> dict[str, Tensor]:
    """Released weights under our names, float32, in memory of their own.

    Set aside: discriminators and perceptual networks; `context_norm`, which the released code never uses; the zero
    `beta` buffers; window position indices, which we compute; usage statistics; position biases that fused attention
    ignored; the codebook of a VAE, left over from the VQ model it was fine-tuned from.

    Raises:
        CheckpointError: unknown, missing or misshapen weights, listed.
    """
    kept = {name: tensor for name, tensor in state_dict.items() if not _set_aside(name, tensor, config)}
    renamed, ours = rename_weights(kept, _new_name), {}
    if config.bottleneck.type == "vq":
        ours["bottleneck.initialised"] = torch.tensor(True)
    found = {name: tuple(tensor.shape) for name, tensor in (renamed | ours).items()}
    check_shapes(shapes_of(build_on_meta(config)), found)
    return {name: to_float32(name, tensor) for name, tensor in renamed.items()} | ours


def _set_aside(name: str, tensor: Tensor, config: TokenizerConfig) -> bool:
    if name.startswith(_TRAINING_PREFIXES) or name == "codebook.codebook_usage":
        return True
    if ".context_norm." in name or name.endswith(".relative_position_index"):
        return True
    if name.endswith((".norm.beta", ".norm_out.beta")):
        if tensor.count_nonzero():
            raise CheckpointError(f"weight {name} is not zero, as it is in every released file")
        return True
    if ".spatial_rel_pos_bias." in name:
        return config.spatial_position != "relative" or "_temporal_transformer." in name
    return config.bottleneck.type == "kl" and name in _CODEBOOK


def _new_name(name: str) -> str | None:
    """Our name of a released weight; None for an unknown one."""
    if name in _CODEBOOK:
        return _CODEBOOK[name]
    module, _, parameter = name.rpartition(".")
    if module in _MODULES:
        return f"{_MODULES[module]}.{parameter}"
    for released, ours in _STACKS.items():
        if name == f"{released}.norm_out.gamma":
            return f"{ours}.norm.weight"
    match = _IN_LAYER.fullmatch(name)
    if match is None or match["stack"] not in _STACKS:
        return None
    rest = match["rest"]
    module, _, parameter = rest.rpartition(".")
    if rest in _LAYER:
        inner = _LAYER[rest]
    elif module in _RELATIVE_BIAS:
        inner = f"{_RELATIVE_BIAS[module]}.{parameter}"
    else:
        return None
    return f"{_STACKS[match['stack']]}.blocks.{match['index']}.{inner}"


# ------------------------------------------------------------------------------------------------------------- files


def convert_tokenizer(checkpoint: ReleasedCheckpoint) -> OmniTokenizer:
    """A released VQVAE or VAE, in `eval` mode.

    Raises:
        CheckpointError: flags or weights that are not those of a released tokenizer.
    """
    config = config_from_flags(checkpoint.hyper_parameters, checkpoint.state_dict)
    weights = convert_state_dict(checkpoint.state_dict, config)
    tokenizer = build_on_meta(config)
    tokenizer.load_state_dict(weights, assign=True)
    return tokenizer.eval()
