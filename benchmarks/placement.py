"""What placement is worth: packing, consolidation and emptying, against first fit and random nodes; and its speed.

    python -m benchmarks.placement

Jobs start first come first served as soon as enough GPUs are free, and run for their given time wherever they stand;
so all placers see exactly the same starts and ends, and only *where* differs. First fit and random nodes are given
the same courtesy as packing: one node if any has room, whole nodes for large jobs, pieces only where nothing else is
left. "consolidate" is packing that, whenever a job ends, brings spread jobs together where that is worth the pauses
(30 s, against a slowdown of 1.2 while spread: assumed figures); the pauses do not lengthen its jobs here.

What emptying nodes is worth shows only where jobs and nodes cost energy: ITP cluster01 is simulated under `prices` on
nodes that sleep, with and without it.

Random streams are seeded; the traced ones need ``../shared/data`` and are left out, with a word, where it is absent.
"""

from __future__ import annotations

import contextlib
import copy
import heapq
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from powerflow.cluster.consolidate import Spread, consolidate
from powerflow.cluster.occupancy import NodeShare, Occupancy, Placement
from powerflow.cluster.packed_pool import UP
from powerflow.cluster.spec import parse_cluster
from powerflow.policy.registry import load as load_policy
from powerflow.simulate.run import simulate
from powerflow.simulate.workload.build import build_workload
from powerflow.trace.read import read_trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
GPUS_PER_NODE = 8
PAUSE_S = 30.0
SPREAD_SLOWDOWN = 1.2
COLUMNS = (("spread_gpu_s", " %"), ("split_gpu_s", " %"), ("node_links", ""), ("rack_links", ""), ("nodes_in_use", ""))


@dataclass(frozen=True)
class Stream:
    """Jobs in order of submission, and the cluster they run on. All arrays are ``[J]``."""

    name: str
    cluster: str
    submit_s: np.ndarray
    duration_s: np.ndarray
    gpus: np.ndarray


Placer = Callable[[Occupancy, int, int], None]


def packing(occupancy: Occupancy, owner: int, gpus: int) -> None:
    occupancy.allocate(owner, gpus)


def first_fit(occupancy: Occupancy, owner: int, gpus: int) -> None:
    """The first node with room; else the first whole nodes, then whatever comes first."""
    occupancy.put(owner, in_order(occupancy, gpus, range(len(occupancy.nodes))))


def random_nodes(seed: int) -> Placer:
    """As first fit, over the nodes in an order drawn anew for each job."""
    rng = np.random.default_rng(seed)

    def place(occupancy: Occupancy, owner: int, gpus: int) -> None:
        occupancy.put(owner, in_order(occupancy, gpus, rng.permutation(len(occupancy.nodes)).tolist()))

    return place


def in_order(occupancy: Occupancy, gpus: int, order: Iterable[int]) -> Placement:
    """GPUs for one job from nodes taken in some order: the first with room for all, else whole ones, else any."""
    room = np.where(occupancy.status() == UP, occupancy.room(), 0)
    order = list(order)
    enough = [i for i in order if room[i] >= gpus]
    if enough:
        chosen = enough[:1]
    else:
        whole = [i for i in order if room[i] == occupancy.nodes[i].gpus]
        chosen = whole + [i for i in order if 0 < room[i] < occupancy.nodes[i].gpus]
    shares = []
    for i in chosen:
        taken = min(gpus, int(room[i]))
        if taken:
            free = np.flatnonzero(free_gpus(occupancy, i))[:taken]
            shares.append(NodeShare(occupancy.nodes[i].name, tuple(free.tolist())))
        gpus -= taken
    return tuple(shares)


def free_gpus(occupancy: Occupancy, node: int) -> np.ndarray:
    """Whether each GPU of a node is held by nobody."""
    mask = int(occupancy.pool.free_mask[node])
    return np.array([mask >> gpu & 1 for gpu in range(occupancy.nodes[node].gpus)], bool)


@dataclass
class Course:
    """What a stream came to under one placer."""

    gpu_s: float = 0.0
    spread_gpu_s: float = 0.0  # held by jobs on more nodes than their count needs
    split_gpu_s: float = 0.0  # held by those of them that one node could hold
    node_links: float = 0.0  # ring links between nodes × seconds
    rack_links: float = 0.0
    nodes_in_use: float = 0.0  # mean over time
    moves: int = 0


