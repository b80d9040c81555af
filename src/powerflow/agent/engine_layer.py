"""Pass the calls of an engine on to another engine, for layers that change only some of them."""

from __future__ import annotations

from collections.abc import Sequence

from powerflow.engine.protocol import Engine, EngineNode, RankName, RankSpec, RankStatus, launch_each


class EngineLayer:
    """Engine that passes every call on to another one; `Engine` describes them. Subclasses change some.

    Args:
        engine: The other engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.shares_mailboxes, self.shells = engine.shares_mailboxes, engine.shells

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, and return its status. See `Engine.launch`."""
        return self._engine.launch(spec)

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Start ranks one after another, with `launch` of the subclass. See `Engine.launch_all`."""
        return launch_each(self.launch, specs)

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank. See `Engine.ranks`."""
        return self._engine.ranks()

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of the engine."""
        return self._engine.nodes()

    def limits(self) -> frozenset[str]:
        """Return the limits that the engine can enforce."""
        return self._engine.limits()

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node as its spec says; "" if nothing is known against it."""
        return self._engine.check(spec)

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that a node is off. See `Engine.declare_off`."""
        self._engine.declare_off(node)

    def notices(self) -> Sequence[str]:
        """Return what operators should know about the nodes. See `Engine.notices`."""
        return self._engine.notices()

    def post(self, gang: str, file: str, text: str) -> None:
        """Pass a file of a job's mailbox on. See `Engine.post`."""
        self._engine.post(gang, file, text)

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. See `Engine.fence`."""
        self._engine.fence(gang, epoch)

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank and its descendants. See `Engine.signal`."""
        return self._engine.signal(name, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the state of a rank may have changed. See `Engine.wait`."""
        return self._engine.wait(timeout_s)

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote, and the offset after it. See `Engine.log`."""
        return self._engine.log(name, offset, limit)

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins. See `Engine.log_offset`."""
        return self._engine.log_offset(name, since_s)

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        self._engine.forget(name)

    def close(self) -> None:
        """Disconnect from the engine; its ranks continue to run."""
        self._engine.close()
