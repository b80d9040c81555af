"""Detect which nodes answer, and tell the scheduler."""

from __future__ import annotations

from powerflow.live.context import LoopContext
from powerflow.scheduler.events import NodeDrained, NodeFailed, NodeRecovered


class NodeWatch:
    """Watch the nodes of one cluster. Any thread may call `answers`; only the controller's loop may call the rest."""

    def __init__(self, context: LoopContext) -> None:
        pools = context.scheduler.pools.values()
        self._answers = {node.name: True for pool in pools for node in pool.occupancy.nodes}
        self._engine, self._store, self._table = context.engine, context.store, context.table

    def start(self) -> None:
        """Tell the scheduler which nodes are drained according to the store."""
        drained = [node.name for node in self._store.node_states().values() if node.state == "drained"]
        self._table.emit(*map(NodeDrained, drained))

    def answers(self, node: str) -> bool:
        """Return True if a node answered when it was last asked; True for a node that is not part of the cluster."""
        return self._answers.get(node, True)

    def look(self) -> None:
        """Ask the engine which nodes answer, and tell the scheduler what has changed.

        A node that was drained before it failed is still drained when it comes back.

        Raises:
            EngineError: The engine does not answer.
            StoreError: The store cannot be read.
        """
        now = dict.fromkeys(self._answers, False) | {node.name: node.up for node in self._engine.nodes()}
        for name, up in now.items():
            if self.answers(name) == up:
                continue
            if not up:
                self._table.emit(NodeFailed(name))
            else:
                stored = self._store.node_states().get(name)
                drained = stored is not None and stored.state == "drained"
                self._table.emit(NodeRecovered(name), *([NodeDrained(name)] if drained else []))
            self._answers[name] = up
