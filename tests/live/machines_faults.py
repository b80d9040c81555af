"""Harm a cluster of several machines (kill processes, cut hosts off, crash them), and mend all."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.live import machines_proofs as proofs
from tests.live.machines_cluster import MachinesCluster, until

FAULTS = ("rank", "agent", "controller", "cut", "crash")
#: A host that was away for less than this must not lose a rank.
FORGIVEN_S = 3.0


@dataclass
class Seen:
    """What was seen of faults. Times in seconds."""

    seen_s: list[float] = field(default_factory=list)  # from the loss of a host until the API says so
    back_s: list[float] = field(default_factory=list)  # from the start of the next controller until its loop turns
    back_cpu_s: list[float] = field(default_factory=list)  # CPU time of that, which other load does not stretch
    untouched: int = 0  # ranks that lived through the kill of an agent or the controller, summed over kills


class Faults:
    """The misfortune of one cluster.

    Args:
        cluster: The cluster.
        ledger: What ranks note of what they do.
        chance: Chooses whom to harm, and for how long.

    Attributes:
        harm: What was done to ranks.
        seen: What was seen.
        down: Hosts that are cut or crashed, and which.
        drained: Hosts that are drained: the API says this first, so that it does not say when they are lost.
        elastic: Jobs whose ranks may be killed.
    """

    def __init__(self, cluster: MachinesCluster, ledger: proofs.Ledger, chance: random.Random) -> None:
        self.cluster, self.ledger, self.random = cluster, ledger, chance
        self.harm = proofs.Harm()
        self.seen = Seen()
        self.down: dict[int, str] = {}
        self.drained: set[int] = set()
        self.elastic: set[str] = set()
        self._numbers = itertools.count()
        self._pending: list[tuple[float, int, Callable[[], None]]] = []  # heap: when, tie, how something is mended
        self._busy: set[str] = set()  # processes that are killed and not started yet
        self._lost_at: dict[int, float] = {}  # since when a loss has not been seen
        self._away: dict[int, float] = {}  # since when (Unix seconds) an agent has been cut off, or killed

    def happen(self, what: str) -> bool:
        """Let a fault happen, ``cut 6`` is a cut of 6 s; return False if it cannot happen now."""
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

    def mend_all(self) -> None:
        """Wait until all is mended, and all agents are back."""
        while self._pending:
            self.mend_due()
            self.watch()
            time.sleep(0.1)
        self.cluster.await_nodes()

        def all_back() -> bool:
            self.watch()
            return not self._away

        until(all_back, "all agents are back", self.cluster.log)

    def running(self) -> dict[str, proofs.Line]:
        """Return the starts of all ranks that run now on hosts that are up."""
        starts: dict[str, proofs.Line] = {}
        for line in self.ledger.lines():
            if line["kind"] == "start":
                starts[line["rank"]] = line
            elif line["kind"] == "end":
                starts.pop(line["rank"], None)
        alive = {i: self._pids(i) for i in self.cluster.hosts.numbers() if self.down.get(i) != "crash"}
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
        with (self.cluster.home / "bench.log").open("a") as log:
            print(f"{time.time():.2f} {what}", file=log)

    # -- faults -------------------------------------------------------------------------------------------------------

    def kill_rank(self) -> bool:
        """Kill a rank of an elastic job."""
        names = {self.cluster.hosts.name(i): i for i in self.cluster.hosts.numbers()}
        ranks = [start for start in self.running().values() if proofs.job_of(start) in self.elastic]
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
        self.seen.back_s.append(self.cluster.await_controller(self.mend_due))
        self.seen.back_cpu_s.append(self.cluster.controller_cpu_s())
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
        self.down[i] = "cut"
        self._lost_at[i] = time.monotonic()

        def mend() -> None:
            self.cluster.hosts.mend(i)
            self.note(f"mend {i}")
            self.down.pop(i)
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
        self.down[i] = "crash"
        self._lost_at[i] = time.monotonic()

        def boot() -> None:
            self.note(f"boot {i}")
            self.cluster.hosts.boot(i)
            self.cluster.start_agent(i)
            self.down.pop(i)
            self._lost_at.pop(i, None)

        self._later(self.random.uniform(2.0, 15.0), boot)
        return True

    def _host(self, process: str = "") -> int | None:
        """Return a host to harm: one that is whole, if not too many are harmed already."""
        whole = [i for i in self.cluster.hosts.numbers() if i not in self.down and f"agent {i}" not in self._busy]
        if not whole or (not process and len(self.down) >= max(1, self.cluster.hosts.count // 2)):
            return None
        return self.random.choice(whole)

    def _later(self, in_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._pending, (time.monotonic() + in_s, next(self._numbers), act))

    def mend_due(self) -> None:
        while self._pending and self._pending[0][0] <= time.monotonic():
            heapq.heappop(self._pending)[2]()

    def watch(self) -> None:
        """Note when the API first says that a lost host does not answer; a loss that is not seen in time fails."""
        if not self._lost_at and not self._away:
            return
        states = self.cluster.nodes()
        now_s = time.monotonic()
        for i, since_s in list(self._lost_at.items() if states else ()):
            state = states[self.cluster.node(i)]
            if i in self.drained or state == "drained":  # this is what the API says first
                del self._lost_at[i]
            elif state != "up":
                self.seen.seen_s.append(now_s - since_s)
                del self._lost_at[i]
        for i in list(self._away if states else ()):
            is_whole = i not in self.down and f"agent {i}" not in self._busy
            if is_whole and states[self.cluster.node(i)] in ("up", "drained"):
                since_s, now_unix_s = self._away.pop(i), time.time()
                if now_unix_s - since_s > FORGIVEN_S:  # nobody may notice a shorter absence
                    self.harm.cuts.append((self.cluster.hosts.name(i), since_s, now_unix_s))

    def _check_untouched(self, before: dict[str, proofs.Line]) -> None:
        """No process of a rank has ended because another process was killed."""
        time.sleep(0.3)
        after = self.running()
        ends = {line["rank"] for line in self.ledger.lines() if line["kind"] == "end"}
        gone = {name: start for name, start in before.items() if name not in after and name not in ends}
        gone = {name: start for name, start in gone.items() if name not in self.harm.killed}
        assert not gone, f"ranks ended with a process that is not theirs: {gone}"
        self.seen.untouched += sum(after.get(name) == start for name, start in before.items())
