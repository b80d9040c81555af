"""Any sequence of what can happen to a pool, against a model that only a person could be slow enough to use."""

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from powerflow.cluster.occupancy import Occupancy
from powerflow.cluster.spec import Node
from powerflow.testing.pool_invariants import check_pool, whole_free_nodes
from tests.slow import examples


class PoolMachine(RuleBasedStateMachine):
    """The model: for each owner the set of (node, GPU) it holds, for each node a status in words."""

    owners: Bundle[int] = Bundle("owners")

    @initialize(sizes=st.lists(st.sampled_from([1, 2, 4, 6, 8]), min_size=1, max_size=7), racks=st.integers(1, 3))
    def begin(self, sizes: list[int], racks: int) -> None:
        self.nodes = [Node(i, f"n{i}", "A", gpus, f"r{i % racks}") for i, gpus in enumerate(sizes)]
        self.pool = Occupancy(self.nodes)
        self.held: dict[int, set[tuple[str, int]]] = {}
        self.status = {node.name: "up" for node in self.nodes}
        self.next_owner = 0

    def free_on(self, node: Node) -> int:
        held = sum(name == node.name for gpus in self.held.values() for name, _ in gpus)
        return node.gpus - held if self.status[node.name] == "up" else 0

    def take(self, owner: int, gpus: int) -> None:
        """Check what the pool gave, and note it down."""
        got = {(share.node, gpu) for share in self.pool.placement(owner) for gpu in share.gpus}
        size = {node.name: node.gpus for node in self.nodes}
        assert len(got) == gpus
        assert all(self.status[name] == "up" and 0 <= gpu < size[name] for name, gpu in got)
        assert not any(got & others for others in self.held.values())
        self.held[owner] = got

    @rule(target=owners, part=st.floats(0.01, 1))
    def allocate(self, part: float) -> int:
        owner, self.next_owner = self.next_owner, self.next_owner + 1
        rooms = sorted((self.free_on(node) for node in self.nodes), reverse=True)
        gpus = round(part * sum(rooms))
        if gpus:
            self.pool.allocate(owner, gpus)
            self.take(owner, gpus)
            fewest = next(i for i in range(1, len(rooms) + 1) if sum(rooms[:i]) >= gpus)
            assert self.pool.nodes_of(owner) == fewest
        return owner

    @rule(target=owners, gone=consumes(owners), part=st.floats(0.01, 1))
    def move(self, gone: int, part: float) -> int:
        """An owner goes and a new one comes under its number."""
        self.pool.release(gone)
        self.held.pop(gone, None)
        gpus = round(part * sum(self.free_on(node) for node in self.nodes))
        if gpus:
            self.pool.allocate_many([gone], [gpus])
            self.take(gone, gpus)
        return gone

    @rule(sizes=st.lists(st.sampled_from([1, 1, 2, 4, 8, 3]), max_size=5))
    def allocate_many(self, sizes: list[int]) -> None:
        free = sum(self.free_on(node) for node in self.nodes)
        while sum(sizes) > free:
            sizes = sizes[:-1]
        owners = list(range(self.next_owner, self.next_owner + len(sizes)))
        self.next_owner += len(sizes)
        self.pool.allocate_many(owners, sizes)
        for owner, gpus in zip(owners, sizes, strict=True):
            self.take(owner, gpus)

    @rule(part=st.floats(0, 1))
    def release_many(self, part: float) -> None:
        """Every so many owners leave, and some who hold nothing."""
        gone = list(self.held)[:: max(1, round(1 / max(part, 0.01)))]
        self.pool.release_many([*gone, self.next_owner + 5])
        for owner in gone:
            del self.held[owner]

    @rule(number=st.integers(0, 6), what=st.sampled_from(["fail", "drain", "recover", "sleep", "wake"]))
    def node(self, number: int, what: str) -> None:
        node = self.nodes[number % len(self.nodes)]
        owners = sorted(owner for owner, gpus in self.held.items() if any(name == node.name for name, _ in gpus))
        before = self.status[node.name]
        if what == "sleep" and (owners or before in ("fail", "drain", "drain asleep")):
            return
        answer = getattr(self.pool, what)(node.name)
        if what in ("fail", "drain"):
            assert answer.tolist() == owners
        after = {
            "fail": "fail",
            "drain": {"sleep": "drain asleep", "up": "drain"}.get(before, before),
            "recover": "sleep" if before in ("sleep", "drain asleep") else "up",
            "sleep": "sleep",
            "wake": "up" if before == "sleep" else before,
        }
        self.status[node.name] = after[what]

    @rule()
    def copy(self) -> None:
        self.pool = copy.deepcopy(self.pool)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        check_pool(pool.pool)
        for owner, gpus in self.held.items():
            assert {(share.node, gpu) for share in pool.placement(owner) for gpu in share.gpus} == gpus
            assert pool.gpus_of(owner) == len(gpus)
            assert pool.nodes_of(owner) == len({name for name, _ in gpus})
        status = self.status
        assert pool.held == sum(map(len, self.held.values()))
        assert pool.free == sum(map(self.free_on, self.nodes))
        assert pool.up == sum(node.gpus for node in self.nodes if status[node.name] in ("up", "sleep"))
        assert pool.asleep == sum(node.gpus for node in self.nodes if status[node.name] == "sleep")
        assert pool.nodes_in_use() == len({name for gpus in self.held.values() for name, _ in gpus})
        assert whole_free_nodes(pool.pool) == sum(
            status[node.name] == "up" and self.free_on(node) == node.gpus for node in self.nodes
        )


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
