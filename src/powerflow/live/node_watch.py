"""Detect which nodes answer, and tell the scheduler.

A node that does not answer proves nothing: its ranks may run on. So it is *unreachable*: it gets no new ranks, and its
GPUs are neither free nor lost. It has *failed* only if an operator says that it is off. If it answers again, it is used
again, and its gangs find out what has become of their ranks.
"""

from __future__ import annotations

from enum import StrEnum

from powerflow.engine.protocol import EngineError
from powerflow.live.context import LoopContext
from powerflow.scheduler.events import NodeDrained, NodeFailed, NodeRecovered, NodeUnreachable

#: Setting in the store: nodes that an operator has declared off, and that have not answered since.
OFF = "nodes off"


class NodeCondition(StrEnum):
    """What is known about a node."""

    UP = "up"
    UNREACHABLE = "unreachable"  # it does not answer; its ranks may run
    FAILED = "failed"  # an operator says that it is off


class NodeWatch:
    """Watch the nodes of one cluster. Any thread may call `answers` and `condition`; only the loop may call others."""

    def __init__(self, context: LoopContext) -> None:
        pools = context.scheduler.pools.values()
        self._conditions = {node.name: NodeCondition.UP for pool in pools for node in pool.occupancy.nodes}
        self._engine, self._gangs, self._log = context.engine, context.gangs, context.log
        self._store, self._table = context.store, context.table
        self._off: set[str] = set()

    def start(self) -> None:
        """Tell the scheduler which nodes are drained according to the store."""
        drained = [node.name for node in self._store.node_states().values() if node.state == "drained"]
        self._table.emit(*map(NodeDrained, drained))
        self._off = set(self._store.get(OFF) or {})

    def answers(self, node: str) -> bool:
        """Return True if a node answered when it was last asked; True for a node that is not part of the cluster."""
        return self.condition(node) is NodeCondition.UP

    def condition(self, node: str) -> NodeCondition:
        """Return what is known about a node; `NodeCondition.UP` for a node that is not part of the cluster."""
        return self._conditions.get(node, NodeCondition.UP)

    def look(self) -> None:
        """Ask the engine which nodes answer, and tell the scheduler what has changed.

        A node that was drained before it failed is still drained when it comes back.

        Raises:
            EngineError: The engine does not answer.
            StoreError: The store cannot be used.
        """
        up = {node.name for node in self._engine.nodes() if node.up}
        for name, before in self._conditions.items():
            if name in up:
                if before is not NodeCondition.UP:
                    self._recover(name)
            elif before is NodeCondition.UP:
                self._log.warning("a node does not answer", node=name)
                self._table.emit(NodeUnreachable(name, self._staying(name)))
                self._conditions[name] = NodeCondition.UNREACHABLE
            if name in self._off and self.condition(name) is NodeCondition.UNREACHABLE:
                self._fail(name)

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that a node is off. The request is in the store (`OFF`) already."""
        self._off.add(node)

    def _fail(self, node: str) -> None:
        try:
            self._gangs.declare_off(node)
        except EngineError as error:  # it has just answered
            self._log.warning("a node cannot be declared off", node=node, error=str(error))
            return
        self._log.warning("a node was declared off", node=node)
        self._table.emit(NodeFailed(node))
        self._conditions[node] = NodeCondition.FAILED

    def _recover(self, node: str) -> None:
        stored = self._store.node_states().get(node)
        drained = stored is not None and stored.state == "drained"
        if node in self._off:
            off = self._store.get(OFF) or {}
            self._store.put(OFF, {name: since_s for name, since_s in off.items() if name != node})
            self._off.discard(node)
        self._log.info("a node answers again", node=node)
        self._table.emit(NodeRecovered(node), *([NodeDrained(node)] if drained else []))
        self._conditions[node] = NodeCondition.UP

    def _staying(self, node: str) -> frozenset[str]:
        """Return the jobs on a node that cannot go on without it: scripts, whose ranks wait for each other."""
        jobs = self._table.jobs.values()
        on_it = (job for job in jobs if any(name == node for name, _ in job.placement))
        return frozenset(job.id for job in on_it if job.spec.rescale != "in-place")
