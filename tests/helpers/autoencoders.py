"""Autoencoders of diffusers with random weights, small enough to encode in milliseconds: class -> arguments."""

from pathlib import Path
from typing import Any

import torch

LEVELS = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
DOWN, UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2

IMAGES: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {**LEVELS, "down_block_types": DOWN, "up_block_types": UP, "sample_size": 16, "shift_factor": 0.5},
    "VQModel": {**LEVELS, "down_block_types": DOWN, "up_block_types": UP, "num_vq_embeddings": 32, "vq_embed_dim": 4},
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    },
    "AsymmetricAutoencoderKL": {
        "down_block_types": DOWN,
        "down_block_out_channels": (8, 8),
        "up_block_types": UP,
        "up_block_out_channels": (8, 16),
        "norm_num_groups": 4,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "scaling_factor": 0.4,
    },
    "AutoencoderKLFlux2": {
        **LEVELS,
        "down_block_types": DOWN,
        "up_block_types": UP,
        "latent_channels": 4,
        "sample_size": 16,
    },
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "spatial_compression_ratio": 2,
        "sample_size": 16,
    },
    "AutoencoderKLHunyuanImageRefiner": {
        "latent_channels": 4,
        "block_out_channels": (32, 32, 32),
        "layers_per_block": 1,
        "spatial_compression_ratio": 4,
        "temporal_compression_ratio": 2,
    },
    "AutoencoderKLKVAE": {
        "channels": 32,
        "num_enc_blocks": 1,
        "num_dec_blocks": 1,
        "z_channels": 4,
        "ch_mult": (1, 2),
        "sample_size": 16,
    },
    "AutoencoderKLQwenImage21": {
        "base_dim": 4,
        "decoder_base_dim": 4,
        "z_dim": 2,
        "dim_mult": [1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True],
        "latents_mean": [0.5, -0.5],
        "latents_std": [2.0, 3.0],
        "scale_factor_spatial": 4,
    },
}

VIDEOS: dict[str, dict[str, Any]] = {
    "AutoencoderKLTemporalDecoder": {
        "block_out_channels": (32, 32), "down_block_types": DOWN, "layers_per_block": 1
    },
    "AutoencoderKLCogVideoX": {
        "down_block_types": ("CogVideoXDownBlock3D",) * 3, "up_block_types": ("CogVideoXUpBlock3D",) * 3,
        "block_out_channels": (8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
        "sample_height": 32, "sample_width": 32,
    },
    "AutoencoderKLWan": {
        "base_dim": 4, "z_dim": 2, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True],
        "latents_mean": [0.5, -0.5], "latents_std": [2.0, 3.0], "scale_factor_temporal": 2, "scale_factor_spatial": 4,
    },
    "AutoencoderKLQwenImage": {
        "base_dim": 4, "z_dim": 2, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True],
        "latents_mean": [0.5, -0.5], "latents_std": [2.0, 3.0],
    },
    "AutoencoderKLHunyuanVideo": {
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 3, "up_block_types": ("HunyuanVideoUpBlock3D",) * 3,
        "block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
        "spatial_compression_ratio": 4, "temporal_compression_ratio": 4,
    },
    "AutoencoderKLHunyuanVideo15": {
        "latent_channels": 4, "block_out_channels": (32, 32, 32), "layers_per_block": 1, "spatial_compression_ratio": 4,
        "temporal_compression_ratio": 2,
    },
    "AutoencoderKLCosmos": {
        "latent_channels": 4, "encoder_block_out_channels": (8, 8, 8), "decode_block_out_channels": (8, 8, 8),
        "num_layers": 1, "attention_resolutions": (8,), "resolution": 32, "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 4, "latents_mean": [0.1] * 64, "latents_std": [2.0] * 64,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8, "block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8),
        "down_block_types": ("LTXVideoDownBlock3D",) * 3, "layers_per_block": (1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1), "spatio_temporal_scaling": (True, True, False),
        "decoder_spatio_temporal_scaling": (True, True, False), "decoder_inject_noise": (False,) * 4,
        "downsample_type": ("conv",) * 3, "upsample_residual": (False,) * 3, "upsample_factor": (1, 1, 1),
        "patch_size": 1, "patch_size_t": 1, "timestep_conditioning": False,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32, 32, 32), "decoder_block_out_channels": (32, 32, 32), "latent_channels": 4,
        "layers_per_block": (1, 1, 1, 1), "temporal_expansions": (1, 2), "spatial_expansions": (2, 2),
        "add_attention_block": (False, False, False, True), "latents_mean": (0.5,) * 4, "latents_std": (2.0,) * 4,
    },
    "AutoencoderKLMagvit": {
        "latent_channels": 4, "block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("SpatialDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D"),
        "up_block_types": ("SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D"),
    },
    "AutoencoderKLLTX2Video": {
        "latent_channels": 8, "block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8),
        "down_block_types": ("LTX2VideoDownBlock3D",) * 3, "layers_per_block": (1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1), "spatio_temporal_scaling": (True,) * 3,
        "decoder_spatio_temporal_scaling": (True,) * 2, "decoder_inject_noise": (False,) * 3,
        "downsample_type": ("spatial", "temporal", "spatiotemporal"), "upsample_type": ("spatiotemporal",) * 2,
        "upsample_residual": (False,) * 2, "upsample_factor": (1, 1), "patch_size": 2, "patch_size_t": 1,
        "spatial_compression_ratio": 8, "temporal_compression_ratio": 4,
    },
    "AutoencoderKLKVAEVideo": {
        "ch": 32, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "z_channels": 4, "temporal_compress_times": 4,
    },
    "Kandinsky6SRVAE": {
        "latent_channels": 4, "encoder_block_out_channels": (16, 32, 32), "decoder_block_out_channels": (16, 32, 32),
        "layers_per_block": 1, "temporal_compression_ratio": 2,
    },
    "AutoencoderKLAllegro": {
        "block_out_channels": (4, 4, 4, 4), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
        "sample_size": 128,
    },
    "AutoencoderVidTok": {"ch": 8, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "z_channels": 4},
}  # fmt: skip


def build(name: str, **changes: Any) -> Any:
    """A model of that class in `eval` mode, the same at each call."""
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(diffusers, name)(**{**(IMAGES | VIDEOS)[name], **changes}).eval()


def save(folder: Path, name: str, **changes: Any) -> str:
    """Write it with their `save_pretrained`; the reference that `load_tokenizer` takes."""
    build(name, **changes).save_pretrained(folder)
    return f"diffusers:{folder}"
