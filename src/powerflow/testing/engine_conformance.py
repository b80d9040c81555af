# ruff: noqa: D102 (a test's name says what it holds)
"""Test the behaviour that every engine must have. Subclass `EngineConformance` in a test module, and add a fixture
``place``.

The fixture returns a function. Each call of that function returns a new engine object for the same cluster::

    class TestMyEngine(EngineConformance):
        @pytest.fixture
        def place(self, tmp_path):
            with my_cluster(tmp_path) as cluster:
                yield lambda: MyEngine(cluster)

`EngineConformance` is for every engine, even for an engine without processes. The tests run ``true``, ``false``,
``sleep`` and ``echo`` as ranks. If ranks are processes of this machine, subclass `ProcessConformance` of
`powerflow.testing.engine_conformance_process`, which has more tests.

No test depends on the speed of the engine. `PATIENCE_S` only limits how long a test waits for a broken engine.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from powerflow.engine.protocol import Engine, EngineError, Fenced, RankName, RankSpec, RankState, RankStatus

PATIENCE_S = 120.0

#: Returns a new engine object for the same cluster.
Place = Callable[[], Engine]


def until(engine: Engine, reached: Callable[[], bool]) -> None:
    """Wait until the function ``reached`` returns True. The function is called whenever the engine reports a change."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline_s, "waited in vain"
        engine.wait(0.05)


def learns(engine: Engine, name: RankName) -> None:
    """Wait until an engine object has learned of a rank that another engine object has launched."""
    until(engine, lambda: status_of(engine, name) is not None)


def status_of(engine: Engine, name: RankName) -> RankStatus | None:
    """Return the status of a rank; None if the engine does not know the rank."""
    return next((status for status in engine.ranks() if status.name == name), None)


def ended(engine: Engine, name: RankName) -> RankStatus:
    """Wait until a rank has ended, and return its status."""

    def over() -> bool:
        status = status_of(engine, name)
        assert status is not None, f"{name} is not known"
        return not status.state.may_run

    until(engine, over)
    status = status_of(engine, name)
    assert status is not None
    return status


def whole_log(engine: Engine, name: RankName) -> bytes:
    """Return everything that the engine keeps of a rank's log."""
    found, offset = b"", 0
    while True:
        part, offset = engine.log(name, offset)
        if not part:
            return found
        found += part


