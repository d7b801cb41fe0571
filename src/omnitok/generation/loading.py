"""Generators by name: the model, its settings and its tokenizer, checked to belong together."""

import os
from collections.abc import Callable

import torch

from omnitok.errors import CheckpointError
from omnitok.generation.autoregressive import LanguageModelGenerator
from omnitok.generation.diffusion import DiffusionGenerator
from omnitok.generation.masked import MaskedGenerator
from omnitok.hub.folder import load_generator_model
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel
from omnitok.models.protocol import Tokenizer
from omnitok.peers import load_tokenizer

AnyGenerator = LanguageModelGenerator | MaskedGenerator | DiffusionGenerator


def make_generator(
    model: LanguageModel | MaskedModel | DiffusionTransformer, tokenizer: Tokenizer, settings: GeneratorSettings
) -> AnyGenerator:
    """The generator of this kind of model.

    Raises:
        OmnitokError: model, tokenizer and settings do not belong together.
    """
    if isinstance(model, LanguageModel):
        return LanguageModelGenerator(model, tokenizer, settings)
    if isinstance(model, MaskedModel):
        return MaskedGenerator(model, tokenizer, settings)
    return DiffusionGenerator(model, tokenizer, settings)


def load_generator(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | os.PathLike[str] | None = None,
    *,
    load: Callable[[str], Tokenizer] = load_tokenizer,
) -> AnyGenerator:
    """A trained generator with its tokenizer, ready to `sample`.

    Args:
        name_or_path: a bundled name (`omnitok.list_models`), a folder, or a hub id.
        device, dtype: where and how the weights of both are kept; the tokenizer's bottleneck stays in float32.
        tokenizer: name or path of the tokenizer, where it is not (any more) where the model's settings say, or where
            another one with the same tokens is to decode (`compatible_tokenizers`).
        load: gives the tokenizer of a name, for callers whose generators share one.

    Raises:
        CheckpointError: an unknown name, missing or damaged files, or a tokenizer with other tokens than those the
            generator was trained on.
    """
    trained = load_generator_model(name_or_path, device, dtype)
    settings = trained.settings
    name = trained.tokenizer if tokenizer is None else os.fspath(tokenizer)
    try:
        loaded = load(name)
    except CheckpointError as error:
        raise CheckpointError(f"{name_or_path}: its tokenizer cannot be loaded: {error}") from error
    found = loaded.fingerprint
    if settings.tokenizer_sha256 not in ("", found, *loaded.compatible_tokenizers):
        raise CheckpointError(
            f"{name_or_path}: was trained on the tokenizer {settings.tokenizer!r} with weights "
            f"{settings.tokenizer_sha256}, but {name!r} has weights {found}"
        )
    return make_generator(trained.model, loaded.to(device, dtype).eval(), settings)
