"""A language model over the codes of pictures and clips: one transformer, one vocabulary, a cache for sampling.

A sequence is a prefix (start token, class token) and then the codes in raster order (t, h, w). A picture is a clip of
one latent frame, so it is a prefix of every clip that starts with it, and class-conditional, unconditional and frame
prediction are the same next-token prediction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.models.positions import rotary_3d, rotate

Prefix = Literal["start class", "class start", "start", "class"]

CODE_LENGTHS = (1.0, 0.5, 0.25)
"""Distances over which the embeddings of codes are alike at first, see `start_from_codebook`; of code vectors that are
about 1 long."""

_EMBEDDING_STD = 0.02


@dataclass(frozen=True)
class LanguageModelConfig:
    """Architecture and vocabulary of a language model.

    Ids are laid out as start (0), classes, null class, codes; what a model lacks takes no id. The released layouts are
    the same with `null_class=False` ("with a start token 0 = start, 1..C = classes, then codes").

    Attributes:
        codebook_size: codes of the tokenizer.
        num_classes: 0 for an unconditional model.
        null_class: whether there is an id for "any class", learned by class dropout and used for guidance.
        prefix: the tokens before the codes, in order. The released models: "class start" (ImageNet), "start class"
            (UCF-101), "start" (Kinetics-600), "class" (trained without a start token).
        own_start: whether the start token has an id of its own; the released unconditional model has not: it starts
            with id 0, its first code.
        latent_frames, latent_height, latent_width: the largest grid, in latent positions; also the trained length, over
            which a window slides in long clips.
        width, depth, heads: of the transformer.
        feedforward_multiple: hidden width of the feed-forward: multiple * width for GELU, int(multiple * 2/3 * width) a
            branch for SwiGLU (as many weights).
        positions: "rotary" (factorised over time, rows and columns) or "learned" (a table over the sequence).
        context: rows of that table, if they are not just enough for the largest grid; learned positions only.
        norm, activation, bias: "rms" and "swiglu" without biases, or "layer" and "gelu" with biases as released.
        dropout: of embeddings and of what each branch adds, in training.
        rotary_base: slowest wavelength of the rotary positions, over 2 pi.
    """

    codebook_size: int = 8192
    num_classes: int = 0
    null_class: bool = True
    prefix: Prefix = "start class"
    own_start: bool = True
    latent_frames: int = 5
    latent_height: int = 32
    latent_width: int = 32
    width: int = 768
    depth: int = 12
    heads: int = 12
    feedforward_multiple: float = 4.0
    positions: Literal["rotary", "learned"] = "rotary"
    context: int | None = None
    norm: Literal["rms", "layer"] = "rms"
    activation: Literal["swiglu", "gelu"] = "swiglu"
    bias: bool = False
    dropout: float = 0.0
    rotary_base: float = 100.0

    def __post_init__(self) -> None:
        positive = ("codebook_size", "latent_frames", "latent_height", "latent_width", "width", "depth", "heads")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.num_classes < 0:
            raise ValueError(f"num_classes must not be negative, found {self.num_classes}")
        choices = {
            "prefix": ("start class", "class start", "start", "class"),
            "positions": ("rotary", "learned"),
            "norm": ("rms", "layer"),
            "activation": ("swiglu", "gelu"),
        }
        for name, accepted in choices.items():
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, accepted))}, found {getattr(self, name)!r}"
                )
        if self.num_classes and not self.has_class:
            raise ValueError(
                f"a model of {self.num_classes} classes needs a prefix with 'class', found {self.prefix!r}"
            )
        if not self.num_classes and self.has_class and not self.null_class:
            raise ValueError("a prefix with 'class' needs num_classes of at least 1 or null_class=True")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width must be an even multiple of heads, found {self.width} and {self.heads}")
        if self.positions == "rotary" and self.head_dim < 6:
            raise ValueError(f"rotary positions need width / heads of at least 6, found {self.head_dim}")
        for name in ("feedforward_multiple", "rotary_base"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, found {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), found {self.dropout}")
        if self.context is not None and (self.positions == "rotary" or self.context < 1):
            raise ValueError(f"context must be at least 1, and None for rotary positions, found {self.context}")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @property
    def has_class(self) -> bool:
        """Whether sequences hold a class token."""
        return "class" in self.prefix

    @property
    def prefix_length(self) -> int:
        """Tokens before the first code."""
        return len(self.prefix.split())

    @property
    def first_class(self) -> int:
        """Id of class 0."""
        return 1 if "start" in self.prefix and self.own_start else 0

    @property
    def null_id(self) -> int | None:
        """Id of the null class; None where there is none."""
        return self.first_class + self.num_classes if self.has_class and self.null_class else None

    @property
    def first_code(self) -> int:
        """Id of code 0."""
        return self.first_class + self.num_classes + (self.null_id is not None)

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.first_code + self.codebook_size

    def context_of(self, height: int, width: int) -> int:
        """Tokens of the longest sequence over frames of `height` x `width` latent positions, prefix included.

        Raises:
            ValueError: larger than the model's largest grid (rotary positions), or than the table of learned ones.
        """
        if self.positions == "learned":
            rows = self.context or self.prefix_length + self.latent_frames * self.latent_height * self.latent_width
            return rows
        if not (1 <= height <= self.latent_height and 1 <= width <= self.latent_width):
            largest = (self.latent_height, self.latent_width)
            raise ValueError(
                f"latent frames of {height} x {width} are outside this model's 1 x 1 to {largest[0]} x {largest[1]}"
            )
        return self.prefix_length + self.latent_frames * height * width

    def frames_of(self, height: int, width: int) -> int:
        """Latent frames of `height` x `width` that the context holds; the last code needs no place in it.

        Raises:
            ValueError: not even one.
        """
        context = self.context_of(height, width)
        frames = (context + (self.positions == "learned") - self.prefix_length) // (height * width)
        if frames < 1:
            raise ValueError(f"a latent frame of {height} x {width} is longer than the context of {context} tokens")
        return frames


# ---------------------------------------------------------------------------------------------------------------- ids


def prefix_ids(config: LanguageModelConfig, labels: Tensor) -> Tensor:
    """Ids before the codes: (b, prefix_length) for labels (b,), -1 being the null class.

    Raises:
        ValueError: a label out of range, or -1 where the model has no null class.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"labels must be whole numbers (b,), found {labels.dtype} {tuple(labels.shape)}")
    start = torch.zeros_like(labels)
    if config.has_class:
        low, high = (int(v) for v in labels.aminmax()) if labels.numel() else (0, 0)
        if low < -1 or high >= config.num_classes:
            wrong = low if low < -1 else high
            raise ValueError(f"labels must lie in [0, {config.num_classes - 1}], or be -1 for none, found {wrong}")
        if low == -1 and config.null_id is None:
            raise ValueError("this model has no null class (null_class=False), so each item needs a label")
        of_class = labels + config.first_class
        if config.null_id is not None:
            of_class = torch.where(labels < 0, config.null_id, of_class)
    elif labels.numel() and int(labels.max()) >= 0:
        raise ValueError("this model has no classes, so it takes no labels")
    parts = [start if part == "start" else of_class for part in config.prefix.split()]
    return torch.stack(parts, dim=1)


