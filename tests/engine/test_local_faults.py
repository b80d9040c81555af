"""Whoever is killed, whenever: no rank runs twice, none runs unwatched, no exit status is lost."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from powerflow.engine.local import LocalEngine, client, fork_server
from powerflow.engine.protocol import EngineError, Fenced, RankName, RankSpec, RankState
from powerflow.osutil.processes import boot_id, start_ticks
from powerflow.testing.engine_conformance import ended, status_of, until, whole_log
from powerflow.testing.engine_conformance_process import alive
from tests.engine.conftest import LocalPlace
from tests.slow import ALL

PATIENCE_S = 60.0


def shell(number: int, text: str, gang: str = "g") -> RankSpec:
    return RankSpec(RankName(gang, 0, number), "n1", ("sh", "-c", text), {"PATH": os.environ["PATH"]}, "/")


def wait_for(reached: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


def kill_server(place: LocalPlace) -> None:
    pid = place.server()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))


def shim_of(place: LocalPlace, name: RankName) -> int:
    return int(json.loads((place.home / "ranks" / str(name) / "process.json").read_text())["shim"][0])


def test_ranks_and_their_exit_codes_survive_the_fork_server(place: LocalPlace, tmp_path: Path) -> None:
    engine = place()
    runs, ends = shell(0, "exec sleep 600"), shell(1, f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 42")
    before = engine.launch(runs)
    engine.launch(ends)
    shim = shim_of(place, ends.name)
    kill_server(place)
    (tmp_path / "go").touch()
    wait_for(lambda: not alive(shim))  # it ends while there is no fork server
    assert ended(engine, ends.name).code == 42
    assert status_of(engine, runs.name) == before
    assert engine.launch(runs) == before
    assert engine.signal(runs.name, signal.SIGTERM)
    assert ended(engine, runs.name).code == -signal.SIGTERM


def test_a_fork_server_of_another_version_is_replaced_and_its_ranks_run_on(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, runs = place(), shell(0, "exec sleep 600")
    before, server = engine.launch(runs), place.server()
    assert not engine.renew()
    assert place.server() == server
    with monkeypatch.context() as upgraded:
        upgraded.setattr(client, "__version__", "99.0")
        assert engine.renew()
    assert place.server() != server
    assert not alive(server)
    assert [node.name for node in engine.nodes()] == ["n1", "n2"]
    assert status_of(engine, runs.name) == before
    assert engine.signal(runs.name, signal.SIGTERM)
    assert ended(engine, runs.name).code == -signal.SIGTERM


def test_who_waits_is_told_that_the_fork_server_died(place: LocalPlace) -> None:
    engine = place()
    engine.ranks()
    told: list[bool] = []
    asked = threading.Event()

    def watch() -> None:
        engine.ranks()
        asked.set()  # killed before that, it is its successor that was asked, and knows of nothing new
        told.append(engine.wait(PATIENCE_S))

    waiter = threading.Thread(target=watch)
    waiter.start()
    asked.wait()
    kill_server(place)
    waiter.join()
    assert told == [True]


def test_a_fork_server_killed_again_and_again_under_load(place: LocalPlace, tmp_path: Path) -> None:
    """Each rank notes its start: exactly one note for each launch that was acknowledged, at most one for any other."""
    engine, notes, count = place(), tmp_path / "notes", 36 if ALL else 18
    notes.mkdir()
    seed = random.Random(7)
    failures: list[BaseException] = []

    def launch(numbers: range) -> None:
        mine = LocalEngine(place.home, {"n1": 4, "n2": 4})
        try:
            for number in numbers:
                mine.launch(shell(number, f"echo $$ >> {notes}/{number}; exec sleep 600"))
                mine.launch(shell(1000 + number, f"echo $$ >> {notes}/{1000 + number}; exit {number}"))
        except BaseException as error:
            failures.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=launch, args=(range(i, count, 3),)) for i in range(3)]
    for thread in threads:
        thread.start()
    kills = 0
    while any(thread.is_alive() for thread in threads):
        time.sleep(seed.uniform(0.0, 0.15))
        os.kill(place.server(), signal.SIGKILL)
        kills += 1
    for thread in threads:
        thread.join()
    assert failures == []
    assert kills >= 3
    for number in range(count):
        assert ended(engine, RankName("g", 0, 1000 + number)).code == number
        status = status_of(engine, RankName("g", 0, number))
        assert status is not None
        assert status.state is RankState.RUNNING
        assert alive(status.pid)
        wait_for((notes / str(number)).exists)
        assert [int(line) for line in (notes / str(number)).read_text().split()] == [status.pid]
        assert len((notes / str(1000 + number)).read_text().split()) == 1
    assert len(engine.ranks()) == 2 * count


def test_settings_survive_the_fork_server(place: LocalPlace) -> None:
    place("colorsys", "no_such_module_7f3a")
    kill_server(place)
    with LocalEngine(place.home) as engine:  # somebody who only looks starts the new one
        assert {node.name: node.gpus for node in engine.nodes()} == {"n1": 4, "n2": 4}
        assert "no_such_module_7f3a" in engine.notices()[0]
        LocalEngine(place.home, {"n3": 1}).close()
        assert [node.name for node in engine.nodes()] == ["n3"]


def test_fences_survive_the_fork_server(place: LocalPlace) -> None:
    engine = place()
    engine.fence("g", 1)
    kill_server(place)
    with pytest.raises(Fenced):
        engine.launch(shell(0, "true"))


@pytest.mark.parametrize("server", ["lives", "was replaced", "is killed too"])
def test_no_rank_outlives_its_shim(place: LocalPlace, tmp_path: Path, server: str) -> None:
    engine = place()
    if server != "lives" and not _has_cgroups(place):
        pytest.skip("without control groups only the fork server that forked the shim finds a detached grandchild")
    detached = f"setsid setsid sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/far; exec sleep 600' &"
    spec = shell(0, f"sleep 600 & echo $! > {tmp_path}/near; ({detached}); exec sleep 600")
    other = shell(1, "exec sleep 600")
    status, healthy = engine.launch(spec), engine.launch(other)
    wait_for(lambda: all((tmp_path / who).exists() and (tmp_path / who).read_text() for who in ("near", "far")))
    doomed = [status.pid, *(int((tmp_path / who).read_text()) for who in ("near", "far"))]
    shim = shim_of(place, spec.name)
    pid = place.server()
    if server == "was replaced":
        kill_server(place)
        engine.ranks()
    elif server == "is killed too":
        os.kill(pid, signal.SIGSTOP)
    os.kill(shim, signal.SIGKILL)
    if server == "is killed too":
        os.kill(pid, signal.SIGKILL)
    end = ended(engine, spec.name)
    assert (end.state, end.code) == (RankState.LOST, None)
    assert end.ended_s >= end.started_s
    wait_for(lambda: not any(alive(pid) for pid in doomed))
    assert status_of(engine, other.name) == healthy
    assert alive(healthy.pid)


def _has_cgroups(place: LocalPlace) -> bool:
    return "powerflow-" in Path(f"/proc/{_any_rank(place)}/cgroup").read_text()


def _any_rank(place: LocalPlace) -> int:
    return place().launch(shell(99, "exec sleep 600")).pid


def test_a_launch_that_was_cut_short_is_launched_anew(place: LocalPlace) -> None:
    """The fork server was killed after it wrote the launch down and before there was a shim."""
    engine = place()
    kill_server(place)
    torn = place.home / "ranks" / "g.0.0"
    torn.mkdir()
    (torn / "spec.json").write_text("{}")
    (torn / "lock").touch()
    assert [*engine.ranks()] == []
    engine.launch(shell(0, "exit 3"))
    assert ended(engine, RankName("g", 0, 0)).code == 3


@pytest.mark.parametrize("boot", ["this", "an earlier one"])
def test_a_pid_that_was_used_again_is_not_taken_for_the_rank(place: LocalPlace, boot: str) -> None:
    engine = place()
    spec = shell(0, "exec sleep 600")
    engine.launch(spec)
    kill_server(place)
    record = place.home / "ranks" / str(spec.name) / "process.json"
    who = json.loads(record.read_text())
    os.kill(who["shim"][0], signal.SIGKILL)
    wait_for(lambda: not alive(who["rank"][0]))
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as innocent:
        ticks = start_ticks(innocent.pid)
        assert ticks is not None
        shift, name = (1, boot_id()) if boot == "this" else (0, "another-boot")
        who |= {"shim": [innocent.pid, ticks - shift], "rank": [innocent.pid, ticks - shift], "boot": name}
        record.write_text(json.dumps(who))
        assert ended(engine, spec.name).state is RankState.LOST
        assert not engine.signal(spec.name, signal.SIGKILL)
        assert innocent.poll() is None
        innocent.kill()


def test_many_start_one_fork_server(place: LocalPlace) -> None:
    engines: list[LocalEngine] = []
    barrier = threading.Barrier(6)

    def start() -> None:
        barrier.wait()
        engines.append(place())

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({engine._ask({"do": "hello"})["pid"] for engine in engines}) == 1
    assert len(place.keepers()) == 1


def test_a_second_fork_server_is_refused(place: LocalPlace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = place()
    monkeypatch.setattr(fork_server, "_OLD_SERVER_ENDS_S", 0.0)
    monkeypatch.chdir(place.home)
    with pytest.raises(SystemExit, match="another fork server"):
        fork_server._only_server()
    assert [*engine.ranks()] == []


def test_a_fork_server_is_used_whose_starter_was_killed(place: LocalPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins to listen while the next user of the folder starts another one."""
    place()
    pid, connect, tries = place.server(), client._Connection.__init__, []

    def late(self: client._Connection, home: Path) -> None:
        tries.append(home)
        if len(tries) < 3:
            raise FileNotFoundError
        connect(self, home)

    monkeypatch.setattr(client._Connection, "__init__", late)
    began_s = time.monotonic()
    assert [*place().ranks()] == []
    assert place.server() == pid
    assert time.monotonic() - began_s < fork_server._OLD_SERVER_ENDS_S


