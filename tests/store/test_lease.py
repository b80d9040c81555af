"""One controller at a time writes to a store, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import pytest

from powerflow.api.records import JobState
from powerflow.store.database import StoreError
from powerflow.store.models import Intent, JobUpdate
from powerflow.store.store import Store
from tests.store.specs import PLAIN, submit

Q, R, H = JobState.QUEUED, JobState.RUNNING, JobState.HELD


def test_one_controller_at_a_time(url: str) -> None:
    first, second = Store(url), Store(url)
    assert first.lease.claim("a", 10.0, now_s=0.0)
    assert not second.lease.claim("b", 10.0, now_s=9.9)
    assert first.lease.renew("a", 10.0, now_s=9.9)
    assert not second.lease.claim("b", 10.0, now_s=19.8)
    assert second.lease.claim("b", 10.0, now_s=19.9)
    assert not first.lease.renew("a", 10.0, now_s=20.0)
    first.close()
    second.close()


def test_a_claim_can_be_given_back_only_by_its_owner(store: Store) -> None:
    assert store.lease.claim("a", 10.0, now_s=0.0)
    store.lease.give_back("b")
    assert not store.lease.claim("b", 10.0, now_s=1.0)
    store.lease.give_back("a")
    assert store.lease.claim("b", 10.0, now_s=1.0)


def test_a_claim_that_is_over_can_be_renewed_while_nobody_else_has_it(store: Store) -> None:
    assert store.lease.claim("a", 10.0, now_s=0.0)
    assert store.lease.renew("a", 10.0, now_s=100.0)


def test_a_controller_that_slept_past_its_lease_cannot_write(url: str) -> None:
    sleeper, successor = Store(url), Store(url)
    assert sleeper.lease.claim("a", 10.0, now_s=0.0)
    (job,) = submit(sleeper)
    assert successor.lease.claim("b", 10.0, now_s=11.0)
    for write in (
        lambda: sleeper.submit(PLAIN, "ada", 12.0),
        lambda: sleeper.move(job, R, 12.0),
        lambda: sleeper.intents.add([Intent(job, 1, "A100", (("n0", (0,)),), 1410.0)], 12.0),
        lambda: sleeper.update([JobUpdate(job, steps=5.0)]),
    ):
        with pytest.raises(StoreError, match="taken over") as caught:
            write()
        assert not caught.value.retry
    assert successor.job(job).state is Q
    assert successor.intents.active() == []
    sleeper.close()
    successor.close()
