"""Keep the rollout stage of each project: observe, replay, shadow, canary or enforce.

In the stages observe, replay and shadow, jobs are not managed: they run as their owners asked, first come, first
served, and no clock is set. A project in stage canary is managed and watched. The project returns to stage shadow
automatically if its jobs slow a protected job, or do worse than predicted twice in a row
(`powerflow.scheduler.canary`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from powerflow.api.governance import AuditRecord
from powerflow.api.predictions import PredictionsRecord
from powerflow.api.records import Caller
from powerflow.api.stages import Stage, StageOrder, StageRecord
from powerflow.errors import InputError
from powerflow.live.governance.predictions import predictions
from powerflow.scheduler.calibration import Calibration
from powerflow.scheduler.canary import CanaryWatch, Usual, usually
from powerflow.scheduler.events import ManagedProjects
from powerflow.store.store import Store
from powerflow.units import DAY_S

#: Setting in the store: the stages.
STAGES = "stages"
#: Outcomes of jobs that ended longer ago are not shown, seconds.
LOOKED_AT_S = 30 * DAY_S
#: Key of all projects without a stage of their own.
OTHERS = "*"


@dataclass(frozen=True, slots=True)
class StoredStage:
    """A rollout stage as the store keeps it: of one project, or of all projects without their own stage."""

    stage: Stage
    by: str
    set_s: float
    why: str = ""
    usual: Mapping[str, Usual] = field(default_factory=dict)  # of a canary: how predictions were off when it began


class Stages:
    """Keep the rollout stages of one cluster.

    Any thread may set and show stages; only the controller's loop may call the rest.

    Args:
        store: Keeps the stages.
        outcomes: Function that returns the errors of earlier predictions, for ``time`` and ``energy``.
        first: Stage of all projects until an operator sets another stage.
    """

    def __init__(
        self, store: Store, outcomes: Callable[[], Mapping[str, Calibration]], first: Stage = Stage.ENFORCE
    ) -> None:
        self._store, self._outcomes, self._first = store, outcomes, first
        self._lock = threading.Lock()
        self._known: Mapping[str, StoredStage] | None = None
        self._watches: dict[str, CanaryWatch] = {}

    # -- from outside ---------------------------------------------------------------------------------------------

    def set(self, order: StageOrder, caller: Caller, now_s: float) -> None:
        """Set the stage of the named projects; if no list is given, of all projects, even those with their own stage.

        Raises:
            InputError: The list of projects is empty.
        """
        usual = {what: usually(known.residuals) for what, known in self._outcomes().items()}
        new = StoredStage(order.stage, caller.user, now_s, usual=usual if order.stage is Stage.CANARY else {})
        with self._lock:
            self._keep(*self._changed(order, new), new, caller.address)

    def trial(self, order: StageOrder) -> ManagedProjects:
        """Return the projects that would be managed after a change of stages. Nothing is changed.

        Raises:
            InputError: The list of projects is empty.
        """
        known, _ = self._changed(order, StoredStage(order.stage, "", 0.0))
        return _managed(self._completed(known))

    def _changed(self, order: StageOrder, new: StoredStage) -> tuple[dict[str, StoredStage], Sequence[str]]:
        """Return all stages as an order changes them, and the names of the projects that it changes."""
        if order.projects is None:
            return {OTHERS: new}, [OTHERS]
        if not order.projects:
            raise InputError(
                "no project is named",
                where="projects",
                fix="name projects, or leave out the list for all projects",
            )
        return self._stored() | dict.fromkeys(order.projects, new), order.projects

    def show(self, now_s: float) -> Sequence[StageRecord]:
        """Return all stages: first the stage for all projects, then the stages of projects that have their own."""
        known = self._all()
        names = [OTHERS, *sorted(known.keys() - {OTHERS})]
        return [self._show(name, known[name], [*known], now_s) for name in names]

    def stage_of(self, project: str) -> Stage:
        """Return the rollout stage of a project."""
        known = self._all()
        return known.get(project, known[OTHERS]).stage

    def stored_for_all(self) -> StoredStage | None:
        """Return the stage that was set for all projects without their own stage; None if no such stage was set."""
        return self._stored().get(OTHERS)

    def acts(self, project: str) -> bool:
        """Return True if the jobs of a project are managed: its stage is canary or enforce."""
        return self.stage_of(project).acts

    def anybody(self) -> bool:
        """Return True if the jobs of at least one project are managed."""
        return any(stored.stage.acts for stored in self._all().values())

    # -- the loop -------------------------------------------------------------------------------------------------

    def acting(self) -> ManagedProjects:
        """Return the projects that are managed, as an event for the scheduler."""
        return _managed(self._all())

    def has(self, stage: Stage) -> bool:
        """Return True if at least one project is in this stage."""
        return any(stored.stage is stage for stored in self._all().values())

    def ended(self, project: str, errors: Mapping[str, float], now_s: float) -> str:
        """Judge a project in stage canary (managed on trial) by a job that has completed.

        Args:
            project: Project of the job.
            errors: log(actual / predicted) of the job's ``time`` and ``energy``.
            now_s: The present.

        Returns:
            Why the project returns to stage shadow; "" if it does not return.

        Raises:
            StoreError: The new stage cannot be stored. Call this method again with the same job.
        """
        if self.stage_of(project) is not Stage.CANARY:
            return ""
        known = self._all()
        name = project if project in known else OTHERS
        watch = self._watches.setdefault(name, CanaryWatch())
        for what, error in errors.items():
            if not watch.verdict:
                watch.see(what, error, known[name].usual.get(what))
        return self._revert([name], watch.verdict, now_s) if watch.verdict else ""

    def slowed(self, held_back_s: Mapping[str, float], now_s: float) -> str:
        """Return all projects in stage canary to stage shadow if protected jobs are held back.

        Args:
            held_back_s: By how many seconds each protected job is held back.
            now_s: The present.

        Returns:
            Why the projects return to shadow; "" if they do not.
        """
        canaries = [name for name, stored in self._all().items() if stored.stage is Stage.CANARY]
        if not canaries or not held_back_s:
            return ""
        job_id, late_s = max(held_back_s.items(), key=lambda item: item[1])
        return self._revert(canaries, f"protected job {job_id} is {late_s:.0f} s behind its promise", now_s)

    def _revert(self, names: Sequence[str], why: str, now_s: float) -> str:
        new = StoredStage(Stage.SHADOW, "powerflow", now_s, why)
        with self._lock:
            self._keep(self._stored() | dict.fromkeys(names, new), names, new, "")
        return f"stage of {', '.join(map(_named, names))} returns from canary to shadow: {why}"

    def _all(self) -> Mapping[str, StoredStage]:
        """Return the stages of all projects by name; the stage under `OTHERS` is always there."""
        known = self._known
        if known is None:
            known = self._known = self._completed(self._stored())
        return known

    def _completed(self, stored: Mapping[str, StoredStage]) -> Mapping[str, StoredStage]:
        return {OTHERS: StoredStage(self._first, "", 0.0)} | dict(stored)

    def _stored(self) -> dict[str, StoredStage]:
        kept = self._store.get(STAGES, {})
        return {
            name: StoredStage(
                Stage(item["stage"]),
                item["by"],
                item["set_s"],
                item["why"],
                {what: Usual(*pair) for what, pair in item["usual"].items()},
            )
            for name, item in kept.items()
        }

    def _keep(self, known: Mapping[str, StoredStage], names: Sequence[str], new: StoredStage, address: str) -> None:
        fields: dict[str, Any] = {"stage": new.stage.value} | ({"why": new.why} if new.why else {})
        whats = [AuditRecord(0, new.set_s, new.by, address, "mode set", _named(name), fields) for name in names]
        self._store.govern(STAGES, {name: asdict(stored) for name, stored in known.items()}, whats)
        self._known = self._completed(known)
        for name in names:
            self._watches.pop(name, None)

    def _show(self, name: str, stored: StoredStage, named: Sequence[str], now_s: float) -> StageRecord:
        since_s = max(stored.set_s, now_s - LOOKED_AT_S)
        outcomes = self._store.decisions.outcomes(since_s, None if name == OTHERS else [name])
        if name == OTHERS:
            outcomes = [outcome for outcome in outcomes if outcome.project not in named]
        return StageRecord(
            project="" if name == OTHERS else name,
            stage=stored.stage,
            by=stored.by,
            set_s=stored.set_s or None,
            why=stored.why,
            **_came(predictions(outcomes, since_s, now_s)),
        )


def _managed(known: Mapping[str, StoredStage]) -> ManagedProjects:
    by_name = {name: stored.stage.acts for name, stored in known.items() if name != OTHERS}
    return ManagedProjects(known[OTHERS].stage.acts, by_name)


def _came(found: PredictionsRecord) -> dict[str, Any]:
    """Return the fields of a `StageRecord` that say how the jobs did."""
    return {
        "ended": found.completed,
        "judged": found.judged,
        "within_time": found.within_time,
        "within_energy": found.within_energy,
        "compared": found.compared,
        "energy_change": found.would_j / found.asked_j - 1.0 if found.asked_j else None,
        "jct_change": found.would_jct_s / found.asked_jct_s - 1.0 if found.asked_jct_s else None,
    }


def _named(name: str) -> str:
    return "all projects" if name == OTHERS else name
