"""The tokenizer that the options ask for, on the device they ask for."""

from dataclasses import dataclass

import torch

from omnitok.cli.failures import UsageError
from omnitok.cli.options import ModelOptions, resolve_device
from omnitok.models.tiling import spans
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A tokenizer and who it is."""

    tokenizer: OmniTokenizer
    name: str
    sha256: str  # of the float32 weights, whatever precision they run in


def load_model(options: ModelOptions) -> LoadedModel:
    """Load, check --tile against it, and seed.

    Raises:
        OmnitokError: no such model or device.
        UsageError: a tile smaller than one attention window of the model.
    """
    torch.manual_seed(options.seed)
    model = load_named(options.model, resolve_device(options.device), options.dtype)
    check_tile(model.tokenizer.config, options.tile)
    return model


def load_named(name: str, device: torch.device, dtype: str) -> LoadedModel:
    """The tokenizer of that name, on a device in "float32" or "bfloat16".

    Raises:
        OmnitokError: there is none.
    """
    from omnitok.hub.folder import load_tokenizer
    from omnitok.models.protocol import fingerprint

    tokenizer = load_tokenizer(name, device="cpu", dtype=torch.float32)
    sha256 = fingerprint(tokenizer)
    return LoadedModel(tokenizer.to(device, _DTYPES[dtype]).eval(), name, sha256)


def check_tile(config: TokenizerConfig, tile: int | None) -> None:
    """Raise UsageError for a tile that this model cannot work in."""
    if tile is None:
        return
    try:
        spans(1, tile, config)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
