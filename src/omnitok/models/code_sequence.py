"""Sequences of codes as language models and masked models have them: which ids mean what, and how long they are.

A sequence is a prefix (start token, class token) and then the codes in raster order (t, h, w). An image is a video of
one latent frame, so it is a prefix of every video that starts with it.
"""

import math
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from omnitok.checked import BelowOne, Positive, checked, renamed
from omnitok.models.conditions import ConditionConfig, ConditionedConfig
from omnitok.models.config import Count, Size

Prefix = Literal["start class", "class start", "start", "class"]


class _Vocabulary(ConditionedConfig):
    """Which ids mean what: start (0), classes, null class, codes, of which what a model lacks takes none. The fields
    are those of the architectures."""

    prefix: Prefix
    has_bos: bool
    null_class: bool

    @property
    def has_class(self) -> bool:
        """Whether sequences hold a class token."""
        return "class" in self.prefix

    @property
    def prefix_length(self) -> int:
        """Tokens before the first code."""
        return len(self.prefix.split())

    @property
    def class_offset(self) -> int:
        """Id of class 0."""
        return 1 if "start" in self.prefix and self.has_bos else 0

    @property
    def null_id(self) -> int | None:
        """Id of the null class; None where there is none."""
        return self.class_offset + self.num_classes if self.has_class and self.null_class else None

    @property
    def code_offset(self) -> int:
        """Id of code 0."""
        return self.class_offset + self.num_classes + (self.null_id is not None)


@checked
class CodeModelConfig(_Vocabulary):
    """Architecture of a transformer over codes, and what it is over.

    Attributes:
        codebook_size: codes of the tokenizer.
        num_classes: 0 for an unconditional model.
        latent_frames, latent_height, latent_width: the largest grid, in latent positions; also the trained length, over
            which a window slides in long videos.
        width, depth, heads: of the transformer.
        feedforward_multiple: hidden width of the feed-forward: multiple * width for GELU, int(multiple * 2/3 * width) a
            branch for SwiGLU (as many weights).
        norm, activation, bias: "rms" and "swiglu" without biases, or "layer" and "gelu" with biases as released.
        dropout: of embeddings and of what each branch adds, in training.
        rotary_base: slowest wavelength of the rotary positions, over 2 pi.
        condition: what it is conditioned on in place of a class; None for nothing.
    """

    codebook_size: Size = 8192
    num_classes: Count = 0
    latent_frames: Size = 5
    latent_height: Size = 32
    latent_width: Size = 32
    width: Size = 768
    depth: Size = 12
    heads: Size = 12
    feedforward_multiple: Positive = 4.0
    norm: Literal["rms", "layer"] = "rms"
    activation: Literal["swiglu", "gelu"] = "swiglu"
    bias: bool = False
    dropout: BelowOne = 0.0
    rotary_base: Positive = 100.0
    condition: ConditionConfig | None = None

    @model_validator(mode="after")
    def _check_width(self) -> "CodeModelConfig":
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width must be an even multiple of heads, found {self.width} and {self.heads}")
        if self.is_rotary and self.head_dim < 6:
            raise ValueError(f"rotary positions need width / heads of at least 6, found {self.head_dim}")
        self._check_condition()
        return self

    @property
    def is_rotary(self) -> bool:
        """Whether positions are rotary, over (t, h, w)."""
        return True

    @property
    def factors(self) -> tuple[int, ...]:
        """Bases of the digits that codes are embedded and predicted by; one where a code is no more than a number."""
        return (self.codebook_size,)

    @property
    def vocabulary(self) -> int:
        """Number of embeddings: of ids, or of ids before the codes and of digits."""
        return self.code_offset + sum(self.factors)

    def max_tokens(self, height: int, width: int) -> int:
        """Tokens of the longest sequence over frames of `height` x `width` latent positions, prefix included.

        Raises:
            ValueError: larger than the model's largest grid.
        """
        if not (1 <= height <= self.latent_height and 1 <= width <= self.latent_width):
            largest = (self.latent_height, self.latent_width)
            raise ValueError(
                f"latent frames of {height} x {width} are outside this model's 1 x 1 to {largest[0]} x {largest[1]}"
            )
        return self.prefix_length + self.latent_frames * height * width

    def max_frames(self, height: int, width: int) -> int:
        """Latent frames of `height` x `width` that the context holds; the last code needs no place in it.

        Raises:
            ValueError: not even one.
        """
        context = self.max_tokens(height, width)
        frames = (context + (not self.is_rotary) - self.prefix_length) // (height * width)
        if frames < 1:
            raise ValueError(f"a latent frame of {height} x {width} is longer than the context of {context} tokens")
        return frames