class EngineConformance:
    """Tests for every engine.

    A subclass or its module must have a pytest fixture ``place``. Its value is a function that returns a new engine
    object.
    """

    @pytest.fixture
    def engine(self, place: Place) -> Engine:
        """Return a new engine object."""
        return place()

    def spec(self, engine: Engine, *command: str, gang: str = "gang", epoch: int = 0, number: int = 0) -> RankSpec:
        """Return the spec of a rank that runs ``command`` on the first node of the engine."""
        env = {"PATH": os.environ["PATH"]}
        return RankSpec(RankName(gang, epoch, number), engine.nodes()[0].name, command, env, directory="/")

    def test_nodes_have_names_of_their_own(self, engine: Engine) -> None:
        nodes = engine.nodes()
        assert nodes
        assert len({node.name for node in nodes}) == len(nodes)
        assert all(node.gpus >= 0 for node in nodes)

    def test_limits_are_those_there_are(self, engine: Engine) -> None:
        assert engine.limits() <= {"memory", "cpus", "user"}

    def test_a_rank_runs_and_ends(self, engine: Engine) -> None:
        assert [*engine.ranks()] == []
        spec = self.spec(engine, "sleep", "60")
        status = engine.launch(spec)
        assert (status.name, status.node, status.state, status.code) == (spec.name, spec.node, RankState.RUNNING, None)
        assert math.isnan(status.ended_s)
        assert [*engine.ranks()] == [status] or math.isnan(status_of(engine, spec.name).ended_s)  # type: ignore[union-attr]
        assert engine.signal(spec.name, signal.SIGTERM)
        end = ended(engine, spec.name)
        assert (end.state, end.code, end.pid, end.started_s) == (
            RankState.EXITED,
            -signal.SIGTERM,
            status.pid,
            status.started_s,
        )
        assert end.ended_s >= end.started_s

    @pytest.mark.parametrize(("command", "code"), [("true", 0), ("false", 1)])
    def test_exit_codes_are_told(self, engine: Engine, command: str, code: int) -> None:
        spec = self.spec(engine, command)
        engine.launch(spec)
        assert ended(engine, spec.name).code == code

    def test_sigkill_is_told(self, engine: Engine) -> None:
        spec = self.spec(engine, "sleep", "60")
        engine.launch(spec)
        assert engine.signal(spec.name, signal.SIGKILL)
        assert ended(engine, spec.name).code == -signal.SIGKILL

    def test_a_name_is_launched_once(self, engine: Engine) -> None:
        spec = self.spec(engine, "sleep", "60")
        first = engine.launch(spec)
        again = engine.launch(spec)
        assert (again.pid, again.started_s) == (first.pid, first.started_s)
        assert len(engine.ranks()) == 1
        engine.signal(spec.name, signal.SIGKILL)
        end = ended(engine, spec.name)
        assert engine.launch(spec) == end  # ended: not started again

    def test_a_name_is_launched_once_by_many_threads(self, place: Place) -> None:
        engines = [place() for _ in range(4)]
        spec = self.spec(engines[0], "sleep", "60")
        barrier = threading.Barrier(8)
        found: list[RankStatus] = []

        def launch(engine: Engine) -> None:
            barrier.wait()
            found.append(engine.launch(spec))

        threads = [threading.Thread(target=launch, args=(engines[i % 4],)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len({(status.pid, status.started_s) for status in found}) == 1
        engines[0].signal(spec.name, signal.SIGKILL)
        ended(engines[1], spec.name)

    def test_a_fence_refuses_what_comes_late(self, place: Place) -> None:
        engine = place()
        old = self.spec(engine, "sleep", "60", epoch=1)
        engine.launch(old)
        engine.fence("gang", 3)
        engine.fence("gang", 2)  # never goes back
        for epoch in (0, 1, 2):
            with pytest.raises(Fenced):
                engine.launch(self.spec(engine, "true", epoch=epoch, number=5))
            with pytest.raises(Fenced):
                place().launch(self.spec(engine, "true", epoch=epoch, number=6))
        assert engine.launch(old).state is RankState.RUNNING  # a fence ends nobody, and a known name is only told of
        assert {status.name for status in engine.ranks()} == {old.name}
        for spec in (
            self.spec(engine, "true", epoch=3),
            self.spec(engine, "true", epoch=9),
            self.spec(engine, "true", gang="other"),
        ):
            engine.launch(spec)
            assert ended(engine, spec.name).code == 0
        engine.signal(old.name, signal.SIGKILL)
        ended(engine, old.name)

    def test_what_cannot_be_started_is_refused_and_not_known(self, engine: Engine) -> None:
        good = self.spec(engine, "true")
        for bad in (
            self.spec(engine, "no-such-command-7f3a"),
            self.spec(engine),
            self.spec(engine, ""),
            RankSpec(good.name, "no-such-node", ("true",)),
        ):
            with pytest.raises(EngineError):
                engine.launch(bad)
        assert [*engine.ranks()] == []
        engine.launch(good)  # the name was not used up
        assert ended(engine, good.name).code == 0

    def test_bad_names_are_refused(self, engine: Engine) -> None:
        for gang in ("", ".", "..", ".x", "-x", "a/b", "../../x", "a b", "a\n", "a\0", "é", "x" * 129):
            with pytest.raises(EngineError):
                engine.launch(self.spec(engine, "true", gang=gang))
            with pytest.raises(EngineError):
                engine.fence(gang, 1)
            with pytest.raises(KeyError):
                engine.log(RankName(gang, 0, 0))
            with pytest.raises(KeyError):
                engine.log_offset(RankName(gang, 0, 0), 0.0)
            assert not engine.signal(RankName(gang, 0, 0), signal.SIGTERM)
            engine.forget(RankName(gang, 0, 0))
            assert [*engine.ranks()] == [], gang

    def test_good_names_are_kept(self, engine: Engine) -> None:
        gangs = ("a", "A-b_c.d", "7", "x.1.2", "x" * 128)
        for gang in gangs:
            engine.launch(self.spec(engine, "true", gang=gang, epoch=12, number=34))
        for gang in gangs:
            assert ended(engine, RankName(gang, 12, 34)).code == 0

    def test_signals_to_who_does_not_run_reach_nobody(self, engine: Engine) -> None:
        spec = self.spec(engine, "true")
        assert not engine.signal(spec.name, signal.SIGTERM)
        engine.launch(spec)
        ended(engine, spec.name)
        assert not engine.signal(spec.name, signal.SIGKILL)

    def test_wait_sleeps_until_something_happens(self, place: Place) -> None:
        engine, other = place(), place()
        spec = self.spec(engine, "sleep", "60")
        engine.launch(spec)
        learns(other, spec.name)
        engine.ranks()
        other.ranks()
        assert not engine.wait(0.01)
        assert not engine.wait(0.0)
        told: list[bool] = []
        waiters = [
            threading.Thread(target=lambda e=each: told.append(e.wait(PATIENCE_S))) for each in (engine, engine, other)
        ]
        for waiter in waiters:
            waiter.start()
        third = place()
        learns(third, spec.name)
        third.signal(spec.name, signal.SIGTERM)
        for waiter in waiters:
            waiter.join()
        assert told == [True, True, True]
        ended(other, spec.name)

    def test_wait_misses_nothing_between_look_and_sleep(self, place: Place) -> None:
        engine, other = place(), place()
        spec = self.spec(engine, "sleep", "60")
        engine.launch(spec)
        learns(other, spec.name)
        engine.ranks()
        other.signal(spec.name, signal.SIGTERM)
        ended(other, spec.name)  # over before the first one waits
        assert engine.wait(PATIENCE_S)
        assert ended(engine, spec.name).code == -signal.SIGTERM

    def test_log_gives_what_was_written(self, engine: Engine) -> None:
        spec = self.spec(engine, "echo", "hello", "world")
        with pytest.raises(KeyError):
            engine.log(spec.name)
        engine.launch(spec)
        ended(engine, spec.name)
        assert engine.log(spec.name) == (b"hello world\n", 12)
        assert engine.log(spec.name, 6) == (b"world\n", 12)
        assert engine.log(spec.name, 6, limit=2) == (b"wo", 8)
        assert engine.log(spec.name, 12) == (b"", 12)
        assert engine.log(spec.name, -6) == (b"world\n", 12)
        assert engine.log(spec.name, -600) == (b"hello world\n", 12)

    def test_the_log_since_a_time_begins_at_what_was_written_then(self, engine: Engine) -> None:
        spec = self.spec(engine, "echo", "hello", "world")
        with pytest.raises(KeyError):
            engine.log_offset(spec.name, 0.0)
        before_s = engine.launch(spec).started_s
        after_s = ended(engine, spec.name).ended_s
        assert engine.log_offset(spec.name, 0.0) == 0
        assert engine.log_offset(spec.name, before_s - 60.0) == 0
        assert engine.log_offset(spec.name, after_s + 60.0) == 12
        engine.forget(spec.name)
        with pytest.raises(KeyError):
            engine.log_offset(spec.name, 0.0)

    def test_a_rank_that_wrote_nothing_has_no_output_since_any_time(self, engine: Engine) -> None:
        spec = self.spec(engine, "true")
        engine.launch(spec)
        ended(engine, spec.name)
        assert [engine.log_offset(spec.name, since_s) for since_s in (0.0, time.time(), 1e11)] == [0, 0, 0]

    def test_forget_drops_who_ended_and_spares_who_runs(self, engine: Engine) -> None:
        runs, ends = self.spec(engine, "sleep", "60"), self.spec(engine, "echo", "x", number=1)
        engine.launch(runs)
        engine.launch(ends)
        ended(engine, ends.name)
        for _ in range(2):
            engine.forget(runs.name)
            engine.forget(ends.name)
        assert [status.name for status in engine.ranks()] == [runs.name]
        assert engine.log(runs.name) == (b"", 0)
        with pytest.raises(KeyError):
            engine.log(ends.name)
        engine.signal(runs.name, signal.SIGKILL)
        ended(engine, runs.name)

    def test_ranks_outlive_who_launched_them(self, place: Place) -> None:
        engine = place()
        runs, ends = self.spec(engine, "sleep", "60"), self.spec(engine, "echo", "x", number=1)
        status = engine.launch(runs)
        engine.launch(ends)
        end = ended(engine, ends.name)
        engine.fence("gang", 1)
        engine.close()
        with pytest.raises(EngineError):
            engine.ranks()
        later = place()
        assert status_of(later, ends.name) == end
        assert later.log(ends.name) == (b"x\n", 2)
        found = status_of(later, runs.name)
        assert found is not None
        assert (found.state, found.pid, found.started_s) == (RankState.RUNNING, status.pid, status.started_s)
        with pytest.raises(Fenced):
            later.launch(self.spec(later, "true", number=2))
        assert later.signal(runs.name, signal.SIGTERM)
        assert ended(later, runs.name).code == -signal.SIGTERM

    def test_fifty_ranks_at_once(self, engine: Engine) -> None:
        names = [engine.launch(self.spec(engine, "sleep", "60", gang=f"g{i}")).name for i in range(50)]
        assert {status.name for status in engine.ranks() if status.state is RankState.RUNNING} == set(names)
        assert all(engine.signal(name, signal.SIGKILL) for name in names)
        assert {ended(engine, name).code for name in names} == {-signal.SIGKILL}
