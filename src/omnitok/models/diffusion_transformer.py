"""The diffusion transformer: DiT (images) and Latte (videos) as one model over patches of latents.

DiT: Peebles & Xie, 2023 (arXiv 2212.09748); Latte: Ma et al., 2024 (arXiv 2401.03048), its alternating variant. Tokens
travel as (b, t, n, d), n = h * w; spatial blocks attend over n, temporal blocks (the odd ones, where there are any)
over t. An image is a video of one frame.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import model_validator
from torch import Tensor, nn

from omnitok.checked import Positive, checked
from omnitok.models.attention import attend
from omnitok.models.conditions import (
    ConditionConfig,
    ConditionedConfig,
    ConditionedModel,
    Context,
    CrossAttention,
    build_encoder,
)
from omnitok.models.config import Count, Size
from omnitok.models.encoding import describe_model
from omnitok.models.positions import rotary_1d, rotary_2d, rotate_pairs, sincos_1d, sincos_2d

TIME_CHANNELS = 256  # sinusoidal features of t
NORM_EPSILON = 1e-6
FLOW_TIME_SCALE = 1000.0  # a time in [0, 1] is embedded as if it were one of 1000 steps

Rotary = tuple[Tensor, Tensor]


@checked
class DiffusionTransformerConfig(ConditionedConfig):
    """Architecture of a diffusion transformer, and what its output means. The defaults are the paper's DiT-XL/2.

    Attributes:
        latent_channels: c, channels of the latents.
        patch_size: side of the square patches of latents, in latent positions.
        width, depth, heads: of the blocks; depth counts spatial and temporal ones.
        feedforward_multiple: hidden width of the MLP over `width`.
        num_classes: label ids are 0 … num_classes - 1, and num_classes is the null label; 0 is an unconditional model.
        temporal: whether the odd blocks attend over time (Latte); False is spatial only (DiT).
        position: "sincos" (fixed tables, added to the tokens; as released) or "rotary" (in every attention).
        objective: what was or will be learnt. "epsilon": the noise, t counts steps from 0 to 999. "flow": the velocity
            noise - latents, t lies in [0, 1], 1 being noise.
        learn_sigma: 2c output channels, the second half interpolating the log-variance; with "epsilon" only.
        condition: what it is conditioned on in place of a class; None for nothing.
    """

    latent_channels: Size = 8
    patch_size: Size = 2
    width: Size = 1152
    depth: Size = 28
    heads: Size = 16
    feedforward_multiple: Positive = 4.0
    num_classes: Count = 0
    temporal: bool = False
    position: Literal["sincos", "rotary"] = "sincos"
    objective: Literal["epsilon", "flow"] = "epsilon"
    learn_sigma: bool = True
    condition: ConditionConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> "DiffusionTransformerConfig":
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, found {self.width} and {self.heads}")
        if self.position == "sincos" and self.width % 4:
            raise ValueError(f"sincos positions need width to be a multiple of 4, found {self.width}")
        if self.position == "rotary" and self.width // self.heads % 4:
            raise ValueError(f"rotary positions need width / heads to be a multiple of 4, found {self.head_dim}")
        if self.temporal and self.depth < 2:
            raise ValueError("a temporal model alternates two kinds of blocks, so depth must be at least 2, found 1")
        if self.objective == "flow" and self.learn_sigma:
            raise ValueError("objective 'flow' has no sigma to learn: learn_sigma must be False")
        self._check_condition()
        return self

    @property
    def output_channels(self) -> int:
        """Channels of the output: c, or 2c where sigma is learned."""
        return self.latent_channels * (2 if self.learn_sigma else 1)

    @property
    def null_label(self) -> int | None:
        """The label id that stands for "no class"; None for an unconditional model."""
        return self.num_classes or None


# width, depth, heads by size (Table 1 of DiT)
_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}

DIFFUSION_TRANSFORMERS: dict[str, DiffusionTransformerConfig] = {
    f"{family}-{size}/{patch}": DiffusionTransformerConfig(
        patch_size=patch, width=width, depth=depth, heads=heads, temporal=family == "latte"
    )
    for family in ("dit", "latte")
    for size, (width, depth, heads) in _SIZES.items()
    for patch in (1, 2, 4)
}
"""The published sizes by name, `dit-xl/2` to `latte-s/4`; unconditional: `dataclasses.replace(…, num_classes=1000)`."""


class SelfAttention(nn.Module):
    """Multi-head attention over the positions of each frame, or over the frames of each position."""

    def __init__(self, width: int, heads: int, over_time: bool) -> None:
        super().__init__()
        self.heads, self.over_time = heads, over_time
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """x (b, t, n, d) -> same shape; `rotary` has the tables of the axis attended over."""
        b, t, n, d = x.shape
        if self.over_time and t == 1:  # one key: the softmax is 1, whatever the query
            weight, bias = self.qkv.weight[2 * d :], self.qkv.bias[2 * d :]
            return self.proj(F.linear(x, weight, bias))
        # Over time, positions and heads together play the role of heads: q, k and v stay views of the projection.
        axis = (b, t, n * self.heads, -1) if self.over_time else (b * t, n, self.heads, -1)
        q, k, v = (part.reshape(axis) for part in self.qkv(x).chunk(3, dim=-1))  # batch axis heads head_dim
        if rotary is not None:
            q, k = rotate_pairs(q, *rotary), rotate_pairs(k, *rotary)
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.proj(out.transpose(1, 2).reshape(b, t, n, d))


class DiffusionBlock(nn.Module):
    """adaLN-Zero block (Figure 3 of DiT): shift, scale and gate of both branches come from the condition."""

    def __init__(
        self, width: int, heads: int, feedforward_multiple: float, over_time: bool, conditioned: bool = False
    ) -> None:
        super().__init__()
        hidden = round(width * feedforward_multiple)
        self.over_time = over_time
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON, elementwise_affine=False)  # without weights: one serves both
        self.attention = SelfAttention(width, heads, over_time)
        self.cross = CrossAttention(width, heads) if conditioned else None
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, x: Tensor, condition: Tensor, rotary: Rotary | None = None, context: Context | None = None
    ) -> Tensor:
        """x (b, t, n, d), condition (b, d) after its SiLU -> x's shape; `context` is of a conditioned model."""
        modulation = self.modulation(condition)[:, None, None]  # b 1 1 6d
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=-1)
        y = self.attention(modulate(self.norm(x), shift_a, scale_a), rotary)
        x = torch.addcmul(x, gate_a, y)
        if self.cross is not None and context is not None:
            x = x + self.cross(x, context)
        y = self.project(F.gelu(self.expand(modulate(self.norm(x), shift_m, scale_m)), approximate="tanh"))
        return torch.addcmul(x, gate_m, y)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift, in one pass."""
    return torch.addcmul(shift, x, 1 + scale)


class DiffusionTransformer(ConditionedModel):
    """Predicts noise (and its variance) or velocity from noisy latents, a time and maybe a class.

    Any grid and any length: positions are computed for the grid at hand, and a grid that is not a multiple of the patch
    is padded by replication and cropped back. A freshly built model answers zero (adaLN-Zero).
    """

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, patch_positions = config.width, config.patch_size**2
        self.embed = nn.Linear(config.latent_channels * patch_positions, width)
        self.embed_time = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_label = nn.Embedding(config.num_classes + 1, width) if config.num_classes else None
        self.encode_condition = build_encoder(config.condition, width, config.heads)
        self.blocks = nn.ModuleList(
            DiffusionBlock(
                width,
                config.heads,
                config.feedforward_multiple,
                config.temporal and index % 2 == 1,
                config.condition is not None,
            )
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, config.output_channels * patch_positions)
        self._initialise()

    def _initialise(self) -> None:
        """As DiT: Xavier everywhere, small embeddings of time and label, zero modulations and head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.embed_label is not None:
            nn.init.normal_(self.embed_label.weight, std=0.02)
        for module in self.embed_time:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        zero: list[nn.Linear] = [self.modulation, self.head]
        zero += [block.modulation for block in self.blocks if isinstance(block, DiffusionBlock)]
        zero += [block.cross.out for block in self.blocks if isinstance(block.cross, CrossAttention)]
        for layer in zero:
            nn.init.zeros_(layer.weight)

    def __repr__(self) -> str:
        return describe_model(self, f"{self.config.latent_channels} latent channels, {self.config.num_classes} classes")

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, contexts: Sequence[Context] | None = None
    ) -> Tensor:
        """The network's output for noisy latents.

        Args:
            x: (b, c, h, w) or (b, c, T, h, w).
            t: (b,), in the units of the objective: steps 0 … 999 ("epsilon"), or [0, 1] ("flow").
            labels: (b,) integers, null label `num_classes` included; or the conditions of a conditioned model, see
                `omnitok.models.conditions`. None is the null label for all.
            contexts: what `contexts` made of the conditions already; they then are not looked at.

        Returns:
            x's shape with `config.output_channels` channels.

        Raises:
            ValueError: wrong rank, channels, batch or label ids; a video for a spatial model; labels for an
                unconditional model.
        """
        self._check(x, t, labels, contexts is not None)
        is_image = x.ndim == 4
        video = (x.unsqueeze(2) if is_image else x).to(self.dtype)  # b c t h w
        frames, height, width = video.shape[2:]
        p = self.config.patch_size
        if height % p or width % p:
            video = F.pad(video, (0, -width % p, 0, -height % p, 0, 0), mode="replicate")
        grid = (frames, video.shape[3] // p, video.shape[4] // p)

        tokens = self.embed(rearrange(video, "b c t (h p) (w q) -> b t (h w) (c p q)", p=p, q=p))  # b t n d
        condition = F.silu(self._condition(t, labels))  # b d
        contexts = self.contexts(labels) if contexts is None else contexts
        in_space: Rotary | None = None
        in_time: Rotary | None = None
        if self.config.position == "rotary":
            in_space = rotary_2d(*grid[1:], self.config.head_dim, tokens.device)
            in_time = rotary_1d(frames, self.config.head_dim, tokens.device) if self.config.temporal else None
        else:
            tokens = tokens + sincos_2d(*grid[1:], self.config.width, tokens.device).to(tokens.dtype)
        for index, block in enumerate(self.blocks):
            if index == 1 and self.config.position != "rotary" and self.config.temporal:  # as released
                tokens = tokens + sincos_1d(frames, self.config.width, tokens.device).to(tokens.dtype)[:, None]
            context = None if contexts is None else contexts[index]
            tokens = block(tokens, condition, in_time if block.over_time else in_space, context)
        shift, scale = self.modulation(condition)[:, None, None].chunk(2, dim=-1)
        patches = self.head(modulate(self.norm(tokens), shift, scale))
        out = rearrange(patches, "b t (h w) (p q c) -> b c t (h p) (w q)", h=grid[1], p=p, q=p)
        out = out[..., :height, :width]
        return out.squeeze(2) if is_image else out

    def _condition(self, t: Tensor, labels: Tensor | None) -> Tensor:
        scale = FLOW_TIME_SCALE if self.config.objective == "flow" else 1.0
        condition = self.embed_time(time_features(t.float() * scale).to(self.dtype))
        if self.embed_label is None:
            return condition
        if labels is None:
            labels = torch.full(t.shape, self.config.num_classes, device=t.device)
        return condition + self.embed_label(labels)

    def _check(self, x: Tensor, t: Tensor, labels: Tensor | None, is_encoded: bool) -> None:
        c = self.config.latent_channels
        if not isinstance(x, Tensor) or x.ndim not in (4, 5) or x.shape[1] != c or not x.is_floating_point():
            found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"latents must be floating point (b, {c}, h, w) or (b, {c}, t, h, w), found {found}")
        if 0 in x.shape[2:]:
            raise ValueError(f"latents are empty, shape {tuple(x.shape)}")
        if x.ndim == 5 and x.shape[2] > 1 and not self.config.temporal:
            raise ValueError(
                f"this model is spatial only: it takes images or videos of one latent frame, found {x.shape[2]} frames"
            )
        if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
            found = str(tuple(t.shape)) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"t must hold one time per item, shape ({x.shape[0]},), found {found}")
        if self.config.condition is not None:
            if not is_encoded and (labels is None or labels.shape[:1] != x.shape[:1]):
                raise ValueError(f"this model needs conditions, one for each of {x.shape[0]} items, be it none")
            return
        if labels is None:
            return
        if not self.config.num_classes:
            raise ValueError("this model is unconditional: it takes no labels")
        if (
            not isinstance(labels, Tensor)
            or labels.shape != x.shape[:1]
            or labels.dtype not in (torch.int64, torch.int32)
        ):
            found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"labels must be integers of shape ({x.shape[0]},), found {found}")
        # Elsewhere the look would wait for the device, so there the caller's ids are trusted.
        if labels.device.type == "cpu" and not torch.compiler.is_compiling() and labels.numel():
            low, high = (int(v) for v in labels.aminmax())
            if low < 0 or high > self.config.num_classes:
                last = self.config.num_classes
                raise ValueError(f"labels must lie in [0, {last}] ({last} is the null label), found [{low}, {high}]")


def time_features(t: Tensor) -> Tensor:
    """Sinusoidal features of t (b,): cosines, then sines, of 128 frequencies from 1 down to 10000^(-127/128).

    Returns:
        (b, 256) float32
    """
    half = TIME_CHANNELS // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
