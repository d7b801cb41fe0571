from dataclasses import asdict
from typing import Any

import pytest
import torch

from helpers.processes import in_process_group, on_two_processes
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


def measure(x: torch.Tensor, indices: torch.Tensor, n: int) -> dict[str, Any]:
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


def test_two_processes_with_uneven_shares_equal_one() -> None:
    """Of 7 and 3 samples, so evened-out shares would show."""

    def share(rank: int) -> dict[str, Any]:
        measured = measure(sample(10), torch.arange(7) if rank == 0 else torch.arange(7, 10), 10)
        empty = measure(sample(10), torch.arange(10 if rank == 0 else 0), 10)
        return {**measured, "empty share": empty["n"], "shard": list(shard(5))}

    expected = measure(sample(10), torch.arange(10), 10)
    for rank, measured in enumerate(on_two_processes(in_process_group(share))):
        assert measured.pop("shard") == [[0, 2, 4], [1, 3]][rank]
        assert measured.pop("empty share") == 10
        assert measured.keys() == expected.keys()
        for name, value in expected.items():
            assert measured[name] == pytest.approx(value, rel=1e-12, abs=1e-14), name


def test_one_process_has_everything() -> None:
    assert list(shard(3)) == [0, 1, 2]
