# ruff: noqa: D102 (a test's name says what it holds)
"""Test the behaviour of engines with several nodes, which can be cut off, crash and come back.

Subclass `MultiNodeConformance` in a test module, and add a fixture ``bed``. Its value is a `Bed`: a function that
returns new engine objects for one cluster of at least two nodes, and handles that break and mend one node::

    class TestMyEngine(MultiNodeConformance):
        @pytest.fixture
        def bed(self, hosts):
            return Bed(lambda: MyEngine(hosts), cut=hosts.cut, mend=hosts.mend, crash=hosts.power_off, boot=hosts.boot)

A test that needs a handle which the bed does not have is skipped. A handle returns when its work is done on the node;
the engine may notice later. The tests use only the engine protocol and the handles. They run ``true``, ``sleep`` and
``echo`` as ranks, and ``sh`` and ``env`` where ranks are processes (`Bed.processes`).

The tests wait for states, not for a time. Only one promise is measured: an engine notices within
`MultiNodeConformance.notice_s` seconds that a node does not answer.
"""

from __future__ import annotations

import math
import signal
import time
from typing import Any

import pytest

from powerflow.engine.protocol import Engine, EngineError, Fenced, RankName, RankState, RankStatus
from powerflow.testing.bed import Bed, answers, fresh_gang, gang, node_of, rank, reached, started
from powerflow.testing.engine_conformance import ended, status_of, until, whole_log
from powerflow.testing.engine_conformance_node_processes import NodeProcesses


