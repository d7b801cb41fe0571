"""A joint image-video tokenizer (OmniTokenizer, arXiv 2406.09399): images and videos to tokens or latents and back.

The public names are imported when they are first used: `import omnitok` alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omnitok import data as data
    from omnitok import diffusion as diffusion
    from omnitok import distributed as distributed
    from omnitok import hub as hub
    from omnitok import losses as losses
    from omnitok import metrics as metrics
    from omnitok import models as models
    from omnitok.generation.loading import load_generator
    from omnitok.hub.names import list_models
    from omnitok.hub.released import convert_checkpoint
    from omnitok.models.bottlenecks import DiagonalGaussian, VectorQuantizer
    from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
    from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
    from omnitok.models.language_model import LanguageModel
    from omnitok.models.masked_model import MaskedModel
    from omnitok.models.tokenizer import Encoding, OmniTokenizer, TokenizerConfig
    from omnitok.peers import load_tokenizer

__version__: str

__all__ = [
    "DiagonalGaussian",
    "DiffusionTransformer",
    "DiffusionTransformerConfig",
    "Encoding",
    "LanguageModel",
    "LanguageModelConfig",
    "MaskedModel",
    "MaskedModelConfig",
    "OmniTokenizer",
    "TokenizerConfig",
    "VectorQuantizer",
    "__version__",
    "convert_checkpoint",
    "list_models",
    "load_generator",
    "load_tokenizer",
]

_HOME_OF = {
    "DiagonalGaussian": "omnitok.models.bottlenecks",
    "DiffusionTransformer": "omnitok.models.diffusion_transformer",
    "DiffusionTransformerConfig": "omnitok.models.diffusion_transformer",
    "Encoding": "omnitok.models.tokenizer",
    "LanguageModel": "omnitok.models.language_model",
    "LanguageModelConfig": "omnitok.models.code_sequence",
    "MaskedModel": "omnitok.models.masked_model",
    "MaskedModelConfig": "omnitok.models.code_sequence",
    "OmniTokenizer": "omnitok.models.tokenizer",
    "TokenizerConfig": "omnitok.models.tokenizer",
    "VectorQuantizer": "omnitok.models.bottlenecks",
    "convert_checkpoint": "omnitok.hub.released",
    "list_models": "omnitok.hub.names",
    "load_generator": "omnitok.generation.loading",
    "load_tokenizer": "omnitok.peers",
}

# Rooms reached as attributes: `omnitok.data.read_image` works after `import omnitok`.
_ROOMS = ("data", "diffusion", "distributed", "hub", "losses", "metrics", "models")


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value  # found without this function from now on
        return value
    if name == "__version__":
        return import_module("omnitok.version").VERSION
    if name in _ROOMS:
        return import_module(f"omnitok.{name}")
    raise AttributeError(f"module 'omnitok' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
