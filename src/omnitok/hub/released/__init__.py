"""Released checkpoints -> this package's models, without running anything that is in the files."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from omnitok.errors import CheckpointError
from omnitok.hub.architectures import listed
from omnitok.hub.released.diffusion import convert_diffusion_transformer
from omnitok.hub.released.language_model import convert_language_model
from omnitok.hub.released.reader import ReleasedCheckpoint, read_released_checkpoint
from omnitok.hub.released.tokenizer import convert_tokenizer
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel
from omnitok.models.tokenizer import OmniTokenizer

ReleasedModel = OmniTokenizer | LanguageModel | DiffusionTransformer

# What a released file can hold, and what makes a model of it.
CONVERTERS: dict[str, Callable[[ReleasedCheckpoint], ReleasedModel]] = {
    "tokenizer": convert_tokenizer,
    "language-model": convert_language_model,
    "dit": convert_diffusion_transformer,
    "latte": convert_diffusion_transformer,
}


def kind_of(names: Iterable[str]) -> str | None:
    """What the weights of those released names are: a key of `CONVERTERS`, or None.

    A language model's file may hold the tokenizer it was trained on beside it, so it is asked first.
    """
    names = set(names)
    if any(name.endswith("tok_emb.weight") for name in names):
        return "language-model"
    if any(name.endswith("x_embedder.proj.weight") for name in names):
        return "latte" if any(name.endswith("temp_embed") for name in names) else "dit"
    if any(name.startswith(("encoder.to_patch_emb", "pre_vq_conv.", "decoder.to_pixels")) for name in names):
        return "tokenizer"
    return None


def convert_checkpoint(path: str | os.PathLike[str]) -> ReleasedModel:
    """A model from a released `.ckpt`, `.pt` (nothing in it is executed) or reference `.safetensors`, in `eval`
    mode.

    Raises:
        CheckpointError: a file that cannot be read or holds no released model; one sentence that begins with the path.
    """
    return convert_read(read_released_checkpoint(path), Path(path))


def convert_read(checkpoint: ReleasedCheckpoint, path: Path) -> ReleasedModel:
    """The model of a released file that was read already; see `convert_checkpoint`."""
    kind = kind_of(checkpoint.state_dict)
    if kind is None:
        raise CheckpointError(
            f"{path}: holds no released OmniTokenizer model; its weights are {listed(list(checkpoint.state_dict))}"
        )
    try:
        return CONVERTERS[kind](checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
