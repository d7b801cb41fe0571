"""Tokenizers small enough to encode and train in milliseconds."""

from omnitok.models.tokenizer import TokenizerConfig

SMALL = TokenizerConfig(
    width=32,
    heads=2,
    head_dim=16,
    encoder_blocks="w",
    decoder_blocks="w",
    encoder_temporal_blocks=1,
    decoder_temporal_blocks=1,
    window_size=4,
    window_convolution=True,
    codebook_size=64,
)

TINY = TokenizerConfig(
    patch_size=4,
    temporal_patch_size=2,
    width=16,
    heads=2,
    head_dim=8,
    encoder_blocks="w",
    decoder_blocks="w",
    encoder_temporal_blocks=1,
    decoder_temporal_blocks=1,
    window_size=2,
    latent_channels=4,
    codebook_size=64,
)
