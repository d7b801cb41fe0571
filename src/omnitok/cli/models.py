"""`omnitok models`: what can be given to --model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omnitok.cli.options import CommonOptions
from omnitok.cli.report import Column, Report, Row, cell

if TYPE_CHECKING:
    from omnitok.hub.names import ModelInfo
    from omnitok.models.tokenizer import TokenizerConfig

COLUMNS = (
    Column("kind", cell("kind")),
    Column("bottleneck", cell("bottleneck")),
    Column("parameters", lambda row: "-" if row["parameters"] is None else f"{row['parameters'] / 1e6:.1f} M"),
    Column("patch", lambda row: _patch(row)),
    Column("bits/token", cell("bits_per_token", 0)),
    Column("bits/pixel", cell("bits_per_pixel", 4)),
    Column("source", cell("source")),
)


@dataclass(frozen=True, kw_only=True)
class Models(CommonOptions):
    """List the models that can be given by name: those of the package, and the authors' (downloaded when used).

    Tokenizers are for --model, language models and diffusion models for `omnitok generate`.

    A token stands for a patch of frames x height x width pixels, in the first frame for height x width. Bits are log2
    of the codebook's size, or 16 for each number of a VAE's latents; bits per pixel are those of a picture. Reads no
    weights and draws no random numbers: --device and --seed change nothing here.
    """

    def run(self) -> int:
        """Print the table; the exit code."""
        self.check_common()
        from omnitok.hub.names import list_models, model_info

        report = Report(COLUMNS, self.json, name_key="name")
        for name in list_models():
            report.add(_row(model_info(name)))
        return report.finish()


def _patch(row: Row) -> str:
    if row["patch_size"] is None:
        return "-"
    return f"{row['temporal_patch_size']}x{row['patch_size']}x{row['patch_size']}"


def _row(info: ModelInfo) -> Row:
    from omnitok.tokenization.coding import bits_per_pixel

    if info.kind != "tokenizer":
        empty = dict.fromkeys(("bottleneck", "patch_size", "temporal_patch_size", "bits_per_token", "bits_per_pixel"))
        told = {"name": info.name, "kind": info.kind, "parameters": info.parameters}
        return {**told, **empty, "description": info.description, "source": info.source}

    config = _config_of(info)
    bits = bits_per_pixel(config, 1, config.patch_size, config.patch_size)
    return {
        "name": info.name,
        "kind": info.kind,
        "parameters": info.parameters,
        "bottleneck": "VQ" if config.bottleneck == "vq" else "VAE",
        "patch_size": config.patch_size,
        "temporal_patch_size": config.temporal_patch_size,
        "bits_per_token": round(bits * config.patch_size**2, 3),
        "bits_per_pixel": round(bits, 6),
        "description": info.description,
        "source": info.source,
    }


def _config_of(info: ModelInfo) -> TokenizerConfig:
    """Of a bundled model its own; of the authors', which may not be on this machine, what they all have in common."""
    from omnitok.hub.folder import read_config
    from omnitok.hub.names import bundled_models
    from omnitok.models.presets import preset

    bundled = bundled_models()
    if info.name in bundled:
        return read_config(bundled[info.name] / "config.json")
    return dataclasses.replace(preset("released"), bottleneck="kl" if info.bottleneck == "kl" else "vq")
