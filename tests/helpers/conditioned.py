"""Masked models of texts and of embeddings, random and small enough to sample in milliseconds."""

from pathlib import Path

import torch

from omnitok import load_tokenizer
from omnitok.hub.folder import save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.models.code_sequence import MaskedModelConfig
from omnitok.models.conditions import EmbeddingCondition, TextCondition
from omnitok.models.masked_model import MaskedModel
from omnitok.models.protocol import fingerprint


def save_conditioned(condition: TextCondition | EmbeddingCondition, tokenizer: Path, folder: Path) -> str:
    """A model folder over a tokenizer of 64 codes, of 16 x 16 pixels, whose samples depend on the condition."""
    torch.manual_seed(0)
    config = MaskedModelConfig(
        codebook_size=64, latent_frames=2, latent_height=2, latent_width=2, width=32, depth=1, heads=2,
        condition=condition,
    )  # fmt: skip
    model = MaskedModel(config)
    for weights in (model.blocks[0].cross.out.weight, model.head.weight):
        torch.nn.init.normal_(weights)
    sampling = {"steps": 4, "guidance_scale": 8.0}  # so that what is led away from shows
    sha256 = fingerprint(load_tokenizer(tokenizer))
    settings = GeneratorSettings(str(tokenizer), sha256, (), 16, 16, 5, sampling, 8.0)
    return str(save_generator(model, settings, folder))
