"""Vector quantization: the nearest code of a codebook learnt by moving averages."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.checked import checked
from omnitok.distributed import world_size
from omnitok.models.bottlenecks.base import Bottleneck, BottleneckOutput, sample_generators
from omnitok.models.config import NotNegative, Share, Size

CPU_CHUNK, ACCELERATOR_CHUNK = 128, 4096
"""Rows whose scores with all codes are held at once: 4 MB of them stay in a CPU's caches."""

_GROUP = 128  # neighbouring codes whose best one is looked for first


def _first_smallest(scores: Tensor) -> Tensor:
    """`scores.argmin(-1)` of (n, codes), by groups: minima are found several times faster than their places."""
    n, codes = scores.shape
    if codes % _GROUP or codes == _GROUP:
        return scores.argmin(dim=-1)
    grouped = scores.view(n, codes // _GROUP, _GROUP)
    group = grouped.amin(dim=-1).argmin(dim=-1)
    return group * _GROUP + grouped[torch.arange(n, device=scores.device), group].argmin(dim=-1)


@checked
class VQConfig:
    """A codebook of `codebook_size` codes of `latent_channels` channels, and how it learns.

    Attributes:
        decay: of the moving averages.
        normalize_codes: keep the rows of the codebook on the unit sphere too (False: the released weights).
        restart_threshold: rows used less than this share of the mean use are restarted; 0 switches it off.
    """

    is_discrete: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("commitment", "entropy")
    learning: ClassVar[tuple[str, ...]] = ("decay", "restart_threshold")

    type: Literal["vq"] = "vq"
    latent_channels: Size = 8
    codebook_size: Size = 8192
    decay: Share = 0.99
    normalize_codes: bool = True
    restart_threshold: NotNegative = 0.1


class VectorQuantizer(Bottleneck):
    """Nearest neighbour in a codebook of low-dimensional, l2-normalised codes, learnt by moving averages.

    Features are projected to `dim` channels, put on the unit sphere and replaced by the nearest row of the codebook in
    Euclidean distance; the gradient passes straight through (van den Oord et al., 2017; Yu et al., 2022 for the low
    dimension and the norm). The codebook follows the exponential moving average of what was assigned to each row and
    takes no gradient. It is initialised from the first training batch; rows that fall out of use are moved onto
    features of the current batch. All of this state lives in buffers and is the same on every process of a
    distributed run.

    Args:
        width: channels of the features.
    """

    config: VQConfig
    vocab_size: int
    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    initialised: Tensor

    def __init__(self, width: int, config: VQConfig = VQConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.config, self.latent_channels, self.vocab_size = config, config.latent_channels, config.codebook_size
        self.bits_per_token = math.log2(config.codebook_size)
        self.project_in = nn.Linear(width, config.latent_channels)
        self.project_out = nn.Linear(config.latent_channels, width)
        codebook = torch.randn(config.codebook_size, config.latent_channels)
        if not codebook.is_meta:  # there norms are decomposed by torch._dynamo, whose import takes seconds
            codebook = F.normalize(codebook, dim=-1)
        self.register_buffer("codebook", codebook)
        self.register_buffer("cluster_size", torch.ones(config.codebook_size))
        self.register_buffer("cluster_sum", codebook.clone())
        self.register_buffer("initialised", torch.tensor(False))

    def encode(self, features: Tensor) -> BottleneckOutput:
        """features (b, t, h, w, width) -> codes and their code vectors as latents. Changes no state."""
        with torch.autocast(features.device.type, enabled=False):
            z = self._project(features)
            codes = self.nearest(z.reshape(-1, self.latent_channels)).reshape(z.shape[:-1])
            return BottleneckOutput(latents=self.lookup(codes), codes=codes)

    def _project(self, features: Tensor) -> Tensor:
        return F.normalize(self.project_in(features.float()), dim=-1)  # b t h w dim

    def forward(self, features: Tensor, quantize: bool = True, seeds: Sequence[int] | None = None) -> BottleneckOutput:
        """features (b, t, h, w, width) -> quantized latents, codes, the commitment loss and usage statistics.

        In training mode the codebook is initialised (once), updated (every call) and restarted where dead. With
        `quantize=False` the points of the unit sphere pass as they are: a codebook initialised after some such steps
        finds features that use every channel, where one initialised at once mostly codes brightness.

        Raises:
            ValueError: not one of `seeds` a sample.
        """
        with torch.autocast(features.device.type, enabled=False):
            z = self._project(features)
            if not quantize:
                return BottleneckOutput(latents=z, losses={"commitment": z.new_zeros(())})
            flat = z.detach().reshape(-1, self.latent_channels)
            if self.training:
                generators = sample_generators(seeds, len(features))
                if not bool(self.initialised):
                    self._initialise(flat, generators)
            codes = self.nearest(flat)
            quantized = self.lookup(codes).reshape(z.shape)
            statistics = self._update(flat, codes, generators) if self.training else {}
            commitment = F.mse_loss(z, quantized)
            latents = z + (quantized - z).detach() if self.training else quantized
        return BottleneckOutput(
            latents=latents,
            codes=codes.reshape(z.shape[:-1]),
            losses={"commitment": commitment},
            statistics=statistics,
            unquantized=z,
        )

    def similarity(self, z: Tensor) -> Tensor:
        """Negative squared distances of z (n, dim) to all codes: (n, codes)."""
        return 2 * z @ self.codebook.t() - z.square().sum(dim=-1, keepdim=True) - self.codebook.square().sum(dim=-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the codebook: codes (...) -> (..., dim)."""
        return F.embedding(codes, self.codebook)

    def nearest(self, z: Tensor, chunk: int | None = None) -> Tensor:
        """Code nearest to each row of z (n, dim) -> (n,) int64. Works in chunks, so memory does not grow with n.

        Args:
            chunk: rows at a time; None takes as many as suit the device. On a CPU the scores then stay in the caches.
        """
        chunk = chunk or (CPU_CHUNK if z.device.type == "cpu" else ACCELERATOR_CHUNK)
        half_norms = 0.5 * self.codebook.square().sum(dim=-1)  # |z - e|^2 / 2 = |z|^2 / 2 - z.e + |e|^2 / 2
        table = self.codebook.t().contiguous()
        parts = [_first_smallest(torch.addmm(half_norms, rows, table, alpha=-1.0)) for rows in z.split(chunk)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=z.device)

    @torch.no_grad()
    def _initialise(self, flat: Tensor, generators: Sequence[torch.Generator]) -> None:
        rows = self._sample_rows(flat, self.vocab_size, generators)
        self.codebook.copy_(rows)
        self.cluster_sum.copy_(rows)
        self.cluster_size.fill_(1.0)
        self.initialised.fill_(True)

    @torch.no_grad()
    def _update(self, flat: Tensor, codes: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        counts = torch.zeros_like(self.cluster_size).index_add_(0, codes, torch.ones_like(flat[:, 0]))
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, codes, flat)
        if world_size() > 1:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1.0 - self.config.decay)
        self.cluster_sum.lerp_(sums, 1.0 - self.config.decay)
        if self.config.restart_threshold > 0:
            self._restart_dead_codes(flat, generators)
        codebook = self.cluster_sum / self.cluster_size.clamp_min(1e-5)[:, None]
        self.codebook.copy_(F.normalize(codebook, dim=-1) if self.config.normalize_codes else codebook)
        probability = counts / counts.sum()
        entropy = -(probability * probability.clamp_min(1e-10).log()).sum()
        return {"codebook_usage": (counts > 0).float().mean(), "codebook_perplexity": entropy.exp()}

    def _restart_dead_codes(self, flat: Tensor, generators: Sequence[torch.Generator]) -> None:
        mean_use = self.cluster_size.mean()
        dead = (self.cluster_size < self.config.restart_threshold * mean_use).nonzero().squeeze(-1)
        if dead.numel() == 0:
            return
        self.cluster_size[dead] = mean_use
        self.cluster_sum[dead] = self._sample_rows(flat, dead.numel(), generators) * mean_use

    def _sample_rows(self, flat: Tensor, n: int, generators: Sequence[torch.Generator]) -> Tensor:
        """n rows of the batch of all processes, distinct while there are enough, the same on every process.

        Each row draws a key from its sample's generator, and the n smallest are taken: a fair choice that depends on
        neither the number of processes nor the order in which they come.
        """
        is_shared = world_size() > 1
        rows_a_sample = len(flat) // len(generators)
        repeats = -(-n // (len(flat) * world_size()))
        keys = torch.cat([torch.rand(rows_a_sample, generator=g, dtype=torch.float64) for g in generators])
        jitter = torch.cat(
            [torch.randn(rows_a_sample, repeats * self.latent_channels, generator=g) for g in generators]
        )
        chosen = keys.argsort()[:n]
        # (<= n, dim + repeats * dim)
        table = torch.cat([flat[chosen.to(flat.device)], jitter[chosen].to(flat.device)], dim=1)
        if is_shared:
            keys, table = _gather_rows(keys[chosen].to(flat.device)), _gather_rows(table)
            table = table[keys.argsort()[:n]]
        rows, jitter = table.split([self.latent_channels, repeats * self.latent_channels], dim=1)
        rows = rows.repeat(repeats, 1)[:n]
        jitter = jitter.unflatten(1, (repeats, self.latent_channels)).transpose(0, 1).flatten(0, 1)[:n]
        return F.normalize(rows + 1e-3 * jitter, dim=-1)  # so that repeated rows part ways


def _gather_rows(x: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape, below one another."""
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
