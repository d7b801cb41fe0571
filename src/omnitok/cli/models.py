"""`omnitok models`: what can be given to --model."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from omnitok.cli.options import SAID, CommonOptions
from omnitok.cli.report import Column, Report, Row, cell
from omnitok.errors import OmnitokError
from omnitok.hub.names import ModelInfo, TokenInfo, library_of, list_models, model_info, of_libraries

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
    """List the models that can be given by name: those of the package, and the authors' (downloaded when used); or say
    the same of the models that are named.

    Tokenizers are for --model, language models and diffusion models for `omnitok generate`. --model also takes folders,
    hub ids, released files of other projects (VQGAN, LlamaGen, IBQ, Open-MAGVIT2, TATS, Cosmos, VidTok) and models that
    other libraries compute, by the library's name: diffusers:FOLDER_OR_HUB_ID.

    A token stands for a patch of frames x height x width pixels, in the first frame for height x width. Bits are log2
    of the codebook's size, or 16 for each number of a VAE's latents; bits per pixel are those of an image. Reads no
    weights and draws no random numbers: --device and --seed change nothing here.
    """

    models: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MODEL...", help=f"Names, folders, or {of_libraries()} (default: all that have a name)."),
        SAID,
    ] = ()

    def run(self) -> int:
        """Print the table; the exit code."""
        self.check_common()
        report = Report(COLUMNS, self.json, name_key="name")
        for name in self.models or list_models():
            try:
                report.add(_row(_info(name)))
            except OmnitokError as error:
                report.fail(name, str(error))
        return report.finish()


def _patch(row: Row) -> str:
    if row["patch_size"] is None:
        return "-"
    return f"{row['temporal_patch_size']}x{row['patch_size']}x{row['patch_size']}"


def _info(name: str) -> ModelInfo:
    library = library_of(name)
    if library is None:
        return model_info(name)
    from omnitok.peers import describe_from

    source = name.removeprefix(f"{library}:")
    model = describe_from(library, source)
    tokens = TokenInfo(model.vocab_size, model.latent_channels, model.bits_per_token, model.downsample)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelInfo(name, "tokenizer", parameters, None, "", source, tokens, model.traits.name)


def _row(info: ModelInfo) -> Row:
    row: Row = {"name": info.name, "kind": info.kind, "parameters": info.parameters}
    columns = ("bottleneck", "patch_size", "temporal_patch_size", "bits_per_token", "bits_per_pixel")
    row |= dict.fromkeys(columns)
    if info.tokens is not None:
        frames, height, width = info.tokens.downsample
        bits = info.tokens.bits_per_token
        name = info.family or ("VAE" if info.bottleneck == "kl" else str(info.bottleneck).upper())
        row |= dict(zip(columns, (name, height, frames, round(bits, 3), round(bits / height / width, 6)), strict=True))
    return row | {"description": info.description, "source": info.source}
