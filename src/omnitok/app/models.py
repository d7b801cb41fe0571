"""The models of the page: loaded when it opens, each once, and whatever asks for one gets the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from omnitok.generation.loading import AnyGenerator, load_generator
from omnitok.hub.header import GENERATORS
from omnitok.hub.names import architecture_of, find_files, library_of
from omnitok.models.protocol import Tokenizer
from omnitok.peers import load_tokenizer


@dataclass(frozen=True)
class Models:
    """Tokenizers and generators by the names they were asked for by."""

    tokenizers: dict[str, Tokenizer]
    generators: dict[str, AnyGenerator]

    def unlike_tokenizers(self) -> list[str]:
        """Two names to begin with: one of codes and one of latents, where there are both."""
        firsts: dict[bool, str] = {}
        for name, tokenizer in self.tokenizers.items():
            firsts.setdefault(tokenizer.is_discrete, name)
        return sorted(self.tokenizers, key=lambda name: name not in firsts.values())[:2]


def load_models(names: Sequence[str], device: torch.device | str = "cpu") -> Models:
    """All of them; a generator shares its tokenizer with the others that name it.

    Raises:
        CheckpointError: there is no such model, or its files are damaged.
    """
    loaded: dict[str, Tokenizer] = {}

    def load(name: str) -> Tokenizer:
        # A generator names its tokenizer by where it lies, others by what it is called.
        key = name if library_of(name) else str(find_files(name).weights.resolve())
        if key not in loaded:
            loaded[key] = load_tokenizer(name, device)
        return loaded[key]

    generators, tokenizers = {}, {}
    for name in dict.fromkeys(names):
        if architecture_of(name) in GENERATORS:
            generators[name] = load_generator(name, device, load=load)
        else:
            tokenizers[name] = load(name)
    return Models(tokenizers, generators)