class Replay:
    """One stream under one placer, first come first served."""

    def __init__(self, stream: Stream, placer: Placer, *, moving: bool) -> None:
        self.stream, self.placer, self.moving = stream, placer, moving
        self.occupancy = Occupancy(parse_cluster(stream.cluster).nodes)
        self.rack_of = {node.name: node.rack for node in self.occupancy.nodes}
        self.running: dict[int, tuple[float, float]] = {}  # owner: where it stands since, when it ends
        self.course = Course()

    def run(self) -> Course:
        """Replay it to the end."""
        stream, occupancy, course = self.stream, self.occupancy, self.course
        ends: list[tuple[float, int]] = []
        waiting = 0
        now = began = float(stream.submit_s[0])
        while waiting < len(stream.gpus) or ends:
            fits = waiting < len(stream.gpus) and stream.gpus[waiting] <= occupancy.free
            start = max(now, float(stream.submit_s[waiting])) if fits else np.inf
            end = ends[0][0] if ends else np.inf
            course.nodes_in_use += occupancy.nodes_in_use() * (min(start, end) - now)
            now = min(start, end)
            if end <= start:
                owner = heapq.heappop(ends)[1]
                self.account(owner, now, occupancy)
                del self.running[owner]
                occupancy.release(owner)
                if self.moving:
                    self.move(now)
                continue
            self.placer(occupancy, waiting, int(stream.gpus[waiting]))
            end = now + float(stream.duration_s[waiting])
            heapq.heappush(ends, (end, waiting))
            self.running[waiting] = (now, end)
            waiting += 1
        course.nodes_in_use /= now - began
        return course

    def account(self, owner: int, now: float, where: Occupancy) -> None:
        """Add up what a job did where it stood, from when it came there."""
        since, end = self.running[owner]
        self.running[owner] = (now, end)
        nodes = [share.node for share in where.placement(owner)]
        racks = {self.rack_of[node] for node in nodes}
        gpus = where.gpus_of(owner)
        self.course.gpu_s += gpus * (now - since)
        self.course.spread_gpu_s += gpus * (now - since) * (not where.is_packed(owner))
        self.course.split_gpu_s += gpus * (now - since) * (gpus <= GPUS_PER_NODE and len(nodes) > 1)
        self.course.node_links += len(nodes) * (now - since) * (len(nodes) > 1)
        self.course.rack_links += len(racks) * (now - since) * (len(racks) > 1)

    def move(self, now: float) -> None:
        """Bring spread jobs together where that pays."""
        occupancy = self.occupancy
        owners = np.array(sorted(self.running), np.int64)
        spread = [
            Spread(owner, occupancy.gpus_of(owner), 1 - 1 / SPREAD_SLOWDOWN, self.running[owner][1] - now)
            for owner in owners[~occupancy.packed_many(owners)].tolist()
            if occupancy.gpus_of(owner) <= GPUS_PER_NODE
        ]
        if not spread:
            return
        before = copy.deepcopy(occupancy)
        for owner in consolidate(occupancy, spread, PAUSE_S * self.stream.gpus):
            self.account(owner, now, before)
            self.course.moves += 1


def random_stream(load: float, seed: int) -> Stream:
    """Poisson arrivals, GPU counts 1 to 64 as in published traces (most ask for one), lognormal durations."""
    rng = np.random.default_rng(seed)
    jobs = 4000
    gpus = rng.choice([1, 2, 4, 8, 16, 32, 64], jobs, p=[0.55, 0.12, 0.13, 0.12, 0.05, 0.02, 0.01])
    duration_s = rng.lognormal(7.5, 1.2, jobs)
    span = float((gpus * duration_s).sum()) / (32 * GPUS_PER_NODE * load)
    submit_s = np.sort(rng.uniform(0.0, span, jobs))
    return Stream(f"random, load {load:g}", f"32x{GPUS_PER_NODE}:A100", submit_s, duration_s, gpus)


