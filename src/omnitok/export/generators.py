"""What is exported of generators: a language model's step with its cache, a masked model's, a denoiser's evaluation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.export.graphs import BATCHES, Graph, Tensors
from omnitok.models.conditions import ConditionConfig, TextCondition, encode_texts
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel
from omnitok.models.masked_model import MaskedModel

Grid = tuple[int, ...]
"""Latent positions (t, h, w), or (h, w) of an image."""


def generator_graph(model: LanguageModel | MaskedModel | DiffusionTransformer, grid: Grid, seed: int = 0) -> Graph:
    """The graph of any generator's model, float32 in `eval` mode on the CPU.

    Args:
        grid: what it draws, or the most of it.

    Raises:
        ValueError: more than the model's context holds.
    """
    if isinstance(model, LanguageModel):
        return step_graph(model, grid, seed)
    return masked_graph(model, grid, seed) if isinstance(model, MaskedModel) else denoiser_graph(model, grid, seed)


class StepGraph(nn.Module):
    """`LanguageModel.step` with the cache as tensors that come in and go out."""

    def __init__(self, model: LanguageModel, grid: tuple[int, int] | None, frames: int | None) -> None:
        super().__init__()
        self.model, self.grid, self.frames = model, grid, frames

    def forward(
        self, tokens: Tensor, slot: Tensor, keys: Tensor, values: Tensor, conditions: Tensor | None = None
    ) -> Tensors:
        """tokens (b, 1), slot (1,), keys and values (depth, b, heads, slots, head_dim) -> logits (b, 1, n) and both."""
        cache = self.model.new_cache(1, self.grid, self.frames)
        cache.keys, cache.values = keys.clone(), values.clone()
        cache.contexts = self.model.contexts(conditions)
        return self.model.step(tokens, cache, slot), cache.keys, cache.values


def step_graph(model: LanguageModel, grid: Grid | None = None, seed: int = 0) -> Graph:
    """A step of a float32 model in `eval` mode on the CPU; a cache begins with zeros, and slots are filled in order.

    Args:
        grid: what the cache holds; None is the model's largest.

    Raises:
        ValueError: more than the context holds.
    """
    of_frame, frames = (None, None) if grid is None else ((grid[-2], grid[-1]), 1 if len(grid) == 2 else grid[0])
    module = StepGraph(model, of_frame, frames).eval()
    try:
        shape = model.new_cache(1, of_frame, frames).keys.shape
    except ValueError as error:
        raise ValueError(f"size is not for this model: {error}") from error

    def example(batch: int) -> Tensors:
        generator = torch.Generator().manual_seed(seed + batch)
        tokens = torch.randint(model.config.vocabulary, (batch, 1), generator=generator)
        past = torch.randn(2, shape[0], batch, *shape[2:], generator=generator)
        return tokens, torch.tensor([batch]), past[0], past[1], *conditions_for(model.config.condition, batch)

    batch = torch.export.Dim("batch")
    conditions = conditions_for(model.config.condition, 1)
    return Graph(
        name="step",
        module=module,
        inputs=("tokens", "slot", "keys", "values", *["conditions"] * len(conditions)),
        outputs=("logits", "new_keys", "new_values"),
        free=({0: batch}, {}, {1: batch}, {1: batch}, *[{0: batch}] * len(conditions)),
        examples=[example(each) for each in BATCHES],
        eager=module,
        note={"part": "step", "cache_shape": [shape[0], None, *shape[2:]], **_note(model, grid, conditions)},
        relative=("logits", "new_keys", "new_values"),
    )


class MaskedGraph(nn.Module):
    """`MaskedModel` over whole sequences of one grid."""

    def __init__(self, model: MaskedModel, grid: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.grid = model, grid

    def forward(self, tokens: Tensor, conditions: Tensor | None = None) -> Tensor:
        """tokens (b, prefix + t * h * w), the mask token where not known -> logits (b, t * h * w, codebook_size)."""
        return self.model(tokens, self.grid, conditions)


def masked_graph(model: MaskedModel, grid: Grid, seed: int = 0) -> Graph:
    """What a float32 model in `eval` mode on the CPU makes of partly known codes: one of the steps of its sampling.

    Raises:
        ValueError: more than the context holds.
    """
    config, of_frame = model.config, (grid[-2], grid[-1])
    codes = math.prod(grid)
    if config.prefix_length + codes > (limit := config.max_tokens(*of_frame)):
        raise ValueError(f"size asks for {codes} codes, more than the context of {limit} tokens holds")
    module = MaskedGraph(model, of_frame).eval()

    def example(batch: int) -> Tensors:
        generator = torch.Generator().manual_seed(seed + batch)
        drawn = torch.randint(config.codebook_size, (batch, *grid), generator=generator)
        hidden = torch.rand(drawn.shape, generator=generator) < batch / 4
        return model.ids(drawn, None, hidden), *conditions_for(config.condition, batch)

    conditions = conditions_for(config.condition, 1)
    return Graph(
        name="masked_step",
        module=module,
        inputs=("tokens", *["conditions"] * len(conditions)),
        outputs=("logits",),
        free=({0: torch.export.Dim("batch")},) * (1 + len(conditions)),
        examples=[example(each) for each in BATCHES],
        eager=lambda *inputs: (module(*inputs),),
        note={"part": "masked_step", "mask_id": config.mask_id, **_note(model, grid, conditions)},
        relative=("logits",),
    )


def denoiser_graph(model: DiffusionTransformer, latents: Grid, seed: int = 0) -> Graph:
    """The network of a float32 model in `eval` mode on the CPU, which any sampler can call.

    Its inputs are latents and time, and, where the model has classes or another condition, those.

    Args:
        latents: shape of those of an item, (h, w) or (t, h, w).
    """
    config = model.config

    def example(batch: int) -> Tensors:
        generator = torch.Generator().manual_seed(seed + batch)
        x = torch.randn(batch, config.latent_channels, *latents, generator=generator)
        time = torch.linspace(0.1, 0.9, batch)
        if config.condition is None and config.num_classes:
            return x, time, torch.arange(batch) % (config.num_classes + 1)
        return x, time, *conditions_for(config.condition, batch)

    given = conditions_for(config.condition, 1)
    last = ["conditions"] * len(given) or ["labels"] * bool(config.num_classes)
    inputs = ("latents", "time", *last)
    return Graph(
        name="denoiser",
        module=model,
        inputs=inputs,
        outputs=("output",),
        free=({0: torch.export.Dim("batch")},) * len(inputs),
        examples=[example(each) for each in BATCHES],
        eager=lambda *inputs: (model(*inputs),),
        note={
            "part": "denoiser",
            "objective": config.objective,
            "latents": [None, *latents],
            **_note(model, latents, given),
        },
    )


def conditions_for(config: ConditionConfig | None, batch: int) -> Tensors:
    """Conditions as the graphs take them, padded to the longest that the model knows; the last item has none. Nothing
    where the model has no condition."""
    if config is None:
        return ()
    if isinstance(config, TextCondition):
        rows = encode_texts([f"{i} red squares" for i in range(batch)], config.max_length, cut=True)
        filled = F.pad(rows, (0, config.max_length - rows.shape[1]), value=-1)
    else:
        filled = torch.linspace(-1, 1, batch * config.max_length * config.channels).reshape(
            batch, config.max_length, -1
        )
        filled[:, config.max_length // 2 + 1 :] = torch.nan
    filled[-1] = torch.nan if filled.is_floating_point() else -1
    return (filled,)


def _note(
    model: LanguageModel | MaskedModel | DiffusionTransformer, grid: Grid | None, conditions: Tensors
) -> dict[str, object]:
    shapes = {"conditions": [None, *conditions[0].shape[1:]]} if conditions else {}
    return {"grid": None if grid is None else [*grid], "classes": model.config.num_classes, **shapes}
