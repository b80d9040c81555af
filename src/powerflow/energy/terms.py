"""Define the energy prices and power limits that the scheduler must respect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Relative change of a price from which on jobs are planned again.
PRICE_STEP = 0.02


@dataclass(frozen=True, slots=True)
class EnergyTerms:
    """Energy prices and power limits, valid until new ones are set. The scheduler gets them as an event.

    Attributes:
        price: λ_E for all jobs, seconds per joule.
        by_project: For each project with its own budget, the price that is added for its jobs.
        limit_w: For "" (the cluster), watts that all jobs may add to the idle draw. For a project, watts that its jobs
            may draw, including the idle draw of their GPUs. Jobs' watts are those of their cost models.
    """

    price: float = 0.0
    by_project: Mapping[str, float] = field(default_factory=dict)
    limit_w: Mapping[str, float] = field(default_factory=dict)

    def moved(self, before: EnergyTerms) -> bool:
        """Return True if prices differ so much from the earlier terms ``before`` that all jobs need a new decision."""
        names = before.by_project.keys() | self.by_project.keys()
        pairs = [(before.price, self.price)]
        pairs += [(before.by_project.get(name, 0.0), self.by_project.get(name, 0.0)) for name in names]
        return any(abs(now - old) > PRICE_STEP * old for old, now in pairs)

    def share(self, part: float) -> EnergyTerms:
        """Return the terms for a part of the cluster: the same prices, and each limit multiplied by ``part``."""
        if not self.limit_w:
            return self
        return EnergyTerms(self.price, self.by_project, {scope: part * watts for scope, watts in self.limit_w.items()})
