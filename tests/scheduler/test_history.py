"""The record of submissions from which `prices` foresees the jobs to come."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest

from powerflow.policy.protocol import arrivals
from powerflow.scheduler.history import KEPT, ArrivalHistory


def test_submissions_are_ordered_by_size_over_weight_without_unknown_ones() -> None:
    record = ArrivalHistory()
    assert len(record.latest().order_by) == 0
    for submit_s, gpu_s, weight in ((5.0, math.nan, 2.0), (7.0, 30.0, 1.0), (8.0, math.inf, 1.0), (9.0, 10.0, 4.0)):
        record.add(submit_s, gpu_s, weight)
    record.add(10.0, 60.0, 2.0)
    arrivals = record.latest()
    assert arrivals.order_by.tolist() == [2.5, 30.0, 30.0]
    assert arrivals.weight_from.tolist() == [7.0, 3.0, 2.0, 0.0]
    assert arrivals.gpu_s_up_to.tolist() == [10.0, 100.0, 100.0]
    assert arrivals.since_s == 5.0
    assert record.latest() is arrivals


def test_only_the_latest_are_kept() -> None:
    record = ArrivalHistory()
    for i in range(KEPT + 3):
        record.add(float(i), 1.0, 1.0)
    assert len(record.latest().order_by) == KEPT
    assert record.latest().since_s == 3.0


def test_a_policy_cannot_change_the_record() -> None:
    record = ArrivalHistory()
    record.add(0.0, 1.0, 1.0)
    arrivals = record.latest()
    with pytest.raises(ValueError, match="read-only"):
        arrivals.order_by[0] = 0.0


def test_inserting_gives_the_order_that_sorting_gives() -> None:
    rng = np.random.default_rng(0)
    record = ArrivalHistory()
    added: deque[tuple[float, float, float]] = deque(maxlen=KEPT)
    for number in range(3 * KEPT):
        gpu_s = math.nan if rng.random() < 0.2 else float(rng.integers(1, 40))  # many equals
        added.append((number - float(rng.random()), gpu_s, float(rng.choice([0.5, 1.0, 4.0]))))
        record.add(*added[-1])
        if number % 97 == 0 or number > 3 * KEPT - 3:
            submit_s, sizes, weights = np.array(added).T
            expected, found = arrivals(sizes, weights, submit_s.min()), record.latest()
            assert found.order_by.tolist() == expected.order_by.tolist()
            assert found.weight_from.tolist() == expected.weight_from.tolist()
            assert found.gpu_s_up_to.tolist() == expected.gpu_s_up_to.tolist()
            assert found.since_s == expected.since_s
