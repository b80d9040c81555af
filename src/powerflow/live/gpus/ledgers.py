"""Take the energy from the ledgers of machines, exactly once.

A machine's ledger has totals that only grow (`powerflow.engine.devices`). `TakenLedger` keeps, for one machine, the
totals that were charged last. It is stored in the same transaction as the charges. So if the controller is killed
before that, the next one takes the same differences again; and a machine that was away is charged when it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from powerflow.engine.devices import LedgerRow
from powerflow.engine.protocol import RankName
from powerflow.store.models import Charge


@lru_cache(maxsize=65536)
def job_of(rank: str) -> str:
    """Return the job of a rank, from the rank's name; "" if the name is empty."""
    return RankName.parse(rank).gang if rank else ""


class Drawn(NamedTuple):
    """Energy and time of one job, or of idle GPUs, since the last report: joules and GPU-seconds."""

    energy_j: float
    gpu_s: float


class TakenLedger:
    """What was taken from one machine's ledger so far. Only the controller's loop may use it.

    Args:
        kept: The `state` of an earlier controller; None for a machine that the store does not know.

    Attributes:
        id: Id of the ledger; "" if none has come yet.
        version: Version of the ledger that was taken last.
    """

    def __init__(self, kept: Mapping[str, Any] | None) -> None:
        self._is_new = kept is None
        self.id, self.version = (str(kept["id"]), int(kept["version"])) if kept is not None else ("", 0)
        # by number of the row: millijoules, GPU-seconds, and the version in which the row was final (0: it is not)
        self._rows: dict[int, tuple[int, float, int]] = {
            int(number): (int(energy_mj), float(gpu_s), int(final))
            for number, (energy_mj, gpu_s, final) in (kept["rows"] if kept is not None else {}).items()
        }

    def take(self, ledger: Mapping[str, Any], pays: Callable[[str], bool]) -> dict[str | None, Drawn]:
        """Return what was drawn since the last call, by job id; None stands for idle GPUs.

        A ledger that is older than the last one changes nothing. The GPUs of a machine that is new to the store may
        have been idle for long before: that is not counted.

        Args:
            ledger: The ledger in a machine's report.
            pays: Returns True if a job of this id is in the store. The energy of any other job counts as idle.
        """
        if ledger["id"] != self.id:
            self.id, self.version, self._rows = str(ledger["id"]), 0, {}
        elif ledger["version"] < self.version:
            return {}
        found: dict[str | None, Drawn] = {}
        for row in (LedgerRow(*row) for row in ledger["rows"]):
            job = job_of(row.rank)
            payer = job if job and pays(job) else None
            energy_mj, gpu_s, _ = self._rows.get(row.number, (0, 0.0, 0))
            self._rows[row.number] = (
                max(row.energy_mj, energy_mj),
                max(row.gpu_s, gpu_s),
                row.version if row.final else 0,
            )
            more_mj, more_s = max(0, row.energy_mj - energy_mj), max(0.0, row.gpu_s - gpu_s)
            if (self._is_new and payer is None) or not (more_mj or more_s):
                continue
            before = found.get(payer, Drawn(0.0, 0.0))
            found[payer] = Drawn(before.energy_j + more_mj / 1e3, before.gpu_s + more_s)
        self._is_new = False
        self.version = int(ledger["version"])
        for number in [n for n, (_, _, final) in self._rows.items() if 0 < final <= ledger["acknowledged"]]:
            del self._rows[number]  # the machine has dropped it
        return found

    def state(self) -> dict[str, Any]:
        """Return all that a later controller needs, as plain data for JSON."""
        return {"id": self.id, "version": self.version, "rows": {str(n): list(row) for n, row in self._rows.items()}}


class OpenCharges:
    """Charges that are not stored yet.

    Args:
        totals_j: Joules metered since the store was made, as it has them: in all, of jobs, and of idle GPUs.

    Attributes:
        by_job: One charge for each job (None: idle GPUs), from the first start to the last end.
        totals_j: As above, with these charges.
    """

    def __init__(self, totals_j: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.by_job: dict[str | None, Charge] = {}
        self.totals_j = totals_j

    def add(self, new: Charge) -> None:
        """Add a charge."""
        metered_j, jobs_j, idle_j = self.totals_j
        of_jobs_j = new.energy_j if new.job_id is not None else 0.0
        self.totals_j = metered_j + new.energy_j, jobs_j + of_jobs_j, idle_j + new.energy_j - of_jobs_j
        if (old := self.by_job.get(new.job_id)) is not None:
            start_s, end_s = min(old.start_s, new.start_s), max(old.end_s, new.end_s)
            new = Charge(start_s, end_s, "", new.job_id, old.energy_j + new.energy_j, old.gpu_s + new.gpu_s)
        self.by_job[new.job_id] = new
