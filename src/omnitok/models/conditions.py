"""What generators are conditioned on beside a class: a text, or a sequence of embeddings.

All three kinds of generator read a condition by cross-attention. A batch of conditions is one tensor, in which "none"
is as easily said as for classes:

| condition | tensor | none |
|---|---|---|
| class | (b,) int64 | -1 |
| text | (b, n) int64, the bytes of UTF-8, then -1 | -1 everywhere |
| embeddings | (b, n, d) floating point, then NaN | NaN everywhere |
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.models.attention import attend
from omnitok.models.config import Channels, Size
from omnitok.models.encoding import HeadedModel
from omnitok.padding import pad_embeddings

_BYTES = 256


@checked
class TextCondition:
    """A text, read byte by byte by a small transformer that is trained with the generator; works for any language.

    Attributes:
        type: which condition this is, for files.
        max_length: bytes of the longest text.
        depth: blocks of the transformer over the bytes.
        kernel: bytes that a convolution before the blocks sees at once, an odd number; 1 is none. It finds words, where
            attention alone would first have to learn which bytes are neighbours.
    """

    type: Literal["text"] = "text"
    max_length: Size = 96
    depth: Annotated[int, Field(ge=0, le=64, strict=True)] = 2
    kernel: Annotated[int, Field(ge=1, le=63, strict=True)] = 9

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, found {self.kernel}")


@checked
class EmbeddingCondition:
    """A sequence of embeddings: of a sound, of a frozen text encoder, of anything.

    Attributes:
        type: which condition this is, for files.
        channels: d, of an embedding.
        max_length: the longest sequence.
    """

    type: Literal["embeddings"] = "embeddings"
    channels: Channels = 64
    max_length: Size = 64


ConditionConfig = Annotated[TextCondition | EmbeddingCondition, Field(discriminator="type")]


class ConditionedConfig:
    """What the architectures of all generators' networks share; the fields are theirs."""

    width: int
    heads: int
    num_classes: int
    condition: ConditionConfig | None

    def _check_condition(self) -> None:
        """Raise ValueError for a model of classes that has another condition too: an item has one condition."""
        if self.condition is not None and self.num_classes:
            raise ValueError(
                f"a model with a condition has no classes: num_classes must be 0, found {self.num_classes}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.width // self.heads

    @property
    def is_conditional(self) -> bool:
        """Whether there is anything that guidance can lead to."""
        return bool(self.num_classes) or self.condition is not None


class Context(NamedTuple):
    """What one block sees of a batch of conditions."""

    keys: Tensor  # (b, heads, n, head_dim)
    values: Tensor
    mask: Tensor  # (b, 1, 1, n) bool, True where there is something


# ------------------------------------------------------------------------------------------------------------- tensors


def no_condition(conditions: Tensor) -> Tensor:
    """A tensor of that shape and kind that says "none" for every item."""
    return torch.full_like(conditions, torch.nan if conditions.is_floating_point() else -1)


def drop_conditions(conditions: Tensor, drop: Tensor) -> Tensor:
    """The conditions, "none" where `drop` (b,) is True."""
    rows = drop.to(conditions.device).reshape(-1, *[1] * (conditions.ndim - 1))
    return torch.where(rows, no_condition(conditions), conditions)


def has_condition(conditions: Tensor) -> Tensor:
    """(b, …) bool, as classes, bytes or embeddings: where there is something."""
    return ~conditions[..., 0].isnan() if conditions.is_floating_point() else conditions >= 0


def split_condition(condition: Tensor) -> str | Tensor | None:
    """The text or the embeddings (n, d) of one row of a batch of conditions; None for none."""
    there = condition[has_condition(condition)]
    if not len(there):
        return None
    return there if there.is_floating_point() else bytes(there.tolist()).decode("utf-8", "replace")


def make_conditions(config: ConditionConfig, items: Sequence[Any]) -> Tensor:
    """A batch of conditions from texts, or from embeddings (n, d), None being none.

    Raises:
        ValueError: items of another kind, too long, or of another width.
    """
    accepted = str if isinstance(config, TextCondition) else Tensor
    for item in items:
        if item is not None and not isinstance(item, accepted):
            wanted = "texts" if accepted is str else f"embeddings (n, {config.channels})"  # type: ignore[union-attr]
            raise ValueError(f"this model is conditioned on {wanted}, found {item!r:.60}")
    if isinstance(config, TextCondition):
        return encode_texts(items, config.max_length)
    for x in items:
        if x is not None and (x.ndim != 2 or x.shape[1] != config.channels):
            raise ValueError(f"embeddings must be (n, {config.channels}) for this model, found {tuple(x.shape)}")
    padded = pad_embeddings(items, config.channels)
    if padded.shape[1] > config.max_length:
        raise ValueError(f"a sequence may have {config.max_length} embeddings for this model, found {padded.shape[1]}")
    return padded


def encode_texts(texts: Sequence[str | None], max_length: int, cut: bool = False) -> Tensor:
    """The bytes of texts, (b, n) int64 with n at most `max_length`; None and "" are no text.

    Args:
        cut: leave out what is longer, up to whole characters.

    Raises:
        ValueError: a text of more bytes, without `cut`.
    """
    rows = []
    for text in texts:
        data = (text or "").encode("utf-8", "replace")
        if len(data) > max_length and not cut:
            raise ValueError(f"a text may have {max_length} bytes for this model, found {len(data)}: {text!r:.60}")
        rows.append(list(data[:max_length].decode("utf-8", "ignore").encode()))
    length = max([1, *map(len, rows)])
    padded = [row + [-1] * (length - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), length)


# ------------------------------------------------------------------------------------------------------------- modules


class CrossAttention(nn.Module):
    """Attention from tokens to a condition; adds nothing at first, so that a trained model can take it on."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        _initialise(self)
        nn.init.zeros_(self.out.weight)

    def context(self, tokens: Tensor, mask: Tensor) -> Context:
        """Keys and values of the condition's tokens (b, n, width) with mask (b, n), computed once for all steps."""
        k, v = (_split_heads(part, self.heads) for part in self.keys_values(tokens).chunk(2, dim=-1))
        return Context(k, v, mask[:, None, None])

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (b, …, width) -> what is added to it."""
        q = _split_heads(self.query(self.norm(x)).flatten(1, -2), self.heads)
        y = attend(q, context.keys, context.values, context.mask)
        return self.out(y.transpose(1, 2).flatten(2)).reshape(x.shape)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, n, width) -> (b, heads, n, head_dim)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _initialise(module: nn.Module) -> None:
    """Weights that keep the length of what they are given: a condition is learnt in half the steps that small ones
    take."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)


class _ByteBlock(nn.Module):
    """Pre-norm attention over the bytes of a text, and a feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feedforward_norm = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.project = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        y = attend(q, k, v, mask[:, None, None])
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.project(F.gelu(self.expand(self.feedforward_norm(x))))


class ConditionEncoder(nn.Module):
    """A batch of conditions -> tokens for cross-attention: a learnt first one that is always there, then the text's or
    the embeddings'."""

    def __init__(self, config: ConditionConfig, width: int, heads: int) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Parameter(torch.zeros(1, width))
        self.positions = nn.Parameter(torch.zeros(config.max_length, width))
        self.embed: nn.Embedding | nn.Linear
        self.words: nn.Conv1d | None = None
        if isinstance(config, TextCondition):
            self.embed, depth = nn.Embedding(_BYTES, width), config.depth
            if config.kernel > 1:
                self.words = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2)
        else:
            self.embed, depth = nn.Linear(config.channels, width), 0
        self.blocks = nn.ModuleList(_ByteBlock(width, heads) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        _initialise(self)
        for parameter in (self.first, self.positions):
            nn.init.normal_(parameter, std=0.3)

    def forward(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, 1 + n, width), and which of them count (b, 1 + n).

        Raises:
            ValueError: conditions of another kind, longer, or of another width.
        """
        config, there = self.config, has_condition(conditions)
        if isinstance(config, TextCondition):
            wanted = "whole numbers (b, n)"
            fits = conditions.ndim == 2 and not conditions.is_floating_point()
        else:
            wanted = f"floating point (b, n, {config.channels})"
            fits = conditions.ndim == 3 and conditions.is_floating_point() and conditions.shape[2] == config.channels
        if not fits or not 1 <= conditions.shape[1] <= config.max_length:
            raise ValueError(
                f"conditions must be {wanted} with n at most {config.max_length}, found {conditions.dtype} "
                f"{tuple(conditions.shape)}"
            )
        if conditions.is_floating_point():
            x = self.embed(conditions.nan_to_num(0.0).to(self.first.dtype))
        else:
            x = self.embed(conditions.clamp(min=0))
        if self.words is not None:
            known = x * there[..., None]  # what follows a text in a batch is no part of its last word
            x = x + F.gelu(self.words(known.transpose(1, 2))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        first = self.first.expand(x.shape[0], 1, -1)  # not len(), which fixes the batch of an exported graph
        x = torch.cat([first, x.to(first.dtype)], dim=1)
        mask = F.pad(there, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), mask


def build_encoder(config: ConditionConfig | None, width: int, heads: int) -> ConditionEncoder | None:
    """What reads the conditions of a model, where it has any."""
    return None if config is None else ConditionEncoder(config, width, heads)


class ConditionedModel(HeadedModel):
    """A generator's network, whose blocks may read conditions by cross-attention."""

    blocks: nn.ModuleList
    encode_condition: ConditionEncoder | None

    def contexts(self, conditions: Tensor | None) -> list[Context] | None:
        """What each block sees of a batch of conditions, the same at every step of sampling; None where the model has
        no condition.

        Args:
            conditions: see `omnitok.models.conditions`.

        Raises:
            ValueError: no conditions for a conditioned model.
        """
        if self.encode_condition is None:
            return None
        if conditions is None:
            raise ValueError("this model needs conditions, be it none for every item")
        tokens, mask = self.encode_condition(conditions)
        return [block.cross.context(tokens, mask) for block in self.blocks if isinstance(block.cross, CrossAttention)]
