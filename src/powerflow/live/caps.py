"""The power caps of a live cluster: kept in the store, told to the brain, and held against the meters.

What was drawn under a cap is written down as it is metered, one line for each change, in a CSV file of the state
directory: the compliance record, which outlives the controller and is judged by the same code as a simulated one.
"""

from __future__ import annotations

import csv
import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from powerflow.cluster.spec import ClusterSpec
from powerflow.errors import InputError
from powerflow.live.power import Power
from powerflow.live.records import AuditRecord, Caller, CapOrder, CapRecord, NotFound, Refused
from powerflow.live.store import Store
from powerflow.scheduler import events as brain
from powerflow.scheduler.cap import CALM_S, PowerCap, parse_scope
from powerflow.scheduler.compliance import WITHIN_S, Compliance, comply

#: The store's setting in which caps stand.
CAPS = "caps"
#: Caps that are over are shown for so long, and their records kept.
KEPT_S = 30 * 86_400.0
#: Power that changed by less is not written down again.
NOTED = 0.001
#: A reading this old is written down anew: a record that ends says until when it was read.
NOTED_S = 60.0


@dataclass(frozen=True, slots=True)
class StoredCap:
    """A cap as it stands in the store: plain numbers, None where `PowerCap` has an infinite one."""

    number: int
    scope: str
    watts: float
    start_s: float
    end_s: float | None
    deadline_s: float | None
    ramp_w_per_s: float | None
    set_s: float
    by: str
    lifted: bool = False  # who lifted it wants no hour of calm after it either

    def cap(self, cluster: ClusterSpec) -> PowerCap:
        """As the brain takes it."""
        return PowerCap(
            self.watts,
            parse_scope(self.scope, cluster, "scope"),
            self.start_s,
            math.inf if self.end_s is None else self.end_s,
            self.deadline_s,
            math.inf if self.ramp_w_per_s is None else self.ramp_w_per_s,
        )