def test_a_fork_server_that_is_there_but_does_nothing_is_given_up_until_it_goes_on(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_ANSWER_S", 0.2)
    monkeypatch.setattr(client, "_SILENT_S", 0.05)
    engine = place()
    pid = place.server()
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(150):  # more than can wait for it to accept them
            with pytest.raises(EngineError, match="runs but does not answer") as caught:
                engine.signal(RankName("g", 0, 0), signal.SIGTERM)
            assert caught.value.retry
        with pytest.raises(EngineError, match="runs but does not answer"):
            engine.wait(0.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    wait_for(lambda: answers(engine))
    assert place.server() == pid
    assert engine.launch(shell(0, "exit 3")).name == RankName("g", 0, 0)


def answers(engine: LocalEngine) -> bool:
    try:
        return bool(engine.nodes())
    except EngineError:
        return False


def test_nonsense_does_not_end_the_fork_server(place: LocalPlace) -> None:
    engine = place()
    pid = place.server()
    with engine._connection() as connection:
        for line in (b"", b"{", b"[]", b"7", b'{"do":"no"}', b'{"do":"launch"}', b'{"do":"launch","spec":{}}', b"\xff"):
            connection._socket.sendall(line + b"\n")
            assert "error" in json.loads(connection._lines.readline())
        for wrong in ({"do": "fence", "gang": "g", "epoch": "1"}, {"do": "signal", "name": "g.0.0", "number": 999}):
            assert "error" in connection.ask(wrong)
        connection._socket.sendall(b'{"do":')  # and hang up in the middle
        connection.close()
        raise_on_use = connection
    with pytest.raises((OSError, ValueError)):
        raise_on_use.ask({"do": "hello"})
    assert place.server() == pid


def test_only_the_owner_can_ask(place: LocalPlace) -> None:
    place()
    assert os.stat(place.home).st_mode & 0o777 == 0o700
    assert os.stat(place.home / "agent.sock").st_mode & 0o777 == 0o600


def test_shutdown_spares_who_runs_unless_told(place: LocalPlace) -> None:
    engine = place()
    status = engine.launch(shell(0, "trap '' TERM; while :; do sleep 0.05; done"))
    with pytest.raises(EngineError, match="1 ranks run"):
        engine.shutdown()
    assert alive(status.pid)
    server = place.server()
    engine.shutdown(kill=True)
    assert not alive(status.pid)
    assert not alive(server), "who asked for the end may look for processes at once"
    wait_for(lambda: place.keepers() == [])
    with pytest.raises(EngineError, match="closed"):
        engine.ranks()
    later = place()
    assert ended(later, RankName("g", 0, 0)).code == -signal.SIGKILL


def test_a_long_path_and_a_relative_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    with LocalEngine("engine", {"n": 1}) as engine:
        try:
            engine.launch(RankSpec(RankName("g", 0, 0), "n", ("pwd",), {"PATH": os.environ["PATH"]}))
            ended(engine, RankName("g", 0, 0))
            assert whole_log(engine, RankName("g", 0, 0)).decode() == f"{deep}\n"
        finally:
            engine.shutdown(kill=True)


def test_a_child_that_keeps_the_output_open_does_not_keep_the_rank(place: LocalPlace) -> None:
    engine = place()
    spec = shell(0, "echo first; sleep 600 & exit 5")
    engine.launch(spec)
    assert ended(engine, spec.name).code == 5
    assert whole_log(engine, spec.name) == b"first\n"


def test_a_rank_that_closes_its_output_is_still_watched(place: LocalPlace, tmp_path: Path) -> None:
    engine = place()
    spec = shell(0, f"exec >&- 2>&-; touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 6")
    engine.launch(spec)
    until(engine, (tmp_path / "up").exists)
    (tmp_path / "go").touch()
    assert ended(engine, spec.name).code == 6
