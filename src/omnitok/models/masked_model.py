"""A masked model over the codes of images and videos: a bidirectional transformer that fills in what is not known.

MaskGIT (Chang et al., 2022, arXiv 2202.04200) for images and MAGVIT (Yu et al., 2023, arXiv 2212.05199) for videos: a
sequence is a class token and the codes in raster order (t, h, w), some of which are hidden behind a mask token, and the
model gives the distribution of each. What is to be made of what is known (a class alone, the first frames, the frames
on both sides, what surrounds a hole) is a matter of which codes are hidden.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.models.bottlenecks.base import digits
from omnitok.models.code_sequence import MaskedModelConfig, sequence_ids
from omnitok.models.code_transformer import (
    CodeModel,
    check_tokens,
    initialise,
)
from omnitok.models.conditions import Context, drop_conditions
from omnitok.models.kv_cache import rotary_tables


class CodePatches(nn.Module):
    """Joins the embeddings of patch x patch codes to one, and parts one again; see `MaskedModelConfig.patch`.

    It begins near the mean of the codes and near copies for each, so that blocks which know single codes can go on.
    """

    def __init__(self, config: MaskedModelConfig) -> None:
        super().__init__()
        self._patch, self._prefix = config.patch, config.prefix_length
        self.join_codes = nn.Linear(config.patch**2 * config.width, config.width, bias=False)
        self.part_codes = nn.Linear(config.width, config.patch**2 * config.width, bias=False)
        each = torch.eye(config.width).repeat(1, config.patch**2)
        with torch.no_grad():
            self.join_codes.weight += each / config.patch
            self.part_codes.weight += each.T

    def coarse(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(h', w'): how many patches high and wide a frame of h x w codes is."""
        return -(-grid[0] // self._patch), -(-grid[1] // self._patch)

    def join(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (b, prefix + t * h * w, d) -> (b, prefix + t * h' * w', d).

        A frame that is not a whole number of patches high or wide is followed by zeros.
        """
        prefix, codes = x[:, : self._prefix], x[:, self._prefix :]
        frames = codes.unflatten(1, (-1, *grid))
        below, right = (-side % self._patch for side in grid)
        frames = F.pad(frames, (0, 0, 0, right, 0, below))
        parted = frames.unflatten(3, (-1, self._patch)).unflatten(2, (-1, self._patch))  # b t h' p w' p d
        patches = parted.transpose(3, 4)
        joined = self.join_codes(patches.flatten(4).flatten(1, 3))
        return torch.cat([prefix, joined], dim=1)

    def part(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (b, t * h' * w', d) -> (b, t * h * w, d)."""
        h, w = grid
        parted = self.part_codes(x).unflatten(2, (self._patch, self._patch, -1)).unflatten(1, (-1, *self.coarse(grid)))
        frames = parted.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # b t h' p w' p d -> b t h w d
        return frames[:, :, :h, :w].flatten(1, 3).to(x.dtype)  # autocast may have made it less precise


class MaskedModel(CodeModel):
    """Bidirectional transformer over class, mask and code ids."""

    config: MaskedModelConfig

    def __init__(self, config: MaskedModelConfig) -> None:
        super().__init__(config, outputs=sum(config.factors), causal=False)
        initialise(self, config.depth)
        self.patches = CodePatches(config) if config.patch > 1 else None

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings (b, n, width) of ids (b, n); of a code that is made of digits, the sum of theirs."""
        factors, first = self.config.factors, self.config.code_offset
        if len(factors) == 1:
            return self.token_embedding(tokens)
        starts = torch.tensor([first + sum(factors[:i]) for i in range(len(factors))], device=tokens.device)
        of_codes = self.token_embedding(digits((tokens - first).clamp(min=0), factors) + starts).sum(dim=-2)
        others = self.token_embedding(tokens.clamp(max=first - 1))
        return torch.where((tokens >= first)[..., None], of_codes, others)

    def ids(self, codes: Tensor, labels: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """`masked_ids` of this model."""
        return masked_ids(self.config, codes, labels, hidden)

    def forward(
        self,
        tokens: Tensor,
        grid: tuple[int, int] | None = None,
        conditions: Tensor | None = None,
        contexts: Sequence[Context] | None = None,
    ) -> Tensor:
        """Logits of every code, or of every digit of it.

        Args:
            tokens: (b, n) ids: the class token, and the codes of whole latent frames, the mask token where not known.
            grid: (h, w) of a latent frame; default: the model's largest.
            conditions: of a conditioned model, see `omnitok.models.conditions`.
            contexts: what `CodeModel.contexts` made of them already.

        Returns:
            (b, n - 1, codebook_size), or those of the digits one after another, (b, n - 1, sum(config.factors))

        Raises:
            ValueError: wrong shape or dtype, or more tokens than the model's largest grid has.
        """
        return self.head(self.features(tokens, grid, conditions, contexts))

    def features(
        self,
        tokens: Tensor,
        grid: tuple[int, int] | None = None,
        conditions: Tensor | None = None,
        contexts: Sequence[Context] | None = None,
    ) -> Tensor:
        """What the head sees: (b, n - 1, width); arguments as in `forward`."""
        config = self.config
        check_tokens(tokens)
        grid = grid or (config.latent_height, config.latent_width)
        if tokens.shape[1] > (limit := config.max_tokens(*grid)):
            raise ValueError(f"{tokens.shape[1]} tokens are longer than the context of {limit}")
        x = self.dropout(self.embed(tokens))
        coarse = grid
        if self.patches is not None:
            x, coarse = self.patches.join(x, grid), self.patches.coarse(grid)
        rotation = rotary_tables(config, x.shape[1], coarse, tokens.device, self.compute_dtype)
        contexts = self.contexts(conditions) if contexts is None else contexts
        for i, block in enumerate(self.blocks):
            x = block(x, rotation, None, None, None if contexts is None else contexts[i])
        x = x[:, config.prefix_length :]
        if self.patches is not None:
            x = self.patches.part(x, grid)
        return self.norm(x)


def masked_ids(
    config: MaskedModelConfig, codes: Tensor, labels: Tensor | None = None, hidden: Tensor | None = None
) -> Tensor:
    """Ids of whole sequences: (b, 1 + t * h * w).

    Args:
        codes: (b, h, w) of images or (b, t, h, w) of videos, in [0, codebook_size), also where hidden.
        labels: (b,) with -1 for none; None: none for all.
        hidden: bool, as codes: True for the codes that the model is not to see; None: it sees all.

    Raises:
        ValueError: wrong shapes, dtypes or ranges.
    """
    ids = sequence_ids(config, codes, labels)
    if hidden is not None:
        if hidden.shape != codes.shape or hidden.dtype != torch.bool:
            raise ValueError(f"hidden must be boolean {tuple(codes.shape)}, found {hidden.dtype} {tuple(hidden.shape)}")
        ids[:, config.prefix_length :].masked_fill_(hidden.flatten(1), config.mask_id)
    return ids


def masked_model_losses(
    model: MaskedModel,
    codes: Tensor,
    hidden: Tensor,
    labels: Tensor | None = None,
    drop_labels: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """The mean cross-entropy of the hidden codes, in nats (MaskGIT, equation 1), over all hidden codes of the batch.

    Args:
        codes: (b, h, w) of images or (b, t, h, w) of videos.
        hidden: bool, as codes, at least one of them True.
        labels: (b,) with -1 for none, or the conditions of a conditioned model; None: none for all.
        drop_labels: (b,) bool, items whose label is replaced by none.
        label_smoothing: share of the target that is spread over all codes.

    Returns:
        `cross_entropy`, a scalar, computed in float32 under any autocast; of codes made of digits, the sum over them.

    Raises:
        ValueError: codes or labels out of range, or longer than the context.
    """
    config = model.config
    if drop_labels is not None and labels is not None:
        labels = drop_conditions(labels, drop_labels)
    given = {} if config.condition is None else {"conditions": labels}
    ids = masked_ids(config, codes, labels, hidden)
    logits = model(ids, grid=(codes.shape[-2], codes.shape[-1]), **given)[hidden.flatten(1)]
    with torch.autocast(logits.device.type, enabled=False):
        wanted = digits(codes[hidden].long(), config.factors).unbind(-1)
        parts = zip(logits.float().split(config.factors, dim=-1), wanted, strict=True)
        losses = [F.cross_entropy(part, digit, label_smoothing=label_smoothing) for part, digit in parts]
        loss = torch.stack(losses).sum()
    return {"cross_entropy": loss}
