import math

import pytest
import torch

from omnitok.metrics import AverageAccumulator, CodebookAccumulator, FeatureSet, codebook_statistics
from omnitok.metrics.features import canonical_order


def test_codebook_of_known_use() -> None:
    even = codebook_statistics(torch.arange(8).repeat(5).view(2, 4, 5), size=16)
    assert (even.usage, even.entropy, even.tokens) == (0.5, pytest.approx(3), 40)
    assert even.perplexity == pytest.approx(8)
    one = codebook_statistics(torch.full((3, 4), 5), size=8192)
    assert (one.usage, one.entropy, one.perplexity) == (1 / 8192, 0, 1)
    uneven = codebook_statistics(torch.tensor([0, 0, 0, 1]), size=2)
    assert uneven.entropy == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))


def test_codebook_merges_equal_the_whole() -> None:
    codes = torch.randint(0, 50, (1000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    a, b = CodebookAccumulator(50), CodebookAccumulator(50)
    for batch in codes[:600].split(7):
        a.update(batch)
    b.update(codes[600:])
    a.merge(b)
    assert a.compute() == codebook_statistics(codes, 50)


def test_codebook_bad_input() -> None:
    accumulator = CodebookAccumulator(4)
    with pytest.raises(ValueError, match="0 … 3, but reach from 0 to 4"):
        accumulator.update(torch.arange(5))
    with pytest.raises(ValueError, match="integers"):
        accumulator.update(torch.zeros(3))
    accumulator.update(torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="at least 1 code"):
        accumulator.compute()
    with pytest.raises(ValueError, match="of 4 codes with a codebook of 5"):
        accumulator.merge(CodebookAccumulator(5))


def test_average() -> None:
    values = torch.tensor([1.0, 2, 4, 9])
    a, b = AverageAccumulator(), AverageAccumulator()
    with pytest.raises(ValueError, match="got none"):
        a.compute()
    a.update(values[:1].view(1, 1))
    assert math.isnan(a.compute().standard_error)
    b.update(values[1:])
    a.merge(b)
    measured = a.compute()
    assert (measured.mean, measured.n) == (4, 4)
    assert measured.standard_error == pytest.approx(values.std().item() / 2)
    with pytest.raises(ValueError, match="NaN"):
        a.update(torch.tensor([math.nan]))
    a.update(torch.tensor([math.inf]))
    assert a.compute().mean == math.inf


def test_feature_sets_and_their_order() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    x[5] = x[6]
    x[7, 0] = 0.0
    a, b = FeatureSet(3), FeatureSet(3)
    a.update(x[:8])
    b.update(x[8:])
    a.merge(b)
    assert torch.equal(a.compute(), x)
    negative_zero = x.clone()
    negative_zero[7, 0] = -0.0
    assert torch.equal(canonical_order(x), canonical_order(negative_zero.flip(0)))
    assert torch.equal(canonical_order(x).sum(0).sort().values.float().round(), x.sum(0).sort().values.round())
    with pytest.raises(ValueError, match="cannot merge"):
        a.merge(FeatureSet(4))
    assert FeatureSet(3).compute().shape == (0, 3)
