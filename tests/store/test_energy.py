"""Joules and GPU time in the store: charged once, to whom they belong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.api.records import JobState, NotFound
from powerflow.errors import InputError
from powerflow.store.accounting import hourly
from powerflow.store.models import Charge
from powerflow.store.store import Store
from tests.store.specs import PLAIN, SPEC, submit


def test_charges_fall_into_hours_and_are_split_between_them(store: Store) -> None:
    (job,) = submit(store)
    store.charges.add([Charge(3_600.0 - 900.0, 2 * 3_600.0 + 900.0, "gpu0", job, 600.0, 60.0)])  # 15 + 60 + 15 minutes
    assert [store.charges.accounts(h * 3600.0, (h + 1) * 3600.0, "job")[0].energy_j for h in range(3)] == pytest.approx(
        [100.0, 400.0, 100.0]
    )
    assert store.charges.accounts(1800.0, 3601.0, "job")[-1].energy_j == pytest.approx(500.0), "widened to whole hours"
    assert store.charges.accounts(3 * 3600.0, 1e9, "job")[0].name == "idle"
    store.charges.add([Charge(3_600.0, 3_600.0, "gpu0", job, 5.0, 0.0)])  # of no length, at the turn of an hour
    assert store.charges.totals() == pytest.approx((605.0, 605.0, 0.0))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 2e4), st.sampled_from(["1", "2", None]), st.floats(0, 1e9)),
        max_size=20,
    )
)
def test_no_joule_is_lost_between_hours(rows: list[tuple[float, float, str | None, float]]) -> None:
    charges = [Charge(start, start + length, "gpu0", payer, joules, length) for start, length, payer, joules in rows]
    hours = hourly(charges)
    assert len({(row["job_id"], row["hour"]) for row in hours}) == len(hours)
    for payer in ("1", "2", None):
        booked = [row for row in hours if row["job_id"] == int(payer or 0)]
        mine = [charge for charge in charges if charge.job_id == payer]
        for unit in ("energy_j", "gpu_s"):
            assert sum(row[unit] for row in booked) == pytest.approx(sum(getattr(c, unit) for c in mine), rel=1e-9)
    touched = {hour for c in charges for hour in range(int(c.start_s // 3600), int(c.end_s // 3600) + 1)}
    assert {row["hour"] for row in hours} <= touched


def test_accounts_by_user_project_and_job(store: Store) -> None:
    for spec, user in ((SPEC, "ada"), (PLAIN, "ada"), (SPEC, "bob"), (PLAIN, "eve")):
        store.submit(spec, user, 100.0)
    store.move("1", JobState.COMPLETED, 300.0)
    store.move("2", JobState.FAILED, 900.0)
    store.move("3", JobState.COMPLETED, 500.0)
    store.charges.add(
        [
            Charge(0.0, 10.0, "gpu0", "1", 100.0, 10.0),
            Charge(0.0, 10.0, "gpu1", "1", 50.0, 10.0),
            Charge(0.0, 10.0, "gpu2", "2", 30.0, 10.0),
            Charge(0.0, 10.0, "gpu3", "3", 500.0, 10.0),
            Charge(0.0, 10.0, "gpu4", None, 20.0, 0.0),
        ]
    )
    by_user = [(a.name, a.jobs, a.gpu_s, a.energy_j, a.mean_jct_s) for a in store.charges.accounts(0.0, 3600.0, "user")]
    assert by_user == [
        ("bob", 1, 10.0, 500.0, 400.0),
        ("ada", 2, 30.0, 180.0, 200.0),  # the failed job has no JCT
        ("idle", 0, 0.0, 20.0, None),
        ("total", 3, 40.0, 700.0, 300.0),
    ]
    by_project = [(a.name, a.energy_j) for a in store.charges.accounts(0.0, 3600.0, "project")]
    assert by_project == [("vision", 650.0), ("", 30.0), ("idle", 20.0), ("total", 700.0)]
    assert [a.name for a in store.charges.accounts(0.0, 3600.0, "job")] == ["3", "1", "2", "idle", "total"]
    assert store.charges.totals() == (700.0, 680.0, 20.0)
    with pytest.raises(InputError, match="user, project or job"):
        store.charges.accounts(0.0, 1.0, "gpu")


def test_a_clock_that_is_set_back_loses_no_joule(store: Store) -> None:
    store.charges.add([Charge(7300.0, 3500.0, "gpu0", None, 5.0, 0.0)])
    assert [store.charges.accounts(h * 3600.0, (h + 1) * 3600.0, "job")[-1].energy_j for h in range(3)] == [
        5.0,
        0.0,
        0.0,
    ]


def test_settings_are_kept_with_charges_or_not_at_all(store: Store) -> None:
    (job,) = submit(store)
    store.charges.add([Charge(0.0, 1.0, "gpu0", job, 5.0, 1.0)], {"meter": {"at": 1}})
    with pytest.raises(NotFound):
        store.charges.add(
            [Charge(1.0, 2.0, "gpu0", job, 5.0, 1.0), Charge(1.0, 2.0, "gpu0", "9", 5.0, 1.0)], {"meter": {"at": 2}}
        )
    with pytest.raises(ValueError, match="JSON"):
        store.charges.add([Charge(1.0, 2.0, "gpu0", job, 5.0, 1.0)], {"meter": float("nan")})
    assert (store.get("meter"), store.charges.totals()) == ({"at": 1}, (5.0, 5.0, 0.0))


def test_an_empty_window_costs_nothing(store: Store) -> None:
    assert [(a.name, a.energy_j, a.mean_jct_s) for a in store.charges.accounts(0.0, 1e9, "user")] == [
        ("idle", 0.0, None),
        ("total", 0.0, None),
    ]
    assert store.charges.totals() == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("energy_j", [float("nan"), float("inf")])
def test_what_is_no_amount_is_not_charged(store: Store, energy_j: float) -> None:
    with pytest.raises(ValueError, match="cannot charge"):
        store.charges.add([Charge(0.0, 1.0, "gpu0", None, 5.0, 0.0), Charge(0.0, 1.0, "gpu0", None, energy_j, 0.0)])
    assert store.charges.totals() == (0.0, 0.0, 0.0)
