"""Kills ``powerflow serve`` again and again while jobs come and run, and checks what became of them.

Everything is real but what the ranks compute (`kill_rank`) and the GPUs (emulated): the controller and its API, the
engine's agent, SQLite, processes, SIGKILL.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from powerflow.api.records import JobState
from powerflow.engine.local import LocalEngine
from powerflow.store.store import Store
from tests.agent.own import end_agent
from tests.cli.serving import SERVE, with_tables
from tests.live.joules import joules

RANK = Path(__file__).with_name("kill_rank.py")
CLUSTER = "2x4:A100"
PATIENCE_S = 120.0


@dataclass
class Outcome:
    """What was seen.

    Times in seconds; ``back_s``: from the start of the next controller until its loop has turned, ``back_cpu_s``: CPU
    time that took, which other load on the machine does not stretch.
    """

    kills: int = 0
    back_s: list[float] = field(default_factory=list)
    back_cpu_s: list[float] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)  # key: job id
    cancelled: set[str] = field(default_factory=set)
    survived: int = 0  # ranks that lived through a kill, summed over kills
    jobs: int = 0
    metered_j: float = 0.0
    counted_j: float = 0.0


class Bench:
    """One cluster and its client."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.state = with_tables(directory / "state")
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.ledger.chmod(0o666)
        self.random = random.Random(seed)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api/v1"
        self.outcome = Outcome()
        self.http = httpx.Client(verify=False)  # plain HTTP: no certificates to load
        self.store_url = f"sqlite:///{self.state / 'powerflow.db'}"
        self._joules_before = (0.0, 0.0)
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()

    # -- the controller -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        options = ("--emulate", CLUSTER, "--port", str(self.port), "--interval", "0.5", "--explore-steps", "3")
        command = [*SERVE, "--state-dir", str(self.state), *options]
        with (self.directory / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"the controller ended by itself: {self.log()}"
        self._process.kill()
        self._process.wait()
        self.outcome.kills += 1

    def end(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE_S) == 0, self.log()

    def log(self) -> str:
        return (self.directory / "controller.log").read_text("utf-8", "replace")[-3000:]

    def healthy(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            return bool(self.http.get(f"{self.url}/health", timeout=2.0).json()["ok"])
        return False

    def until_back(self) -> float:
        assert self._process is not None
        began_s = time.monotonic()
        while not self.healthy():
            assert self._process.poll() is None, f"the controller did not come back: {self.log()}"
            assert time.monotonic() - began_s < PATIENCE_S, self.log()
            time.sleep(0.05)
        return time.monotonic() - began_s

    # -- the client -----------------------------------------------------------------------------------------------

    def submit(self, key: str, spec: dict[str, Any]) -> str | None:
        """Submit until it is acknowledged, as a client does whose connection breaks; None: told to stop before."""
        while not self._stop.is_set():
            with contextlib.suppress(httpx.HTTPError, FileNotFoundError):
                answer = self.http.post(
                    f"{self.url}/jobs",
                    json=spec,
                    headers={**self.authority(), "Idempotency-Key": key},
                    timeout=5.0,
                )
                if answer.status_code in (200, 201):
                    job_id = str(answer.json()["id"])
                    self.outcome.acknowledged[key] = job_id
                    return job_id
                assert answer.status_code == 503, answer.text
            time.sleep(0.02)
        return None

    def authority(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {(self.state / 'token').read_text().strip()}"}

    def client(self) -> None:
        """Jobs of all three kinds, a few at a time; some are withdrawn."""
        number = 0
        while not self._stop.is_set():
            number += 1
            lasts_s = self.random.uniform(0.2, 3.0)
            job_id = self.submit(f"key-{number}", self.spec(number, lasts_s))
            if job_id is not None and self.random.random() < 0.1:
                with contextlib.suppress(httpx.HTTPError):
                    answer = self.http.post(f"{self.url}/jobs/{job_id}/cancel", headers=self.authority(), timeout=5.0)
                    if answer.status_code == 200 and answer.json()["state"] == "cancelled":
                        self.outcome.cancelled.add(job_id)
            self._stop.wait(self.random.uniform(0.1, 1.0))

    def spec(self, number: int, lasts_s: float) -> dict[str, Any]:
        run = f"{sys.executable} {RANK} {self.ledger} {lasts_s:.2f}"
        common = {"name": f"job-{number}", "checkpoint": {"grace": 10}, "directory": "/"}
        match number % 3:
            case 0:
                work = {"work": {"iterations": 30}, "batch": {"global": 64}}
                return {"run": f"{run} --in-place", "rescale": "in-place", "gpus": "1..2", **work, **common}
            case 1:
                return {"run": run, "rescale": "restart", "gpus": "1..2", **common}
            case _:
                return {"run": run, "rescale": "none", "gpus": 1, **common}

    # -- the whole ------------------------------------------------------------------------------------------------

    def go(self, kills: int) -> Outcome:
        """Kill so often, then let everything end, and check."""
        try:
            self.serve()
            self.until_back()
            self.wait_for(lambda: self.joules() is not None, "the meter is saved")
            self._joules_before = self.joules() or (0.0, 0.0)
            anchors = [self.submit(f"anchor-{n}", self.anchor(n)) for n in range(2)]
            assert all(anchors)
            self.wait_for(lambda: sum(name.split(".")[0] in anchors for name in self.lives()) == 2, "anchors run")
            before = self.lives()
            pids = {name: pid for name, pid in before.items() if name.split(".")[0] in anchors}
            client = threading.Thread(target=self.client)
            client.start()
            try:
                self.storm(kills)
            finally:
                self._stop.set()
                client.join()
            living = self.lives()
            assert {name: living.get(name) for name in pids} == pids, "jobs that nobody touched run on as they were"
            (self.directory / "release").touch()
            self._finish()
        finally:
            self._stop.set()
            self.clean_up()
        self.check()
        return self.outcome

    def anchor(self, number: int) -> dict[str, Any]:
        run = f"sh -c 'exec {sys.executable} {RANK} {self.ledger} 100000'"
        return {"run": run, "name": f"anchor-{number}", "priority": "protected", "gpus": 1, "directory": "/"}

    def storm(self, kills: int) -> None:
        for _ in range(kills):
            time.sleep(self.random.uniform(0.0, 1.0))
            before = self.lives()
            self.kill()
            self.serve()
            if self.random.random() < 0.5:  # while it comes up
                time.sleep(self.random.uniform(0.0, 1.5))
                if self.outcome.kills < kills:
                    self.kill()
                    self.serve()
            self.outcome.back_s.append(self.until_back())
            assert self._process is not None
            times = psutil.Process(self._process.pid).cpu_times()
            self.outcome.back_cpu_s.append(times.user + times.system)
            after = self.lives()
            self.outcome.survived += sum(after.get(name) == pid for name, pid in before.items())
            if self.outcome.kills >= kills:
                return

    def _finish(self) -> None:
        """All jobs end, the anchors by being cancelled."""
        for key in [key for key in self.outcome.acknowledged if key.startswith("anchor")]:
            job_id = self.outcome.acknowledged[key]
            self.http.post(f"{self.url}/jobs/{job_id}/cancel", headers=self.authority(), timeout=5.0).raise_for_status()
            self.outcome.cancelled.add(job_id)

        def idle() -> bool:
            top = self.http.get(f"{self.url}/top", headers=self.authority(), timeout=5.0).json()
            return not top["jobs"] and not top["gpus_busy"]

        self.wait_for(idle, "all jobs end")
        self.end()

    def wait_for(self, done: Any, what: str) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < until_s, f"not in {PATIENCE_S:g} s: {what}; {self.log()}"
            time.sleep(0.05)

    def clean_up(self) -> None:
        self.http.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        end_agent(self.state)
        LocalEngine(self.state / "engine").shutdown(kill=True)

    def joules(self) -> tuple[float, float] | None:
        """What was metered so far, and what the counters of all GPUs said then."""
        store = Store(self.store_url)
        try:
            return joules(store, self.state / "device", platform.node())
        finally:
            store.close()

    # -- what the ranks noted -------------------------------------------------------------------------------------

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.ledger.read_text().splitlines()]

    def lives(self) -> dict[str, int]:
        """Ranks that run now, and their processes."""
        running: dict[str, int] = {}
        for what, name, pid, *_ in self.lines():
            if what == "start":
                running[name] = int(pid)
            else:
                running.pop(name, None)
        return {name: pid for name, pid in running.items() if _is_alive(pid)}

    def check(self) -> None:
        """What must hold when all is over."""
        store = Store(self.store_url)
        try:
            jobs = {job.id: job for job in store.jobs(limit=100_000).items}
            events = store.events(limit=1_000_000).items
            metered_j, jobs_j, idle_j = store.charges.totals()
        finally:
            store.close()
        self.outcome.jobs = len(jobs)
        now_j = self.joules()
        assert now_j is not None
        self.outcome.metered_j, self.outcome.counted_j = (
            now - before for now, before in zip(now_j, self._joules_before, strict=True)
        )
        ends = [state for state in JobState if state.ended]
        told = defaultdict(list)
        for event in events:
            if event.kind in ends and event.job_id:
                told[event.job_id].append(event.kind)
        assert set(self.outcome.acknowledged.values()) <= jobs.keys(), "an acknowledged job is lost"
        assert len(set(self.outcome.acknowledged.values())) == len(self.outcome.acknowledged), "a key made two jobs"
        for job in jobs.values():
            assert job.state.ended, f"a job was left behind: {job}"
            assert told[job.id] == [job.state], f"job {job.id} ended {told[job.id]}"
            if job.id not in self.outcome.cancelled and job.state is not JobState.CANCELLED:
                assert job.state is JobState.COMPLETED, f"a job did not complete: {job}"
            assert job.failures == 0, f"nothing failed, and yet: {job}"
        back = [job_id for job_id in self.outcome.cancelled if jobs[job_id].state is not JobState.CANCELLED]
        assert not back, f"cancelled, and run all the same: {back}"
        self._check_lives(jobs)
        apart_j = abs(jobs_j + idle_j - metered_j)
        assert apart_j <= 1e-6 * metered_j, f"joules do not add up: {jobs_j:.0f} + {idle_j:.0f}, not {metered_j:.0f}"
        assert abs(self.outcome.metered_j / self.outcome.counted_j - 1.0) < 0.005, "joules are lost"
        charged_j = sum(job.energy_j for job in jobs.values())
        assert abs(charged_j / jobs_j - 1.0) < 1e-6, f"jobs were charged {charged_j:.0f} J of {jobs_j:.0f} J"

    def _check_lives(self, jobs: dict[str, Any]) -> None:
        """No rank started twice, no two of a job on one launch's place at a time, and only one run to the end."""
        started: dict[str, float] = {}
        ended: dict[str, tuple[float, str]] = {}
        for line in self.lines():
            if line[0] == "start":
                assert line[1] not in started, f"rank {line[1]} was started twice"
                started[line[1]] = float(line[-1])
            else:
                assert line[1] not in ended, f"rank {line[1]} ended twice"
                ended[line[1]] = float(line[-1]), line[3]
        by_job: dict[str, list[str]] = defaultdict(list)
        for name in started:
            by_job[name.split(".")[0]].append(name)
        for job_id, names in by_job.items():
            assert job_id in jobs, f"ranks of a job nobody knows: {names}"
            if jobs[job_id].spec.rescale == "in-place":
                self._check_in_place(job_id, {name: started[name] for name in names}, ended)
                continue
            spans: dict[int, tuple[float, float]] = {}
            for name in names:
                epoch = int(name.split(".")[1])
                low, high = spans.get(epoch, (float("inf"), 0.0))
                spans[epoch] = min(low, started[name]), max(high, ended.get(name, (float("inf"), ""))[0])
            order = [spans[epoch] for epoch in sorted(spans)]
            for (_, before_end), (after_start, _) in itertools.pairwise(order):
                assert before_end <= after_start, f"two gangs of job {job_id} at a time: {spans}"
            whole = {name.split(".")[1] for name in names if ended.get(name, (0.0, ""))[1] == "done"}
            assert len(whole) <= 1, f"job {job_id} was run {len(whole)} times"

    def _check_in_place(self, job_id: str, started: dict[str, float], ended: dict[str, tuple[float, str]]) -> None:
        """Ranks of several epochs train side by side: it is one generation that ends, and nobody begins after it."""
        generations = {
            line[4] for line in self.lines() if line[0] == "end" and line[1] in started and line[3] == "done"
        }
        assert len(generations) <= 1, f"job {job_id} was run to its end by generations {sorted(generations)}"
        done = {name: ended[name][0] for name in started if ended.get(name, (0.0, ""))[1] == "done"}
        late = [name for name in done if started[name] > min(done.values())]
        assert not late, f"job {job_id} was run to its end again by {late}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def summary(outcome: Outcome) -> str:
    """The numbers, for people."""
    back, cpu = sorted(outcome.back_s), sorted(outcome.back_cpu_s)
    return json.dumps(
        {
            "kills": outcome.kills,
            "acknowledged": len(outcome.acknowledged),
            "jobs": outcome.jobs,
            "cancelled": len(outcome.cancelled),
            "ranks_that_lived_through_kills": outcome.survived,
            "back_median_s": round(back[len(back) // 2], 2),
            "back_max_s": round(back[-1], 2),
            "back_cpu_median_s": round(cpu[len(cpu) // 2], 2),
            "back_cpu_max_s": round(cpu[-1], 2),
            "metered_j": round(outcome.metered_j),
            "counted_j": round(outcome.counted_j),
        }
    )
