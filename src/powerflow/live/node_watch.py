"""Detect which nodes answer, join and leave, and tell the scheduler.

A node that does not answer proves nothing: its ranks may run on. So it is *unreachable*: it gets no new ranks, and its
GPUs are neither free nor lost. It has *failed* only if an operator says that it is off. If it answers again, it is used
again, and its gangs find out what has become of their ranks.

If the controller itself is cut off, all nodes fall silent within seconds, and come back within seconds. So the
scheduler hears of silent nodes only after nothing has changed for a while. No rank is launched on them meanwhile.
"""

from __future__ import annotations

import math
from enum import StrEnum

from powerflow.cluster.spec import Node
from powerflow.engine.protocol import EngineError, EngineNode
from powerflow.live.context import LoopContext
from powerflow.live.gpus.hosts import rack_of
from powerflow.scheduler.events import NodeAdded, NodeDrained, NodeFailed, NodeGone, NodeRecovered, NodeUnreachable

#: Setting in the store: nodes that an operator has declared off, and that have not answered since.
OFF = "nodes off"
#: Seconds in which no other node falls silent or answers again, before the scheduler hears of silent nodes.
CALM_S = 5.0
#: Most seconds until the scheduler hears of silent nodes, if nodes come and go all the time.
MOST_S = 20.0


class NodeCondition(StrEnum):
    """What is known about a node."""

    UP = "up"
    UNREACHABLE = "unreachable"  # it does not answer; its ranks may run
    FAILED = "failed"  # an operator says that it is off