def traced_stream(load: float) -> Stream | None:
    """ITP cluster02 on as many nodes of eight as give the load over its middle nine tenths."""
    path = TRACES / "itp" / "cluster02.csv"
    if not path.exists():
        return None
    jobs = read_trace(path).jobs
    submit_s = np.array([job.submit_s for job in jobs])
    gpus = np.array([job.gpus for job in jobs])
    duration_s = np.array([job.duration_s for job in jobs])
    span = float(np.quantile(submit_s, 0.95) - np.quantile(submit_s, 0.05)) / 0.9
    nodes = int(np.ceil((gpus * duration_s).sum() / span / load / GPUS_PER_NODE))
    nodes = max(nodes, int(gpus.max()) // GPUS_PER_NODE)
    return Stream(f"ITP cluster02, load {load:g}", f"{nodes}x{GPUS_PER_NODE}:A100", submit_s, duration_s, gpus)


def compare(stream: Stream) -> None:
    courses = {
        "packing": Replay(stream, packing, moving=False).run(),
        "first fit": Replay(stream, first_fit, moving=False).run(),
        "random nodes": Replay(stream, random_nodes(0), moving=False).run(),
        "consolidate": Replay(stream, packing, moving=True).run(),
    }
    ours = courses["packing"]
    print(f"\n{stream.name}: {len(stream.gpus)} jobs on {stream.cluster}")
    print(
        "  placer         spread GPU-h      split GPU-h        node link-h      rack link-h       nodes in use    moves"
    )
    for name, course in courses.items():
        cells = []
        for field, unit in COLUMNS:
            value, own = getattr(course, field), getattr(ours, field)
            per = course.gpu_s / 100 if "gpu_s" in field else 3600 if "links" in field else 1
            cells.append(f"{value / per:8.1f}{unit} ×{value / own:<5.2f}")
        print(f"  {name:<14}" + " ".join(cells) + f"{course.moves:6}")


def cluster_file(folder: str, *, can_sleep: bool) -> str:
    """A cluster whose nodes draw 400 W beside their GPUs; those that sleep draw 30 W then, and take 180 s to wake."""
    group = {"gpu_type": "A100", "count": 16, "gpus": GPUS_PER_NODE, "idle_w": 400.0}
    if can_sleep:
        group |= {"can_sleep": True, "sleep_w": 30.0, "wake_s": 180.0}
    path = Path(folder) / f"{'sleeping' if can_sleep else 'awake'}.yaml"
    path.write_text(json.dumps({"groups": [group]}))  # JSON is YAML
    return str(path)


def plans_empty_nodes(on: bool) -> contextlib.AbstractContextManager[object]:
    """Whether they do meanwhile."""
    return contextlib.nullcontext() if on else patch("powerflow.scheduler.pool.empty_nodes", return_value=[])


def sleeping() -> None:
    """Simulate a cluster whose nodes sleep, with and without emptying them."""
    path = TRACES / "itp" / "cluster01.csv"
    if not path.exists():
        print(f"\nITP cluster01 left out: no {TRACES.name} beside the checkout")
        return
    print("\nITP cluster01 on 16x8:A100 under prices; host 400 W, asleep 30 W, 180 s to wake")
    print(
        "  load  seconds per joule   nodes           mean JCT      metered    JCT + λ_E·energy, a job   moves, rescales"
    )
    trace = read_trace(path)
    with tempfile.TemporaryDirectory() as folder:
        awake, asleep = (cluster_file(folder, can_sleep=can_sleep) for can_sleep in (False, True))
        for load, energy_price in itertools.product((0.3, 0.8), (3e-4, 2e-3)):
            first_h = math.nan
            for name, cluster, emptying in (
                ("stay awake", awake, True),
                ("sleep", asleep, False),
                ("and are emptied", asleep, True),
            ):
                workload = build_workload(trace, cluster, load=load, most_gpus=64)
                with plans_empty_nodes(emptying):
                    result = simulate(workload, load_policy("prices"), energy_price=energy_price)
                jct_h = float(result.jobs.jct_s.mean()) / 3600
                cost_h = jct_h + energy_price * result.metered_j / len(result.jobs.ids) / 3600
                first_h = cost_h if math.isnan(first_h) else first_h
                print(
                    f"  {load:<5} {energy_price:<19g} {name:<16}{jct_h:7.4f} h {result.metered_j / 3.6e6:8.1f} kWh"
                    f" {cost_h:12.4f} h (×{cost_h / first_h:.4f}) {result.jobs.rescales.sum():17}"
                )


def speed() -> None:
    print("\nspeed, wall time after compilation (many: best of 5; one: median of 2000)")
    print("  GPUs      owners   allocate_many   per owner   release_many   one allocate when half full")
    rng = np.random.default_rng(0)
    for gpus in (1_000, 10_000, 100_000):
        occupancy = Occupancy(parse_cluster(f"{gpus // GPUS_PER_NODE}x{GPUS_PER_NODE}:A100").nodes)
        counts = rng.choice([1, 2, 4, 8], gpus // 2, p=[0.6, 0.2, 0.15, 0.05])
        counts = counts[np.cumsum(counts) <= occupancy.up]
        owners = np.arange(len(counts))
        give, take, single = [], [], []
        for _ in range(5):
            began = time.perf_counter()
            occupancy.allocate_many(owners, counts)
            give.append(time.perf_counter() - began)
            began = time.perf_counter()
            occupancy.release_many(owners)
            take.append(time.perf_counter() - began)
        occupancy.allocate_many(owners[::2], counts[::2])
        for i in range(2000):
            began = time.perf_counter()
            occupancy.allocate(len(owners), 1 << i % 6)
            single.append(time.perf_counter() - began)
            occupancy.release(len(owners))
        print(
            f"  {gpus:<9} {len(owners):<8} {1e3 * min(give):10.3f} ms {1e9 * min(give) / len(owners):8.0f} ns"
            f" {1e3 * min(take):11.3f} ms {1e6 * float(np.median(single)):14.1f} µs"
        )


def main() -> None:
    print("spread GPU-h: share of GPU-hours held by jobs on more nodes than their count needs")
    print("split GPU-h: held by those of them that one node could hold")
    print("node, rack link-h: links of a ring over the job's GPUs that leave a node (a rack), hours summed over jobs")
    print("nodes in use: mean over time; × is the ratio to packing")
    for load in (0.5, 0.8, 0.95):
        compare(random_stream(load, seed=0))
    for load in (0.5, 0.8):
        traced = traced_stream(load)
        if traced is None:
            print(f"\nITP cluster02 left out: no {TRACES.name} beside the checkout")
        else:
            compare(traced)
    sleeping()
    speed()


if __name__ == "__main__":
    main()
