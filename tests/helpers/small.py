"""A tokenizer small enough to encode and train in milliseconds."""

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
