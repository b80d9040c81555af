"""Gangs over the embedded engine: real processes, real signals, real deaths."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.engine.local import LocalEngine
from powerflow.engine.protocol import RankName, RankState
from powerflow.gangs.manager import Gangs
from powerflow.gangs.types import DesiredState, GangCompleted, GangEvent, Progressed, RankLost, Started, Vacated
from tests.gangs import fake_rank
from tests.gangs.bench import order, spec_of

Kind = TypeVar("Kind")


def environment(job_id: str, spec: JobSpec, node: str, gpus: tuple[int, ...], name: RankName) -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}


class Live:
    """Gangs over an engine of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.engine = LocalEngine(home / "engine", {"a": 4, "b": 4})
        self.gangs = Gangs(self.engine, home, environment)
        self.events: list[GangEvent] = []

    def restart(self, *orders: DesiredState) -> None:
        self.gangs.close()
        self.gangs = Gangs(self.engine, self.home, environment)
        self.gangs.adopt(orders)

    def until(self, done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 60.0
        while not done():
            assert time.monotonic() < deadline_s, (self.events[-10:], self.gangs.troubles())
            self.engine.wait(0.05)
            self.events += self.gangs.poll()

    def hear(self, kind: type[Kind], *jobs: str) -> None:
        """Wait until a new event of this kind was told of each of these jobs."""
        heard = len(self.events)
        self.until(lambda: set(jobs) <= {event.job_id for event in self.events[heard:] if isinstance(event, kind)})

    def pids(self, job_id: str) -> set[int]:
        ranks = self.engine.ranks()
        return {rank.pid for rank in ranks if rank.name.gang == job_id and rank.state is RankState.RUNNING}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    yield live
    live.gangs.close()
    live.engine.shutdown(kill=True)
    live.engine.close()


def job(steps: int) -> JobSpec:
    return spec_of(run=f"{sys.executable} {fake_rank.__file__} --steps {steps} --step-s 0.01", checkpoint={"grace": 30})


def test_swap_death_restart_preemption_and_completion(live: Live) -> None:
    spec = job(100_000)
    orders = [order(1, "a0", "a1", job_id="x", spec=spec), order(1, "a2", "a3", job_id="y", spec=spec)]
    live.gangs.apply(orders)
    live.hear(Started, "x", "y")

    orders = [order(2, "a0", "a2", job_id="x", spec=spec), order(2, "a1", "a3", job_id="y", spec=spec)]
    live.gangs.apply(orders)
    live.hear(Started, "x", "y")
    assert live.gangs.holding() == {("a", 0): "x", ("a", 2): "x", ("a", 1): "y", ("a", 3): "y"}

    victim = live.gangs.ranks("x")[0]
    healthy = live.pids("y")
    live.engine.signal(RankName.parse(victim), signal.SIGKILL)
    live.hear(RankLost, "x")
    live.until(lambda: len(live.pids("x")) == 2)

    before = live.pids("x")
    live.restart(*orders)
    live.hear(Progressed, "x", "y")
    assert (live.pids("x"), live.pids("y")) == (before, healthy)

    live.gangs.apply([order(3, job_id="x", spec=spec)])
    live.hear(Vacated, "x")
    (safe,) = [event.steps_safe for event in live.events if isinstance(event, Vacated)]
    assert safe is not None
    assert safe > 0
    assert live.pids("x") == set()

    live.gangs.apply([order(4, "b0", job_id="x", spec=job(safe + 50))])
    live.hear(GangCompleted, "x")
    assert live.pids("y") == healthy
    live.gangs.kill("y")
    live.hear(Vacated, "y")
    assert live.gangs.holding() == {}


def test_an_unmodified_script_is_restarted_and_its_log_read(live: Live) -> None:
    script = live.home / "train.py"
    script.write_text(
        "import os, pathlib, socket, time\n"
        "place, others = ('127.0.0.1', int(os.environ['MASTER_PORT'])), int(os.environ['WORLD_SIZE']) - 1\n"
        "if others and os.environ['RANK'] == '0':\n"
        "    peers = [server.accept() for server in [socket.create_server(place)] for _ in range(others)]\n"
        "while others and os.environ['RANK'] != '0':\n"
        "    try:\n"
        "        peers = socket.create_connection(place)\n"
        "        break\n"
        "    except OSError:\n"
        "        time.sleep(0.01)\n"
        "kept = pathlib.Path('kept.' + os.environ['RANK'])\n"
        "step = int(kept.read_text()) if kept.exists() else 0\n"
        "end = step + 20\n"
        "while step < end or os.environ['WORLD_SIZE'] == '1':\n"
        "    time.sleep(0.01)\n"
        "    step += 1\n"
        "    pathlib.Path(f'{kept}.new').write_text(str(step))\n"
        "    os.replace(f'{kept}.new', kept)\n"
        "    print('step', step, 'of', os.environ['WORLD_SIZE'], flush=True)\n"
    )
    spec = spec_of(run=f"python {script}", rescale="restart", progress=r"step (?P<step>\d+)")
    live.gangs.apply([order(1, "a0", spec=spec)])
    live.hear(Progressed, "j")
    live.gangs.apply([order(2, "a0", "a1", spec=spec)])
    live.hear(GangCompleted, "j")
    (steps,) = [event.steps for event in live.events if isinstance(event, GangCompleted)]
    assert steps is not None
    assert steps >= 20
    assert live.gangs.ranks("j")[0] == "j.2.0"
    assert live.gangs.last_lines("j", 1) == [f"step {steps} of 2"]
    assert {event.gpus for event in live.events if isinstance(event, Progressed)} == {1, 2}