def sequence_ids(config: LanguageModelConfig, codes: Tensor, labels: Tensor | None = None) -> Tensor:
    """Ids of whole sequences: (b, prefix_length + t * h * w).

    Args:
        codes: (b, h, w) of pictures or (b, t, h, w) of clips, in [0, codebook_size).
        labels: (b,) with -1 for none; None: none for all.

    Raises:
        ValueError: wrong shapes or ranges.
    """
    if codes.ndim not in (3, 4) or codes.is_floating_point() or codes.dtype == torch.bool:
        raise ValueError(
            f"codes must be whole numbers (b, h, w) or (b, t, h, w), found {codes.dtype} {tuple(codes.shape)}"
        )
    codes = codes.long().flatten(1)
    if codes.numel():
        low, high = (int(v) for v in codes.aminmax())
        if low < 0 or high >= config.codebook_size:
            raise ValueError(f"codes must lie in [0, {config.codebook_size - 1}], found [{low}, {high}]")
    if labels is None:
        labels = codes.new_full((codes.shape[0],), -1)
    if labels.shape != codes.shape[:1]:
        raise ValueError(f"{codes.shape[0]} items need labels ({codes.shape[0]},), found {tuple(labels.shape)}")
    return torch.cat([prefix_ids(config, labels.long().to(codes.device)), codes + config.first_code], dim=1)


# -------------------------------------------------------------------------------------------------------------- cache


