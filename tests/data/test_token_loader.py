"""Batches of tokens: every item once an epoch, one grid a batch, and the rest of an order from anywhere."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from omnitok.data import TokenShards
from omnitok.data.loader import Batch
from omnitok.data.sampler import EpochOrder
from omnitok.data.shard_format import TokenFormat
from omnitok.data.token_shards import TokenDataset
from omnitok.errors import ShardError

from .test_shards import cut, write

COUNTS = {(4, 3): 23, (3, 4, 4): 7, (2, 2): 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    format = TokenFormat("codes", "uint16", 64, "some-vq", "a" * 64, ("ape", "bee"))
    grids = [grid for grid, count in COUNTS.items() for _ in range(count)]
    of_shards = [grids[k : k + 5] for k in range(0, 31, 5)]
    return TokenShards(write(tmp_path_factory.mktemp("shards"), format, of_shards, captioned=True))


def same(a: Batch, b: Batch) -> bool:
    return (a.step, a.indices, a.captions) == (b.step, b.indices, b.captions) and torch.equal(a.inputs, b.inputs)


@pytest.mark.parametrize("batch", [1, 4, 50])
@pytest.mark.parametrize("full", [False, True])
def test_epochs(batch: int, full: bool) -> None:
    sampler = EpochOrder(COUNTS, batch, seed=3, full_batches=full)
    seen: Counter[tuple[object, int]] = Counter()
    orders = []
    for epoch in range(4):
        steps = range(sampler.steps_before(epoch), sampler.steps_before(epoch + 1))
        plans = [sampler.places(step) for step in steps]
        assert [sampler.epoch_of(step) for step in steps] == [epoch] * len(steps)
        assert not full or all(len(places) == batch for _, places in plans)
        drawn = [(grid, place) for grid, places in plans for place in places.tolist()]
        orders.append(drawn)
        seen.update(drawn)
        if not full:
            assert Counter(drawn) == Counter((grid, place) for grid, n in COUNTS.items() for place in range(n))
        for grid, n in COUNTS.items():  # each is seen as often as another of its grid, up to one
            counts = [seen[grid, place] for place in range(n)]
            assert max(counts) - min(counts) <= 1
    assert batch == 50 or orders[0] != orders[1]


def test_the_order_never_changes() -> None:
    """Frozen values: trained generators are repeatable only while these stay."""
    grid, places = EpochOrder(COUNTS, 4, seed=3, full_batches=True).places(9)
    assert (grid, places.tolist()) == ((3, 4, 4), [5, 2, 6, 0])


def test_batches_are_of_one_grid(shards: TokenShards) -> None:
    loader = shards.loader(4, seed=1)
    batches = list(loader)
    assert len(batches) == 6 + 2 + 1
    assert sorted(i for batch in batches for i in batch.indices) == list(range(31))
    for batch in batches:
        assert batch.codes is not None
        assert torch.equal(batch.codes, torch.stack([shards[i].codes for i in batch.indices]))
        assert batch.labels.tolist() == [shards[i].label for i in batch.indices]
        assert batch.modality == ("video" if batch.codes.ndim == 4 else "image")
        assert batch.size == len(batch.codes)
    assert loader.epoch == 1
    assert [batch.indices for batch in loader] != [batch.indices for batch in batches]


@pytest.mark.parametrize("workers, full", [(0, False), (2, False), (2, True)])
def test_resumed_in_the_middle_it_gives_exactly_the_rest(shards: TokenShards, workers: int, full: bool) -> None:
    whole = list(shards.loader(4, seed=1, full_batches=full))
    first = shards.loader(4, seed=1, workers=1, full_batches=full)
    begun = iter(first)
    head = [next(begun) for _ in range(3)]
    state = first.state_dict()
    second = shards.loader(4, seed=1, workers=workers, full_batches=full)
    second.load_state_dict(state)
    rest = list(second)
    assert all(same(a, b) for a, b in zip(whole, [*head, *rest], strict=True))


def test_ranks_share_each_batch(shards: TokenShards) -> None:
    for step in range(9):
        whole = shards.loader(4, 1).dataset[step]
        shares = [shards.loader(4, 1, rank=rank, world_size=2).dataset[step] for rank in range(2)]
        assert all(share.indices == whole.indices[rank::2] for rank, share in enumerate(shares))
        assert all(share.captions == whole.captions[rank::2] for rank, share in enumerate(shares))
        assert all(share.inputs.shape[1:] == whole.inputs.shape[1:] for share in shares)


def test_captions_are_drawn_anew_for_every_step(shards: TokenShards, tmp_path: Path) -> None:
    loader = shards.loader(4, seed=1)
    seen: dict[int, set[str]] = {}
    for batch in (batch for _ in range(20) for batch in loader):
        assert len(batch.captions) == batch.size
        for i, caption in zip(batch.indices, batch.captions, strict=True):
            seen.setdefault(i, set()).add(caption)
    assert seen == {i: set(shards.captions(i)) or {""} for i in range(len(shards))}
    plain = TokenShards(write(tmp_path, TokenFormat("codes", "uint16", 64, "some-vq", "a" * 64), [[(4, 3)] * 4]))
    assert [batch.captions for batch in plain.loader(4)] == [()]


def test_some_grids_only(shards: TokenShards) -> None:
    assert {batch.inputs.shape[1:] for batch in shards.loader(4, grids=[(3, 4, 4)])} == {(3, 4, 4)}
    with pytest.raises(ValueError, match=r"no items of grid \(9, 9\)"):
        shards.loader(4, grids=[(9, 9)])


def test_another_order_is_refused(shards: TokenShards) -> None:
    state = shards.loader(4, seed=1).state_dict()
    for other in (shards.loader(5, seed=1), shards.loader(4, seed=2), shards.loader(4, seed=1, grids=[(4, 3)])):
        with pytest.raises(ShardError, match="position is of a loader with"):
            other.load_state_dict(state)


def test_nonsense_is_told(shards: TokenShards) -> None:
    with pytest.raises(ValueError, match="nothing to sample"):
        EpochOrder({}, 4, 0)
    with pytest.raises(ValueError, match="batch size"):
        EpochOrder(COUNTS, 0, 0)
    with pytest.raises(ValueError, match="seed"):
        EpochOrder(COUNTS, 1, -1)
    with pytest.raises(ValueError, match="shared evenly"):
        shards.loader(5, world_size=2)
    with pytest.raises(ValueError, match="rank"):
        TokenDataset(shards, EpochOrder(COUNTS, 4, 0), 2, 2)


def test_damage_is_one_sentence_from_a_worker_too(tmp_path: Path) -> None:
    format = TokenFormat("codes", "uint16", 64, "some-vq", "a" * 64)
    shards = TokenShards(write(tmp_path, format, [[(4, 3)] * 8]))
    cut(tmp_path / "00000/codes-4x3.npy")
    with pytest.raises(ShardError, match=r"truncated$") as error:
        list(shards.loader(4, workers=1))
    assert "Traceback" not in str(error.value)
