"""The tokenizer that the options ask for, on the device they ask for."""

from dataclasses import dataclass

import torch

from omnitok.cli.failures import UsageError
from omnitok.cli.options import ModelOptions, channel_ranges, resolve_device
from omnitok.data.pixel_format import PixelFormat
from omnitok.models.protocol import Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A tokenizer and who it is."""

    tokenizer: Tokenizer
    name: str
    sha256: str  # of the float32 weights, whatever precision they run in

    @property
    def pixel_format(self) -> PixelFormat:
        """How files are read for it."""
        return PixelFormat(self.tokenizer.channels, self.tokenizer.channel_ranges)


def load_model(options: ModelOptions) -> LoadedModel:
    """Load, check --tile against it, and seed.

    Raises:
        OmnitokError: no such model or device.
        UsageError: a tile that the model cannot work in.
    """
    torch.manual_seed(options.seed)
    model = load_named(options.model, resolve_device(options.device), options.dtype, options.ranges)
    check_tile(model.tokenizer, options.tile)
    return model


def load_named(name: str, device: torch.device, dtype: str, ranges: str | None = None) -> LoadedModel:
    """The tokenizer of that name, on a device in "float32" or "bfloat16", with its own ranges or those of --ranges.

    Raises:
        OmnitokError: there is none.
        UsageError: ranges that make no sense, or not as many as the model has channels.
    """
    from omnitok.peers import load_tokenizer

    tokenizer = load_tokenizer(name, device="cpu", dtype=torch.float32)
    if ranges is not None:
        try:
            tokenizer.channel_ranges = PixelFormat(tokenizer.channels, channel_ranges(ranges)).ranges
        except ValueError as error:
            raise UsageError(f"--ranges: {error}") from error
    sha256 = tokenizer.fingerprint
    return LoadedModel(tokenizer.to(device, _DTYPES[dtype]).eval(), name, sha256)


def check_tile(tokenizer: Tokenizer, tile: int | None) -> None:
    """Raise UsageError for a tile that this model cannot work in."""
    if tile is None:
        return
    if tokenizer.tile_unit is None:
        raise UsageError("--tile: this model cannot work in tiles; leave it out")
    if tile < tokenizer.tile_unit:
        raise UsageError(f"--tile must be at least {tokenizer.tile_unit} pixels for this model, found {tile}")
