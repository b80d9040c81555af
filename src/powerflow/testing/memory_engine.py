r"""Provide an engine without processes, for tests: its virtual ranks exist in memory only.

Thousands of virtual ranks cost nothing. A `Part` says for one rank how long it runs, what it writes, how it reacts to
signals, and its exit code. Time is real. A `MemoryCluster` keeps the ranks; engine objects for it can be created and
closed at any time. Its handles cut, crash and delay nodes::

    cluster = MemoryCluster({"node-1": 8}, play=lambda spec: Part(lasts_s=30.0, says=b"step 1\n"))
    engine = MemoryEngine(cluster)
    cluster.cut("node-1")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from powerflow.engine.local.records import file_name
from powerflow.engine.protocol import EngineError, EngineNode, RankName, RankSpec, RankState, RankStatus, not_started
from powerflow.testing.memory_cluster import MemoryCluster
from powerflow.testing.memory_part import Part, perform

__all__ = ["MemoryCluster", "MemoryEngine", "Part", "perform"]


class MemoryEngine:
    """An `Engine` with virtual ranks, for tests.

    It claims to enforce all limits, because virtual ranks use no memory and no CPU.
    """

    shares_mailboxes = True
    shells = None

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._closed = False
        self._seen = threading.local()

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of the cluster."""
        with self._open().changed:
            return self._cluster.nodes()

    def limits(self) -> frozenset[str]:
        """Return all kinds of limits: memory, cpus and user."""
        return frozenset({"memory", "cpus", "user"})

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, and wait until its node has answered. See `Engine.launch`."""
        _check(spec)
        cluster = self._open()
        with cluster.changed:
            cluster.check_fence(spec)
            fresh = spec.name not in cluster.statuses
            status = cluster.begin(spec)
            while status.state is RankState.STARTING:
                cluster.changed.wait(max(0.0, cluster.settle()) + 1e-4)
                status = cluster.statuses.get(spec.name, status)
            if status.state is RankState.NOT_STARTED:
                if fresh:
                    cluster.forget(spec.name)
                raise EngineError(status.why, retry=status.retry, final=status.final)
            return status

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Begin to start ranks, without waiting for their nodes. See `Engine.launch_all`."""
        cluster = self._open()
        with cluster.changed:
            for spec in specs:
                cluster.check_fence(spec)
            return [self._begin(spec) for spec in specs]

    def _begin(self, spec: RankSpec) -> RankStatus:
        try:
            _check(spec)
        except EngineError as error:
            return not_started(spec, error)
        return self._cluster.begin(spec)

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node; "" if nothing is known against it. See `Engine.check`."""
        with self._open().changed:
            self._cluster.answering(spec.node)
            return self._cluster.objection(spec)

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that an unreachable node is off. See `Engine.declare_off`."""
        with self._open().changed:
            self._cluster.declare_off(node)

    def notices(self) -> Sequence[str]:
        """Return nothing, because nothing is wrong with virtual nodes. See `Engine.notices`."""
        return []

    def post(self, gang: str, file: str, text: str) -> None:
        """Do nothing, because virtual ranks have no mailbox. See `Engine.post`."""

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. See `Engine.fence`."""
        file_name(RankName(gang, epoch, 0))
        with self._open().changed:
            self._cluster.fence(gang, epoch)

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; return False if it does not run. See `Engine.signal`."""
        with self._open().changed:
            return self._cluster.signal(name, number)

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank that was not deleted with `forget`."""
        with self._open().changed:
            self._cluster.settle()
            self._seen.version = self._cluster.version
            return list(self._cluster.statuses.values())

    def wait(self, timeout_s: float) -> bool:
        """Wait until a rank has changed since this thread last called `ranks` or `wait`.

        Returns:
            True if a rank has changed; False if the timeout has passed. The first call of a thread returns True.
        """
        before = getattr(self._seen, "version", -1)
        deadline_s = time.monotonic() + timeout_s
        with self._open().changed:
            while True:
                next_s = self._cluster.settle()
                left_s = deadline_s - time.monotonic()
                if self._cluster.version != before or left_s <= 0 or self._closed:
                    self._seen.version = self._cluster.version
                    return self._cluster.version != before
                self._cluster.changed.wait(min(left_s, max(0.0, next_s) + 1e-4))

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote, and the offset after it. See `Engine.log`."""
        with self._open().changed:
            written = self._cluster.log(name)
            start = max(0, len(written) + offset) if offset < 0 else offset
            found = bytes(written[start : start + limit])
            return found, start + len(found)

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins. See `Engine.log_offset`."""
        with self._open().changed:
            return self._cluster.log_offset(name, since_s)

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        with self._open().changed:
            self._cluster.forget(name)

    def close(self) -> None:
        """Close this engine object; its ranks continue to run."""
        with self._cluster.changed:
            self._closed = True
            self._cluster.changed.notify_all()

    def _open(self) -> MemoryCluster:
        if self._closed:
            raise EngineError("this engine object was closed")
        return self._cluster


def _check(spec: RankSpec) -> None:
    file_name(spec.name)
    if not spec.command or not spec.command[0]:
        raise EngineError(f"{spec.name}: the command is empty")
