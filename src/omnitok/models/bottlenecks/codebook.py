"""A table of codes that follow the moving averages of what is assigned to them, alike on every process."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from omnitok.distributed import world_size
from omnitok.models.exporting import is_exporting

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


def negative_distances(z: Tensor, table: Tensor) -> Tensor:
    """Negative squared distances of z (n, channels) to the rows of table (codes, channels): (n, codes)."""
    return 2 * z @ table.t() - z.square().sum(dim=-1, keepdim=True) - table.square().sum(dim=-1)


def nearest_rows(z: Tensor, table: Tensor, chunk: int | None = None) -> Tensor:
    """Row of table (codes, channels) nearest to each of z (n, channels) -> (n,) int64, in memory that n does not grow.

    Args:
        chunk: rows of z at a time; None takes as many as suit the device. On a CPU their scores stay in the caches.
    """
    chunk = chunk or (CPU_CHUNK if z.device.type == "cpu" else ACCELERATOR_CHUNK)
    pieces = (z,) if is_exporting() else z.split(chunk)  # a graph has as many operations for any number of rows
    half_norms = 0.5 * table.square().sum(dim=-1)  # |z - e|^2 / 2 = |z|^2 / 2 - z.e + |e|^2 / 2
    columns = table.t().contiguous()
    parts = [_first_smallest(torch.addmm(half_norms, rows, columns, alpha=-1.0)) for rows in pieces]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=z.device)


def random_directions(rows: int, channels: int) -> Tensor:
    """Rows drawn on the unit sphere, (rows, channels)."""
    table = torch.randn(rows, channels)
    # On "meta" norms are decomposed by torch._dynamo, whose import takes seconds.
    return table if table.is_meta else F.normalize(table, dim=-1)


class Codebook(nn.Module):
    """Rows learnt by moving averages (van den Oord et al., 2017, appendix A.1); they take no gradient.

    A row is the exponential moving average of what was assigned to it. Rows are initialised from the first training
    batch, and those that fall out of use are moved onto members of the current one. All of this state lives in buffers
    and is the same on every process of a distributed run.

    Args:
        table: (codes, channels), what the rows are until the first batch.
        is_spherical: whether what is quantized lies on the unit sphere.
        normalize_codes: keep the rows on the unit sphere too.
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    initialised: Tensor

    def __init__(self, table: Tensor, is_spherical: bool, normalize_codes: bool) -> None:
        super().__init__()
        self.is_spherical, self.normalize_codes = is_spherical, normalize_codes
        self.register_buffer("codebook", table)
        self.register_buffer("cluster_size", torch.ones(len(table)))
        self.register_buffer("cluster_sum", table.clone())
        self.register_buffer("initialised", torch.tensor(False))

    def rows(self, codes: Tensor) -> Tensor:
        """Rows of the table: codes (...) -> (..., channels)."""
        return F.embedding(codes, self.codebook)

    def scores(self, z: Tensor) -> Tensor:
        """Negative squared distances of z (n, channels) to all rows: (n, codes)."""
        return negative_distances(z, self.codebook)

    def nearest(self, z: Tensor, chunk: int | None = None) -> Tensor:
        """Row nearest to each of z (n, channels) -> (n,) int64; see `nearest_rows`."""
        return nearest_rows(z, self.codebook, chunk)

    @torch.no_grad()
    def learn(
        self, z: Tensor, generators: Sequence[torch.Generator], decay: float, restart_threshold: float
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Codes (n,) of z (n, channels) and the rows that they stand for, which then follow z a step; statistics.

        Args:
            generators: one per sample, of which z has equally many rows each.
            decay: of the moving averages.
            restart_threshold: rows used less than this share of the mean use are restarted; 0 switches it off.
        """
        if not bool(self.initialised):
            self._initialise(z, generators)
        codes = self.nearest(z)
        rows = self.rows(codes)
        return codes, rows, self._update(z, codes, generators, decay, restart_threshold)

    def _initialise(self, flat: Tensor, generators: Sequence[torch.Generator]) -> None:
        rows = self._sample_rows(flat, len(self.codebook), generators)
        self.codebook.copy_(rows)
        self.cluster_sum.copy_(rows)
        self.cluster_size.fill_(1.0)
        self.initialised.fill_(True)

    def _update(
        self,
        flat: Tensor,
        codes: Tensor,
        generators: Sequence[torch.Generator],
        decay: float,
        restart_threshold: float,
    ) -> dict[str, Tensor]:
        counts = torch.zeros_like(self.cluster_size).index_add_(0, codes, torch.ones_like(flat[:, 0]))
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, codes, flat)
        if world_size() > 1:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1.0 - decay)
        self.cluster_sum.lerp_(sums, 1.0 - decay)
        if restart_threshold > 0:
            self._restart_dead_codes(flat, generators, restart_threshold)
        codebook = self.cluster_sum / self.cluster_size.clamp_min(1e-5)[:, None]
        self.codebook.copy_(F.normalize(codebook, dim=-1) if self.normalize_codes else codebook)
        probability = counts / counts.sum()
        entropy = -(probability * probability.clamp_min(1e-10).log()).sum()
        return {"codebook_usage": (counts > 0).float().mean(), "codebook_perplexity": entropy.exp()}

    def _restart_dead_codes(self, flat: Tensor, generators: Sequence[torch.Generator], threshold: float) -> None:
        mean_use = self.cluster_size.mean()
        dead = (self.cluster_size < threshold * mean_use).nonzero().squeeze(-1)
        if dead.numel() == 0:
            return
        self.cluster_size[dead] = mean_use
        self.cluster_sum[dead] = self._sample_rows(flat, dead.numel(), generators) * mean_use

    def _sample_rows(self, flat: Tensor, n: int, generators: Sequence[torch.Generator]) -> Tensor:
        """n rows of the batch of all processes, distinct while there are enough, the same on every process.

        Each row draws a key from its sample's generator, and the n smallest are taken: a fair choice that depends on
        neither the number of processes nor the order in which they come.
        """
        is_shared, channels = world_size() > 1, flat.shape[1]
        rows_a_sample = len(flat) // len(generators)
        repeats = -(-n // (len(flat) * world_size()))
        keys = torch.cat([torch.rand(rows_a_sample, generator=g, dtype=torch.float64) for g in generators])
        jitter = torch.cat([torch.randn(rows_a_sample, repeats * channels, generator=g) for g in generators])
        chosen = keys.argsort()[:n]
        # (<= n, channels + repeats * channels)
        table = torch.cat([flat[chosen.to(flat.device)], jitter[chosen].to(flat.device)], dim=1)
        if is_shared:
            keys, table = _gather_rows(keys[chosen].to(flat.device)), _gather_rows(table)
            table = table[keys.argsort()[:n]]
        rows, jitter = table.split([channels, repeats * channels], dim=1)
        rows = rows.repeat(repeats, 1)[:n]
        jitter = jitter.unflatten(1, (repeats, channels)).transpose(0, 1).flatten(0, 1)[:n]
        rows = rows + 1e-3 * jitter  # so that repeated rows part ways
        return F.normalize(rows, dim=-1) if self.is_spherical else rows


def _gather_rows(x: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape, below one another."""
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
