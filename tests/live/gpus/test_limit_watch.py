"""Power limits that somebody else changed."""

from __future__ import annotations

import math

from powerflow.device.protocol import Reading
from powerflow.live.gpus.limit_watch import LimitWatch


def at(limit_w: float) -> Reading:
    return Reading(0.0, 60.0, 0.0, 1410.0, None, 0.0, power_limit_w=limit_w)


def test_a_limit_that_changes_is_seen_for_as_long_as_it_lasts() -> None:
    watch = LimitWatch({})
    watch.begin({"a": at(400.0), "b": at(math.nan)}, held=())
    assert watch.changed() == {}
    watch.look({"a": at(250.0), "b": at(math.nan)})
    watch.look({"a": at(200.0)})
    assert watch.changed() == {"a": (400.0, 200.0)}
    watch.look({"a": at(399.0)})
    assert watch.changed() == {}


def test_the_next_controller_takes_a_limit_up_unless_a_job_is_on_the_card() -> None:
    first = LimitWatch({})
    first.begin({"a": at(400.0), "b": at(400.0)}, held=())
    first.look({"a": at(300.0), "b": at(250.0)})
    second = LimitWatch(first.state())
    second.begin({"a": at(300.0), "b": at(250.0)}, held={"b"})
    assert second.changed() == {"b": (400.0, 250.0)}
