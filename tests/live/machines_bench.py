"""Trains elastic jobs on several hosts while hosts and processes fail at random, and checks what became of it all.

Everything is real but the GPUs (emulated) and the hosts (Linux namespaces with their own network, pids, boot id and
clock): controller, agents, ranks, sockets, `SIGKILL`, cables that are pulled. What is checked: `machines_proofs`, and
`MachinesBench.check`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from powerflow.api.records import JobState
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.osutil.files import read_json
from powerflow.store.store import Store
from powerflow.testing.hosts import Hosts
from tests.live import machines_proofs as proofs
from tests.live.machines_cluster import MachinesCluster, until

HERE = Path(__file__).parent
FAULTS = ("rank", "agent", "controller", "cut", "crash")
#: A node's loss must be seen within this time.
SEEN_S = 5.0
#: A host that was away for less than this must not lose a rank.
FORGIVEN_S = 3.0


@dataclass
class Outcome:
    """What was seen. Times in seconds."""

    faults: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    seen_s: list[float] = field(default_factory=list)  # from the loss of a host until the API says so
    back_s: list[float] = field(default_factory=list)  # from the start of the next controller until its loop turns
    back_cpu_s: list[float] = field(default_factory=list)  # CPU time of that, which other load does not stretch
    untouched: int = 0  # ranks that lived through the kill of an agent or the controller, summed over kills
    found: proofs.Found = field(default_factory=proofs.Found)
    metered_j: float = 0.0
    counted_j: float = 0.0
    lasted_s: float = 0.0


class MachinesBench:
    """One cluster on some hosts, its user and its misfortune.

    Args:
        home: Folder for everything.
        hosts: Number of hosts.
        seed: Seed of all that is random.
        elastic: Number of elastic jobs at any time.
        epochs: Training epochs of each elastic job, of 13 steps.
        time_scale: Factor on the emulated length of steps.
    """

    def __init__(
        self, home: Path, hosts: int, seed: int, *, elastic: int = 3, epochs: int = 40, time_scale: float = 0.3
    ) -> None:
        self.home, self.count, self.epochs, self.elastic = home, hosts, epochs, elastic
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self.harm = proofs.Harm()
        self.acknowledged: dict[str, str] = {}  # key: job id
        self.options = ("--time-scale", str(time_scale), "--interval", "1", "--explore-steps", "0")
        (home / "bed").mkdir()
        self.ledger = home / "shared" / "ledger"
        self._numbers = itertools.count()
        self._pending: list[tuple[float, int, Callable[[], None]]] = []  # heap: when, tie, how something is mended
        self._down: dict[int, str] = {}  # hosts that are cut or crashed, and which
        self._busy: set[str] = set()  # processes that are killed and not started yet
        self._lost_at: dict[int, float] = {}  # since when a loss has not been seen
        self._away: dict[int, float] = {}  # since when (Unix seconds) an agent has been cut off, or killed
        self._drained: set[int] = set()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def submit_elastic(self) -> str:
        """Submit an elastic PyTorch job for 1 to 4 GPUs."""
        return self._submit(
            {
                "run": f"python {HERE / 'machines_trainee.py'} {self.ledger} {self.epochs}",
                "rescale": "in-place",
                "gpus": "1..4",
                "batch": {"global": 8, "local_max": 1},  # so that more GPUs are faster
                "model": "resnet50",
                "checkpoint": {"dir": str(self.home / "shared" / "checkpoints"), "grace": 10, "every": 5},
                "env": {"PYTHONPATH": str(HERE.parents[1])},
            }
        )

    def submit_filler(self, lasts_s: float, gpus: int) -> str:
        """Submit a job that takes GPUs for some time, and is never rescaled."""
        run = f"python {HERE / 'machines_filler.py'} {self.ledger} {lasts_s:.1f}"
        return self._submit({"run": run, "rescale": "none", "gpus": gpus})

    def _submit(self, spec: dict[str, Any]) -> str:
        key = f"job-{next(self._numbers)}"
        common = {"name": key, "directory": str(self.home / "shared"), "retries": 100}
        job_id = str(self.cluster.post("/jobs", {**common, **spec}, key)["id"])
        self.acknowledged[key] = job_id
        return job_id

    def job(self, job_id: str) -> Any:
        """Return a job as the API shows it; None if the controller does not answer."""
        return self.cluster.get(f"/jobs/{job_id}")

    def running(self) -> dict[str, proofs.Line]:
        """Return the starts of all ranks that run now on hosts that are up."""
        starts: dict[str, proofs.Line] = {}
        for line in proofs.read(self.ledger):
            if line["kind"] == "start":
                starts[line["rank"]] = line
            elif line["kind"] == "end":
                starts.pop(line["rank"], None)
        alive = {i: self._pids(i) for i in self.cluster.hosts.numbers() if self._down.get(i) != "crash"}
        numbers = {self.cluster.hosts.name(i): i for i in alive}
        return {
            name: start
            for name, start in starts.items()
            if start["host"] in numbers
            and start["boot"] == self.cluster.hosts.boot_id(numbers[start["host"]])
            and start["pid"] in alive[numbers[start["host"]]]
        }

    def _pids(self, i: int) -> set[int]:
        text = self.cluster.hosts.output(i, ["sh", "-c", "cd /proc && echo [0-9]*"])
        return {int(word) for word in text.split()}

    def note(self, what: str) -> None:
        """Write a line with the time into the bench's own log."""
        with (self.home / "bench.log").open("a") as log:
            print(f"{time.time():.2f} {what}", file=log)

    # -- faults -------------------------------------------------------------------------------------------------------

    def kill_rank(self) -> bool:
        """Kill a rank of an elastic job."""
        names = {self.cluster.hosts.name(i): i for i in self.cluster.hosts.numbers()}
        ranks = [start for start in self.running().values() if proofs.job_of(start) in self.elastic_jobs]
        if not ranks:
            return False
        one = self.random.choice(ranks)
        self.note(f"rank {one['rank']}")
        self.harm.killed.add(one["rank"])
        with contextlib.suppress(subprocess.CalledProcessError):  # it has just ended
            self.cluster.hosts.output(names[one["host"]], ["kill", "-9", str(one["pid"])])
        return True

    def kill_agent(self) -> bool:
        """Kill an agent, and start it again after a moment. Its ranks run on."""
        i = self._host("agent")
        if i is None:
            return False
        before = self.running()
        self._away.setdefault(i, time.time())
        self.note(f"agent {i}")
        self.cluster.kill_agent(i)
        self._check_untouched(before)
        self._busy.add(f"agent {i}")

        def again() -> None:
            self.cluster.start_agent(i)
            self._busy.discard(f"agent {i}")

        self._later(self.random.uniform(0.0, 3.0), again)
        return True

    def kill_controller(self) -> bool:
        """Kill the controller, and start it again after a moment. All ranks run on."""
        before = self.running()
        self.cluster.kill_controller()
        self._check_untouched(before)
        time.sleep(self.random.uniform(0.0, 2.0))
        self.cluster.serve()
        self.outcome.back_s.append(self.cluster.await_controller(self._mend_due))
        self.outcome.back_cpu_s.append(self.cluster.controller_cpu_s())
        self._lost_at.clear()  # how long this controller takes to find out is another question
        return True

    def cut(self, lasts_s: float | None = None) -> bool:
        """Cut a host off the network for some time."""
        i = self._host()
        if i is None:
            return False
        lasts_s = self.random.uniform(1.0, 20.0) if lasts_s is None else lasts_s
        self._away.setdefault(i, time.time())
        self.note(f"cut {i} for {lasts_s:.1f} s")
        self.cluster.hosts.cut(i)
        self._down[i] = "cut"
        self._lost_at[i] = time.monotonic()

        def mend() -> None:
            self.cluster.hosts.mend(i)
            self.note(f"mend {i}")
            self._down.pop(i)
            self._lost_at.pop(i, None)

        self._later(lasts_s, mend)
        return True

    def crash(self) -> bool:
        """Cut the power of a host, and boot it after some time."""
        i = self._host()
        if i is None:
            return False
        self.note(f"crash {i}")
        self.cluster.hosts.crash(i)
        self._down[i] = "crash"
        self._lost_at[i] = time.monotonic()

        def boot() -> None:
            self.note(f"boot {i}")
            self.cluster.hosts.boot(i)
            self.cluster.start_agent(i)
            self._down.pop(i)
            self._lost_at.pop(i, None)

        self._later(self.random.uniform(2.0, 15.0), boot)
        return True

    def _host(self, process: str = "") -> int | None:
        """Return a host to harm: one that is whole, if not too many are harmed already."""
        whole = [i for i in self.cluster.hosts.numbers() if i not in self._down and f"agent {i}" not in self._busy]
        if not whole or (not process and len(self._down) >= max(1, self.count // 2)):
            return None
        return self.random.choice(whole)

    def _later(self, in_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._pending, (time.monotonic() + in_s, next(self._numbers), act))

    def _mend_due(self) -> None:
        while self._pending and self._pending[0][0] <= time.monotonic():
            heapq.heappop(self._pending)[2]()

    def _watch_losses(self) -> None:
        """Note when the API first says that a lost host does not answer; a loss that is not seen in time fails."""
        if not self._lost_at and not self._away:
            return
        states = self.cluster.nodes()
        now_s = time.monotonic()
        for i, since_s in list(self._lost_at.items() if states else ()):
            state = states[self.cluster.node(i)]
            if i in self._drained or state == "drained":  # this is what the API says first
                del self._lost_at[i]
            elif state != "up":
                self.outcome.seen_s.append(now_s - since_s)
                del self._lost_at[i]
        for i in list(self._away if states else ()):
            is_whole = i not in self._down and f"agent {i}" not in self._busy
            if is_whole and states[self.cluster.node(i)] in ("up", "drained"):
                since_s, now_unix_s = self._away.pop(i), time.time()
                if now_unix_s - since_s > FORGIVEN_S:  # nobody may notice a shorter absence
                    self.harm.cuts.append((self.cluster.hosts.name(i), since_s, now_unix_s))

    def _check_untouched(self, before: dict[str, proofs.Line]) -> None:
        """No process of a rank has ended because another process was killed."""
        time.sleep(0.3)
        after = self.running()
        ends = {line["rank"] for line in proofs.read(self.ledger) if line["kind"] == "end"}
        gone = {name: start for name, start in before.items() if name not in after and name not in ends}
        gone = {name: start for name, start in gone.items() if name not in self.harm.killed}
        assert not gone, f"ranks ended with a process that is not theirs: {gone}"
        self.outcome.untouched += sum(after.get(name) == start for name, start in before.items())

    # -- the whole ----------------------------------------------------------------------------------------------------

    def go(self, faults: int | Sequence[str]) -> Outcome:
        """Train while faults happen, until all jobs have ended; check, and return what was seen.

        Args:
            faults: So many random ones, or these in this order; ``cut 6`` is a cut of 6 s.
        """
        began_s = time.monotonic()
        plan = [self.random.choice(FAULTS) for _ in range(faults)] if isinstance(faults, int) else list(faults)
        with Hosts(self.count, self.home / "bed") as hosts:
            self.cluster = MachinesCluster(hosts, self.home, self.options)
            self.ledger.touch()
            self.elastic_jobs: set[str] = set()
            try:
                self.cluster.start()
                self._joules_before = self._await_joules()
                self.boots = {i: hosts.boot_id(i) for i in hosts.numbers()}
                self._storm(plan)
                self._finish()
                self.check()
            finally:
                self.cluster.close()
        self.outcome.lasted_s = time.monotonic() - began_s
        return self.outcome

    def _storm(self, plan: list[str]) -> None:
        fault_s, load_s, say_s = time.monotonic() + 5.0, 0.0, 0.0
        # the first elastic jobs get what is left of each host
        fillers = {self.submit_filler(self.random.uniform(10.0, 30.0), 7) for _ in range(self.count)}
        active = {self.submit_elastic() for _ in range(self.elastic)}
        self.elastic_jobs |= active
        while plan or active:
            self._mend_due()
            self._watch_losses()
            now_s = time.monotonic()
            if now_s >= load_s:
                load_s = now_s + self.random.uniform(2.0, 5.0)
                ended = {job_id for job_id in active if self._has_ended(job_id)}
                active -= ended
                while plan and len(active) < self.elastic:
                    active.add(self.submit_elastic())
                    self.elastic_jobs |= active
                self._change_load(fillers, bool(plan))
            if plan and now_s >= fault_s and self._trained():
                if self._harm(plan[0]):
                    self.outcome.faults[plan.pop(0).split()[0]] += 1
                fault_s = time.monotonic() + self.random.uniform(0.5, 4.0)
            if now_s >= say_s and os.environ.get("MACHINES_BENCH_SAYS"):
                say_s = now_s + 10.0
                print(f"{len(plan)} faults left, down: {self._down}, active: {active}", file=sys.stderr, flush=True)
            time.sleep(0.1)

    def _harm(self, what: str) -> bool:
        self.note(what)
        what, _, lasts_s = what.partition(" ")
        acts: dict[str, Callable[[], bool]] = {
            "rank": self.kill_rank,
            "agent": self.kill_agent,
            "controller": self.kill_controller,
            "cut": lambda: self.cut(float(lasts_s) if lasts_s else None),
            "crash": self.crash,
            "none": lambda: True,
        }
        return acts[what]()

    def _trained(self) -> bool:
        """Return True if some job has trained; faults before that would only delay the beginning."""
        return '"step"' in self.ledger.read_text()

    def _has_ended(self, job_id: str) -> bool:
        job = self.job(job_id)
        return job is not None and JobState(job["record"]["state"]).ended

    def _change_load(self, fillers: set[str], more: bool) -> None:
        """Submit and drain, so that elastic jobs are rescaled within and across nodes."""
        fillers -= {job_id for job_id in fillers if self._has_ended(job_id)}
        while more and len(fillers) < self.count:
            fillers.add(self.submit_filler(self.random.uniform(5.0, 40.0), self.random.choice((6, 7))))
        if (self._drained and self.random.random() < 0.5) or not more:
            for i in list(self._drained):
                self.cluster.post(f"/nodes/{self.cluster.node(i)}/resume", {})
                self._drained.discard(i)
        elif not self._drained and self.random.random() < 0.3:
            i = self.random.choice(list(self.cluster.hosts.numbers()))
            if i not in self._lost_at:
                self._drained.add(i)
                self.cluster.post(f"/nodes/{self.cluster.node(i)}/drain", {})

    def _finish(self) -> None:
        """Mend everything, and wait until all jobs have ended and all clocks are given back."""
        while self._pending:
            self._mend_due()
            self._watch_losses()
            time.sleep(0.1)
        self.cluster.await_nodes()
        until(lambda: self._watch_losses() or not self._away, "all agents are back", self.cluster.log)

        def idle() -> bool:
            top = self.cluster.get("/top")
            return top is not None and not top["jobs"] and not top["gpus_busy"]

        until(idle, "all jobs end", lambda: f"{self.cluster.get('/jobs')} {self.cluster.log()}", 240.0)
        until(lambda: not self._locked(), "clocks are given back", self._locked, 90.0)

    def _locked(self) -> dict[str, float]:
        """Return the GPUs whose clock is locked, with the clock."""
        found = {}
        for i in self.cluster.hosts.numbers():
            for path in (self._devices(i) / "emulated" / self.cluster.node(i)).iterdir():
                if mhz := EmulatedGpu(path).state().locked_mhz:
                    found[f"{self.cluster.node(i)}/{path.name}"] = mhz
        return found

    # -- joules -------------------------------------------------------------------------------------------------------

    def _devices(self, i: int) -> Path:
        return self.cluster.hosts.disk(i) / "agent" / "devices"

    def _joules(self) -> tuple[float, float, dict[str, tuple[float, float]]] | None:
        """Return what the store has metered, what machines had metered then, and meter and counter of each GPU now."""
        store = Store(f"sqlite:///{self.cluster.state / 'powerflow.db'}")
        try:
            counted_j, gpus = 0.0, {}
            taken = {i: store.get(f"ledger {self.cluster.node(i)}") for i in self.cluster.hosts.numbers()}
            metered_j, jobs_j, idle_j = store.charges.totals()
            assert abs(jobs_j + idle_j - metered_j) <= 1e-6 * metered_j, f"{jobs_j} + {idle_j} J are not {metered_j} J"
            for i, rows in taken.items():
                ledger = read_json(self._devices(i) / "ledger.json")
                if ledger is None or rows is None:
                    return None
                more_mj = sum(row[3] - rows["rows"].get(str(row[0]), [0])[0] for row in ledger["rows"])
                accounts = ledger["meter"]["accounts"]
                counted_j += sum(account["total_j"] for account in accounts.values()) - more_mj / 1e3
                gpus |= {uid: (account["total_j"], account["energy_j"]) for uid, account in accounts.items()}
            if taken != {i: store.get(f"ledger {self.cluster.node(i)}") for i in taken}:
                return None
            return metered_j, counted_j, gpus
        finally:
            store.close()

    def _await_joules(self) -> tuple[float, float, dict[str, tuple[float, float]]]:
        found: list[Any] = []
        until(lambda: found.append(self._joules()) or found[-1], "the meter is saved", self.cluster.log)
        return found[-1]

    def _check_joules(self) -> None:
        """Joules in the store are those of the machines' ledgers, and these are those of the GPUs' counters."""
        metered_j, counted_j, gpus = self._await_joules()
        before_metered_j, before_counted_j, before = self._joules_before
        self.outcome.metered_j, self.outcome.counted_j = metered_j - before_metered_j, counted_j - before_counted_j
        apart_j = self.outcome.metered_j - self.outcome.counted_j
        assert abs(apart_j) < 1.0, f"the store has {apart_j:.3f} J more than the machines have metered"
        crashed = {i for i in self.cluster.hosts.numbers() if self.boots[i] != self.cluster.hosts.boot_id(i)}
        for i in set(self.cluster.hosts.numbers()) - crashed:
            for path in (self._devices(i) / "emulated" / self.cluster.node(i)).iterdir():
                uid = EmulatedGpu(path).uuid
                total_j, counter_j = (now - then for now, then in zip(gpus[uid], before[uid], strict=True))
                where = f"{self.cluster.node(i)}/{path.name}"
                assert abs(total_j - counter_j) < 0.01, f"{where} metered {total_j} J, its counter says {counter_j} J"

    # -- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check everything, when all is over."""
        self._check_joules()
        self.cluster.end_controller()
        store = Store(f"sqlite:///{self.cluster.state / 'powerflow.db'}")
        try:
            jobs = {job.id: job for job in store.jobs(limit=100_000).items}
        finally:
            store.close()
        self.outcome.jobs = len(jobs)
        assert set(self.acknowledged.values()) <= jobs.keys(), "an acknowledged job is lost"
        assert len(set(self.acknowledged.values())) == len(self.acknowledged), "a key made two jobs"
        bad = [job for job in jobs.values() if job.state is not JobState.COMPLETED]
        assert not bad, f"jobs did not complete: {bad}"
        lines = proofs.read(self.ledger)
        hosts = self.cluster.hosts
        self.harm.boots = {hosts.name(i): hosts.boot_id(i) for i in hosts.numbers()}
        proofs.check_lives(lines, self.harm, self.elastic_jobs)
        of_jobs, total = proofs.by_job(lines), self.outcome.found
        for job_id in sorted(self.elastic_jobs, key=int):
            finals = sorted(self.ledger.parent.glob(f"final-{job_id}.*.pt"))
            try:
                found = proofs.check_trained(of_jobs[job_id], self.epochs, finals)
            except AssertionError as error:
                raise AssertionError(f"job {job_id}: {error}") from error
            for name, value in asdict(found).items():
                setattr(total, name, getattr(total, name) + value)
        late = [seen_s for seen_s in self.outcome.seen_s if seen_s > SEEN_S]
        assert not late, f"the loss of a host was seen after {late} s"


def summary(outcome: Outcome) -> str:
    """Return the numbers, for people."""
    found = outcome.found

    def spread(values: list[float]) -> dict[str, float]:
        if not values:
            return {}
        return {"median": round(statistics.median(values), 2), "max": round(max(values), 2), "count": len(values)}

    return json.dumps(
        {
            "faults": dict(outcome.faults),
            "jobs": outcome.jobs,
            "ranks": found.ranks,
            "generations": found.generations,
            "generations_across_hosts": found.across,
            "steps": found.steps,
            "steps_redone": found.redone,
            "ranks_untouched_by_kills": outcome.untouched,
            "loss_seen_s": spread(outcome.seen_s),
            "controller_back_s": spread(outcome.back_s),
            "controller_back_cpu_s": spread(outcome.back_cpu_s),
            "metered_j": round(outcome.metered_j, 3),
            "counted_j": round(outcome.counted_j, 3),
            "lasted_s": round(outcome.lasted_s),
        }
    )
