"""Architectures by public name, as plain configurations."""

from omnitok.models.autoencoder import TokenizerConfig
from omnitok.models.bottlenecks import VQConfig

_RELEASED = TokenizerConfig(
    temporal_window=None,
    temporal_convolution_layout="released",
    normalize_context=False,
    bottleneck=VQConfig(normalize_codes=False),
    pixel_scale=0.5,
)

_SMALL = TokenizerConfig(
    width=320,
    heads=5,
    head_dim=64,
    encoder_blocks="www",
    decoder_blocks="www",
    encoder_temporal_blocks=2,
    decoder_temporal_blocks=2,
    window_convolution=True,
    normalize_patches=False,
)

_TINY = TokenizerConfig(
    width=256,
    heads=8,
    head_dim=32,
    feedforward_multiple=3.0,
    encoder_blocks="ww",
    decoder_blocks="ww",
    encoder_temporal_blocks=1,
    decoder_temporal_blocks=1,
    window_convolution=True,
    normalize_patches=False,
    normalize_stacks=False,
)

PRESETS: dict[str, TokenizerConfig] = {
    "base": TokenizerConfig(),  # the paper's, with the faults of the released code mended
    "released": _RELEASED,  # exactly what the released VQVAE and VAE weights were trained with
    "released-image": TokenizerConfig(  # the image-only release: live relative bias and ALiBi
        encoder_blocks="tttt",
        spatial_position="relative",
        temporal_position="alibi",
        temporal_window=None,
        temporal_convolution_layout="released",
        normalize_context=False,
        bottleneck=VQConfig(normalize_codes=False),
        pixel_scale=0.5,
    ),
    "small": _SMALL,
    "tiny": _TINY,
}
"""`tiny` (4.5 M parameters) and `small` (13 M) look only through windows and convolutions in space, so their cost is
linear in the number of pixels and they do not depend on the resolution they were trained at."""


def preset(name: str) -> TokenizerConfig:
    """The configuration of that name.

    Raises:
        ValueError: an unknown name, with the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name]
