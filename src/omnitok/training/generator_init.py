"""Starting a generator from a trained one: its architecture and weights, on other data and maybe other classes."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from omnitok.errors import OmnitokError
from omnitok.hub.folder import TrainedGenerator, load_generator_model
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.diffusion_transformer import DiffusionTransformerConfig
from omnitok.training.generator_config import AnyGeneratorConfig, DiffusionTrainConfig, LanguageModelTrainConfig
from omnitok.training.generator_step import AnyGenerator


def load_source(name: str) -> TrainedGenerator:
    """The trained generator that a run starts from.

    Raises:
        OmnitokError: there is none of that name, or its latents were not normalised per channel.
    """
    source = load_generator_model(name)
    if source.settings.latent_scale is not None:
        raise OmnitokError(
            f"init: {name} knows latents times {source.settings.latent_scale}, and training normalises them by the "
            "tokenizer's latent_mean and latent_std"
        )
    return source


def with_architecture(config: AnyGeneratorConfig, source: TrainedGenerator) -> AnyGeneratorConfig:
    """`config` with the architecture of `source`, but for its dropout and for what the data say: classes and grid.

    Raises:
        OmnitokError: `source` is of another kind than `config` trains, or classes are to be learnt by a language model
            that has no place for them.
    """
    found = source.model.config
    if isinstance(config, LanguageModelTrainConfig) and isinstance(found, LanguageModelConfig):
        if config.class_conditional and not found.has_class:
            raise OmnitokError(
                f"init: {config.init} knows no classes; train it with --set class_conditional=false, or without --init"
            )
        own = config.model
        model = dataclasses.replace(found, num_classes=own.num_classes, dropout=own.dropout)
        return dataclasses.replace(config, model=model)
    if isinstance(config, DiffusionTrainConfig) and isinstance(found, DiffusionTransformerConfig):
        return dataclasses.replace(config, model=dataclasses.replace(found, num_classes=config.model.num_classes))
    raise OmnitokError(f"init: {config.init} is a {type(source.model).__name__}, which {config.name} does not train")


@torch.no_grad()
def start_from(model: AnyGenerator, source: TrainedGenerator, classes: Sequence[str]) -> tuple[str, ...]:
    """Give `model` the weights of `source`; classes are found by their names, or by their numbers where there are none.

    Args:
        classes: names of the classes of `model`, in the order of its labels.

    Returns:
        The names of the classes that `source` does not know, whose embeddings stay as they are.

    Raises:
        OmnitokError: weights of other shapes: another codebook, other channels, another table of positions.
    """
    own, given = model.state_dict(), source.model.state_dict()
    rows = _matching_rows(model, source, classes)
    for name, tensor in own.items():
        found = given.get(name)
        if name in rows and found is None:
            continue  # the first classes that it learns
        if name in rows and found is not None and found.shape[1:] == tensor.shape[1:]:
            here, there = (list(part) for part in zip(*rows[name], strict=True))
            tensor[here] = found[there].to(tensor)
        elif found is None or found.shape != tensor.shape:
            shape = "no such weight" if found is None else f"the shape {tuple(found.shape)}"
            raise OmnitokError(f"init: {name} should have the shape {tuple(tensor.shape)}, found {shape}")
        else:
            tensor.copy_(found)
    known = set(source.settings.classes)
    return tuple(name for name in classes if name not in known) if known else ()


def _matching_rows(
    model: AnyGenerator, source: TrainedGenerator, classes: Sequence[str]
) -> Mapping[str, list[tuple[int, int]]]:
    """Weights with a row a class -> pairs of rows (of `model`, of `source`) that mean the same."""
    here, there = model.config, source.model.config
    names = source.settings.classes
    if classes and names:
        pairs = [(i, names.index(name)) for i, name in enumerate(classes) if name in names]
    else:
        pairs = [(i, i) for i in range(min(here.num_classes, there.num_classes))]
    if isinstance(here, LanguageModelConfig) and isinstance(there, LanguageModelConfig):
        if here.codebook_size != there.codebook_size:
            raise OmnitokError(
                f"init: the model knows {there.codebook_size} codes, and the tokens have {here.codebook_size}"
            )
        pairs = [(i + here.class_offset, j + there.class_offset) for i, j in pairs]
        pairs += [(i, i) for i in range(min(here.class_offset, there.class_offset))]
        if here.null_id is not None and there.null_id is not None:
            pairs.append((here.null_id, there.null_id))
        pairs += [(here.code_offset + i, there.code_offset + i) for i in range(here.codebook_size)]
        return {"token_embedding.weight": pairs, "head.weight": pairs}
    pairs.append((here.num_classes, there.num_classes))  # the null label
    return {"embed_label.weight": pairs}
