"""The older name of `omnitok.hub.diffusers_autoencoder`."""

from typing import Any

from omnitok.models.tokenizer import OmniTokenizer


def DiffusersAutoencoder(tokenizer: OmniTokenizer, scaling_factor: float | None = None) -> Any:
    """`AutoencoderOmni.from_tokenizer(tokenizer, scaling_factor)`.

    Raises:
        MissingExtraError: diffusers is not installed.
    """
    from omnitok.hub.diffusers_autoencoder import AutoencoderOmni

    return AutoencoderOmni.from_tokenizer(tokenizer, scaling_factor)
