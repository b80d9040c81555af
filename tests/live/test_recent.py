"""Power and prices of the last hours, as the controller remembers them."""

from __future__ import annotations

import math

from powerflow.api.recent import ClusterSample
from powerflow.live.recent import EVERY_S, KEPT_S, RecentSamples


def test_samples_are_ten_seconds_apart_and_kept_for_six_hours() -> None:
    recent = RecentSamples()
    now_s, added = 0.0, 0
    while now_s <= KEPT_S + 600.0:
        if recent.is_due(now_s):
            recent.add(now_s, 400.0, math.inf, 0.4, 0.002)
            added += 1
        now_s += 2.5
    kept = recent.after(0.0)
    assert added == (KEPT_S + 600.0) / EVERY_S + 1
    assert (kept[0].time_s, kept[-1].time_s) == (600.0, KEPT_S + 600.0)
    assert kept[0] == ClusterSample(600.0, 400.0, None, 0.4, 0.002), "no cap is none, not an infinite one"


def test_who_knows_some_gets_only_later_ones() -> None:
    recent = RecentSamples()
    for at_s in (10.0, 20.0, 30.0):
        recent.add(at_s, 1.0, 500.0, 0.0, 0.0)
    assert [sample.time_s for sample in recent.after(20.0)] == [30.0]
    assert recent.after(30.0) == []


def test_a_clock_that_is_set_back_leaves_no_samples_of_the_future() -> None:
    recent = RecentSamples()
    for at_s in (100.0, 110.0, 120.0):
        recent.add(at_s, 1.0, 500.0, 0.0, 0.0)
    assert recent.is_due(105.0)
    recent.add(105.0, 2.0, 500.0, 0.0, 0.0)
    assert [sample.time_s for sample in recent.after(0.0)] == [100.0, 105.0]
