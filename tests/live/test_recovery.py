"""The controller is killed at random moments, for real; see `kill_bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from powerflow.store.leader_lease import is_dead, own_name
from powerflow.store.store import Store
from tests.live.kill_bench import Bench, summary
from tests.slow import ALL

#: Many only where all tests run.
KILLS = 6 if ALL else 2


@pytest.fixture
def world_readable(tmp_path: Path) -> Path:
    """Jobs may run as other users than the one who tests."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    return tmp_path


def test_kills_lose_no_job_run_none_twice_and_leave_healthy_ranks_alone(world_readable: Path) -> None:
    outcome = Bench(world_readable, seed=3).go(KILLS)
    print(summary(outcome))
    assert outcome.kills >= KILLS
    assert outcome.survived >= 2 * len(outcome.back_s), "the two jobs that nobody touches live through each"


def test_a_dead_controller_need_not_be_waited_for_and_a_living_one_is_respected(sqlite_url: str) -> None:
    me = own_name()
    host, space, _, birth, token = me.split(":")
    dead = ":".join((host, space, "1", str(int(birth) + 1), token))  # process 1 was born at another time
    elsewhere = ":".join((host, "another-boot/1", "1", birth, token))
    assert [is_dead(owner) for owner in (me, dead, elsewhere, "", "a:b:c:d:e")] == [False, True, False, False, False]
    store, other = Store(sqlite_url), Store(sqlite_url)
    try:
        assert other.lease.take(dead, 30.0, 100.0)
        assert store.lease.take(me, 30.0, 101.0), "it is dead for sure"
        assert not other.lease.take(own_name(), 30.0, 102.0)
        assert other.lease.take(own_name(), 30.0, 132.0), "the lease is over"
    finally:
        store.close()
        other.close()
