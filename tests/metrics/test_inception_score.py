import pytest
import torch
from torch import Tensor

from omnitok.metrics import InceptionScoreAccumulator, inception_score


def logits(n: int, classes: int = 20, seed: int = 0) -> Tensor:
    return 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def test_uniform_logits_score_one() -> None:
    measured = inception_score(torch.full((50, 1008), 4.0))
    assert measured.mean == pytest.approx(1, abs=1e-12)
    assert measured.std == pytest.approx(0, abs=1e-12)


def test_certain_and_even_predictions_score_the_number_of_classes() -> None:
    certain = torch.full((70, 7), -1e4)
    certain[torch.arange(70), torch.arange(70) % 7] = 0
    assert inception_score(certain, splits=10).mean == pytest.approx(7)
    assert inception_score(certain.sort(dim=0).values[:7], splits=1).mean < 7


def test_definition_with_uneven_splits() -> None:
    x = logits(47)
    p = x.double().softmax(1)
    scores = []
    for i in range(10):
        part = p[47 * i // 10 : 47 * (i + 1) // 10]
        scores.append((part * (part.log() - part.mean(0).log())).sum(1).mean().exp())
    measured = inception_score(x)
    assert measured.mean == pytest.approx(torch.stack(scores).mean().item(), rel=1e-12)
    assert measured.std == pytest.approx(torch.stack(scores).std(correction=0).item(), rel=1e-9)


def test_order_changes_the_splits_only() -> None:
    x = logits(40)
    permutation = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert inception_score(x).mean != inception_score(x[permutation]).mean
    assert inception_score(x, splits=1).mean == pytest.approx(inception_score(x[permutation], splits=1).mean, rel=1e-12)


def test_any_batches_and_merges_by_index_equal_the_whole() -> None:
    x = logits(53)
    permutation = torch.randperm(53, generator=torch.Generator().manual_seed(0))
    a, b = InceptionScoreAccumulator(53, 20), InceptionScoreAccumulator(53, 20)
    for indices in permutation[:30].split(7):
        a.update(x[indices], indices)
    b.update(x[permutation[30:]], permutation[30:])
    with pytest.raises(ValueError, match="seen 0 times"):
        a.compute()
    a.merge(b)
    assert a.compute().mean == pytest.approx(inception_score(x).mean, rel=1e-12)
    a.update(x[:1], torch.tensor([0]))
    with pytest.raises(ValueError, match="sample 0 was seen 2 times"):
        a.compute()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="10 splits"):
        inception_score(logits(9))
    with pytest.raises(ValueError, match="NaN"):
        inception_score(torch.full((20, 5), torch.nan))
    accumulator = InceptionScoreAccumulator(20, 20)
    with pytest.raises(ValueError, match="as many indices"):
        accumulator.update(logits(3), torch.arange(2))
    with pytest.raises(ValueError, match="0 … 19"):
        accumulator.update(logits(3), torch.tensor([0, 1, 20]))
    with pytest.raises(ValueError, match="of 20 samples in 10 splits, 20 classes with"):
        accumulator.merge(InceptionScoreAccumulator(21, 20))
