"""How long training pauses when a gang over several hosts changes: PowerFlow, torchrun elastic, and Ray Train.

    python -m benchmarks.rescale_hosts [--within 8] [--rescales 24] [--torchrun-sizes 1 2 3 2] [--ray-sizes 1 2 3 2]

Makes three hosts on this machine (`powerflow.testing.hosts`; needs root), and measures on them one system after the
other, with the same model, data and measure (`benchmarks.pauses`). The hosts share a folder for logs and checkpoints.

- PowerFlow: the gangs and the engine of a controller, here; on each host its agent, joined over TCP, which starts ranks
  and passes on the files of their mailbox. The hosts see no folder of the controller. 1 to 4 ranks come and go at
  random: first on the GPUs of one host (``--within``), then on those of all hosts (``--rescales``).
- torchrun elastic: its rendezvous here, and an agent with one rank on each host, which come and go.
- Ray Train: a Ray node with one rank on each host, which come and go (`benchmarks.pause_ray`). Needs `ray[train]`.

Values of 0 and lists without a number leave parts out.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import pause_ray
from benchmarks.pause_torchrun import TorchrunAgents, measure
from benchmarks.pauses import Pause, p95, pauses, read_steps, rising, wait
from powerflow.api.job_spec import JobSpec
from powerflow.engine.cluster.engine import ClusterEngine
from powerflow.engine.cluster.listen import AgentListener
from powerflow.engine.protocol import RankName
from powerflow.gangs.manager import Gangs
from powerflow.gangs.types import DesiredState, GangEvent, Rescaled, Started
from powerflow.testing.hosts import INTERFACE, Hosts, why_not

HOSTS, GPUS, MOST = 3, 4, 4
#: Steps of each rank before the next rescale.
STEPS = 10
#: A percentile of fewer pauses says nothing.
FEWEST = 8
_JOB = "bench"
#: One GPU: node and number.
Slot = tuple[str, int]


def _environment(_: str, spec: JobSpec, node: str, gpus: tuple[int, ...], name: RankName) -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]), "OMP_NUM_THREADS": "1"}


class PowerFlowOnHosts:
    """The gangs and the engine of a controller in this process, and its agent on each host of a bed.

    Args:
        hosts: The bed.
        home: Folder of the controller, which no host sees.
        shared: Folder that all hosts share.
    """

    def __init__(self, hosts: Hosts, home: Path, shared: Path) -> None:
        self._hosts, self._shared = hosts, shared
        self._nodes = {f"host-{i}": i for i in hosts.numbers()}
        self._engine = ClusterEngine(home / "controller", home / "jobs", term=1)
        self._listener = AgentListener(self._engine, hosts.address(0), 0)
        self._gangs = Gangs(self._engine, home, _environment, shared=shared)
        self._events: list[GangEvent] = []
        self._epoch = 0
        self.spec = JobSpec.model_validate(
            {
                "run": f"python -m benchmarks.pause_ranks elastic {shared}",
                "gpus": f"1..{MOST}",
                "rescale": "in-place",
                "directory": os.getcwd(),
            }
        )
        for node in self._nodes:
            self._start_agent(node)
        self._until(lambda: sum(node.up for node in self._engine.nodes()) == hosts.count)
        for i in hosts.numbers():  # what ranks know of other hosts can only have come through the agents
            hosts.output(i, ["sh", "-c", f"! test -e {home}"])

    def _start_agent(self, node: str) -> None:
        i = self._nodes[node]
        disk = self._hosts.disk(i)
        (disk / "join-token").write_text(self._engine.token.text())
        words = [sys.executable, "-c", "from powerflow.cli.main import run; run()", "agent", "--name", node]
        words += ["--controller", f"{self._hosts.address(0)}:{self._listener.port}"]
        words += ["--token-file", str(disk / "join-token"), "--state-dir", str(disk / "agent")]
        words += ["--emulate", f"1x{GPUS}:A100"]
        with open(self._shared / f"{node}.log", "ab") as log:
            out = log.fileno()
            self._hosts.run(i, words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @property
    def slots(self) -> list[Slot]:
        """All GPUs."""
        return [(node, gpu) for node in self._nodes for gpu in range(GPUS)]

    def rescale(self, slots: Sequence[Slot]) -> None:
        """Train on these GPUs; return when all ranks have done some steps there."""
        self._epoch += 1
        nodes = sorted({node for node, _ in slots})
        placement = tuple((node, tuple(sorted(gpu for at, gpu in slots if at == node))) for node in nodes)
        heard = len(self._events)
        self._gangs.apply([DesiredState(_JOB, self._epoch, self.spec, placement)])
        self._until(lambda: any(isinstance(event, (Started, Rescaled)) for event in self._events[heard:]))

        def train() -> bool:
            steps = read_steps(self._shared)
            newest = max((step.gang for step in steps), default=0)
            counts = [step.rank for step in steps if step.gang == newest]
            return len(set(counts)) == len(slots) and min(map(counts.count, set(counts))) >= STEPS

        wait(train, look_s=0.2)

    def _until(self, done: Callable[[], bool]) -> None:
        def turned() -> bool:
            self._engine.wait(0.05)
            self._events += self._gangs.poll()
            return done()

        try:
            wait(turned, look_s=0.0)
        except TimeoutError:
            print(self._events[-5:], self._gangs.troubles(), self._engine.notices(), file=sys.stderr)
            print("\n".join(self._gangs.last_lines(_JOB)), file=sys.stderr)
            raise

    def close(self) -> None:
        """Leave the agents, which end with their hosts."""
        self._gangs.close()
        self._listener.close()
        self._engine.close()


def measure_powerflow(hosts: Hosts, home: Path, shared: Path, within: int, across: int) -> list[Pause]:
    """Return the pauses of rescales within one host and then across all, each to random GPUs.

    One rank at least stays each time.
    """
    rng, cluster = random.Random(0), PowerFlowOnHosts(hosts, home, shared)
    try:
        slots = [cluster.slots[0]]
        cluster.rescale(slots)
        for free in [*itertools.repeat(cluster.slots[:GPUS], within), *itertools.repeat(cluster.slots, across)]:
            size = rng.choice([n for n in range(1, MOST + 1) if n != len(slots)])
            kept = rng.sample(slots, min(size, len(slots)))
            slots = kept + rng.sample([slot for slot in free if slot not in slots], size - len(kept))
            cluster.rescale(slots)
        return pauses(rising(read_steps(shared)))
    finally:
        cluster.close()


def measure_torchrun(hosts: Hosts, shared: Path, sizes: Sequence[int]) -> list[Pause]:
    """Return the pauses while agents of one rank come and go, on one host after the other."""

    def start(number: int, argv: Sequence[str], env: Mapping[str, str], log: int) -> subprocess.Popen[bytes]:
        here = {"PYTHONPATH": os.getcwd(), **env}
        return hosts.run(1 + number % HOSTS, argv, here, stdout=log, stderr=log, cwd=os.getcwd())

    agents = TorchrunAgents(
        shared, hosts.address(0), INTERFACE, start, lambda number: hosts.address(1 + number % HOSTS)
    )
    return measure(agents, shared, sizes)


def _told(name: str, found: Sequence[Pause]) -> None:
    """Print the pauses of a part as soon as it has ended."""
    listed = ", ".join(f"{pause.before}-{pause.after} {pause.pause_s:.2f}" for pause in found)
    print(f"{name}, pauses from ranks to ranks in s: {listed}; load {os.getloadavg()[0]:.1f}", flush=True)


def _table(rows: Mapping[str, Sequence[Pause]]) -> None:
    """Print medians, and their ratios to that of the first row."""
    rows = {name: found for name, found in rows.items() if found}
    middle = {name: statistics.median(pause.pause_s for pause in found) for name, found in rows.items()}
    first = next(iter(middle.values()), 1.0)
    print(f"{'':<32}{'rescales':>9}{'median s':>10}{'p95 s':>9}{'most s':>9}{'ratio':>8}")
    for name, found in rows.items():
        seconds = [pause.pause_s for pause in found]
        high = f"{p95(seconds):>9.3f}" if len(seconds) >= FEWEST else f"{'-':>9}"
        print(f"{name:<32}{len(seconds):>9}{middle[name]:>10.3f}{high}{max(seconds):>9.3f}{middle[name] / first:>8.3g}")


def _measure_all(asked: argparse.Namespace, home: Path) -> dict[str, Sequence[Pause]]:
    """Return the rows of the table."""
    folders = [home / name for name in ("bed", "powerflow", "torchrun", "ray")]
    for folder in folders:
        folder.mkdir()
    bed, ours, torchrun, ray = folders  # a bed hides its own folder from its hosts, and no other
    rows: dict[str, Sequence[Pause]] = {}
    with Hosts(HOSTS, bed) as hosts:
        if asked.within or asked.rescales:
            found = measure_powerflow(hosts, bed / "controller", ours, asked.within, asked.rescales)
            _told("PowerFlow", found)
            across, within = [p for p in found if p.hosts > 1], [p for p in found if p.hosts == 1]
            rows |= {"PowerFlow across hosts": across, "  that grow": [p for p in across if p.after > p.before]}
            rows |= {"  that shrink": [p for p in across if p.after < p.before], "PowerFlow within a host": within}
        if asked.torchrun_sizes:
            rows["torchrun elastic across hosts"] = measure_torchrun(hosts, torchrun, asked.torchrun_sizes)
            _told("torchrun elastic", rows["torchrun elastic across hosts"])
        if asked.ray_sizes:
            rows["Ray Train across hosts"] = pause_ray.measure(hosts, ray, asked.ray_sizes)
            _told("Ray Train", rows["Ray Train across hosts"])
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--within", type=int, default=8)
    parser.add_argument("--rescales", type=int, default=24)
    parser.add_argument("--torchrun-sizes", type=int, nargs="*", default=[1, 2, 3, 2])
    parser.add_argument("--ray-sizes", type=int, nargs="*", default=[1, 2, 3, 2])
    asked = parser.parse_args()
    if why := why_not():
        print(f"cannot run here: {why}", file=sys.stderr)
        return 1
    if asked.ray_sizes and not (find_spec("pandas") and find_spec("pyarrow")):
        print('cannot run here: Ray Train needs pip install "ray[train]"; or give --ray-sizes alone', file=sys.stderr)
        return 1
    began = os.getloadavg()[0]
    home = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="powerflow-pauses-"))
    try:
        rows = _measure_all(asked, home)
    except BaseException:
        print(f"kept: {home}", file=sys.stderr)
        raise
    shutil.rmtree(home)
    _table(rows)
    print(f"load {began:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
