"""Trains elastic jobs on several hosts while hosts and processes fail at random, and checks what became of it all.

Everything is real but the GPUs (emulated) and the hosts (Linux namespaces with their own network, pids, boot id and
clock): controller, agents, ranks, sockets, `SIGKILL`, cables that are pulled. What is checked: `machines_proofs`,
`machines_joules`, and `MachinesBench.check`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from powerflow.api.records import JobState
from powerflow.store.store import Store
from powerflow.testing.hosts import Hosts
from tests.live import machines_proofs as proofs
from tests.live.machines_cluster import MachinesCluster, until
from tests.live.machines_faults import FAULTS, Faults, Seen
from tests.live.machines_joules import check_joules, joules, locked_clocks
from tests.skewed_clock import set_clock

HERE = Path(__file__).parent


@dataclass
class Outcome:
    """What was seen."""

    faults: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    seen: Seen = field(default_factory=Seen)
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
        skews_s: Seconds that clocks of hosts are ahead of this machine's, by host. Such a host must not crash.
    """

    def __init__(
        self,
        home: Path,
        hosts: int,
        seed: int,
        *,
        elastic: int = 3,
        epochs: int = 40,
        time_scale: float = 0.3,
        skews_s: Mapping[int, int] | None = None,
    ) -> None:
        self.home, self.count, self.epochs, self.elastic = home, hosts, epochs, elastic
        self.skews_s = skews_s or {}
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self.acknowledged: dict[str, str] = {}  # by key: job id
        self.elastic_jobs: set[str] = set()
        self.options = ("--time-scale", str(time_scale), "--interval", "1", "--explore-steps", "0")
        (home / "bed").mkdir()
        self.ledger = home / "shared" / "ledger"
        self._numbers = itertools.count()

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

    # -- the whole ----------------------------------------------------------------------------------------------------

    def go(self, faults: int | Sequence[str]) -> Outcome:
        """Train while faults happen, until all jobs have ended; check, and return what was seen.

        Args:
            faults: So many random ones, or these in this order; ``cut 6`` is a cut of 6 s.
        """
        began_s = time.monotonic()
        plan = [self.random.choice(FAULTS) for _ in range(faults)] if isinstance(faults, int) else list(faults)
        with Hosts(self.count, self.home / "bed") as hosts:
            for i, skew_s in self.skews_s.items():
                set_clock(hosts, i, skew_s)
            self.cluster = MachinesCluster(hosts, self.home, self.options)
            self.ledger.touch()
            self.lines = proofs.Ledger(self.ledger)
            self.faults = Faults(self.cluster, self.lines, self.random)
            self.faults.elastic, self.outcome.seen = self.elastic_jobs, self.faults.seen
            try:
                self.cluster.start()
                self._joules_before = joules(self.cluster)
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
            self.faults.mend_due()
            self.faults.watch()
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
                if self.faults.happen(plan[0]):
                    self.outcome.faults[plan.pop(0).split()[0]] += 1
                fault_s = time.monotonic() + self.random.uniform(0.5, 4.0)
            if now_s >= say_s and os.environ.get("MACHINES_BENCH_SAYS"):
                say_s = now_s + 10.0
                print(
                    f"{len(plan)} faults left, down: {self.faults.down}, active: {active}", file=sys.stderr, flush=True
                )
            time.sleep(0.1)

    def _trained(self) -> bool:
        """Return True if some job has trained; faults before that would only delay the beginning."""
        return any(line["kind"] == "step" for line in self.lines.lines())

    def _has_ended(self, job_id: str) -> bool:
        job = self.job(job_id)
        return job is not None and JobState(job["record"]["state"]).ended

    def _change_load(self, fillers: set[str], more: bool) -> None:
        """Submit and drain, so that elastic jobs are rescaled within and across nodes."""
        fillers -= {job_id for job_id in fillers if self._has_ended(job_id)}
        while more and len(fillers) < self.count:
            fillers.add(self.submit_filler(self.random.uniform(5.0, 40.0), self.random.choice((6, 7))))
        if (self.faults.drained and self.random.random() < 0.5) or not more:
            for i in list(self.faults.drained):
                self.cluster.post(f"/nodes/{self.cluster.node(i)}/resume", {})
                self.faults.drained.discard(i)
        elif not self.faults.drained and self.random.random() < 0.3:
            i = self.random.choice(list(self.cluster.hosts.numbers()))
            if i not in self.faults.down:
                self.faults.drained.add(i)
                self.cluster.post(f"/nodes/{self.cluster.node(i)}/drain", {"sure": True})

    def _finish(self) -> None:
        """Mend everything, and wait until all jobs have ended and all clocks are given back."""
        self.faults.mend_all()

        def idle() -> bool:
            top = self.cluster.get("/top")
            return top is not None and not top["jobs"] and not top["gpus_busy"]

        until(idle, "all jobs end", lambda: f"{self.cluster.get('/jobs')} {self.cluster.log()}", 240.0)
        until(
            lambda: not locked_clocks(self.cluster),
            "clocks are given back",
            lambda: locked_clocks(self.cluster),
            90.0,
        )

    # -- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check everything, when all is over."""
        before, now = self._joules_before, joules(self.cluster)
        self.outcome.metered_j, self.outcome.counted_j = (
            now.metered_j - before.metered_j,
            now.counted_j - before.counted_j,
        )
        check_joules(self.cluster, before, now)
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
        hosts = self.cluster.hosts
        lines = proofs.by_one_clock(proofs.read(self.ledger), {hosts.name(i): s for i, s in self.skews_s.items()})
        harm = self.faults.harm
        harm.boots = {hosts.name(i): hosts.boot_id(i) for i in hosts.numbers()}
        proofs.check_lives(lines, harm, self.elastic_jobs)
        of_jobs, total = proofs.by_job(lines), self.outcome.found
        for job_id in sorted(self.elastic_jobs, key=int):
            finals = sorted(self.ledger.parent.glob(f"final-{job_id}.*.pt"))
            try:
                found = proofs.check_trained(of_jobs[job_id], self.epochs, finals)
            except AssertionError as error:
                raise AssertionError(f"job {job_id}: {error}") from error
            for name, value in asdict(found).items():
                setattr(total, name, getattr(total, name) + value)


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
            "ranks_untouched_by_kills": outcome.seen.untouched,
            "loss_seen_s": spread(outcome.seen.seen_s),
            "controller_back_s": spread(outcome.seen.back_s),
            "controller_back_cpu_s": spread(outcome.seen.back_cpu_s),
            "metered_j": round(outcome.metered_j, 3),
            "counted_j": round(outcome.counted_j, 3),
            "lasted_s": round(outcome.lasted_s),
        }
    )
