"""What is exported of generators: one step of a language model with its cache, one evaluation of a denoiser."""

import torch
from torch import Tensor, nn

from omnitok.export.graphs import BATCHES, Graph, Tensors
from omnitok.models.diffusion_transformer import DiffusionTransformer
from omnitok.models.language_model import LanguageModel


class StepGraph(nn.Module):
    """`LanguageModel.step` with the cache as tensors that come in and go out, of the model's largest grid."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, slot: Tensor, keys: Tensor, values: Tensor) -> Tensors:
        """tokens (b, 1), slot (1,), keys and values (depth, b, heads, slots, head_dim) -> logits (b, 1, n) and both."""
        cache = self.model.new_cache(1)
        cache.keys, cache.values = keys.clone(), values.clone()
        return self.model.step(tokens, cache, slot), cache.keys, cache.values


def step_graph(model: LanguageModel, seed: int = 0) -> Graph:
    """A step of a float32 model in `eval` mode on the CPU; a cache begins with zeros, and slots are filled in order."""
    module = StepGraph(model).eval()
    shape = model.new_cache(1).keys.shape

    def example(batch: int) -> Tensors:
        generator = torch.Generator().manual_seed(seed + batch)
        tokens = torch.randint(model.config.vocabulary, (batch, 1), generator=generator)
        past = torch.randn(2, shape[0], batch, *shape[2:], generator=generator)
        return tokens, torch.tensor([batch]), past[0], past[1]

    batch = torch.export.Dim("batch")
    return Graph(
        name="step",
        module=module,
        inputs=("tokens", "slot", "keys", "values"),
        outputs=("logits", "new_keys", "new_values"),
        free=({0: batch}, {}, {1: batch}, {1: batch}),
        examples=[example(each) for each in BATCHES],
        eager=module,
        note={"part": "step", "cache_shape": [shape[0], None, *shape[2:]]},
    )


def denoiser_graph(model: DiffusionTransformer, latents: tuple[int, ...], seed: int = 0) -> Graph:
    """The network of a conditional float32 model in `eval` mode on the CPU, which any sampler can call.

    Args:
        latents: shape of those of an item, (h, w) or (t, h, w).

    Raises:
        ValueError: an unconditional model.
    """
    if not model.config.num_classes:
        raise ValueError("a denoiser is exported with labels, and this model is unconditional")

    def example(batch: int) -> Tensors:
        generator = torch.Generator().manual_seed(seed + batch)
        x = torch.randn(batch, model.config.latent_channels, *latents, generator=generator)
        return x, torch.linspace(0.1, 0.9, batch), torch.arange(batch) % (model.config.num_classes + 1)

    return Graph(
        name="denoiser",
        module=model,
        inputs=("latents", "time", "labels"),
        outputs=("output",),
        free=({0: torch.export.Dim("batch")},) * 3,
        examples=[example(each) for each in BATCHES],
        eager=lambda *inputs: (model(*inputs),),
        note={"part": "denoiser", "objective": model.config.objective, "latents": [None, *latents]},
    )
