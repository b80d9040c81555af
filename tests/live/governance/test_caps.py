"""Power caps on a live cluster: set by an operator, kept by the scheduler, held against the meters, written down."""

from __future__ import annotations

import csv
import math

import pytest

from powerflow.api.governance import CapOrder, DrainOrder
from powerflow.api.pages import RecordFilter
from powerflow.api.records import NotFound, Refused
from powerflow.cluster.spec import ClusterSpec
from powerflow.device.emulated.gpu import own_identity
from powerflow.errors import InputError
from tests.live.controller_bench import ROOT, Bench

JOB = {"rescale": "in-place", "gpus": "1..4", "batch": {"global": 64}}


def go(bench: Bench, turns: int, turn_s: float = 0.5) -> None:
    """Turns of the loop, in which GPUs in use draw more at higher clocks."""
    pid, birth = own_identity()
    bench.turn_s = turn_s
    for _ in range(turns):
        bench.turn()
        held = bench.gangs.holding()
        for gpu in bench.gpus:
            if (gpu.node, gpu.index) in held:
                share = gpu.read().clock_mhz / gpu.clocks_mhz()[-1]
                gpu.draw(100.0 + 200.0 * share**2, pid=pid, birth=birth)
            else:
                gpu.rest(pid=pid, birth=birth)
    bench.turn_s = 0.5


def drawn_w(bench: Bench) -> float:
    """What the meters say."""
    return bench.controller.power.power_w()


def busy(bench: Bench) -> float:
    """A cluster at work, and what it draws."""
    bench.steps_total = 1_000_000
    for _ in range(3):
        bench.submit(**JOB)
    go(bench, 40)
    return drawn_w(bench)


def test_a_cap_is_obeyed_at_once_and_ends_when_it_is_lifted(bench: Bench) -> None:
    before_w = busy(bench)
    cap = bench.service.set_cap(CapOrder(watts=0.7 * before_w), ROOT)
    assert (cap.state, cap.by) == ("in force", "root")
    go(bench, 10)
    assert drawn_w(bench) <= 0.7 * before_w
    top = bench.service.top()
    assert top.cap_w == pytest.approx(0.7 * before_w)
    reasons = {job.reason for job in top.jobs}
    assert any("power cap" in reason for reason in reasons), reasons
    bench.service.lift_cap("cluster", ROOT)
    after_w = []
    for _ in range(60):
        go(bench, 1)
        after_w.append(drawn_w(bench))
    assert bench.service.caps()[0].state == "lifted"
    assert max(after_w) > 0.7 * before_w
    assert bench.service.top().cap_w is None


def test_a_cap_outlives_the_controller(bench: Bench) -> None:
    limit_w = 0.7 * busy(bench)
    bench.service.set_cap(CapOrder(watts=limit_w), ROOT)
    go(bench, 5)
    bench.die()
    bench.start()
    go(bench, 25, turn_s=2.0)
    assert drawn_w(bench) <= limit_w
    assert bench.service.caps()[0].state == "in force"


def test_the_record_goes_on_after_a_restart_and_tells_of_every_change_of_what_is_allowed(bench: Bench) -> None:
    limit_w = 0.7 * busy(bench)
    cap = bench.service.set_cap(CapOrder(watts=limit_w), ROOT)
    go(bench, 20)
    bench.die()
    bench.start()
    bench.turn(10)

    def allowed() -> list[str]:
        return [row["allowed_w"] for row in csv.DictReader(bench.service.cap_csv(cap.number).splitlines())]

    assert set(allowed()) == {f"{limit_w:.1f}"}
    bench.service.lift_cap("cluster", ROOT)
    bench.turn(2)  # what is drawn does not change
    assert allowed()[-1] == ""


def test_what_was_drawn_is_written_down_and_judged(bench: Bench) -> None:
    before_w = busy(bench)
    cap = bench.service.set_cap(CapOrder(share=2.0), ROOT)
    assert cap.watts == pytest.approx(2.0 * before_w)
    go(bench, 50, turn_s=2.0)
    found = bench.service.caps()[0]
    assert (found.over_s, found.under_after_s) == (0.0, 0.0)
    rows = list(csv.DictReader(bench.service.cap_csv(cap.number).splitlines()))
    watts = [float(row["watts"]) for row in rows]
    assert found.mean_w is not None
    assert min(watts) <= found.mean_w <= max(watts)
    assert all(float(row["watts"]) <= float(row["allowed_w"]) for row in rows)
    with pytest.raises(NotFound):
        bench.service.cap_csv(99)


def test_a_cap_to_come_waits_for_its_time(bench: Bench) -> None:
    limit_w = 0.7 * busy(bench)
    now_s = bench.controller.clock()
    bench.service.set_cap(CapOrder(watts=limit_w, start_s=now_s + 60.0, end_s=now_s + 120.0), ROOT)
    go(bench, 5)
    assert bench.service.caps()[0].state == "announced"
    assert drawn_w(bench) > limit_w
    while bench.controller.clock() < now_s + 70.0:
        go(bench, 1)
    assert drawn_w(bench) <= limit_w
    bench.service.lift_cap("cluster", ROOT)
    assert bench.service.caps()[0].end_s == pytest.approx(bench.controller.clock())


