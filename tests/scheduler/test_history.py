"""The record of submissions from which `prices` foresees the jobs to come."""

from __future__ import annotations

import math

from powerflow.scheduler.history import KEPT, ArrivalHistory


def test_submissions_are_ordered_by_size_with_unknown_ones_last() -> None:
    record = ArrivalHistory()
    assert len(record.latest().gpu_s) == 0
    for submit_s, gpu_s, weight in ((5.0, 30.0, 1.0), (7.0, math.nan, 2.0), (9.0, 10.0, 4.0)):
        record.add(submit_s, gpu_s, weight)
    arrivals = record.latest()
    assert arrivals.gpu_s[:2].tolist() == [10.0, 30.0]
    assert math.isnan(arrivals.gpu_s[2])
    assert arrivals.weight.tolist() == [4.0, 1.0, 2.0]
    assert arrivals.since_s == 5.0
    assert record.latest() is arrivals


def test_only_the_latest_are_kept() -> None:
    record = ArrivalHistory()
    for i in range(KEPT + 3):
        record.add(float(i), 1.0, 1.0)
    assert len(record.latest().gpu_s) == KEPT
    assert record.latest().since_s == 3.0
