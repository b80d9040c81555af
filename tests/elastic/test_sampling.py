"""The data order is a partition, whatever the number of ranks and the most that a GPU can hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.elastic.training.sampling import Pass, SampleOrder, split


def test_by_hand() -> None:
    # 10 samples on 3 ranks: 3, 3 and 4; at most 2 a pass: two passes each.
    assert [[(p.begin, p.end) for p in split(10, rank, 3, 2)] for rank in range(3)] == [
        [(0, 1), (1, 3)],
        [(3, 4), (4, 6)],
        [(6, 8), (8, 10)],
    ]
    assert split(4, 0, 1, 0) == (Pass(0, 4, 1.0, True),)
    assert split(1, 0, 2, 0) == (Pass(0, 1, 0.0, True),)  # nothing left for rank 0: the first sample, for nothing
    assert split(1, 1, 2, 0) == (Pass(0, 1, 2.0, True),)


def test_no_pass_of_one_sample_by_hand() -> None:
    # 6 samples on 4 ranks would be 1, 2, 1 and 2: three ranks take two each, one takes the first two for nothing.
    assert [split(6, rank, 4, 0, 2) for rank in range(4)] == [
        (Pass(0, 2, 0.0, True),),
        (Pass(0, 2, 4 / 3, True),),
        (Pass(2, 4, 4 / 3, True),),
        (Pass(4, 6, 4 / 3, True),),
    ]
    assert split(1, 1, 2, 0, 2) == (Pass(0, 1, 2.0, True),)  # a step that has but one


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 300), ranks=st.integers(1, 20), most=st.integers(0, 40), least=st.integers(1, 2))
def test_split_is_a_partition(size: int, ranks: int, most: int, least: int) -> None:
    shares = [split(size, rank, ranks, most, least) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1  # all meet in the same pass
    for share in shares:
        assert [one.last for one in share] == [False] * (len(share) - 1) + [True]
        assert all(not most or one.end - one.begin <= most for one in share)
        assert all(0 <= one.begin < one.end <= size for one in share)
    used = [i for share in shares for one in share if one.weight for i in range(one.begin, one.end)]
    assert used == list(range(size))
    sizes = [one.end - one.begin for share in shares for one in share if one.weight]
    assert max(sizes) - min(sizes) <= 2
    if least == 2 and most != 1 and (most != 2 or size % 2 == 0):
        assert all(one.end - one.begin >= min(2, size) for share in shares for one in share)
    # The mean over ranks of the weighted means is the mean over the batch.
    values = np.random.default_rng(size).normal(size=size)
    total = sum(one.weight * values[one.begin : one.end].mean() for share in shares for one in share) / ranks
    assert total == pytest.approx(values.mean(), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(1, 200), batch=st.integers(1, 64), seed=st.integers(0, 9), shuffle=st.booleans())
def test_steps_cover_an_epoch(samples: int, batch: int, seed: int, shuffle: bool) -> None:
    order = SampleOrder(samples, batch, shuffle, seed)
    assert sum(order.size(step) for step in range(order.steps)) == samples
    assert all(order.size(step) == batch for step in range(order.steps - 1))
    assert sorted(order.epoch(3).tolist()) == list(range(samples))
    assert (order.epoch(3) == SampleOrder(samples, batch, shuffle, seed).epoch(3)).all()


def test_a_smaller_last_step_can_be_left_out() -> None:
    order = SampleOrder(10, 4, False, 0, drop_last=True)
    assert [order.size(step) for step in range(order.steps)] == [4, 4]


def test_epochs_differ_only_where_shuffled() -> None:
    assert (SampleOrder(50, 8, True, 0).epoch(0) != SampleOrder(50, 8, True, 0).epoch(1)).any()
    assert (SampleOrder(50, 8, True, 0).epoch(0) != SampleOrder(50, 8, True, 1).epoch(0)).any()
    assert (SampleOrder(50, 8, False, 0).epoch(1) == np.arange(50)).all()
