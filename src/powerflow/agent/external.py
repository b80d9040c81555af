"""Hold GPUs for ranks whose processes another scheduler starts and ends, such as those of Slurm's jobs.

An *external* rank has no command. Nothing is started for it: from its launch until somebody sends it a signal, it has
its GPUs, so that they are metered for it and may have a clock. Its own scheduler alone decides when its processes end:
no signal ever reaches them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from powerflow.engine.cluster.rows import status_from_row, status_row
from powerflow.engine.protocol import (
    Engine,
    EngineError,
    EngineNode,
    Fenced,
    RankName,
    RankSpec,
    RankState,
    RankStatus,
    launch_each,
)
from powerflow.osutil.files import read_json, replace_json
from powerflow.osutil.processes import boot_id

#: Format of the file.
FORMAT = 1


class ExternalRanks:
    """Engine that adds external ranks to those of another engine. Any thread may use it.

    The external ranks are kept in a file, so that they outlive this process. They end with the machine's boot.

    Args:
        engine: Runs all ranks that have a command.
        path: File of the external ranks.
        boot: Id of the machine's present boot; None to ask this machine.
        clock: Returns Unix seconds.
    """

    def __init__(
        self, engine: Engine, path: Path, *, boot: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self._path, self._clock = engine, path, clock
        self._boot = boot_id() if boot is None else boot
        self.shares_mailboxes, self.shells = engine.shares_mailboxes, engine.shells
        self._guard = threading.Lock()
        self._changed = threading.Event()
        kept = read_json(path)
        kept = kept if kept is not None and kept.get("format") == FORMAT else {"boot": "", "ranks": [], "fences": {}}
        ranks = [status_from_row(row) for row in kept["ranks"]]
        self._fences: dict[str, int] = {str(gang): int(epoch) for gang, epoch in kept["fences"].items()}
        self._ranks = {rank.name: rank for rank in ranks}
        if kept["boot"] != self._boot:
            for rank in ranks:
                self._ranks[rank.name] = self._ended(rank, rebooted=True)

    def launch(self, spec: RankSpec) -> RankStatus:
        """Start a rank, or hold GPUs for an external one. See `Engine.launch`."""
        if spec.command:
            return self._engine.launch(spec)
        with self._guard:
            if spec.name.epoch < self._fences.get(spec.name.gang, spec.name.epoch):
                raise Fenced(f"{spec.name}: a later placement of this job was launched")
            if (known := self._ranks.get(spec.name)) is not None:
                return known
            rank = RankStatus(spec.name, spec.node, RankState.RUNNING, 0, None, self._clock(), math.nan)
            self._keep({**self._ranks, rank.name: rank})
        return rank

    def launch_all(self, specs: Sequence[RankSpec]) -> Sequence[RankStatus]:
        """Start ranks one after another. See `Engine.launch_all`."""
        return launch_each(self.launch, specs)

    def ranks(self) -> Sequence[RankStatus]:
        """Return the status of every rank."""
        with self._guard:
            external = list(self._ranks.values())
        return [*self._engine.ranks(), *external]

    def signal(self, name: RankName, number: int) -> bool:
        """Send a signal to a rank; an external rank gives its GPUs back, and its processes get no signal."""
        with self._guard:
            rank = self._ranks.get(name)
            if rank is not None:
                if not rank.state.may_run:
                    return False
                self._keep({**self._ranks, name: self._ended(rank)})
                return True
        return self._engine.signal(name, number)

    def forget(self, name: RankName) -> None:
        """Delete the status and the log of a rank that has ended."""
        with self._guard:
            rank = self._ranks.get(name)
            if rank is not None:
                if not rank.state.may_run:
                    self._keep({other: status for other, status in self._ranks.items() if other != name})
                return
        self._engine.forget(name)

    def fence(self, gang: str, epoch: int) -> None:
        """Refuse all later launches of a gang with an epoch lower than ``epoch``. See `Engine.fence`."""
        self._engine.fence(gang, epoch)
        with self._guard:
            if self._fences.get(gang, -1) < epoch:
                self._fences[gang] = epoch
                if any(name.gang == gang for name in self._ranks):
                    self._keep(self._ranks)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the state of a rank may have changed. See `Engine.wait`."""
        if self._changed.is_set():
            self._changed.clear()
            return True
        return self._engine.wait(timeout_s)

    def log(self, name: RankName, offset: int = 0, limit: int = 65536) -> tuple[bytes, int]:
        """Return a part of what a rank wrote; nothing of an external rank. See `Engine.log`."""
        return (b"", 0) if name in self._ranks else self._engine.log(name, offset, limit)

    def log_offset(self, name: RankName, since_s: float) -> int:
        """Return where in a rank's log the output since a time begins. See `Engine.log_offset`."""
        return 0 if name in self._ranks else self._engine.log_offset(name, since_s)

    def check(self, spec: RankSpec) -> str:
        """Return why a rank cannot run on its node as its spec says; "" if nothing is known against it."""
        return self._engine.check(spec) if spec.command else ""

    def nodes(self) -> Sequence[EngineNode]:
        """Return all nodes of this engine."""
        return self._engine.nodes()

    def limits(self) -> frozenset[str]:
        """Return the limits that this engine can enforce."""
        return self._engine.limits()

    def declare_off(self, node: str) -> None:
        """Accept an operator's word that a node is off. See `Engine.declare_off`."""
        self._engine.declare_off(node)

    def notices(self) -> Sequence[str]:
        """Return what operators should know about the nodes. See `Engine.notices`."""
        return self._engine.notices()

    def post(self, gang: str, file: str, text: str) -> None:
        """Pass a file of a job's mailbox on. See `Engine.post`."""
        self._engine.post(gang, file, text)

    def close(self) -> None:
        """Disconnect from the engine; all ranks keep their GPUs."""
        self._engine.close()

    def _ended(self, rank: RankStatus, *, rebooted: bool = False) -> RankStatus:
        if not rank.state.may_run:
            return rank
        return replace(rank, state=RankState.EXITED, code=0, ended_s=self._clock(), rebooted=rebooted)

    def _keep(self, ranks: dict[RankName, RankStatus]) -> None:
        """Write all external ranks to the file, and only then take them over.

        Raises:
            EngineError: The file cannot be written; nothing has changed.
        """
        fences = {gang: epoch for gang, epoch in self._fences.items() if any(name.gang == gang for name in ranks)}
        rows = [status_row(rank) for rank in ranks.values()]
        try:
            replace_json(self._path, {"format": FORMAT, "boot": self._boot, "ranks": rows, "fences": fences})
        except OSError as error:
            raise EngineError(f"{self._path} cannot be written ({error.strerror})", retry=True) from error
        self._ranks = ranks
        self._changed.set()
