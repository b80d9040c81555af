"""Keep the power caps of a live cluster, pass them to the scheduler, and judge how well each cap was kept.

Each meter reading is recorded for the caps that it concerns (`powerflow.live.governance.cap_record`). The same code
judges live and simulated caps (`powerflow.scheduler.caps.compliance`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from powerflow.api.governance import AuditRecord, CapOrder, CapRecord, audited
from powerflow.api.loop_figures import CapReading
from powerflow.api.records import Caller, NotFound, Refused
from powerflow.cluster.spec import Node
from powerflow.errors import InputError
from powerflow.live.governance.cap_record import CapRecords
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.scheduler import events as scheduler_events
from powerflow.scheduler.cap import CALM_S, PowerCap, Scope, named_scope, parse_scope
from powerflow.scheduler.caps.compliance import WITHIN_S, comply
from powerflow.store.store import Store
from powerflow.units import DAY_S

#: Setting in the store: all caps.
CAPS = "caps"
#: How long caps and their records are kept after their end, seconds.
KEPT_S = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class StoredCap:
    """A power cap, as the store keeps it: plain numbers, and None in place of inf."""

    number: int
    scope: str
    watts: float
    start_s: float
    end_s: float | None
    deadline_s: float | None
    ramp_w_per_s: float | None
    set_s: float
    by: str
    lifted: bool = False  # True if an operator lifted it: power may rise at once

    @property
    def place(self) -> tuple[str, float]:
        """The part of the cluster that is capped, and the start time.

        A new cap for the same part and start time replaces the old cap.
        """
        return self.scope, self.start_s

    def cap(self, nodes: Sequence[Node]) -> PowerCap:
        """Return the power cap as the scheduler needs it. Nodes that it names need not be there now."""
        return PowerCap(
            self.watts,
            named_scope(self.scope, nodes, "scope"),
            self.start_s,
            math.inf if self.end_s is None else self.end_s,
            self.deadline_s,
            math.inf if self.ramp_w_per_s is None else self.ramp_w_per_s,
        )


class Caps:
    """Keep all power caps of one cluster.

    Only the controller's loop may call `news`, `readings` and `note`; any thread may call the rest.

    Args:
        store: Keeps the caps.
        nodes: Returns the present nodes.
        power: Reads the GPUs.
        records: Keeps the power record of each cap.
    """

    def __init__(
        self, store: Store, nodes: Callable[[], Sequence[Node]], power: ClusterGpus, records: CapRecords
    ) -> None:
        self._store, self._nodes, self._power, self._records = store, nodes, power, records
        self._told: dict[int, StoredCap] = {}  # what the scheduler knows, by number
        self._lock = threading.Lock()  # held from reading the caps to storing changed ones

    # -- from outside ---------------------------------------------------------------------------------------------

    def set(self, order: CapOrder, caller: Caller, now_s: float) -> CapRecord:
        """Store a power cap. It replaces an older cap with the same start time on the same part of the cluster.

        Raises:
            InputError: A value is impossible.
            Refused: The cap ends before now.
        """
        with self._lock:
            last, stored = self._stored()
            new = self._made(order, last + 1, caller.user, now_s)
            out = [cap for cap in stored if cap.place == new.place or _over(cap, now_s, KEPT_S)]
            kept = [cap for cap in stored if cap not in out]
            self._keep(new.number, [*kept, new], _audit("cap set", new, caller, now_s))
            for cap in out:
                self._records.forget(cap.number)
        return self._show(new, now_s)

    def trial(self, order: CapOrder, now_s: float) -> PowerCap:
        """Return the power cap that an order asks for, as if it had to be met now and for ever. Nothing is changed.

        Raises:
            InputError: A value is impossible.
            Refused: The cap ends before now.
        """
        cap = self._made(order, 0, "", now_s).cap(self._nodes())
        return PowerCap(cap.watts, cap.scope)

    def lift(self, scope: str, caller: Caller, now_s: float) -> Sequence[CapRecord]:
        """Lift the power caps on one part of the cluster, and return the lifted caps.

        Caps in force end now. Caps that ended less than an hour ago are lifted too. Caps that have not begun are
        deleted.

        Args:
            scope: The part of the cluster.
            caller: Who lifts the caps.
            now_s: The present.

        Raises:
            NotFound: This part of the cluster has no such cap.
        """
        name = named_scope(scope, self._nodes(), "scope").name
        with self._lock:
            last, stored = self._stored()
            mine = [cap for cap in stored if cap.scope == name and not cap.lifted and not _over(cap, now_s, CALM_S)]
            if not mine:
                raise NotFound(f"there is no power cap on {name}")
            lifted = [
                replace(cap, end_s=now_s if cap.end_s is None else min(now_s, cap.end_s), lifted=True)
                for cap in mine
                if cap.start_s < now_s
            ]
            kept = sorted([*(cap for cap in stored if cap not in mine), *lifted], key=lambda cap: cap.number)
            self._keep(last, kept, *(_audit("cap lifted", cap, caller, now_s) for cap in mine))
            for number in {cap.number for cap in mine} - {cap.number for cap in lifted}:
                self._records.forget(number)
        return [self._show(cap, now_s) for cap in lifted]

    def show(self, now_s: float) -> Sequence[CapRecord]:
        """Return the records of all power caps that are in the store, newest first."""
        return [self._show(cap, now_s) for cap in reversed(self._stored()[1])]

    def csv(self, number: int) -> str:
        """Return the power record of a cap as CSV with columns ``time_s,watts,allowed_w``, one line for each change.

        Raises:
            NotFound: There is no cap with this number.
        """
        if all(cap.number != number for cap in self._stored()[1]):
            raise NotFound(f"there is no power cap {number}")
        return self._records.text(number)

    # -- the loop -------------------------------------------------------------------------------------------------

    def news(self, now_s: float) -> Sequence[scheduler_events.Event]:
        """Return the changes of power caps since the last call, as events for the scheduler.

        The first call returns all caps that have not ended.
        """
        stored = {cap.number: cap for cap in self._stored()[1]}
        places = {cap.place for cap in stored.values() if not cap.lifted}
        held = [cap for cap in self._told.values() if not cap.lifted and not _over(cap, now_s, CALM_S)]
        gone = {cap.scope for cap in held if cap.place not in places}
        due = [cap for cap in stored.values() if not cap.lifted and not _over(cap, now_s, 0.0)]
        due = [cap for cap in due if cap.number not in self._told or cap.scope in gone]
        self._told = stored
        lifted = [scheduler_events.PowerCapLifted(scope) for scope in sorted(gone)]
        return [*lifted, *(scheduler_events.PowerCapSet(cap.cap(self._nodes())) for cap in due)]

    def note(self, now_s: float, allowed_w: Callable[[Scope], float]) -> None:
        """Record the watts that are drawn and allowed under each cap, from an hour before the cap to an hour after it.

        Args:
            now_s: The present.
            allowed_w: Returns the watts that are allowed for a part of the cluster.

        Raises:
            OSError: A record cannot be written.
        """
        present = self._nodes()
        for cap in self._told.values():
            if now_s >= cap.start_s - WITHIN_S and not _over(cap, now_s, WITHIN_S):
                scope = named_scope(cap.scope, present)
                self._records.note(cap.number, now_s, self._drawn_w(scope), allowed_w(scope))

    def readings(self, allowed_w: Callable[[Scope], float]) -> Sequence[CapReading]:
        """Return the power of each part of the cluster for which caps set a limit now, and this limit.

        Args:
            allowed_w: Returns the watts that are allowed for a part of the cluster; inf for no limit.
        """
        present = self._nodes()
        names = dict.fromkeys(cap.scope for cap in self._told.values())
        limits = [(scope, allowed_w(scope)) for scope in (named_scope(name, present) for name in names)]
        return tuple(
            CapReading(scope.name, limit_w, self._drawn_w(scope)) for scope, limit_w in limits if math.isfinite(limit_w)
        )

    def ahead(self, now_s: float) -> Sequence[StoredCap]:
        """Return the power caps that are in force or announced."""
        return [cap for cap in self._stored()[1] if not _over(cap, now_s, 0.0)]

    def _made(self, order: CapOrder, number: int, by: str, now_s: float) -> StoredCap:
        """Return the power cap that an order asks for, after checking it."""
        scope = parse_scope(order.scope, self._nodes(), "scope").name
        if order.end_s is not None and order.end_s <= now_s:
            raise Refused("the end of the cap is in the past", fix="give an end in the future")
        made = StoredCap(
            number=number,
            scope=scope,
            watts=self._limit_w(order, scope),
            start_s=now_s if order.start_s is None else order.start_s,
            end_s=order.end_s,
            deadline_s=order.deadline_s,
            ramp_w_per_s=order.ramp_w_per_s,
            set_s=now_s,
            by=by,
        )
        made.cap(self._nodes())  # raises if it is no cap
        return made

    def _stored(self) -> tuple[int, list[StoredCap]]:
        """Return the highest number of a cap so far, and all caps, oldest first. No number is used twice."""
        kept = self._store.get(CAPS, {"last": 0, "caps": []})
        return kept["last"], [StoredCap(**cap) for cap in kept["caps"]]

    def _keep(self, last: int, caps: Sequence[StoredCap], *whats: AuditRecord) -> None:
        self._store.govern(CAPS, {"last": last, "caps": [asdict(cap) for cap in caps]}, whats)

    def _limit_w(self, order: CapOrder, scope: str) -> float:
        """Return the watts that a cap allows."""
        if order.watts is not None and order.share is None:
            return order.watts
        if order.share is None or order.watts is not None:
            raise InputError("a cap needs either watts or a share", where="watts", fix="give one of the two")
        drawn_w = self._drawn_w(named_scope(scope, self._nodes()))
        if not drawn_w > 0:
            raise Refused("the present power is not known yet", fix="give watts, or wait for a reading")
        return order.share * drawn_w

    def _drawn_w(self, scope: Scope) -> float:
        """Return the present watts of the GPUs in a part of the cluster."""
        nodes = scope.nodes
        return sum(watts for (node, _), watts in self._power.gpu_watts().items() if nodes is None or node in nodes)

    def _show(self, stored: StoredCap, now_s: float) -> CapRecord:
        cap = stored.cap(self._nodes())
        record = CapRecord(
            number=stored.number,
            scope=stored.scope,
            watts=stored.watts,
            state=_state(stored, cap.due_s, now_s),
            start_s=stored.start_s,
            end_s=stored.end_s,
            deadline_s=stored.deadline_s,
            ramp_w_per_s=stored.ramp_w_per_s,
            by=stored.by,
            set_s=stored.set_s,
            power_w=self._drawn_w(cap.scope),
            emulated=self._power.emulated,
        )
        time_s, watts = self._records.course(stored.number, now_s)
        if not len(time_s) or max(cap.due_s, time_s[0]) >= min(now_s, cap.end_s):
            return record  # nothing can be judged yet
        kept = comply(cap, time_s, watts)
        return replace(
            record,
            under_after_s=_finite(kept.under_after_s),
            over_s=kept.over_s,
            judged_s=kept.end_s - kept.due_s,
            worst_over_w=kept.worst_over_w,
            mean_w=_finite(kept.mean_w),
            before_w=_finite(kept.before_w),
            after_w=_finite(kept.after_w),
        )


def _state(stored: StoredCap, due_s: float, now_s: float) -> str:
    if _over(stored, now_s, 0.0):
        return "lifted" if stored.lifted else "ended"
    return "announced" if now_s < due_s else "in force"


def _audit(action: str, cap: StoredCap, caller: Caller, now_s: float) -> AuditRecord:
    fields = {key: value for key, value in asdict(cap).items() if key not in ("set_s", "by", "lifted")}
    return audited(caller, now_s, action, cap.scope, fields)


def _over(cap: StoredCap, now_s: float, since_s: float) -> bool:
    """Return True if a cap ended at least ``since_s`` ago."""
    return cap.end_s is not None and now_s >= cap.end_s + since_s


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
