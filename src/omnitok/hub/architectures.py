"""From a configuration to a model of that shape, and whether the weights of a file fit it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omnitok.errors import CheckpointError, reason
from omnitok.models.code_sequence import LanguageModelConfig, MaskedModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel
from omnitok.models.tokenizer import OmniTokenizer, TokenizerConfig

Config = TokenizerConfig | LanguageModelConfig | MaskedModelConfig | DiffusionTransformerConfig
Generator = LanguageModel | MaskedModel | DiffusionTransformer

ARCHITECTURES: dict[str, tuple[type, Callable[[Any], nn.Module]]] = {
    "OmniTokenizer": (TokenizerConfig, OmniTokenizer.from_config),
    "LanguageModel": (LanguageModelConfig, LanguageModel),
    "MaskedModel": (MaskedModelConfig, MaskedModel),
    "DiffusionTransformer": (DiffusionTransformerConfig, DiffusionTransformer),
}
"""Name in `config.json` -> class of the configuration, and what builds the model with fresh weights."""

_NAMED = 5  # how many names an error spells out


class WithoutInit(TorchFunctionMode):
    """Leaves out `torch.nn.init`: nothing is there to fill, and on the meta device it imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build(config: Config) -> Any:
    """A model with fresh weights, from torch's current random state."""
    return next(build for kind, build in ARCHITECTURES.values() if isinstance(config, kind))(config)


def build_on_meta(config: Config) -> Any:
    """A model without memory behind its weights, for `load_state_dict(..., assign=True)`.

    Raises:
        CheckpointError: sizes beyond what a tensor can have.
    """
    try:
        with torch.device("meta"), WithoutInit():
            return build(config)
    except Exception as error:  # torch: sizes, and sizes beyond 64 bits
        raise CheckpointError(f"the configuration asks for impossible sizes: {reason(error)}") from error


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight and buffer of a model."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the weights that a file holds (name -> shape) with those that a model needs.

    Raises:
        CheckpointError: unknown, missing or misshapen weights, a few of them named.
    """
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"{len(missing)} weights are missing: {listed(missing)}")
    if unknown := [name for name in found if name not in expected]:
        problems.append(f"{len(unknown)} weights are unknown: {listed(unknown)}")
    differ = [name for name in expected if name in found and expected[name] != found[name]]
    if differ:
        described = [f"{name} is {found[name]} instead of {expected[name]}" for name in differ]
        problems.append(f"{len(differ)} weights have another shape: {listed(described)}")
    if problems:
        raise CheckpointError("; ".join(problems))


def shape_of(weights: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a weight of a file that the configuration is read from.

    Raises:
        CheckpointError: there is none, or it has other dimensions, or no numbers.
    """
    if name not in weights:
        raise CheckpointError(f"the weight {name} is missing, from which the network's shape is read")
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"the weight {name} must have {dimensions} dimensions, none of them 0, found {shape}")
    return shape


def rename_weights(weights: Mapping[str, Tensor], new_name: Callable[[str], str | None]) -> dict[str, Tensor]:
    """The weights of a file under our names; `new_name` gives None for one that is unknown.

    Raises:
        CheckpointError: unknown weights, listed.
    """
    names = {name: new_name(name) for name in weights}
    if unknown := [name for name, new in names.items() if new is None]:
        raise CheckpointError(f"holds {len(unknown)} unknown weights: {listed(unknown)}")
    return {new: weights[name] for name, new in names.items() if new is not None}


def to_float32(name: str, weight: Tensor) -> Tensor:
    """A weight in float32, in memory of its own.

    Raises:
        CheckpointError: it is not floating point.
    """
    if not weight.is_floating_point():
        raise CheckpointError(f"weight {name} must be floating point, found {weight.dtype}")
    return weight.to(torch.float32, copy=True).contiguous()


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