class KVCache:
    """Keys and values of past tokens, allocated once; made by `LanguageModel.new_cache`, owned by the caller.

    Slots are filled in order: the prefix, then latent frames. `slide` makes the cache a ring of latent frames: the
    newest frame moves over the oldest, and its slots are free for the next one. What is seen is always a prefix of the
    slots, without holes, so that no step needs a mask.

    Attributes:
        keys, values: (depth, b, heads, slots, head_dim).
        length: slots in use.
        frames: latent frames that fit.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        batch: int,
        frames: int,
        grid: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config, self._prefix, self._frame = config, config.prefix_length, grid[0] * grid[1]
        self.grid, self.frames, self.length = grid, frames, 0
        self._slid = 0  # frames dropped
        slots = self._prefix + frames * self._frame
        shape = (config.depth, batch, config.heads, slots, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.slots = torch.arange(slots, device=device)
        self.without_class: Tensor | None = None  # (b,) rows whose first slot nobody sees; see `hide_first`
        self.rotation: tuple[Tensor, Tensor] | None = None
        if config.positions == "rotary":
            self.rotation = rotation_of(config, slots, grid, device, dtype)

    @staticmethod
    def nbytes(config: LanguageModelConfig, batch: int, frames: int, grid: tuple[int, int], element: int) -> int:
        """Bytes of the keys and values of such a cache, with elements of `element` bytes."""
        return 2 * config.depth * batch * (config.prefix_length + frames * grid[0] * grid[1]) * config.width * element

    def hide_first(self, rows: Tensor) -> None:
        """Let the rows (b,) where True do without their class token: slot 0 is a place holder that no other slot sees.

        The released sampler guides so: its unconditional sequences start with the start token, at position 0, and go on
        with the codes at their usual positions.
        """
        self.without_class = rows

    def slide(self) -> None:
        """Drop the oldest latent frame, when the newest is complete; the prefix then looks one frame younger.

        A token at frame t goes on to see the prefix and the frames after t - frames, all at distances that training
        had. Needs rotary positions, which are relative.
        """
        if self.rotation is None:
            raise ValueError("learned positions are absolute, so their cache cannot slide")
        if self.length != self.keys.shape[3]:
            raise ValueError("the cache slides when its last latent frame is complete, not before")
        last = slice(self.length - self._frame, self.length)
        if self.frames > 1:
            oldest = self._prefix + self._slid % (self.frames - 1) * self._frame
            for stored in (self.keys, self.values):
                stored[:, :, :, oldest : oldest + self._frame] = stored[:, :, :, last]
        self._slid += 1
        self.length -= self._frame
        device, dtype = self.keys.device, self.keys.dtype
        one = torch.ones(1, device=device)
        step = rotary_3d(one, 0 * one, 0 * one, self._config.head_dim, self._config.rotary_base)
        prefix = self.keys[:, :, :, : self._prefix]
        prefix.copy_(rotate(prefix.transpose(2, 3).float(), *step).transpose(2, 3))
        newest = rotation_of(self._config, self._frame, self.grid, device, dtype, self.frames - 1 + self._slid)
        for table, rows in zip(self.rotation, newest, strict=True):
            table[last] = rows


def rotation_of(
    config: LanguageModelConfig,
    tokens: int,
    grid: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    first_frame: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Rotary tables (tokens, head_dim) of a sequence's beginning, or of the codes from `first_frame` on.

    The prefix stands where the first code does; its ids tell it apart.
    """
    prefix = config.prefix_length if first_frame is None else 0
    index = (torch.arange(tokens, device=device) - prefix).clamp(min=0)
    inside = index % (grid[0] * grid[1])
    frame = index // (grid[0] * grid[1]) + (first_frame or 0)
    tables = rotary_3d(frame, inside // grid[1], inside % grid[1], config.head_dim, config.rotary_base)
    return tables[0].to(dtype), tables[1].to(dtype)


# -------------------------------------------------------------------------------------------------------------- blocks


@dataclass
class _Past:
    """What one attention layer reads and writes of a cache: its slots, where the new tokens go, who sees whom."""

    keys: Tensor  # (b, heads, slots, head_dim)
    values: Tensor
    slot: int | Tensor  # of the first new token; a tensor (1,) in a compiled step, which reads all slots under a mask


class CausalAttention(nn.Module):
    """Multi-head causal self-attention with a fused projection [q | k | v]."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, past: _Past | None, mask: Tensor | None
    ) -> Tensor:
        """x (b, n, d) -> same shape; with `past`, new keys and values are written to it and all of them are seen."""
        qkv = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim))  # b n 3*heads head_dim
        if rotation is not None:
            qk, v = qkv.split([2 * self.heads, self.heads], dim=2)
            q, k = rotate(qk, *rotation).chunk(2, dim=2)
        else:
            q, k, v = qkv.chunk(3, dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # b heads n head_dim
        if past is not None:
            k, v = _remember(past, k, v)
        causal = mask is None and x.shape[1] > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


def _remember(past: _Past, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write k, v (b, heads, n, head_dim) and give what the new tokens may see."""
    if isinstance(past.slot, Tensor):
        past.keys.index_copy_(2, past.slot, k)
        past.values.index_copy_(2, past.slot, v)
        return past.keys, past.values
    end = past.slot + k.shape[2]
    past.keys[:, :, past.slot : end] = k
    past.values[:, :, past.slot : end] = v
    return past.keys[:, :, :end], past.values[:, :, :end]


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020): project(silu(gate) * value)."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        hidden = int(config.feedforward_multiple * (2 / 3) * config.width)
        self.expand = nn.Linear(config.width, 2 * hidden, bias=config.bias)
        self.project = nn.Linear(hidden, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.expand(x).chunk(2, dim=-1)
        return self.project(F.silu(gate) * value)


class PlainFeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        hidden = int(config.feedforward_multiple * config.width)
        self.expand = nn.Linear(config.width, hidden, bias=config.bias)
        self.project = nn.Linear(hidden, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x)))


