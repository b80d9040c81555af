"""The record of submissions from which `prices` foresees the jobs to come."""

from __future__ import annotations

import math

import pytest

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
