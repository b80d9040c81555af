"""What placement is worth: buddy allocation and packing against first fit and random nodes, and its speed.

    python -m benchmarks.placement

Jobs start first come first served as soon as enough GPUs are free, and run for their given time wherever they stand;
so all placers see exactly the same starts and ends, and only *where* differs. First fit and random nodes are given
the same courtesy as packing: one node if any has room, whole nodes for large jobs, pieces only where nothing else is
left. "with moves" is packing that, whenever a job ends, applies the migrations that are worth their pause (30 s,
against a slowdown of 1.2 while spread: assumed figures); the pauses do not lengthen its jobs here.

Random streams are seeded; the traced ones need ``../shared/data`` and are left out, with a word, where it is absent.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from powerflow.cluster.defrag import Movable, Prices, apply_migration, worthwhile_migrations
from powerflow.cluster.occupancy import NodeShare, Occupancy, Placement
from powerflow.cluster.packing import UP
from powerflow.cluster.spec import parse_cluster

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
GPUS_PER_NODE = 8
PAUSE_S = 30.0
SPREAD_SLOWDOWN = 1.2
COLUMNS = (("spread_gpu_s", " %"), ("node_links", ""), ("rack_links", ""), ("nodes_in_use", ""), ("whole_free", ""))


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
    node_links: float = 0.0  # ring links between nodes × seconds
    rack_links: float = 0.0
    nodes_in_use: float = 0.0  # mean over time
    whole_free: float = 0.0
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
            course.whole_free += occupancy.whole_free_nodes() * (min(start, end) - now)
            now = min(start, end)
            if end <= start:
                owner = heapq.heappop(ends)[1]
                self.account(owner, now)
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
        course.whole_free /= now - began
        return course

    def account(self, owner: int, now: float) -> None:
        """Add up what a job did where it stands, from when it came there."""
        since, end = self.running[owner]
        self.running[owner] = (now, end)
        nodes = [share.node for share in self.occupancy.placement(owner)]
        racks = {self.rack_of[node] for node in nodes}
        gpus = self.occupancy.gpus_of(owner)
        self.course.gpu_s += gpus * (now - since)
        self.course.spread_gpu_s += gpus * (now - since) * (not self.occupancy.is_packed(owner))
        self.course.node_links += len(nodes) * (now - since) * (len(nodes) > 1)
        self.course.rack_links += len(racks) * (now - since) * (len(racks) > 1)

    def move(self, now: float) -> None:
        """Apply the migrations that pay."""
        owners = np.array(sorted(self.running), np.int64)
        if self.occupancy.packed_many(owners).all():
            return
        same = np.ones(len(owners))
        remaining_s = np.array([self.running[owner][1] - now for owner in owners.tolist()])
        jobs = Movable(owners, PAUSE_S * same, remaining_s, SPREAD_SLOWDOWN * same, 0 * same, same)
        for migration in worthwhile_migrations(self.occupancy, jobs, Prices(0.0, 0.0, 0.0)):
            for owner in migration.owners:
                self.account(owner, now)
            apply_migration(self.occupancy, migration)
            self.course.moves += len(migration.owners)


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
    from powerflow.trace.read import read_trace

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
        "with moves": Replay(stream, packing, moving=True).run(),
    }
    ours = courses["packing"]
    print(f"\n{stream.name}: {len(stream.gpus)} jobs on {stream.cluster}")
    print(
        "  placer         spread GPU-h       node link-h        rack link-h      nodes in use   whole free nodes  moves"
    )
    for name, course in courses.items():
        cells = []
        for field, unit in COLUMNS:
            value, own = getattr(course, field), getattr(ours, field)
            per = course.gpu_s / 100 if field == "spread_gpu_s" else 3600 if "links" in field else 1
            cells.append(f"{value / per:8.1f}{unit} ×{value / own:<5.2f}")
        print(f"  {name:<14}" + " ".join(cells) + f"{course.moves:6}")


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
    print("node, rack link-h: links of a ring over the job's GPUs that leave a node (a rack), hours summed over jobs")
    print("nodes in use, whole free nodes: means over time; × is the ratio to packing")
    for load in (0.5, 0.8, 0.95):
        compare(random_stream(load, seed=0))
    for load in (0.5, 0.8):
        traced = traced_stream(load)
        if traced is None:
            print(f"\nITP cluster02 left out: no {TRACES.name} beside the checkout")
        else:
            compare(traced)
    speed()


if __name__ == "__main__":
    main()
