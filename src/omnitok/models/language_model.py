"""A language model over the codes of images and videos: one transformer, one vocabulary, a cache for sampling.

A sequence is a prefix (start token, class token) and then the codes in raster order (t, h, w). An image is a video of
one latent frame, so it is a prefix of every video that starts with it, and class-conditional, unconditional and frame
prediction are the same next-token prediction.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.models.code_sequence import LanguageModelConfig, sequence_ids
from omnitok.models.code_transformer import (
    CodeModel,
    Past,
    check_tokens,
    initialise,
)
from omnitok.models.conditions import Context, drop_conditions
from omnitok.models.kv_cache import KVCache, rotary_tables, visible


class LanguageModel(CodeModel):
    """Causal transformer over start, class and code ids."""

    config: LanguageModelConfig

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__(config, outputs=config.vocabulary, causal=True)
        self.position_embedding: nn.Parameter | None = None
        if config.positions == "learned":
            rows = config.max_tokens(config.latent_height, config.latent_width)
            self.position_embedding = nn.Parameter(torch.empty(rows, config.width))
        initialise(self, config.depth)

    def ids(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """`sequence_ids` of this model."""
        return sequence_ids(self.config, codes, labels)

    def new_cache(
        self,
        batch: int,
        grid: tuple[int, int] | None = None,
        frames: int | None = None,
    ) -> KVCache:
        """An empty cache for `batch` sequences over `frames` latent frames of grid (h, w); default: the largest.

        Raises:
            ValueError: more than the context holds.
        """
        grid = grid or (self.config.latent_height, self.config.latent_width)
        most = self.config.max_frames(*grid)
        frames = most if frames is None else frames
        if not 1 <= frames <= most:
            raise ValueError(f"the context holds 1 to {most} latent frames of {grid[0]} x {grid[1]}, found {frames}")
        return KVCache(self.config, batch, frames, grid, self.device, self.dtype)

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        grid: tuple[int, int] | None = None,
        conditions: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next id at every position.

        Args:
            tokens: (b, n) ids; with a cache, those that follow what it holds.
            cache: read and filled; its grid counts.
            grid: (h, w) of a latent frame; default: the model's largest. Only rotary positions ask.
            conditions: of a conditioned model, see `omnitok.models.conditions`; with a cache, its `contexts` count.

        Returns:
            (b, n, vocabulary)

        Raises:
            ValueError: wrong shape or dtype, more tokens than the context or the cache holds. Ids are trusted.
        """
        return self.head(self.features(tokens, cache, grid, conditions))

    def features(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        grid: tuple[int, int] | None = None,
        conditions: Tensor | None = None,
    ) -> Tensor:
        """What the head sees: (b, n, width); arguments as in `forward`."""
        check_tokens(tokens)
        n = tokens.shape[1]
        if cache is None:
            grid = grid or (self.config.latent_height, self.config.latent_width)
            start, holder, limit = 0, "context", self.config.max_tokens(*grid)
        else:
            grid = cache.grid
            start, holder = cache.length, "cache"
            limit = min(cache.keys.shape[3], self.config.max_tokens(*grid))
        if start + n > limit:
            raise ValueError(f"{start + n} tokens are longer than the {holder} of {limit}")
        rotation = None
        if self.config.positions == "rotary":
            if cache is not None and cache.rotation is not None:
                rotation = (cache.rotation[0][start : start + n], cache.rotation[1][start : start + n])
            else:
                rotation = rotary_tables(self.config, n, grid, tokens.device, self.compute_dtype)
        x = self._embed(tokens, torch.arange(start, start + n, device=tokens.device), cache)
        mask = None if cache is None or (start == 0 and cache.without_class is None) else visible(cache, start, n)
        x = self._run(x, rotation, cache, start, mask, self.contexts(conditions) if cache is None else cache.contexts)
        if cache is not None:
            cache.length += n
        return x

    def step(self, tokens: Tensor, cache: KVCache, slot: Tensor) -> Tensor:
        """Logits (b, 1, vocabulary) of one token a sequence, for `torch.compile`: all shapes are the same every step.

        Args:
            tokens: (b, 1).
            slot: (1,) where the token goes; the caller sets `cache.length`.
        """
        rotation = None
        if cache.rotation is not None:
            rotation = (cache.rotation[0].index_select(0, slot), cache.rotation[1].index_select(0, slot))
        mask = (cache.slots <= slot)[None, None, None]
        if cache.without_class is not None:
            mask = mask & ~(cache.without_class[:, None] & (cache.slots == 0))[:, None, None]
        return self.head(self._run(self._embed(tokens, slot, cache), rotation, cache, slot, mask, cache.contexts))

    def _embed(self, tokens: Tensor, index: Tensor, cache: KVCache | None) -> Tensor:
        x = self.token_embedding(tokens)
        if self.position_embedding is not None:
            if cache is not None and cache.without_class is not None:
                index = torch.where(cache.without_class[:, None] & (index == 1), 0, index)
            x = x + self.position_embedding[index]
        return self.dropout(x)

    def _run(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        slot: int | Tensor,
        mask: Tensor | None,
        contexts: Sequence[Context] | None,
    ) -> Tensor:
        for i, block in enumerate(self.blocks):
            past = None if cache is None else Past(cache.keys[i], cache.values[i], slot)
            x = block(x, rotation, past, mask, None if contexts is None else contexts[i])
        return self.norm(x)


def language_model_losses(
    model: LanguageModel,
    codes: Tensor,
    labels: Tensor | None = None,
    drop_labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """The mean cross-entropy of the codes, in nats: the prefix is given, not predicted.

    Args:
        codes: (b, h, w) of images or (b, t, h, w) of videos.
        labels: (b,) with -1 for none, or the conditions of a conditioned model; None: none for all.
        drop_labels: (b,) bool, items whose label is replaced by none, each drawn for itself.

    Returns:
        `cross_entropy`, a scalar, computed in float32 under any autocast.

    Raises:
        ValueError: codes or labels out of range, or longer than the context.
    """
    config = model.config
    if drop_labels is not None and labels is not None:
        labels = drop_conditions(labels, drop_labels)
    ids = sequence_ids(config, codes, labels)
    given = {} if config.condition is None else {"conditions": labels}
    logits = model(ids[:, :-1], grid=(codes.shape[-2], codes.shape[-1]), **given)[:, config.prefix_length - 1 :]
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, config.prefix_length :].flatten())
    return {"cross_entropy": loss}
