"""Machines whose clocks are an hour ahead or behind, or are set while ranks run, run ranks as all others do."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.devices import LedgerRow
from powerflow.engine.protocol import RankName, RankState, RankStatus
from powerflow.testing.bed import answers, fresh_gang, rank, reached, started
from powerflow.testing.engine_conformance import ended, status_of, until
from powerflow.testing.hosts import Hosts
from powerflow.testing.hosts import why_not as no_bed
from tests.engine.agents_on_hosts import AgentsOnHosts
from tests.skewed_clock import set_clock, why_not
from tests.slow import slow

_WHY = no_bed() or why_not()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY)

HOUR_S = 3600
#: Seconds that each host's clock is ahead of the controller's.
AHEAD_S = {"host-1": 0, "host-2": HOUR_S, "host-3": -HOUR_S}
#: Seconds within which two clocks on one machine are read, however busy it is.
SOON_S = 60.0


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentsOnHosts]:
    home = tmp_path_factory.mktemp("skewed")
    with Hosts(len(AHEAD_S) + 1, home) as hosts:
        for number, ahead_s in enumerate(AHEAD_S.values(), 1):
            if ahead_s:
                set_clock(hosts, number, ahead_s)
        found = AgentsOnHosts(hosts, home)
        try:
            yield found
        finally:
            found.close()


@pytest.fixture
def engine(there: AgentsOnHosts) -> ClusterEngine:
    for number, ahead_s in enumerate(AHEAD_S.values(), 1):
        if ahead_s:
            set_clock(there.hosts, number, ahead_s)
    fresh_gang()
    return there.place()


def _run(engine: ClusterEngine, command: str) -> dict[str, RankStatus]:
    """Start a rank with a GPU on each node."""
    specs = [rank(node, "sh", "-c", command, number=i, gpus=(0,)) for i, node in enumerate(AHEAD_S)]
    return {status.node: status for status in started(engine, specs)}


def _closed(engine: ClusterEngine, node: str, name: RankName) -> LedgerRow:
    """Wait until a machine's ledger has the whole energy of a rank, and return its only row."""
    found: list[LedgerRow] = []

    def known() -> bool:
        report = engine.devices.report(node)
        rows = [] if report is None else [LedgerRow(*row) for row in report["ledger"]["rows"]]
        found[:] = [row for row in rows if row.rank == str(name)]
        return bool(found) and all(row.final for row in found)

    until(engine, known)
    (row,) = found
    return row


def _doubted(engine: ClusterEngine) -> set[str]:
    """Return what is said of clocks, without the explanation."""
    return {line.partition(" the controller")[0] for line in engine.notices() if line.startswith("the clock of")}


def test_a_clock_that_is_off_is_said_until_it_is_right(there: AgentsOnHosts, engine: ClusterEngine) -> None:
    ahead, behind = "the clock of host-2: it is 3600 s ahead of", "the clock of host-3: it is 3600 s behind"
    until(engine, lambda: _doubted(engine) == {ahead, behind})
    set_clock(there.hosts, 2, 0)
    until(engine, lambda: _doubted(engine) == {behind})
    set_clock(there.hosts, 2, HOUR_S)
    until(engine, lambda: _doubted(engine) == {ahead, behind})


@slow
def test_ranks_begin_and_end_by_the_clock_of_their_machine(engine: ClusterEngine) -> None:
    running = _run(engine, "sleep 3")
    for node, status in running.items():
        end = ended(engine, status.name)
        assert (end.state, end.code, end.pid) == (RankState.EXITED, 0, status.pid)
        assert abs(end.ended_s - AHEAD_S[node] - time.time()) < SOON_S
        assert 2.9 <= end.ended_s - end.started_s < 3.0 + SOON_S


def test_a_clock_that_is_set_ends_nothing_and_lengthens_nothing(there: AgentsOnHosts, engine: ClusterEngine) -> None:
    incarnations = {node: answers(engine, node).incarnation for node in AHEAD_S}
    running = _run(engine, "sleep 6")
    set_clock(there.hosts, 2, -HOUR_S)  # two hours back
    set_clock(there.hosts, 3, HOUR_S)  # two hours forward
    deadline_s = time.monotonic() + 4.0
    while time.monotonic() < deadline_s:
        for node, status in running.items():
            now = status_of(engine, status.name)
            assert now is not None
            assert (now.pid, now.started_s) == (status.pid, status.started_s)
            assert now.state in (RankState.RUNNING, RankState.EXITED)
            assert answers(engine, node).incarnation == incarnations[node]
        engine.wait(0.2)
    for status in running.values():
        end = ended(engine, status.name)
        assert end.code == 0
        assert 5.9 <= end.ended_s - end.started_s < 6.0 + SOON_S


@slow
def test_joules_and_gpu_seconds_are_right(there: AgentsOnHosts, engine: ClusterEngine) -> None:
    running = _run(engine, "sleep 600")
    began_s = time.monotonic()
    set_clock(there.hosts, 3, 0)  # an hour forward
    time.sleep(5.0)
    for status in running.values():
        assert engine.signal(status.name, signal.SIGKILL)
        ended(engine, status.name)
    lasted_s = time.monotonic() - began_s
    watts = {}
    for node, status in running.items():
        row = _closed(engine, node, status.name)
        assert 4.9 < row.gpu_s < lasted_s + SOON_S, f"{row.gpu_s} GPU-seconds on {node}"
        watts[node] = row.energy_mj / 1000.0 / row.gpu_s
    assert max(watts.values()) == pytest.approx(min(watts.values()), rel=0.2), watts


@slow
def test_clocks_of_gpus_and_their_lease_do_not_follow_the_time_of_day(
    there: AgentsOnHosts, engine: ClusterEngine
) -> None:
    def locked(node: str) -> float:
        report = engine.devices.report(node)
        rows = [] if report is None else [row["clock"]["asked_mhz"] for row in report["gpus"].values()]
        return max((mhz or 0.0 for mhz in rows), default=0.0)

    def want() -> bool:
        for node in AHEAD_S:
            first = engine.devices.describe(node)[0]["uuid"]
            engine.devices.want(node, {first: 1065.0})
        return all(locked(node) == 1065.0 for node in AHEAD_S)

    until(engine, want)
    set_clock(there.hosts, 2, 2 * HOUR_S)
    set_clock(there.hosts, 3, 2 * HOUR_S)
    deadline_s = time.monotonic() + 5.0
    while time.monotonic() < deadline_s:
        assert want()  # no lease has run out
        engine.wait(0.2)
    for node in AHEAD_S:
        engine.devices.want(node, {})
    until(engine, lambda: not any(map(locked, AHEAD_S)))


@slow
def test_a_cut_is_survived_as_ever(there: AgentsOnHosts, engine: ClusterEngine) -> None:
    running = _run(engine, "sleep 600")
    there.cut("host-2")
    far = running["host-2"]
    reached(engine, far.name, RankState.UNREACHABLE)
    set_clock(there.hosts, 2, 0)
    there.mend("host-2")
    back = reached(engine, far.name, RankState.RUNNING)
    assert (back.pid, back.started_s) == (far.pid, far.started_s)
    for status in running.values():
        assert engine.signal(status.name, signal.SIGKILL)
        assert ended(engine, status.name).code == -signal.SIGKILL