def test_after_its_end_a_cap_holds_for_an_hour_at_what_was_drawn_before_unless_it_is_lifted(bench: Bench) -> None:
    go(bench, 10)
    idle_w = drawn_w(bench)
    now_s = bench.controller.clock()
    cap = CapOrder(watts=1.1 * idle_w, start_s=now_s + 2.0, end_s=now_s + 10.0)
    bench.service.set_cap(cap, ROOT)
    while bench.controller.clock() < now_s + 15.0:
        go(bench, 1)
    busy(bench)
    assert bench.service.caps()[0].state == "ended"
    assert drawn_w(bench) <= 1.1 * idle_w  # the cluster was idle before
    bench.service.lift_cap("cluster", ROOT)
    go(bench, 25, turn_s=2.0)
    assert drawn_w(bench) > 2.0 * idle_w


def test_the_record_says_what_was_allowed_also_in_the_hour_after(bench: Bench) -> None:
    before_w = busy(bench)
    now_s = bench.controller.clock()
    cap = bench.service.set_cap(CapOrder(watts=0.7 * before_w, end_s=now_s + 20.0), ROOT)
    go(bench, 100)
    rows = [
        (float(row["time_s"]), row["allowed_w"])
        for row in csv.DictReader(bench.service.cap_csv(cap.number).splitlines())
    ]
    assert {said for at_s, said in rows if at_s < now_s + 20.0} == {f"{0.7 * before_w:.1f}"}
    assert {said for at_s, said in rows if at_s > now_s + 20.0} == {f"{before_w:.1f}"}


def test_a_cap_set_in_place_of_one_that_was_lifted_is_another_one(bench: Bench) -> None:
    limit_w = 0.7 * busy(bench)
    now_s = bench.controller.clock()
    first = bench.service.set_cap(CapOrder(watts=1e6, start_s=now_s + 10.0), ROOT)
    go(bench, 5)
    assert len(bench.service.cap_csv(first.number).splitlines()) > 1
    bench.service.lift_cap("cluster", ROOT)  # and before the loop hears of it:
    second = bench.service.set_cap(CapOrder(watts=limit_w), ROOT)
    assert second.number != first.number
    assert len(bench.service.cap_csv(second.number).splitlines()) == 1
    go(bench, 20)
    assert drawn_w(bench) <= limit_w
    assert [cap.number for cap in bench.service.caps()] == [second.number]


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (CapOrder(), InputError),
        (CapOrder(watts=1.0, share=0.5), InputError),
        (CapOrder(watts=-1.0), InputError),
        (CapOrder(watts=math.nan), InputError),
        (CapOrder(watts=100.0, scope="rack:none"), InputError),
        (CapOrder(watts=100.0, end_s=1.0), Refused),
        (CapOrder(watts=100.0, deadline_s=1.0), InputError),
    ],
)
def test_a_cap_that_cannot_be_is_refused_and_leaves_nothing(
    bench: Bench, order: CapOrder, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bench.service.set_cap(order, ROOT)
    assert bench.service.caps() == []
    assert bench.service.audit().items == []


def test_every_change_is_in_the_audit(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.service.lift_cap("cluster", ROOT)
    bench.service.set_cap(CapOrder(watts=5000.0, scope="rack:rack-0"), ROOT)
    bench.service.lift_cap("rack:rack-0", ROOT)
    node = bench.spec.nodes[0].name
    bench.service.drain(node, DrainOrder("loud", sure=True), ROOT)
    said = [(entry.user, entry.action, entry.target) for entry in bench.service.audit().items]
    assert said == [
        ("root", "cap set", "rack:rack-0"),
        ("root", "cap lifted", "rack:rack-0"),
        ("root", "node drained", node),
    ]
    assert bench.service.audit(after=2).items[0].fields == {"reason": "loud"}


def test_every_clock_that_is_set_or_given_back_is_in_the_audit(bench: Bench) -> None:
    job = bench.submit(**JOB)
    go(bench, 20)
    set_mhz = dict(bench.clocks.set_mhz)
    assert set_mhz
    only = RecordFilter(kinds=["clock"])
    entries = bench.service.audit(limit=1000, only=only, clocks=True).items
    last = {entry.target: entry.fields.get("clock_mhz") for entry in entries}
    assert last == {f"{g.node}/{g.index}": set_mhz[g.uuid] for g in bench.gpus if g.uuid in set_mhz}
    assert {entry.user for entry in entries} == {"powerflow"}
    bench.service.cancel(job, ROOT)
    go(bench, 20)
    back = [entry.target for entry in bench.service.audit(clocks=True).items if entry.action == "clock back"]
    assert sorted(back) == sorted(last)


def test_a_cap_on_a_node_that_has_left_does_not_stop_the_controller_and_can_be_lifted(bench: Bench) -> None:
    node = list(bench.engine.gpus)[-1]
    bench.service.set_cap(CapOrder(scope=f"nodes:{node}", watts=500.0), ROOT)
    bench.turn(2)
    bench.engine.gpus.pop(node)
    bench.turn(5)
    bench.die()
    bench.spec = ClusterSpec("what is left", tuple(bench.controller.scheduler.nodes()))
    bench.start()
    bench.turn(2)
    assert [(cap.scope, cap.state) for cap in bench.service.caps()] == [(f"nodes:{node}", "in force")]
    with pytest.raises(InputError, match="there is no node"):
        bench.service.set_cap(CapOrder(scope=f"nodes:{node}", watts=400.0), ROOT)
    assert [cap.scope for cap in bench.service.lift_cap(f"nodes:{node}", ROOT)] == [f"nodes:{node}"]