class MultiNodeConformance(NodeProcesses):
    """Tests for every engine with several nodes.

    A subclass or its module must have a pytest fixture ``bed``.

    Attributes:
        notice_s: Most seconds until the engine notices that a node does not answer.
        many: Ranks that are launched in one batch.
    """

    notice_s = 5.0
    many = 512

    @pytest.fixture
    def engine(self, bed: Bed) -> Engine:
        """Return a new engine object."""
        return bed.place()

    @pytest.fixture
    def names(self, engine: Engine) -> list[str]:
        """Return the names of the nodes, once all of them answer."""
        found = [node.name for node in engine.nodes()]
        assert len(found) >= 2, "the bed needs several nodes"
        for name in found:
            answers(engine, name)
        return found

    @pytest.fixture(autouse=True)
    def _sweep(self, bed: Bed, names: list[str]) -> Any:
        """Mend all nodes after a test, and end all ranks, so that a bed may be used for many tests."""
        fresh_gang()  # fences are for ever
        yield
        engine = bed.place()
        for name in names:
            if node_of(engine, name) is None:
                continue
            if bed.delay is not None:
                bed.delay(name, 0.0)
            if bed.mend is not None:
                bed.mend(name)
        for name in names:
            if node_of(engine, name) is not None:
                answers(engine, name)
        while left := [status.name for status in engine.ranks() if status.state.may_run]:
            for each in left:
                try:
                    engine.signal(each, signal.SIGKILL)
                except EngineError as error:
                    if not error.retry:
                        raise
            engine.wait(0.05)
        for status in engine.ranks():
            engine.forget(status.name)

    # -- what each node can do ----------------------------------------------------------------------------------------

    def test_each_node_runs_ranks(self, engine: Engine, names: list[str]) -> None:
        found = started(engine, [rank(name, "sleep", "600", number=i) for i, name in enumerate(names)])
        assert [status.node for status in found] == names
        for status in found:
            assert engine.signal(status.name, signal.SIGTERM)
            end = ended(engine, status.name)
            assert (end.node, end.state, end.code) == (status.node, RankState.EXITED, -signal.SIGTERM)
            assert (end.pid, end.started_s) == (status.pid, status.started_s)

    def test_each_node_keeps_logs(self, engine: Engine, names: list[str]) -> None:
        specs = [rank(name, "echo", "hello from", name, number=i) for i, name in enumerate(names)]
        for spec in specs:
            engine.launch(spec)
        for spec in specs:
            assert ended(engine, spec.name).code == 0
            assert whole_log(engine, spec.name) == f"hello from {spec.node}\n".encode()
            end = len(whole_log(engine, spec.name))
            assert [engine.log_offset(spec.name, since_s) for since_s in (0.0, 1e11)] == [0, end]
            engine.forget(spec.name)
            with pytest.raises(KeyError):
                engine.log(spec.name)
        assert [*engine.ranks()] == []

    def test_nodes_are_told_apart(self, engine: Engine, names: list[str]) -> None:
        nodes = [node_of(engine, name) for name in names]
        assert all(node is not None and node.up and node.address and node.interface for node in nodes)
        addresses = [node.address for node in nodes if node is not None and not node.address.startswith("127.")]
        assert len(set(addresses)) == len(addresses)

    def test_a_name_runs_on_one_node_only(self, engine: Engine, names: list[str]) -> None:
        first = engine.launch(rank(names[0], "sleep", "600"))
        again = engine.launch(rank(names[1], "sleep", "600"))
        assert (again.node, again.pid) == (first.node, first.pid)
        assert len(engine.ranks()) == 1

    def test_a_fence_holds_on_every_node(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        engine.fence(gang(), 4)
        for i, name in enumerate(names):
            for each in (engine, bed.place()):
                with pytest.raises(Fenced):
                    each.launch(rank(name, "true", epoch=3, number=i))
                with pytest.raises(Fenced):
                    each.launch_all([rank(name, "true", epoch=4, number=i), rank(name, "true", epoch=3, number=i)])
            assert engine.launch(rank(name, "true", epoch=4, number=i)).node == name
        assert {status.name.epoch for status in engine.ranks()} == {4}  # nothing of a refused batch was launched

    # -- batches ------------------------------------------------------------------------------------------------------

    def test_many_ranks_are_launched_at_once(self, engine: Engine, names: list[str]) -> None:
        specs = [rank(names[i % len(names)], "sleep", "600", number=i) for i in range(self.many)]
        found = started(engine, specs)
        assert [status.node for status in found] == [spec.node for spec in specs]
        assert len({(status.node, status.pid) for status in found}) == self.many
        again = engine.launch_all(specs)  # every name is known: nothing starts
        assert [(s.node, s.pid, s.started_s) for s in again] == [(s.node, s.pid, s.started_s) for s in found]

    def test_a_batch_does_not_wait_for_a_slow_node(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        (delay,) = bed.need("delay")
        slow, quick = names[:2]
        delay(slow, 3600.0)
        specs = [rank(slow, "sleep", "600", number=i) for i in range(20)]
        before_s = time.monotonic()
        found = engine.launch_all([*specs, rank(quick, "sleep", "600", number=99)])
        assert time.monotonic() - before_s < 3600.0
        assert {status.state for status in found[:-1]} == {RankState.STARTING}
        assert all(math.isnan(status.ended_s) and status.code is None for status in found[:-1])
        reached(engine, RankName(gang(), 0, 99), RankState.RUNNING)
        delay(slow, 0.0)
        assert len({status.pid for status in started(engine, specs)}) == 20

    def test_a_batch_says_of_each_rank_why_it_was_not_started(self, engine: Engine, names: list[str]) -> None:
        good, bad = rank(names[0], "sleep", "600"), rank(names[1], "no-such-command-7f3a", number=1)
        _, answer = engine.launch_all([good, bad])
        reached(engine, good.name, RankState.RUNNING)

        def why() -> RankStatus:
            return status_of(engine, bad.name) or answer  # an engine that knows at once keeps nothing

        until(engine, lambda: why().state is RankState.NOT_STARTED)
        assert why().why
        assert not why().retry
        started(engine, [rank(names[1], "sleep", "600", number=1)])  # the name was not used up

    # -- partitions ---------------------------------------------------------------------------------------------------

    def test_ranks_behind_a_cut_are_unreachable_and_run_on(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, mend = bed.need("cut", "mend")
        far, near = names[-1], names[0]
        lost, stays = started(engine, [rank(far, "sleep", "600"), rank(near, "sleep", "600", number=1)])
        incarnation = answers(engine, far).incarnation
        cut(far)
        cut_s = time.monotonic()
        status = reached(engine, lost.name, RankState.UNREACHABLE)
        assert time.monotonic() - cut_s <= self.notice_s
        assert (status.node, status.pid, status.code) == (far, lost.pid, None)
        assert math.isnan(status.ended_s)
        answers(engine, far, up=False)
        engine.forget(lost.name)  # does nothing: it may run
        other = bed.place()  # a controller that starts now knows the rank, too
        reached(other, lost.name, RankState.UNREACHABLE)
        assert reached(engine, stays.name, RankState.RUNNING).pid == stays.pid
        mend(far)
        for each in (engine, other):
            back = reached(each, lost.name, RankState.RUNNING)
            assert (back.pid, back.started_s) == (lost.pid, lost.started_s)
        node = answers(engine, far)
        assert node.incarnation == incarnation
        assert engine.signal(lost.name, signal.SIGKILL)
        assert ended(engine, lost.name).code == -signal.SIGKILL
        assert reached(engine, stays.name, RankState.RUNNING).pid == stays.pid

    def test_the_other_nodes_work_on_during_a_cut(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, _mend = bed.need("cut", "mend")
        far, near = names[-1], names[0]
        cut(far)
        answers(engine, far, up=False)
        spec = rank(near, "echo", "still here")
        engine.launch(spec)
        assert ended(engine, spec.name).code == 0
        assert whole_log(engine, spec.name) == b"still here\n"
        (long,) = started(engine, [rank(near, "sleep", "600", number=1)])
        assert engine.signal(long.name, signal.SIGTERM)
        assert ended(engine, long.name).code == -signal.SIGTERM

    def test_nothing_starts_on_a_node_that_does_not_answer(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, mend = bed.need("cut", "mend")
        far = names[-1]
        cut(far)
        answers(engine, far, up=False)
        spec = rank(far, "sleep", "600")
        with pytest.raises(EngineError) as raised:
            engine.launch(spec)
        assert raised.value.retry
        (status,) = engine.launch_all([spec])
        assert status.state in (RankState.STARTING, RankState.UNREACHABLE, RankState.NOT_STARTED)
        if status.state is RankState.NOT_STARTED:
            assert status.why
            assert status.retry
        with pytest.raises(EngineError):
            engine.check(spec)
        mend(far)
        answers(engine, far)
        first = started(engine, [spec])
        assert started(engine, [spec])[0].pid == first[0].pid

    def test_a_rank_that_ended_behind_a_cut_has_exited(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, mend = bed.need("cut", "mend")
        far = names[-1]
        (status,) = started(engine, [rank(far, "sleep", "6")])
        launched_s = time.monotonic()
        cut(far)
        reached(engine, status.name, RankState.UNREACHABLE)
        while time.monotonic() < launched_s + 7.0:  # it ends meanwhile, but nobody can see that
            assert reached(engine, status.name, RankState.UNREACHABLE)
            engine.wait(0.5)
        mend(far)
        end = reached(engine, status.name, RankState.EXITED)
        assert (end.code, end.pid, end.started_s) == (0, status.pid, status.started_s)
        assert end.ended_s - end.started_s >= 5.9  # by the clock of its node

    def test_a_node_that_flaps_keeps_its_ranks(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, mend = bed.need("cut", "mend")
        far = names[-1]
        (status,) = started(engine, [rank(far, "sleep", "600")])
        for _ in range(3):
            cut(far)
            reached(engine, status.name, RankState.UNREACHABLE)
            mend(far)
            back = reached(engine, status.name, RankState.RUNNING)
            assert (back.pid, back.started_s) == (status.pid, status.started_s)

    def test_a_node_hears_the_fences_that_it_missed_first(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, mend = bed.need("cut", "mend")
        far = names[-1]
        (old,) = started(engine, [rank(far, "sleep", "600", epoch=1)])
        cut(far)
        reached(engine, old.name, RankState.UNREACHABLE)
        engine.fence(gang(), 5)  # does not wait for the node
        with pytest.raises(Fenced):
            engine.launch(rank(names[0], "true", epoch=4))
        mend(far)
        back = reached(engine, old.name, RankState.RUNNING)  # a fence ends no rank
        assert back.pid == old.pid
        if bed.fence_of is not None:
            assert bed.fence_of(far, gang()) == 5
        for each in (engine, bed.place()):
            with pytest.raises(Fenced):
                each.launch(rank(far, "true", epoch=4, number=1))
        assert engine.launch(rank(far, "true", epoch=5, number=1)).node == far

    def test_a_launch_on_its_way_is_stopped_by_a_fence(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, mend, delay = bed.need("cut", "mend", "delay")
        far = names[-1]
        delay(far, 3600.0)
        late = rank(far, "sleep", "600", epoch=1)
        assert engine.launch_all([late])[0].state is RankState.STARTING
        cut(far)
        answers(engine, far, up=False)
        engine.fence(gang(), 2)
        mend(far)
        delay(far, 0.0)
        answers(engine, far)
        forbidden = {RankState.RUNNING, RankState.EXITED, RankState.LOST}
        reached(engine, late.name, RankState.NOT_STARTED, never=forbidden)

    # -- crashes ------------------------------------------------------------------------------------------------------

    def test_a_rank_is_lost_once_its_node_has_booted(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        crash, boot = bed.need("crash", "boot")
        far, near = names[-1], names[0]
        status, stays = started(engine, [rank(far, "sleep", "600"), rank(near, "sleep", "600", number=1)])
        engine.fence(gang(), 0)
        before = answers(engine, far).incarnation
        crash(far)
        reached(engine, status.name, RankState.UNREACHABLE)  # nothing is proven yet
        engine.fence("other", 7)
        boot(far)
        end = reached(engine, status.name, RankState.LOST, never={RankState.EXITED, RankState.NOT_STARTED})
        assert (end.code, end.rebooted, end.pid) == (None, True, status.pid)
        node = answers(engine, far)
        assert node.incarnation != before
        assert reached(engine, stays.name, RankState.RUNNING).pid == stays.pid
        with pytest.raises(Fenced):
            engine.launch(rank(far, "true", gang="other", epoch=6))
        if bed.fence_of is not None:
            assert bed.fence_of(far, "other") == 7
        assert engine.launch(rank(far, "sleep", "600")) == end  # its name was used
        started(engine, [rank(far, "sleep", "600", epoch=1)])
        engine.forget(status.name)
        assert status_of(engine, status.name) is None

    def test_an_operator_declares_a_node_off(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        cut, mend = bed.need("cut", "mend")
        far = names[-1]
        (status,) = started(engine, [rank(far, "sleep", "600")])
        for wrong in (far, "no-such-node"):
            with pytest.raises(EngineError):
                engine.declare_off(wrong)
        assert reached(engine, status.name, RankState.RUNNING).pid == status.pid
        cut(far)
        reached(engine, status.name, RankState.UNREACHABLE)
        answers(engine, far, up=False)
        engine.declare_off(far)
        end = reached(engine, status.name, RankState.LOST)
        assert end.code is None
        assert end.ended_s >= 0.0
        engine.declare_off(far)  # nothing is left to declare
        mend(far)  # the operator was wrong: the rank ran all the time
        answers(engine, far)
        if bed.processes:
            probe = rank(far, "sh", "-c", f"! kill -0 {status.pid} 2>&1", number=1)
            engine.launch(probe)
            assert ended(engine, probe.name).code == 0, "the rank still runs after its node has come back"
        assert reached(bed.place(), status.name, RankState.LOST).code is None
        assert reached(engine, status.name, RankState.LOST).name == status.name

    # -- agents -------------------------------------------------------------------------------------------------------

    def test_ranks_outlive_the_agent_of_their_node(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        (kill_agent,) = bed.need("kill_agent")
        far, near = names[-1], names[0]
        specs = [rank(far, "sleep", "600"), rank(near, "sleep", "600", number=1), rank(far, "echo", "x", number=2)]
        before = started(engine, specs[:2])
        engine.launch(specs[2])
        end = ended(engine, specs[2].name)
        incarnation = answers(engine, far).incarnation
        kill_agent(far)
        if bed.start_agent is not None:
            bed.start_agent(far)

        def renewed() -> bool:
            node = node_of(engine, far)
            return node is not None and node.up and node.incarnation != incarnation

        until(engine, renewed)
        for status in before:
            back = reached(engine, status.name, RankState.RUNNING)
            assert (back.node, back.pid, back.started_s) == (status.node, status.pid, status.started_s)
        assert status_of(engine, specs[2].name) == end
        assert whole_log(engine, specs[2].name) == b"x\n"
        again = engine.launch(specs[0])
        assert again.pid == before[0].pid
        assert engine.signal(specs[0].name, signal.SIGTERM)
        assert ended(engine, specs[0].name).code == -signal.SIGTERM

    # -- joining and leaving ------------------------------------------------------------------------------------------

    def test_a_node_joins_and_leaves(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        add, leave = bed.need("add", "leave")
        engine.fence(gang(), 3)
        add("newcomer")
        answers(engine, "newcomer")
        with pytest.raises(Fenced):
            engine.launch(rank("newcomer", "true", epoch=2))
        if bed.fence_of is not None:
            assert bed.fence_of("newcomer", gang()) == 3
        spec = rank("newcomer", "echo", "new here", epoch=3)
        engine.launch(spec)
        assert ended(engine, spec.name).code == 0
        leave("newcomer")
        until(engine, lambda: node_of(engine, "newcomer") is None)
        assert {node.name for node in engine.nodes()} == set(names)