@checked
class LanguageModelConfig(CodeModelConfig):
    """Architecture and vocabulary of a language model.

    Ids are laid out as start (0), classes, null class, codes; what a model lacks takes no id. The released layouts are
    the same with `null_class=False` ("with a start token 0 = start, 1..C = classes, then codes").

    Attributes:
        null_class: whether there is an id for "any class", learned by class dropout and used for guidance.
        prefix: the tokens before the codes, in order. The released models: "class start" (ImageNet), "start class"
            (UCF-101), "start" (Kinetics-600), "class" (trained without a start token).
        has_bos: whether the start token has an id of its own; the released unconditional model has not: it starts
            with id 0, its first code.
        positions: "rotary" (factorised over time, rows and columns) or "learned" (a table over the sequence).
        context: rows of that table, if they are not just enough for the largest grid; learned positions only.
    """

    null_class: bool = True
    prefix: Prefix = "start class"
    has_bos: bool = True
    positions: Literal["rotary", "learned"] = "rotary"
    context: Size | None = None

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, given: Any) -> Any:
        return renamed(given, {"own_start": "has_bos"})  # as older files have it

    @model_validator(mode="after")
    def _check(self) -> "LanguageModelConfig":
        if self.num_classes and not self.has_class:
            raise ValueError(
                f"a model of {self.num_classes} classes needs a prefix with 'class', found {self.prefix!r}"
            )
        if not self.num_classes and self.has_class and not self.null_class:
            raise ValueError("a prefix with 'class' needs num_classes of at least 1 or null_class=True")
        if self.context is not None and self.positions == "rotary":
            raise ValueError(f"context must be None for rotary positions, found {self.context}")
        return self

    @property
    def is_rotary(self) -> bool:
        """Whether positions are rotary, over (t, h, w)."""
        return self.positions == "rotary"

    def max_tokens(self, height: int, width: int) -> int:
        """As of every code model; learned positions hold as many as their table has rows, whatever the grid."""
        if self.positions == "learned":
            return self.context or self.prefix_length + self.latent_frames * self.latent_height * self.latent_width
        return super().max_tokens(height, width)

    @property
    def head_offset(self) -> int:
        """Row of the head that predicts code 0."""
        return self.code_offset


@checked
class MaskedModelConfig(CodeModelConfig):
    """Architecture and vocabulary of a masked model: ids are classes, null class, mask, codes, and a sequence is the
    class token and then the codes; positions are rotary.

    Attributes:
        code_factors: where codes are made of digits (LFQ, BSQ, FSQ, residual and product quantizers) and are too many
            for a table of them, the bases of these digits, the first one counting 1: a code's embedding is the sum of
            those of its digits, which are predicted each by itself, as in MAGVIT-v2 (Yu et al., 2024, arXiv 2310.05737,
            "token factorization"). Empty: a code is one number.
        patch: the transformer has one token for patch x patch codes of a latent frame, whose embeddings one linear
            layer joins and another parts again (as aMUSEd's, Patil et al., 2024, arXiv 2401.01808, which computes at
            half the resolution): a quarter of the arithmetic with 2.
    """

    code_factors: tuple[Size, ...] = ()
    patch: Size = 1

    prefix, has_bos, null_class = "class", False, True

    @model_validator(mode="after")
    def _check_factors(self) -> "MaskedModelConfig":
        if self.code_factors and math.prod(self.code_factors) != self.codebook_size:
            raise ValueError(
                f"code_factors must have the product codebook_size, {self.codebook_size}, found {self.code_factors}"
            )
        return self

    @property
    def factors(self) -> tuple[int, ...]:
        """See `code_factors`."""
        return self.code_factors or (self.codebook_size,)

    @property
    def mask_id(self) -> int:
        """Id of a code that is not known."""
        return self.num_classes + 1

    @property
    def head_offset(self) -> int:
        """Row of the head that predicts code 0."""
        return 0

    @property
    def code_offset(self) -> int:
        """Id of code 0."""
        return self.num_classes + 2


SequenceConfig = LanguageModelConfig | MaskedModelConfig


def prefix_ids(config: SequenceConfig, labels: Tensor) -> Tensor:
    """Ids before the codes: (b, prefix_length) for labels (b,), -1 being the null class.

    Conditions of other kinds (see `omnitok.models.conditions`) are read by cross-attention, and name no class.

    Raises:
        ValueError: a label out of range, or -1 where the model has no null class.
    """
    if config.condition is not None and labels.ndim > 1:
        labels = torch.full((len(labels),), -1, device=labels.device)
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"labels must be whole numbers (b,), found {labels.dtype} {tuple(labels.shape)}")
    start = torch.zeros_like(labels)
    if not config.num_classes and labels.numel() and int(labels.max()) >= 0:
        raise ValueError("this model has no classes, so it takes no labels")
    if config.has_class:
        low, high = (int(v) for v in labels.aminmax()) if labels.numel() else (0, 0)
        if low < -1 or high >= config.num_classes:
            wrong = low if low < -1 else high
            raise ValueError(f"labels must lie in [0, {config.num_classes - 1}], or be -1 for none, found {wrong}")
        if low == -1 and config.null_id is None:
            raise ValueError("this model has no null class (null_class=False), so each item needs a label")
        of_class = labels + config.class_offset
        if config.null_id is not None:
            of_class = torch.where(labels < 0, config.null_id, of_class)
    parts = [start if part == "start" else of_class for part in config.prefix.split()]
    return torch.stack(parts, dim=1)


def sequence_ids(config: SequenceConfig, codes: Tensor, labels: Tensor | None = None) -> Tensor:
    """Ids of whole sequences: (b, prefix_length + t * h * w).

    Args:
        codes: (b, h, w) of images or (b, t, h, w) of videos, in [0, codebook_size).
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
    if labels.shape[:1] != codes.shape[:1]:
        raise ValueError(f"{codes.shape[0]} items need labels ({codes.shape[0]},), found {tuple(labels.shape)}")
    prefix = prefix_ids(config, labels.to(codes.device))
    return torch.cat([prefix.long(), codes + config.code_offset], dim=1)
