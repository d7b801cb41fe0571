"""One of two processes of `test_distributed`: RANK, a file to meet at, and a file for what rank 0 computed.

Rank 0 has 7 of 10 samples and rank 1 has 3, so evened-out shares would show.
"""

import json
import sys
from dataclasses import asdict

import torch
import torch.distributed as dist

from omnitok.distributed import shard
from omnitok.metrics import (
    AverageAccumulator,
    CodebookAccumulator,
    FeatureSet,
    FrechetAccumulator,
    InceptionScoreAccumulator,
)


def sample(n: int) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def measure(x: torch.Tensor, indices: torch.Tensor, n: int) -> dict[str, object]:
    """Every accumulator over the rows of x with `indices`, reduced over the processes that are up."""
    frechet, average, codebook = FrechetAccumulator(4), AverageAccumulator(), CodebookAccumulator(9)
    score, features = InceptionScoreAccumulator(n, 4, splits=3), FeatureSet(4)
    frechet.update(x[indices])
    average.update(x[indices, 0])
    codebook.update(indices % 9)
    score.update(x[indices], indices)
    if len(indices):
        features.update(x[indices])
    for accumulator in (frechet, average, codebook, score):
        accumulator.all_reduce()
    features.all_reduce()
    statistics = frechet.compute()
    return {
        "n": statistics.n,
        "mean": statistics.mean.tolist(),
        "covariance": statistics.covariance.flatten().tolist(),
        "average": list(asdict(average.compute()).values()),
        "codebook": list(asdict(codebook.compute()).values()),
        "score": list(asdict(score.compute()).values()),
        "features": features.compute().flatten().tolist(),
    }


if __name__ == "__main__":
    rank, meeting, result = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    measured = measure(sample(10), torch.arange(7) if rank == 0 else torch.arange(7, 10), 10)
    measured["empty share"] = measure(sample(10), torch.arange(10 if rank == 0 else 0), 10)["n"]
    measured["shard"] = list(shard(5))
    with open(f"{result}.{rank}", "w") as file:
        json.dump(measured, file)
    dist.destroy_process_group()