class NodeWatch:
    """Watch the nodes of one cluster. Any thread may call `answers` and `condition`; only the loop may call others.

    Attributes:
        notices: Messages for operators about nodes that cannot be used, by node.
    """

    def __init__(self, context: LoopContext) -> None:
        pools = context.scheduler.pools
        self._conditions = {node.name: NodeCondition.UP for pool in pools.values() for node in pool.occupancy.nodes}
        self._pools, self._power = pools, context.power
        self._engine, self._gangs, self._log = context.engine, context.gangs, context.log
        self._store, self._table = context.store, context.table
        self._off: set[str] = set()
        self._draining: set[str] = set()  # drained nodes on which ranks may still run
        self._looked = False
        self._told: set[str] = set()  # nodes of which the scheduler knows that they do not answer
        self._first_s = self._last_s = math.nan  # first and last change that the scheduler has not heard of
        self.notices: dict[str, str] = {}

    def start(self) -> None:
        """Tell the scheduler which nodes are drained according to the store."""
        drained = [node.name for node in self._store.node_states().values() if node.state == "drained"]
        self._table.emit(*map(NodeDrained, drained))
        self._draining = set(drained)
        self._off = set(self._store.get(OFF) or {})

    def answers(self, node: str) -> bool:
        """Return True if a node answered when it was last asked; True for a node that is not part of the cluster."""
        return self.condition(node) is NodeCondition.UP

    def condition(self, node: str) -> NodeCondition:
        """Return what is known about a node; `NodeCondition.UP` for a node that is not part of the cluster."""
        return self._conditions.get(node, NodeCondition.UP)

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that a node is off. The request is in the store (`OFF`) already."""
        self._off.add(node)

    def drain(self, node: str) -> None:
        """Tell the scheduler that a node gets no new jobs, and watch for the end of its last rank."""
        self._table.emit(NodeDrained(node))
        self._draining.add(node)

    def resume(self, node: str) -> None:
        """Tell the scheduler that a node may be used again; if it does not answer now, when it answers."""
        self._draining.discard(node)
        if self.answers(node):
            self._table.emit(NodeRecovered(node))

    def look(self, now_s: float) -> None:
        """Ask the engine which nodes there are and which answer, and tell the scheduler what has changed.

        A node that was drained before it fell silent is still drained when it answers again.

        Raises:
            EngineError: The engine does not answer.
            StoreError: The store cannot be used.
        """
        listed = {node.name: node for node in self._engine.nodes()}
        held = {node for node, _ in self._gangs.holding()}
        for name in [name for name in self._conditions if name not in listed and name not in held]:
            self._leave(name)
        for name, node in listed.items():
            if node.up and name not in self._conditions:
                self._join(node)
        for name, before in list(self._conditions.items()):
            up = name in listed and listed[name].up
            if up and before is not NodeCondition.UP:
                self._recover(name, now_s)
            elif not up and before is NodeCondition.UP:
                self._log.warning("a node does not answer", node=name)
                self._conditions[name] = NodeCondition.UNREACHABLE
                self._changed(now_s)
            if name in self._off and self.condition(name) is NodeCondition.UNREACHABLE:
                self._fail(name)
        if now_s >= min(self._last_s + CALM_S, self._first_s + MOST_S):
            self._tell()
        for name in sorted(self._draining - held):
            if self._looked:  # otherwise it was empty when this controller started
                self._store.append("node empty", f"no rank runs on {name} any more: it is drained", now_s, node=name)
            self._draining.discard(name)
        self._looked = True

    # -- nodes fall silent and answer -------------------------------------------------------------------------------

    def _changed(self, now_s: float) -> None:
        self._first_s = now_s if math.isnan(self._first_s) or now_s < self._first_s else self._first_s
        self._last_s = now_s

    def _tell(self) -> None:
        """Tell the scheduler of all nodes that do not answer now."""
        self._first_s = self._last_s = math.nan
        silent = {name for name, condition in self._conditions.items() if condition is NodeCondition.UNREACHABLE}
        present = frozenset(self._gangs.holding().values())
        placed = {job.id: {node for node, _ in job.placement} for job in self._table.jobs.values() if job.placement}
        stay = {
            job_id
            for job_id, nodes in placed.items()
            if nodes <= silent or self._table.jobs[job_id].spec.rescale != "in-place"  # ranks wait for each other
        }
        for name in sorted(silent):
            here = frozenset(job_id for job_id, nodes in placed.items() if name in nodes)
            self._table.emit(NodeUnreachable(name, (here & stay) - (here - present), here - present))
        self._told |= silent

    def _recover(self, node: str, now_s: float) -> None:
        if node in self._off:
            off = self._store.get(OFF) or {}
            self._store.put(OFF, {name: since_s for name, since_s in off.items() if name != node})
            self._off.discard(node)
        failed = self._conditions[node] is NodeCondition.FAILED
        self._log.info("a node answers again", node=node)
        if failed or node in self._told:
            self._table.emit(NodeRecovered(node), *self._drained(node))
        self._told.discard(node)
        self._conditions[node] = NodeCondition.UP
        self._changed(now_s)

    def _fail(self, node: str) -> None:
        try:
            self._gangs.declare_off(node)
        except EngineError as error:  # it has just answered
            self._log.warning("a node cannot be declared off", node=node, error=str(error))
            return
        self._log.warning("a node was declared off", node=node)
        self._table.emit(NodeFailed(node))
        self._told.discard(node)
        self._conditions[node] = NodeCondition.FAILED

    def _drained(self, node: str) -> list[NodeDrained]:
        stored = self._store.node_states().get(node)
        return [NodeDrained(node)] if stored is not None and stored.state == "drained" else []

    # -- nodes join and leave ---------------------------------------------------------------------------------------

    def _join(self, node: EngineNode) -> None:
        gpu_type, _ = self._power.node_kind(node.name)
        if not gpu_type:
            return  # its machine has not described its GPUs yet
        if gpu_type not in self._pools:
            self.notices[node.name] = (
                f"node {node.name} is not used: it has {gpu_type} GPUs, and no node had when the controller started;"
                " start the controller again"
            )
            return
        self._log.info("a node joins", node=node.name, gpus=node.gpus, gpu_type=gpu_type)
        made = Node(len(self._conditions), node.name, gpu_type, node.gpus, rack_of(node))
        self._table.emit(NodeAdded(made), *self._drained(node.name))
        self._conditions[node.name] = NodeCondition.UP
        self.notices.pop(node.name, None)

    def _leave(self, node: str) -> None:
        self._log.info("a node has left", node=node)
        self._table.emit(NodeGone(node))
        self._told.discard(node)
        del self._conditions[node]
