"""The order of samples: endless, a permutation each epoch, shared by ranks, resumable anywhere."""

from __future__ import annotations

from itertools import islice

import pytest

from basicsr.data.sampler import EndlessSampler


def keys(count: int, *args: int, **kwargs: int) -> list[tuple[int, int]]:
    return list(islice(EndlessSampler(*args, **kwargs), count))


def test_each_epoch_visits_every_sample_once_in_another_order():
    stream = keys(30, 10, seed=4)
    orders = [[index for epoch, index in stream if epoch == number] for number in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_the_order_depends_on_the_seed():
    assert keys(10, 10, seed=1) != keys(10, 10, seed=2)
    assert keys(10, 10, seed=1) == keys(10, 10, seed=1)


@pytest.mark.parametrize("start", [0, 1, 7, 10, 23])
def test_starting_at_s_equals_skipping_s(start):
    assert keys(40, 10, seed=3, start=start) == keys(40 + start, 10, seed=3)[start:]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_stream_of_one_rank_without_overlap(world):
    whole = keys(5 * world, 7, seed=5)
    shares = [keys(5, 7, rank=rank, world_size=world, seed=5) for rank in range(world)]
    assert [share[turn] for turn in range(5) for share in shares] == whole


def test_resuming_two_ranks_goes_on_with_their_shares():
    for rank in (0, 1):
        straight = keys(20, 7, rank=rank, world_size=2)
        assert keys(12, 7, rank=rank, world_size=2, start=16) == straight[8:]


def test_more_ranks_than_samples_still_get_samples():
    shares = [keys(3, 2, rank=rank, world_size=5) for rank in range(5)]
    assert [share[turn] for turn in range(3) for share in shares] == keys(15, 2)


@pytest.mark.parametrize(("rank", "world", "start", "length"), [(2, 2, 0, 4), (0, 2, 3, 4), (0, 1, 0, 0)])
def test_an_impossible_share_is_refused(rank, world, start, length):
    with pytest.raises(ValueError, match="EndlessSampler"):
        EndlessSampler(length, rank, world, start=start)