class Caps:
    """All caps of one cluster. `set`, `lift` and `records` are for any thread, the rest for the controller's loop.

    Args:
        store: Where they stand.
        cluster: What scopes are parts of.
        power: What is drawn.
        records: Directory of the compliance records.
    """

    def __init__(self, store: Store, cluster: ClusterSpec, power: Power, records: Path) -> None:
        self._store, self._cluster, self._power, self._dir = store, cluster, power, records
        self._known: tuple[StoredCap, ...] = ()
        self._noted: dict[int, tuple[float, float]] = {}  # by number: when, watts
        self._lock = threading.Lock()  # who changes caps reads them first

    # -- from outside ---------------------------------------------------------------------------------------------

    def set(self, order: CapOrder, caller: Caller, now_s: float) -> CapRecord:
        """Keep a cap, with who set it. One of the same scope and start is replaced.

        Raises:
            InputError: Something in it cannot be.
            Refused: It is over before it begins.
        """
        scope = parse_scope(order.scope, self._cluster, "scope").name
        start_s = now_s if order.start_s is None else order.start_s
        if order.end_s is not None and order.end_s <= now_s:
            raise Refused("the cap is over before it is set", fix="give an end that is to come")
        if (order.watts is None) == (order.share is None):
            raise InputError("a cap needs either watts or a share", where="watts", fix="give one of the two")
        watts = order.watts
        if watts is None:
            drawn_w = self._watts(scope)
            if not drawn_w > 0:
                raise Refused("what is drawn now is not known yet", fix="give watts, or wait for a reading")
            watts = (order.share or 0.0) * drawn_w
        with self._lock:
            return self._set(order, scope, start_s, watts, caller, now_s)

    def _set(
        self, order: CapOrder, scope: str, start_s: float, watts: float, caller: Caller, now_s: float
    ) -> CapRecord:
        stored = self._stored()
        number = 1 + max((cap.number for cap in stored), default=0)
        new = StoredCap(
            number, scope, watts, start_s, order.end_s, order.deadline_s, order.ramp_w_per_s, now_s, caller.user
        )
        new.cap(self._cluster)  # or it is no cap, and says why
        kept = [cap for cap in stored if (cap.scope, cap.start_s) != (scope, start_s) and not _over(cap, now_s, KEPT_S)]
        for cap in stored:
            if _over(cap, now_s, KEPT_S):
                self._path(cap.number).unlink(missing_ok=True)
        self._store.govern(CAPS, [asdict(cap) for cap in (*kept, new)], self._audit("cap set", new, caller, now_s))
        return self._record(new, now_s)

    def lift(self, scope: str, caller: Caller, now_s: float) -> Sequence[CapRecord]:
        """End the caps of a scope now; those to come are forgotten.

        Raises:
            NotFound: It has none.
        """
        name = parse_scope(scope, self._cluster, "scope").name
        with self._lock:
            return self._lift(name, caller, now_s)

    def _lift(self, name: str, caller: Caller, now_s: float) -> Sequence[CapRecord]:
        stored = self._stored()
        mine = [cap for cap in stored if cap.scope == name and not _over(cap, now_s, CALM_S)]
        if not mine:
            raise NotFound(f"there is no power cap on {name}")
        ended = {
            cap.number: replace(cap, end_s=now_s if cap.end_s is None else min(now_s, cap.end_s), lifted=True)
            for cap in mine
            if cap.start_s < now_s
        }
        kept = [ended.get(cap.number, cap) for cap in stored if cap not in mine or cap.number in ended]
        audit = self._audit("cap lifted", mine[-1], caller, now_s)
        self._store.govern(CAPS, [asdict(cap) for cap in kept], audit)
        return [self._record(cap, now_s) for cap in kept if cap.number in ended]

    def records(self, now_s: float) -> Sequence[CapRecord]:
        """All caps that are kept, those that end last first."""
        return [self._record(cap, now_s) for cap in reversed(self._stored())]

    def csv(self, number: int) -> str:
        """``time_s,watts,allowed_w`` of a cap, a line for each change.

        Raises:
            NotFound: There is no such cap.
        """
        if all(cap.number != number for cap in self._stored()):
            raise NotFound(f"there is no power cap {number}")
        path = self._path(number)
        return path.read_text("ascii") if path.exists() else _HEADER

    # -- the loop -------------------------------------------------------------------------------------------------

    def watching(self, now_s: float) -> bool:
        """Whether the meters matter: a cap holds, is to come, or has ended within the hour."""
        return any(not _over(cap, now_s, WITHIN_S) for cap in self._known)

    def news(self, now_s: float) -> Sequence[brain.Event]:
        """What the brain is to be told since the last call: at the start, all caps that are not over."""
        stored = self._stored()
        told: list[brain.Event] = []
        after = {cap.number: cap for cap in stored}
        lifted = {
            cap.scope
            for cap in self._known
            if not _over(cap, now_s, CALM_S) and (cap.number not in after or after[cap.number].lifted != cap.lifted)
        }
        told += [brain.PowerCapLifted(scope) for scope in sorted(lifted)]
        known = {cap.number for cap in self._known if cap.scope not in lifted}
        due = [cap for cap in stored if cap.number not in known and not cap.lifted and not _over(cap, now_s, 0.0)]
        told += [brain.PowerCapSet(cap.cap(self._cluster)) for cap in due]
        self._known = tuple(stored)
        return told

    def note(self, now_s: float) -> None:
        """Write down what is drawn under each cap, where that has changed."""
        for cap in self._known:
            if now_s < cap.start_s - WITHIN_S or _over(cap, now_s, WITHIN_S):
                continue
            watts = self._watts(cap.scope)
            at_s, before_w = self._noted.get(cap.number, (-math.inf, math.nan))
            if abs(watts - before_w) <= NOTED * before_w and now_s - at_s < NOTED_S:
                continue
            allowed_w = cap.cap(self._cluster).allowed_w(now_s, math.nan)
            path = self._path(cap.number)
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            with path.open("a", encoding="ascii") as file:
                file.write(_HEADER if new else "")
                file.write(f"{now_s:.3f},{watts:.1f},{'' if math.isinf(allowed_w) else f'{allowed_w:.1f}'}\n")
            self._noted[cap.number] = now_s, watts

    # -- inside ---------------------------------------------------------------------------------------------------

    def _stored(self) -> list[StoredCap]:
        return [StoredCap(**cap) for cap in self._store.get(CAPS, [])]

    def _watts(self, scope: str) -> float:
        """Watts of a scope's GPUs now."""
        nodes = parse_scope(scope, self._cluster, "scope").nodes
        return sum(watts for (node, _), watts in self._power.gpu_watts().items() if nodes is None or node in nodes)

    def _path(self, number: int) -> Path:
        return self._dir / f"cap-{number}.csv"

    def _record(self, cap: StoredCap, now_s: float) -> CapRecord:
        due_s = cap.start_s if cap.deadline_s is None else cap.deadline_s
        state = "over" if _over(cap, now_s, 0.0) else "announced" if now_s < due_s else "in force"
        kept = self._compliance(cap, now_s)
        return CapRecord(
            cap.number,
            cap.scope,
            cap.watts,
            state,
            cap.start_s,
            cap.end_s,
            cap.deadline_s,
            cap.ramp_w_per_s,
            cap.by,
            cap.set_s,
            self._watts(cap.scope),
            _finite(kept.under_after_s) if kept else None,
            kept.over_s if kept else None,
            kept.end_s - kept.due_s if kept else None,
            kept.worst_over_w if kept else None,
            _finite(kept.mean_w) if kept else None,
            _finite(kept.before_w) if kept else None,
            _finite(kept.after_w) if kept else None,
            self._power.emulated,
        )

    def _compliance(self, cap: StoredCap, now_s: float) -> Compliance | None:
        """How a cap was kept so far; None before it is due."""
        rows = [row for row in csv.reader(self.csv(cap.number).splitlines()[1:]) if len(row) == 3]
        time_s, watts = (np.array([float(row[i]) for row in rows]) for i in (0, 1))
        end_s = now_s if cap.end_s is None else min(now_s, cap.end_s)
        if not rows or max(cap.deadline_s or cap.start_s, time_s[0]) >= end_s:
            return None
        if time_s[-1] < now_s <= time_s[-1] + 2 * NOTED_S:  # what was read last still holds
            time_s, watts = np.append(time_s, now_s), np.append(watts, watts[-1])
        return comply(cap.cap(self._cluster), time_s, watts)

    @staticmethod
    def _audit(action: str, cap: StoredCap, caller: Caller, now_s: float) -> AuditRecord:
        fields = {key: value for key, value in asdict(cap).items() if key not in ("set_s", "by", "lifted")}
        return AuditRecord(0, now_s, caller.user, caller.address, action, cap.scope, fields)


_HEADER = "time_s,watts,allowed_w\n"


def _over(cap: StoredCap, now_s: float, since_s: float) -> bool:
    """Whether a cap ended so long ago."""
    return cap.end_s is not None and now_s >= cap.end_s + since_s


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
