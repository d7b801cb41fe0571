"""Transformer blocks over sequences of codes, of language models and masked models."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.models.attention import attend
from omnitok.models.code_sequence import CodeModelConfig
from omnitok.models.conditions import ConditionedModel, Context, CrossAttention, build_encoder
from omnitok.models.encoding import describe_model
from omnitok.models.positions import rotate

EMBEDDING_STD = 0.02

CODE_LENGTHS = (1.0, 0.5, 0.25)
"""Distances over which the embeddings of codes are alike at first, see `start_from_codebook`; of code vectors that are
about 1 long."""


@dataclass
class Past:
    """What one attention layer reads and writes of a cache: its slots, where the new tokens go, who sees whom."""

    keys: Tensor  # (b, heads, slots, head_dim)
    values: Tensor
    slot: int | Tensor  # of the first new token; a tensor (1,) in a compiled step, which reads all slots under a mask


class Attention(nn.Module):
    """Multi-head self-attention with a fused projection [q | k | v]; causal, or over the whole sequence."""

    def __init__(self, config: CodeModelConfig, causal: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.causal = config.heads, config.head_dim, causal
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor] | None, past: Past | None, mask: Tensor | None
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
        causal = self.causal and mask is None and x.shape[1] > 1
        y = attend(q, k, v, mask, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


def _remember(past: Past, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
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

    def __init__(self, config: CodeModelConfig) -> None:
        super().__init__()
        hidden = int(config.feedforward_multiple * (2 / 3) * config.width)
        self.expand = nn.Linear(config.width, 2 * hidden, bias=config.bias)
        self.project = nn.Linear(hidden, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.expand(x).chunk(2, dim=-1)
        return self.project(F.silu(gate) * value)


class PlainFeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, config: CodeModelConfig) -> None:
        super().__init__()
        hidden = int(config.feedforward_multiple * config.width)
        self.expand = nn.Linear(config.width, hidden, bias=config.bias)
        self.project = nn.Linear(hidden, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x)))


def build_norm(config: CodeModelConfig) -> nn.Module:
    """The norm that the configuration names."""
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=1e-6)
    return nn.LayerNorm(config.width, bias=config.bias)


class CodeBlock(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: CodeModelConfig, causal: bool) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, causal)
        self.cross = None if config.condition is None else CrossAttention(config.width, config.heads)
        self.feedforward_norm = build_norm(config)
        self.feedforward = GatedFeedForward(config) if config.activation == "swiglu" else PlainFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        past: Past | None,
        mask: Tensor | None,
        context: Context | None = None,
    ) -> Tensor:
        """x (b, n, d) -> same shape; `context` is what a conditioned model's block sees of the conditions."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, past, mask))
        if self.cross is not None and context is not None:
            x = x + self.dropout(self.cross(x, context))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


def initialise(model: nn.Module, depth: int) -> None:
    """Normal with 0.02; what is added to the residual stream is smaller, by the root of the number of additions."""
    for name, parameter in model.named_parameters():
        if ".cross." in name or name.startswith("encode_condition."):
            continue  # which begin as they were built
        if parameter.ndim == 2:
            is_added = name.endswith((".out.weight", ".project.weight"))
            nn.init.normal_(parameter, std=EMBEDDING_STD / (2 * depth) ** 0.5 if is_added else EMBEDDING_STD)
        elif name.endswith(".bias"):
            nn.init.zeros_(parameter)


class CodeModel(ConditionedModel):
    """What language models and masked models have in common."""

    config: CodeModelConfig

    def __init__(self, config: CodeModelConfig, outputs: int, causal: bool) -> None:
        super().__init__()
        self.config = config
        self.encode_condition = build_encoder(config.condition, config.width, config.heads)
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(CodeBlock(config, causal) for _ in range(config.depth))
        self.norm = build_norm(config)
        self.head = nn.Linear(config.width, outputs, bias=False)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Precision that blocks compute in: autocast's, or that of the weights."""
        device = self.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype

    def __repr__(self) -> str:
        return describe_model(self, f"{self.config.codebook_size} codes, {self.config.num_classes} classes")


def check_tokens(tokens: Tensor) -> None:
    """Refuse what are no ids (b, n).

    Raises:
        ValueError: another rank, or floating point.
    """
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ValueError(f"tokens must be whole numbers (b, n), found {tokens.dtype} {tuple(tokens.shape)}")


@torch.no_grad()
def start_from_codebook(model: CodeModel, codebook: Tensor) -> None:
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
        features = 2**0.5 * EMBEDDING_STD * torch.cos(vectors @ frequencies + phases)
        embedding[-config.codebook_size :] = features.to(embedding)
