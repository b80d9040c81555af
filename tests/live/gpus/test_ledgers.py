"""Energy is taken from the machines' ledgers exactly once: with machines that are away, late or new, and over kills."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.agent.devices import READ_S
from powerflow.device.protocol import DeviceError, NotPermitted
from powerflow.live.gpus.gpus import OLD_S
from powerflow.live.gpus.ledgers import Drawn, TakenLedger
from powerflow.store.database import StoreError
from tests.live.gpus.metered_cluster import Cluster, made_cluster


def ledger(version: int, *rows: tuple[object, ...], id: str = "L", acknowledged: int = 0) -> dict[str, Any]:
    """Rows: number, rank, millijoules, seconds, final, version."""
    made = [[number, "A", rank, mj, gpu_s, final, at] for number, rank, mj, gpu_s, final, at in rows]
    return {"id": id, "version": version, "acknowledged": acknowledged, "rows": made}


#: Joules by which the totals of four GPUs may be off: each is a whole number of millijoules.
MJ = 4 * 0.5e-3 + 1e-6


def everybody(job: str) -> bool:
    return job != "stranger"


def test_differences_are_taken_by_hand() -> None:
    taken = TakenLedger({"id": "L", "version": 0, "rows": {}})
    first = ledger(1, (1, "", 500, 1.0, False, 1), (2, "7.1.0", 2000, 1.0, False, 1), (3, "7.1.1", 1000, 1.0, False, 1))
    assert taken.take(first, everybody) == {None: Drawn(0.5, 1.0), "7": Drawn(3.0, 2.0)}
    assert taken.take(first, everybody) == {}, "the same report again"
    later = ledger(2, (2, "7.1.0", 5000, 2.5, True, 2))
    assert taken.take(later, everybody) == {"7": Drawn(3.0, 1.5)}
    assert taken.take(first, everybody) == {}, "a late report"


def test_a_controller_that_was_killed_before_it_stored_takes_the_same_again() -> None:
    taken = TakenLedger({"id": "L", "version": 0, "rows": {}})
    taken.take(ledger(1, (2, "7.1.0", 2000, 1.0, False, 1)), everybody)
    stored = json.loads(json.dumps(taken.state()))
    more = ledger(2, (2, "7.1.0", 3000, 2.0, False, 2))
    assert taken.take(more, everybody) == {"7": Drawn(1.0, 1.0)}
    assert TakenLedger(stored).take(more, everybody) == {"7": Drawn(1.0, 1.0)}


def test_a_row_is_forgotten_when_its_machine_has_dropped_it_and_not_before() -> None:
    taken = TakenLedger({"id": "L", "version": 0, "rows": {}})
    final = (2, "7.1.0", 2000, 1.0, True, 3)
    taken.take(ledger(3, final), everybody)
    assert taken.take(ledger(4, final, acknowledged=2), everybody) == {}
    assert "2" in taken.state()["rows"]
    taken.take(ledger(5, acknowledged=3), everybody)
    assert taken.state()["rows"] == {}


def test_what_a_machine_drew_before_the_store_knew_it_is_not_counted_but_its_jobs_pay() -> None:
    taken = TakenLedger(None)
    first = ledger(
        9, (1, "", 10**9, 1e6, False, 9), (2, "7.1.0", 2000, 1.0, False, 9), (3, "stranger.1.0", 9, 9, False, 9)
    )
    assert taken.take(first, everybody) == {"7": Drawn(2.0, 1.0)}
    second = ledger(10, (1, "", 10**9 + 500, 1e6 + 1, False, 10), (3, "stranger.1.0", 1009, 10.0, False, 10))
    assert taken.take(second, everybody) == {None: Drawn(1.5, 2.0)}


def test_another_ledger_begins_at_zero() -> None:
    taken = TakenLedger({"id": "L", "version": 8, "rows": {"2": [2000, 1.0, 0]}})
    assert taken.take(ledger(1, (2, "7.1.0", 500, 0.5, False, 1), id="M"), everybody) == {"7": Drawn(0.5, 0.5)}


def test_a_total_that_goes_back_takes_nothing_until_it_is_past_the_old_one() -> None:
    taken = TakenLedger({"id": "L", "version": 1, "rows": {"2": [2000, 1.0, 0]}})
    assert taken.take(ledger(2, (2, "7.1.0", 1500, 0.5, False, 2)), everybody) == {}
    assert taken.take(ledger(3, (2, "7.1.0", 2500, 1.5, False, 3)), everybody) == {"7": Drawn(0.5, 0.5)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with made_cluster(tmp_path) as cluster:
        yield cluster


def test_a_machine_that_is_away_keeps_its_joules_for_the_ranks_that_drew_them(cluster: Cluster) -> None:
    one, two = cluster.job(), cluster.job()
    cluster.devices["m"].began(f"{one}.1.0", ["m0"])
    cluster.turn()
    cluster.save()
    cluster.cut.add("m")
    for _ in range(30):
        cluster.turn()
    cluster.devices["m"].ended(f"{one}.1.0")
    cluster.devices["m"].began(f"{two}.1.0", ["m0", "m1"])
    for _ in range(30):
        cluster.turn()
    cluster.save()
    assert cluster.store.job(one).energy_j == pytest.approx(100.0)
    assert "m has not reported for 60 s" in cluster.gpus.notices()[0]
    assert one in cluster.gpus.disturbed()
    cluster.cut.clear()
    cluster.turn(0.0)
    assert cluster.gpus.notices() == []
    cluster.save()
    assert cluster.store.job(one).energy_j == pytest.approx(3100.0)
    assert cluster.store.job(one).gpu_s == pytest.approx(31.0)
    assert cluster.store.job(two).energy_j == pytest.approx(6000.0)
    metered_j, jobs_j, idle_j = cluster.stored_j()
    assert (metered_j, jobs_j, idle_j) == pytest.approx((4 * 61 * 100.0, 9100.0, 4 * 61 * 100.0 - 9100.0))
    assert cluster.gpus.totals_j() == pytest.approx((metered_j, jobs_j, idle_j))


def test_a_machine_that_is_away_does_not_stop_the_others(cluster: Cluster) -> None:
    job = cluster.job()
    cluster.cut.add("m")
    cluster.devices["n"].began(f"{job}.1.0", ["n1"])
    for _ in range(3):
        cluster.turn()
    cluster.save()
    assert cluster.store.job(job).energy_j == pytest.approx(300.0)
    assert cluster.gpus.power_of(job).watts == 100.0
    assert cluster.gpus.news() == {("n", 0), ("n", 1)}


def test_joules_of_ranks_whose_job_the_store_does_not_know_are_nobodys(cluster: Cluster) -> None:
    cluster.devices["m"].began("4711.1.0", ["m0"])
    cluster.turn()
    cluster.save()
    assert cluster.stored_j() == pytest.approx((400.0, 0.0, 400.0))


def test_while_the_store_cannot_be_read_nothing_is_taken(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    job = cluster.job()
    cluster.devices["m"].began(f"{job}.1.0", ["m0"])
    cluster.pass_time()

    def gone(job_id: str) -> None:
        raise StoreError("the store does not answer", retry=True)

    with monkeypatch.context() as patch:
        patch.setattr(cluster.store, "job", gone)
        with pytest.raises(StoreError):
            cluster.gpus.settle(cluster.wall_s)
    assert cluster.gpus.settle(cluster.wall_s) == {job: Drawn(100.0, 1.0)}


def test_a_row_is_dropped_by_its_machine_only_after_it_was_stored(cluster: Cluster) -> None:
    job = cluster.job()
    cluster.devices["m"].began(f"{job}.1.0", ["m0"])
    cluster.turn()
    cluster.devices["m"].ended(f"{job}.1.0")
    cluster.turn()
    ranks: Callable[[], set[str]] = lambda: {row[2] for row in cluster.devices["m"].report()["ledger"]["rows"]}  # noqa: E731
    assert f"{job}.1.0" in ranks()
    cluster.start()  # killed before it stored anything
    cluster.turn()
    cluster.save()
    cluster.turn()
    assert f"{job}.1.0" not in ranks()
    cluster.save()
    assert cluster.store.job(job).energy_j == pytest.approx(100.0)
    cluster.turn()
    cluster.save()
    assert len(cluster.store.get("ledger m")["rows"]) == 2, "those of the two idle GPUs"


def test_a_full_disk_that_keeps_a_row_does_not_charge_it_again(cluster: Cluster) -> None:
    """The agent had dropped the row from memory, said so, and was killed before it could drop it from the disk."""
    job = cluster.job()
    cluster.devices["m"].began(f"{job}.1.0", ["m0"])
    cluster.turn()
    cluster.devices["m"].ended(f"{job}.1.0")
    cluster.turn()
    cluster.full.add("m")
    cluster.save()  # acknowledges the row
    cluster.turn()
    cluster.devices["m"] = cluster.agent("m")
    cluster.full.clear()
    for _ in range(3):
        cluster.turn()
        cluster.save()
    assert cluster.store.job(job).energy_j == pytest.approx(100.0)
    assert cluster.stored_j() == pytest.approx((4 * 6 * 100.0, 100.0, 4 * 6 * 100.0 - 100.0))
    assert len(cluster.store.get("ledger m")["rows"]) == 2, "those of the two idle GPUs"


def test_a_machine_that_goes_before_its_joules_are_stored_is_charged_once(cluster: Cluster) -> None:
    job = cluster.job()
    cluster.save()
    cluster.devices["m"].began(f"{job}.1.0", ["m0"])
    cluster.turn()
    cluster.names.remove("m")
    cluster.turn()
    cluster.save()  # what was taken before it went
    cluster.names.append("m")
    cluster.turn()
    cluster.save()
    assert cluster.store.job(job).energy_j == pytest.approx(300.0)
    assert cluster.stored_j() == pytest.approx((1200.0, 300.0, 900.0))


def test_what_a_machine_has_not_read_yet_is_charged_with_its_next_reading(cluster: Cluster) -> None:
    """Between two rounded times that are a second apart may be less than a second: then nothing is read."""
    cluster.turn(1023.1 - cluster.now_s)
    before_j = cluster.gpus.totals_j()[0]
    cluster.turn(READ_S)
    assert cluster.now_s - 1023.1 < READ_S
    assert cluster.gpus.totals_j()[0] == before_j
    cluster.turn(0.5)
    assert cluster.gpus.totals_j()[0] == pytest.approx(before_j + 4 * 150.0, abs=MJ)


def test_clocks_are_asked_of_the_machines_and_each_change_is_in_the_audit_once(cluster: Cluster) -> None:
    cluster.gpus.tune(cluster.wall_s, {("m", 0): 945.0, ("n", 1): 705.0, ("gone", 0): 705.0})
    assert cluster.asked[-2:] == [("m", {"m0": 945.0}), ("n", {"n1": 705.0})]
    cluster.turn()
    cluster.turn()
    assert cluster.cards["m"][0].locked_mhz == 945.0
    cluster.gpus.tune(cluster.wall_s, {("m", 0): 945.0, ("n", 1): 705.0})
    assert cluster.gpus.asked_mhz(("m", 0)) == 945.0
    assert cluster.gpus.holds(("m", 0))
    for _ in range(3):
        cluster.gpus.audit()
    rows = cluster.store.audit(clocks=True).items
    assert [(row.action, row.target) for row in rows] == [("clock set", "m/0"), ("clock set", "n/1")]
    assert all(abs(row.time_s - cluster.wall_s) < 60.0 for row in rows)
    cluster.turn()
    cluster.save()  # acknowledges
    cluster.turn()
    assert cluster.devices["m"].report()["audit"] == []


def test_an_audit_that_cannot_be_written_is_written_later(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.gpus.tune(cluster.wall_s, {("m", 0): 945.0})
    cluster.turn()
    cluster.turn()

    def gone(rows: object) -> None:
        raise StoreError("the store does not answer", retry=True)

    with monkeypatch.context() as patch:
        patch.setattr(cluster.store, "note", gone)
        with pytest.raises(StoreError):
            cluster.gpus.audit()
        cluster.save()
        cluster.turn()
    cluster.gpus.audit()
    assert [row.action for row in cluster.store.audit(clocks=True).items] == ["clock set"]


def test_gpus_out_of_service_are_asked_for_no_clock(cluster: Cluster) -> None:
    cluster.turn()
    cluster.gpus.health.suspect(("m", 0), "lost")
    cluster.gpus.tune(cluster.wall_s, {("m", 0): 945.0})
    assert cluster.asked[-2:] == [("m", {}), ("n", {})]


def test_machines_come_and_go_while_the_controller_runs(cluster: Cluster) -> None:
    cluster.names.remove("n")
    cluster.start()
    assert cluster.gpus.node_names() == ["m"]
    cluster.turn()
    cluster.names.append("n")
    cluster.turn()
    assert cluster.gpus.node_names() == ["m", "n"]
    assert cluster.gpus.gpu_count == 4
    assert set(cluster.gpus.last()) == {("m", 0), ("m", 1), ("n", 0), ("n", 1)}
    cluster.cards["n"][1].lose()
    cluster.turn()
    assert isinstance(cluster.gpus.errors()["n", 1], DeviceError)
    cluster.names.remove("m")
    cluster.turn()
    assert cluster.gpus.node_names() == ["n"]
    assert set(cluster.gpus.last()) == {("n", 0)}


def test_a_machine_where_clocks_may_not_be_set_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(clock_mhz: float) -> None:
        raise NotPermitted("Insufficient Permissions")

    monkeypatch.setattr(cluster.cards["n"][0], "lock_clock", refuses)
    cluster.gpus.tune(cluster.wall_s, {("n", 0): 945.0, ("m", 0): 945.0})
    cluster.turn()
    assert not cluster.gpus.settable
    (notice,) = cluster.gpus.notices()
    assert notice.startswith("n: GPU clocks cannot be set: Insufficient Permissions.")
    cluster.names.remove("n")
    cluster.turn()
    assert cluster.gpus.settable


def test_old_readings_say_nothing_about_a_job(cluster: Cluster) -> None:
    job = cluster.job()
    cluster.devices["m"].began(f"{job}.1.0", ["m0"])
    cluster.turn()
    assert job not in cluster.gpus.disturbed()
    cluster.cut.add("m")
    for _ in range(int(OLD_S) + 1):
        cluster.turn()
    assert job in cluster.gpus.disturbed()


def test_a_reading_counts_once_and_says_when_its_period_began(cluster: Cluster) -> None:
    one, two = cluster.job(), cluster.job()
    cluster.devices["m"].began(f"{one}.1.0", ["m0"])
    cluster.devices["n"].began(f"{two}.1.0", ["n0"])
    cluster.turn()
    assert cluster.gpus.jobs_with_news() == {one, two}
    cluster.cut.add("m")
    cluster.turn()
    assert cluster.gpus.jobs_with_news() == {two}
    cluster.cut.clear()
    cluster.now_s += 0.75  # the report is on its way
    cluster.gpus.settle(cluster.wall_s)
    assert tuple(cluster.gpus.power_of(one)) == (100.0, 0.75), "a clock that was set meanwhile does not explain it"


_RANKS_AND_GPUS = ["began", "ended", "turn", "lose"]
_MACHINES = ["kill agent", "cut", "mend", "go", "come", "disk full", "room"]
_acts = st.lists(
    st.tuples(
        st.sampled_from([*_RANKS_AND_GPUS, *_MACHINES, "save", "kill controller"]),
        st.integers(0, 2),
        st.sampled_from(["m", "n"]),
        st.floats(0.0, 3.0),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(_acts)
def test_jobs_and_idle_are_what_the_counters_say_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, str, float]]
) -> None:
    with made_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        happen(cluster, acts)


def happen(cluster: Cluster, acts: Sequence[tuple[str, int, str, float]]) -> None:
    """Do these acts and check who pays. Each: what, a number of a job or GPU, a machine, seconds before it."""
    jobs = [cluster.job() for _ in range(3)]
    cluster.save()
    drawn_j = {name: sum(card.drawn_j for card in cards) for name, cards in cluster.cards.items()}
    for number, (what, which, machine, seconds) in enumerate(acts):
        cluster.pass_time(seconds, 50.0 + 100.0 * which)
        devices = cluster.devices[machine]
        match what:
            case "began":
                devices.began(f"{jobs[which]}.1.{number}", [f"{machine}{which % 2}"])
            case "ended":
                for rank in list(devices.held()):
                    devices.ended(rank)
            case "turn":
                cluster.turn(0.0)
            case "save":
                cluster.save()
            case "kill controller":
                cluster.start()
            case "kill agent":
                cluster.devices[machine] = cluster.agent(machine)
            case "cut":
                cluster.cut.add(machine)
            case "mend":
                cluster.cut.discard(machine)
            case "disk full":
                cluster.full.add(machine)
            case "room":
                cluster.full.discard(machine)
            case "go":
                cluster.names = [name for name in cluster.names if name != machine]
            case "come":
                cluster.names = sorted({*cluster.names, machine})
            case "lose":
                cluster.cards[machine][which % 2].error = (
                    None if cluster.cards[machine][which % 2].error else DeviceError("?")
                )
    cluster.cut.clear()
    cluster.full.clear()
    cluster.names = sorted(cluster.cards)
    for cards in cluster.cards.values():
        for card in cards:
            card.error = None
    for _ in range(2):
        cluster.turn(1.5 * READ_S)  # not READ_S: between two rounded times there may be less, and nothing is read
    cluster.save()
    counted_j = sum(card.drawn_j for cards in cluster.cards.values() for card in cards) - sum(drawn_j.values())
    metered_j, jobs_j, idle_j = cluster.stored_j()
    assert metered_j == pytest.approx(counted_j, abs=MJ)
    assert jobs_j + idle_j == pytest.approx(metered_j, abs=1e-6)
    assert sum(cluster.store.job(job).energy_j for job in jobs) == pytest.approx(jobs_j, abs=1e-6)
