"""Own the GPUs of one machine: read them, meter them for its ranks, and keep the clocks that the controller wants.

A machine may be several nodes of the cluster, if it has GPUs of several types, or if its GPUs are emulated.

`NodeDevices` reads all GPUs about once a second (`turn`), by itself in a thread of its own after `start`. The engine of
the machine tells it when a rank begins and ends (`began`, `ended`, `follow`). What it has found is in `report`. The
wish of the controller for clocks (`want`) holds for a limited time, the **lease**. If no new wish comes in that time,
because the controller or the network is gone, the machine restores all clocks itself. If this process is killed, too,
the watchdog does it (`powerflow.device.lease`).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from powerflow.agent.clock_audit import ClockAudit
from powerflow.agent.clock_keeper import ClockKeeper
from powerflow.agent.emulation import TRUTH, RankEmulation
from powerflow.agent.gpus import described
from powerflow.agent.ledger import Ledger, StoredLedger
from powerflow.agent.work import WorkCounters
from powerflow.device.claims import GpuClaims
from powerflow.device.cuda_order import cuda_numbers, visible
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.foreign import parent_of, strangers
from powerflow.device.lease import LEASE_S, Clocks
from powerflow.device.protocol import DeviceError, Gpu, Place, Reading
from powerflow.engine.devices import gpu_row
from powerflow.engine.protocol import RankState, RankStatus
from powerflow.osutil.processes import boot_id

#: How often GPUs are read, seconds.
READ_S = 1.0
#: Longest time that `NodeDevices.close` waits for a driver, seconds.
CLOSE_S = 5.0

#: Variable with the numbers of the GPUs that a rank may see, if these are more than those that it computes on.
SEEN = "POWERFLOW_SEEN_GPUS"


class NodeDevices:
    """Own the GPUs of one machine. Any thread may use it.

    Args:
        directory: The device directory of this machine, for the ledger, the clocks' notes and the ranks' files.
        gpus: All GPUs of the machine. Their ``node`` and ``index`` are those of the cluster.
        machine: Name of the machine; "" for the node of the first GPU.
        clocks: Sets and resets clocks; None for real ones in ``directory``.
        clock: Monotonic clock of the machine, seconds.
        reading_clock: The clock of the GPUs' readings: the same one, except in tests.
        boot: Id of the machine's present boot; None to ask this machine.
        claim: True to reserve the real GPUs, so that no other agent or controller of this machine uses them.

    Raises:
        DeviceError: Another process has reserved one of the GPUs.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        gpus: Sequence[Gpu],
        *,
        machine: str = "",
        clocks: Clocks | None = None,
        clock: Callable[[], float] = time.monotonic,
        reading_clock: Callable[[], float] = time.monotonic,
        boot: str | None = None,
        claim: bool = True,
    ) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self.machine = machine or (gpus[0].node if gpus else "")
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._places: dict[Place, str] = {(gpu.node, gpu.index): gpu.uuid for gpu in gpus}
        self._clock = clock
        self._boot = boot_id() if boot is None else boot
        self._claims = GpuClaims([gpu.uuid for gpu in gpus if not gpu.emulated] if claim else [])
        self._cuda = cuda_numbers(gpus)
        emulated = [gpu for gpu in gpus if isinstance(gpu, EmulatedGpu)]
        self._emulation = RankEmulation(self._directory, emulated) if emulated else None
        self._ledger = Ledger(self._directory / "ledger.json", gpus, boot=self._boot, clock=clock)
        self._refused: list[str] = []
        clocks = clocks or Clocks(self._directory, gpus, self._refused.append)
        self._keeper = ClockKeeper(self._gpus, clocks, reading_clock)
        self._keeper.start()
        self._audit = ClockAudit(self._directory / "audit.json")
        self._guard = threading.RLock()  # of everything above
        self._readings: dict[str, Reading] = {}
        self._work = WorkCounters()  # has a guard of its own
        self._strangers: dict[str, tuple[str, ...]] = {}
        self._read_s = -math.inf
        self._name, self._number = uuid.uuid4().hex[:8], 0  # of this object, and of its readings
        self._launching: set[str] = set()  # ranks that have GPUs, but that the engine may not know yet
        self._ours: frozenset[int] | None = None  # processes of ranks, and their parents
        self._external: frozenset[str] = frozenset()  # ranks whose processes another scheduler starts
        self._found: dict[str, None] = {}  # meters that differ, in order of appearance
        self._jumped: dict[str, str] = {}
        self._troubles: dict[str, str] = {}
        self._quick = threading.Lock()  # of everything below: held for moments only
        self._wish: Mapping[str, float] | None = None  # None: none has come since the start
        self._wish_until_s = clock() + LEASE_S
        self._acknowledged: tuple[int, int] = (0, 0)
        self._published: dict[str, Any] = {}
        self._bell, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.turn()

    # -- what is here -------------------------------------------------------------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """Return the GPUs of this machine as JSON objects, in order: see `powerflow.agent.gpus.described`."""
        return [described(gpu) for gpu in self._gpus.values()]

    def uuids(self, node: str, numbers: Iterable[int]) -> tuple[str, ...]:
        """Return the UUIDs of GPUs of a node.

        Raises:
            DeviceError: The machine does not have one of them.
        """
        try:
            return tuple(self._places[node, number] for number in numbers)
        except KeyError as error:
            raise DeviceError(f"there is no GPU {error.args[0][1]} on node {node}") from None

    def environment(self, rank: str, node: str, numbers: Sequence[int], env: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a rank that will start here, with the variables through which it sees its GPUs.

        Args:
            rank: Name of the rank.
            node, numbers: Node, and the numbers of its GPUs that the rank computes on.
            env: Environment of the rank, as the controller has sent it. `SEEN` and `TRUTH` in it are for this machine.
        """
        known = {name: value for name, value in env.items() if name not in (SEEN, TRUTH)}
        own = self.uuids(node, numbers)
        seen = self.uuids(node, map(int, env[SEEN].split(","))) if env.get(SEEN) else own
        if not seen:
            return known
        if self._emulation is None:
            return known | visible(seen, self._cuda, self._ledger.meter.errors)
        # as many ranks as emulated GPUs share this machine's cores: one thread each
        known |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return {**known, **self._emulation.environment(rank, seen, own, env)}

    # -- ranks --------------------------------------------------------------------------------------------------------

    def began(self, rank: str, uuids: Collection[str]) -> None:
        """Meter GPUs for a rank from now on. Call this just before the rank is started.

        Raises:
            DeviceError: The machine does not have one of the GPUs.
        """
        with self._guard:
            self._launching.add(rank)
            self._ledger.began(rank, uuids)
            self._seen_now()

    def ended(self, rank: str) -> None:
        """Meter the GPUs of a rank for nobody from now on, because it has ended, or could not be started."""
        with self._guard:
            self._launching.discard(rank)
            if rank in self._ledger.ranks():
                self._ledger.ended(rank)
                self._seen_now()

    def follow(self, ranks: Iterable[RankStatus]) -> None:
        """Compare the ledger with the engine's ranks: begin those that run, and end those that do not run any more.

        Call this whenever a rank may have changed, with all ranks of the machine, and when this process has started:
        ranks may have ended while no agent ran.

        Args:
            ranks: All ranks that the engine of this machine knows.
        """
        with self._guard:
            known = {str(status.name): status for status in ranks}
            self._launching -= known.keys()
            for name in self._ledger.ranks() - self._launching:
                if name not in known or not known[name].state.may_run:
                    self.ended(name)
            for name, status in known.items():
                if status.state is RankState.RUNNING and status.gpus:
                    self._ledger.began(name, [uid for uid in status.gpus if uid in self._gpus])
            pids = {s.pid for s in known.values() if s.pid > 1 and s.state is RankState.RUNNING}
            self._external = frozenset(name for name, s in known.items() if not s.pid and s.state is RankState.RUNNING)
            # a rank's parent, its shim, adopts the rank's orphans
            self._ours = frozenset(pids | {pid for pid in map(parent_of, pids) if pid > 1})
            if self._emulation is not None:
                self._emulation.follow(known.values())

    def held(self) -> dict[str, tuple[str, ...]]:
        """Return the UUIDs of the GPUs that each rank has."""
        with self._guard:
            return self._ledger.held()

    def forget(self, rank: str) -> None:
        """Delete what is kept about a rank that has ended, except for its energy."""
        if self._emulation is not None:
            self._emulation.forget(rank)

    # -- clocks -------------------------------------------------------------------------------------------------------

    def want(self, clocks_mhz: Mapping[str, float], lease_s: float = LEASE_S) -> None:
        """Take the controller's whole wish for clocks (MHz, by UUID): all other GPUs run at their own clocks.

        The wish holds for ``lease_s`` seconds, at most `LEASE_S`. Unknown GPUs are ignored. The next `turn` acts on it.
        """
        known = {uid: float(mhz) for uid, mhz in clocks_mhz.items() if uid in self._gpus and 0 < mhz < math.inf}
        with self._quick:
            new = known != self._wish
            self._wish, self._wish_until_s = known, self._clock() + max(0.0, min(lease_s, LEASE_S))
        if new:
            self._bell.set()

    # -- turns --------------------------------------------------------------------------------------------------------

    def turn(self) -> float:
        """Read the GPUs if their last reading is old, keep their clocks, and publish what was found.

        Returns:
            Seconds until the next turn is due.
        """
        with self._guard:
            if self._clock() - self._read_s >= READ_S:
                self._read()
            self._keep_clocks()
            self._publish()
            return max(0.0, self._read_s + READ_S - self._clock())

    def start(self) -> None:
        """Take turns in a thread, until `close`."""
        self._thread = threading.Thread(target=self._run, name=f"devices {self.machine}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop. If the controller wants no clocks any more, they are restored first; others stay until their lease."""
        self._stop.set()
        self._bell.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        if self._guard.acquire(timeout=CLOSE_S):  # otherwise a driver does not answer
            with contextlib.suppress(DeviceError, OSError):
                if self._wish is not None and not self._wish:
                    self._keeper.finish()
            self._guard.release()
        if self._emulation is not None:
            self._emulation.close()
        self._claims.close()

    # -- reports ------------------------------------------------------------------------------------------------------

    def report(self, since: int = 0) -> dict[str, Any]:
        """Return what was found last, as plain JSON data: see `powerflow.engine.devices`. It never waits for a GPU.

        Args:
            since: Leave out rows of the ledger that have not changed after this version. Rows up to the acknowledged
                version are always left out.
        """
        with self._quick:
            published, since = self._published, max(since, self._acknowledged[0])
        stored: StoredLedger = published["ledger"]
        return {
            "machine": self.machine,
            "boot": self._boot,
            "at": published["at"],
            "age_s": self._clock() - published["read_s"],
            "gpus": published["gpus"],
            "ledger": {
                "id": self._ledger.id,
                "version": stored.version,
                "acknowledged": stored.acknowledged,
                "rows": [list(row) for row in stored.rows if row.version > since],
            },
            "refused": published["refused"],
            "notices": published["notices"],
            "audit": self._audit.pending(),
        }

    def acknowledge(self, ledger: str, version: int, audit: int) -> None:
        """Forget what the controller has stored: rows of the ledger up to a version, and audit entries up to a number.

        An acknowledgement of another ledger changes nothing.
        """
        with self._quick:
            rows_until = version if ledger == self._ledger.id else 0
            self._acknowledged = max(self._acknowledged[0], rows_until), max(self._acknowledged[1], audit)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._bell.clear()
            self._bell.wait(self.turn())

    def _seen_now(self) -> None:  # when a rank begins or ends
        self._take_readings()
        self._publish()

    def _read(self) -> None:
        self._ledger.read(self._judge)
        self._read_s = self._clock()
        self._take_readings()
        for found in self._ledger.meter.check():
            what = f"energy counter and power readings differ by {found.share:.0%} over {found.window_s:.0f} s"
            self._found[f"{self._words(found.uuid)}: {what}"] = None
        for jump in self._ledger.meter.jumps():
            self._jumped[jump.uuid] = f"{self._words(jump.uuid)}: {jump.sentence()}"

    def _take_readings(self) -> None:
        self._number += 1
        self._readings = dict(self._ledger.meter.readings)
        self._work.take_all(self._readings)

    def _judge(self, readings: Mapping[str, Reading]) -> Collection[str]:
        """Find the processes of other people on the GPUs; return the GPUs of ranks that have some.

        The part of the rank in the energy of such a GPU is not known, so it is charged to nobody. All processes on the
        GPU of an external rank are that rank's.
        """
        held = self._ledger.holders()
        self._strangers = {}
        for uid, reading in readings.items():
            if reading.pids and self._ours is not None and held.get(uid) not in self._external:
                found = strangers(reading.pids, self._ours, spare_containers=uid in held)
                if found:
                    self._strangers[uid] = found
        return self._strangers.keys() & held.keys()

    def _keep_clocks(self) -> None:
        with self._quick:
            wish, left_s = self._wish, self._wish_until_s - self._clock()
        if wish is None and left_s > 0:
            return  # an earlier agent's clocks stay until their lease ends, or until the controller is heard of
        wanted = wish if wish is not None and left_s > 0 else {}
        silent = self._ledger.meter.errors.keys()
        try:
            said = self._keeper.tune(wanted, self._readings, silent, max(0.0, left_s))
        except (DeviceError, OSError) as error:
            self._troubles["clocks"] = f"{self.machine}: clocks cannot be kept: {error}"
            return
        self._troubles.pop("clocks", None)
        self._readings.update(said)
        self._work.take_all(said)

    def _publish(self) -> None:
        """Write the ledger and the audit to disk, and make them the next report."""
        with self._quick:
            rows_until, audit_until = self._acknowledged
        self._ledger.acknowledge(rows_until)
        try:
            self._ledger.save()
            self._audit.add(self._keeper.take_changes())
            self._audit.acknowledge(audit_until)
            self._troubles.pop("disk", None)
        except OSError as error:
            where = error.filename or self._directory
            self._troubles["disk"] = f"{self.machine}: {where} cannot be written ({error.strerror})"
        meter, held = self._ledger.meter, self._ledger.holders()
        gpus = {
            uid: gpu_row(
                self._readings.get(uid),
                meter.errors.get(uid),
                meter.powers.get(uid),
                self._strangers.get(uid, ()),
                held.get(uid, ""),
                {
                    "asked_mhz": self._keeper.asked_mhz(uid),
                    "holds": self._keeper.holds([uid]),
                    "strays": self._keeper.strays(uid),
                },
                astuple(self._work.of(uid)),
            )
            for uid in self._gpus
            if uid in meter.errors or uid in self._readings
        }
        notices = [*self._found, *self._jumped.values(), *self._keeper.notices(), *self._troubles.values()]
        with self._quick:
            self._published = {
                "at": f"{self._name}.{self._number}",
                "read_s": self._read_s,
                "gpus": gpus,
                "ledger": self._ledger.stored(),
                "refused": list(self._refused),
                "notices": notices,
            }

    def _words(self, uid: str) -> str:
        gpu = self._gpus[uid]
        return f"GPU {gpu.index} of {gpu.node}"