def _norm(config: LanguageModelConfig) -> nn.Module:
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=1e-6)
    return nn.LayerNorm(config.width, bias=config.bias)


class LanguageModelBlock(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = CausalAttention(config)
        self.feedforward_norm = _norm(config)
        self.feedforward = GatedFeedForward(config) if config.activation == "swiglu" else PlainFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, past: _Past | None, mask: Tensor | None
    ) -> Tensor:
        """x (b, n, d) -> same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, past, mask))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


# --------------------------------------------------------------------------------------------------------------- model


class LanguageModel(nn.Module):
    """Causal transformer over start, class and code ids."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding: nn.Parameter | None = None
        if config.positions == "learned":
            rows = config.context_of(config.latent_height, config.latent_width)
            self.position_embedding = nn.Parameter(torch.empty(rows, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(LanguageModelBlock(config) for _ in range(config.depth))
        self.norm = _norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Normal with 0.02; what is added to the residual stream is smaller, by the root of the number of additions."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_added = name.endswith((".out.weight", ".project.weight"))
                std = _EMBEDDING_STD / (2 * self.config.depth) ** 0.5 if is_added else _EMBEDDING_STD
                nn.init.normal_(parameter, std=std)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.head.weight.dtype

    def ids(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """`sequence_ids` of this model."""
        return sequence_ids(self.config, codes, labels)

    def new_cache(
        self,
        batch: int,
        grid: tuple[int, int] | None = None,
        frames: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache for `batch` sequences over `frames` latent frames of grid (h, w); default: the largest.

        Raises:
            ValueError: more than the context holds.
        """
        grid = grid or (self.config.latent_height, self.config.latent_width)
        most = self.config.frames_of(*grid)
        frames = most if frames is None else frames
        if not 1 <= frames <= most:
            raise ValueError(f"the context holds 1 to {most} latent frames of {grid[0]} x {grid[1]}, found {frames}")
        return KVCache(self.config, batch, frames, grid, self.device, dtype or self.dtype)

    def forward(self, tokens: Tensor, cache: KVCache | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Logits of the next id at every position.

        Args:
            tokens: (b, n) ids; with a cache, those that follow what it holds.
            cache: read and filled; its grid counts.
            grid: (h, w) of a latent frame; default: the model's largest. Only rotary positions ask.

        Returns:
            (b, n, vocabulary)

        Raises:
            ValueError: wrong shape or dtype, ids out of range, more tokens than the context or the cache holds.
        """
        return self.head(self.features(tokens, cache, grid))

    def features(self, tokens: Tensor, cache: KVCache | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """What the head sees: (b, n, width); arguments as in `forward`."""
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(f"tokens must be whole numbers (b, n), found {tokens.dtype} {tuple(tokens.shape)}")
        n = tokens.shape[1]
        if cache is None:
            grid = grid or (self.config.latent_height, self.config.latent_width)
            start, holder, limit = 0, "context", self.config.context_of(*grid)
        else:
            grid = cache.grid
            start, holder = cache.length, "cache"
            limit = min(cache.keys.shape[3], self.config.context_of(*grid))
        if start + n > limit:
            raise ValueError(f"{start + n} tokens are longer than the {holder} of {limit}")
        rotation = None
        if self.config.positions == "rotary":
            if cache is not None and cache.rotation is not None:
                rotation = (cache.rotation[0][start : start + n], cache.rotation[1][start : start + n])
            else:
                rotation = rotation_of(self.config, n, grid, tokens.device, self._compute_dtype())
        x = self._embed(tokens, torch.arange(start, start + n, device=tokens.device), cache)
        mask = None if cache is None or (start == 0 and cache.without_class is None) else _visible(cache, start, n)
        x = self._run(x, rotation, cache, start, mask)
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
        return self.head(self._run(self._embed(tokens, slot, cache), rotation, cache, slot, mask))

    def _compute_dtype(self) -> torch.dtype:
        device = self.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype

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
    ) -> Tensor:
        for i, block in enumerate(self.blocks):
            past = None if cache is None else _Past(cache.keys[i], cache.values[i], slot)
            x = block(x, rotation, past, mask)
        return self.norm(x)


def _visible(cache: KVCache, start: int, n: int) -> Tensor | None:
    """(1 or b, 1, n, start + n) which slot each new token sees; None: all of them."""
    hidden = cache.without_class
    if n == 1 and hidden is None:
        return None
    queries, keys = cache.slots[start : start + n], cache.slots[: start + n]
    visible = (keys <= queries[:, None])[None, None]
    if hidden is not None:
        unseen = (keys == 0) & (queries[:, None] != 0)  # the place holder sees itself, or it would see nothing
        visible = visible & ~(hidden[:, None, None, None] & unseen)
    return visible


@torch.no_grad()
def start_from_codebook(model: LanguageModel, codebook: Tensor) -> None:
    """Let the input and output embeddings of codes begin as random Fourier features of their vectors.

    Codes with near vectors then have like embeddings (the inner product falls as exp(-|e - e'|² / 2 l²), averaged over
    the lengths l of `CODE_LENGTHS`; Rahimi & Recht, 2007), so that what is learnt of one code goes for its neighbours
    too. Without this a model must meet each of thousands of codes often. Random numbers are torch's.

    Args:
        codebook: (codebook_size, dim).

    Raises:
        ValueError: a codebook of another size.
    """
    config = model.config
    if codebook.ndim != 2 or codebook.shape[0] != config.codebook_size:
        raise ValueError(
            f"the codebook must be ({config.codebook_size}, dim) for this model, found {tuple(codebook.shape)}"
        )
    vectors = codebook.detach().float().cpu()
    lengths = torch.tensor(CODE_LENGTHS).repeat(-(-config.width // len(CODE_LENGTHS)))[: config.width]
    for embedding in (model.token_embedding.weight, model.head.weight):
        frequencies = torch.randn(vectors.shape[1], config.width) / lengths
        phases = 2 * math.pi * torch.rand(config.width)
        features = 2**0.5 * _EMBEDDING_STD * torch.cos(vectors @ frequencies + phases)
        embedding[config.first_code :] = features.to(embedding)


# ---------------------------------------------------------------------------------------------------------------- loss


def language_model_losses(
    model: Callable[..., Tensor],
    codes: Tensor,
    labels: Tensor | None = None,
    drop_labels: Tensor | None = None,
    config: LanguageModelConfig | None = None,
) -> dict[str, Tensor]:
    """The mean cross-entropy of the codes, in nats: the prefix is given, not predicted.

    Args:
        model: a `LanguageModel`, or what a distributed wrapper made of one (then `config` is needed).
        codes: (b, h, w) of pictures or (b, t, h, w) of clips.
        labels: (b,) with -1 for none; None: none for all.
        drop_labels: (b,) bool, items whose label is replaced by the null class, each drawn for itself.

    Returns:
        `cross_entropy`, a scalar, computed in float32 under any autocast.

    Raises:
        ValueError: codes or labels out of range, or longer than the context.
    """
    if config is None:
        if not isinstance(model, LanguageModel):
            raise ValueError("a wrapped model needs config=")
        config = model.config
    if drop_labels is not None and labels is not None:
        labels = labels.masked_fill(drop_labels.to(labels.device), -1)
    ids = sequence_ids(config, codes, labels)
    logits = model(ids[:, :-1], grid=(codes.shape[-2], codes.shape[-1]))[:, config.prefix_length - 1 :]
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, config.prefix_length :].flatten())
    return {"cross_entropy": loss}
